"""The name table against the model and transformers, which it knows neither of."""

import math

import pytest
import torch
from transformers_models import reference_pair

from qwen3.checkpoint.names import expected_tensors, fused_experts
from qwen3.config import ModelConfig
from qwen3.model import Qwen3
from qwen3.presets import PRESETS

KINDS = [
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": False},
    {"moe": True, "tie_word_embeddings": False},
    {"moe": True, "mlp_only_layers": [1]},
    {"moe": True, "decoder_sparse_step": 2},
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_is_the_models_parameters_in_their_order(kind):
    _, ours = reference_pair(**kind)
    parameters = [(name, tuple(tensor.shape)) for name, tensor in ours.named_parameters()]
    assert list(expected_tensors(ours.config).items()) == parameters


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_experts_have_transformers_names_and_shapes(kind):
    theirs, ours = reference_pair(**kind)
    stacked = {name: tuple(t.shape) for name, t in theirs.named_parameters() if "experts" in name}
    fused = fused_experts(ours.config)
    assert {name: tensor.shape for name, tensor in fused.items()} == stacked
    expected = expected_tensors(ours.config)
    for tensor in fused.values():
        assert sum(math.prod(expected[part]) for part in tensor.parts) == math.prod(tensor.shape)


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_counts_the_official_parameters(name):
    config = PRESETS[name]
    assert sum(map(math.prod, expected_tensors(config).values())) == config.num_parameters


def test_a_full_size_model_has_the_tables_parameters():
    config = ModelConfig.preset("Qwen3-4B")
    with torch.device("meta"):
        model = Qwen3(config)
    assert {name: tuple(t.shape) for name, t in model.named_parameters()} == expected_tensors(config)
