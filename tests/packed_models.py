"""Tiny models to pack, and when two packed ones are the same."""

from __future__ import annotations

import torch

from qwen3.checkpoint.names import expected_tensors
from qwen3.model import Qwen3
from qwen3.ops import PackedVector, PackedWeight

KINDS = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "moe": {"moe": True, "moe_intermediate_size": 64, "tie_word_embeddings": False},
}
"""What each differs in from `transformers_models.reference_pair`'s own shape."""


def stored(model: Qwen3) -> dict[str, torch.Tensor | PackedWeight]:
    weights = {name: model.get_submodule(name.rpartition(".")[0]).weight for name in expected_tensors(model.config)}
    return {name: weight.values if isinstance(weight, PackedVector) else weight for name, weight in weights.items()}


def assert_equal(actual: Qwen3, expected: Qwen3) -> None:
    for (name, one), other in zip(stored(actual).items(), stored(expected).values(), strict=True):
        assert type(one) is type(other), name
        if isinstance(one, PackedWeight):
            assert (one.format, one.shape) == (other.format, other.shape), name
            assert torch.equal(one.quants, other.quants), name
            assert torch.equal(one.scales, other.scales), name
        else:
            assert one.dtype == other.dtype == torch.float32, name
            assert torch.equal(one, other), name
            assert not one.requires_grad, name
    assert actual.has_independent_rows == expected.has_independent_rows
    assert not actual.training
