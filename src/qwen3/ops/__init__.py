"""The coarse operations that the model is written in, chosen by the type of their weights.

A torch tensor takes the plain form in `reference`, which is every operation's specification; a `PackedWeight` takes
the native CPU kernels in `packed`. There is no fallback from one to the other: `IMPLEMENTATIONS` says what runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from qwen3.ops import packed, reference
from qwen3.ops.packed import PackedWeight
from qwen3.ops.reference import attention, qk_norm_rope, rms_norm, token_losses

__all__ = [
    "IMPLEMENTATIONS",
    "PackedWeight",
    "Weight",
    "attention",
    "embedding",
    "linear",
    "moe",
    "norm_linear",
    "qk_norm_rope",
    "rms_norm",
    "swiglu_linear",
    "token_losses",
]

Weight = Tensor | PackedWeight
"""A matrix [N, K] in any storage."""

_BOTH = "torch reference; native kernels for packed weights"
IMPLEMENTATIONS: dict[str, str] = {
    "attention": "torch reference",
    "embedding": _BOTH,
    "linear": _BOTH,
    "moe": "torch reference; its products as linear",
    "norm_linear": _BOTH,
    "qk_norm_rope": "torch reference",
    "rms_norm": "torch reference",
    "swiglu_linear": _BOTH,
    "token_losses": "torch reference",
}
"""What runs each operation, for `qwen3 doctor` and `qwen3 info`."""


def embedding(tokens_T: Tensor, weight_VD: Weight) -> Tensor:
    """Rows of the embedding: [T] integer ids -> [T, D]; float32 from a packed weight."""
    if isinstance(weight_VD, PackedWeight):
        return packed.packed_embedding(tokens_T, weight_VD)
    return reference.embedding(tokens_T, weight_VD)


def linear(x_TD: Tensor, weight_ND: Weight) -> Tensor:
    """[T, D] x [N, D] -> [T, N]."""
    if isinstance(weight_ND, PackedWeight):
        return packed.packed_linear(x_TD, weight_ND)
    return reference.linear(x_TD, weight_ND)


def norm_linear(x_TD: Tensor, norm_weight_D: Tensor, eps: float, weights: Sequence[Weight]) -> list[Tensor]:
    """One norm feeding several projections of one storage: [T, D] and n weights [N_i, D] -> n tensors [T, N_i]."""
    if isinstance(weights[0], PackedWeight):
        return packed.packed_norm_linear(x_TD, norm_weight_D, eps, weights)
    return reference.norm_linear(x_TD, norm_weight_D, eps, weights)


def swiglu_linear(gate_TF: Tensor, up_TF: Tensor, down_weight_DF: Weight) -> Tensor:
    """SwiGLU and the projection down: [T, F], [T, F] -> [T, D]."""
    if isinstance(down_weight_DF, PackedWeight):
        return packed.packed_swiglu_linear(gate_TF, up_TF, down_weight_DF)
    return reference.swiglu_linear(gate_TF, up_TF, down_weight_DF)


def moe(
    x_TD: Tensor,
    router_weight_ED: Tensor,
    experts: Sequence[tuple[Weight, Weight, Weight]],
    top_k: int,
    renormalise: bool,
) -> Tensor:
    """Sparse feed-forward: see `reference.moe`; the experts' products go through `linear` and `swiglu_linear`."""
    return reference.moe(x_TD, router_weight_ED, experts, top_k, renormalise, linear, swiglu_linear)
