"""The coarse operations that the model is written in, chosen by the type of their weights.

A torch tensor takes the plain form in `reference`, which is every operation's specification; a `PackedWeight`, a
`PackedVector` or `PackedExperts` take the native CPU kernels in `packed`, `paged` and `packed_moe`; weights that
training divides over processes, DTensors and `DividedExperts`, take `sharded`. There is no fallback from one to the
other: `IMPLEMENTATIONS` says what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from torch import Tensor

from qwen3.ops import packed, paged, reference, sampling
from qwen3.ops.cross_entropy import WeightedLoss
from qwen3.ops.exchange import DividedExperts
from qwen3.ops.packed import PackedWeight
from qwen3.ops.packed_moe import PackedExperts, packed_moe
from qwen3.ops.paged import PackedVector
from qwen3.ops.reference import attention

__all__ = [
    "IMPLEMENTATIONS",
    "DividedExperts",
    "Experts",
    "PackedExperts",
    "PackedVector",
    "PackedWeight",
    "Vector",
    "Weight",
    "attention",
    "draw",
    "embedding",
    "largest",
    "linear",
    "moe",
    "moe_and_router",
    "norm_linear",
    "qk_norm_rope",
    "rms_norm",
    "swiglu_linear",
    "token_losses",
    "weighted_loss",
]

Weight = Tensor | PackedWeight
"""A matrix [N, K] in any storage."""
Vector = Tensor | PackedVector
"""A norm's scale [N]."""

Experts = Sequence[tuple[Tensor, Tensor, Tensor]] | PackedExperts | DividedExperts
"""The (gate [F, D], up [F, D], down [D, F]) of each expert, in any storage."""

_BOTH = "torch reference; native kernels for packed weights"
_BY_DEVICE = "native kernels on the CPU; torch reference elsewhere"
IMPLEMENTATIONS: dict[str, str] = {
    "attention": "torch reference; native kernels over the paged cache of a packed model",
    "draw": _BY_DEVICE,
    "embedding": _BOTH,
    "largest": _BY_DEVICE,
    "linear": _BOTH,
    "moe": _BOTH,
    "moe_and_router": "torch reference",
    "norm_linear": _BOTH,
    "qk_norm_rope": _BOTH,
    "rms_norm": _BOTH,
    "swiglu_linear": _BOTH,
    "token_losses": "torch reference",
    "weighted_loss": "torch, its gradients made in the forward pass",
}
"""What runs each operation, for `qwen3 doctor` and `qwen3 info`."""


def _torch_forms(weight: Tensor, experts: Experts = ()) -> ModuleType:
    """`reference`, or for weights that are divided over processes `sharded`, which takes a second to import."""
    # Only a DTensor has a mesh.
    if hasattr(weight, "device_mesh") or isinstance(experts, DividedExperts):
        from qwen3.ops import sharded

        return sharded
    return reference


def embedding(tokens_T: Tensor, weight_VD: Weight) -> Tensor:
    """Rows of the embedding: [T] integer ids -> [T, D]; float32 from a packed weight."""
    if isinstance(weight_VD, PackedWeight):
        return packed.packed_embedding(tokens_T, weight_VD)
    return _torch_forms(weight_VD).embedding(tokens_T, weight_VD)


def rms_norm(x: Tensor, weight: Vector, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis."""
    if isinstance(weight, PackedVector):
        return paged.rms_norm(x, weight, eps)
    return _torch_forms(weight).rms_norm(x, weight, eps)


def qk_norm_rope(
    q_THd: Tensor,
    k_TKd: Tensor,
    q_weight_d: Vector,
    k_weight_d: Vector,
    eps: float,
    cos_Td: Tensor,
    sin_Td: Tensor,
) -> tuple[Tensor, Tensor]:
    """QK-Norm over each head's d values, then the rotation; `cos_Td` and `sin_Td` repeat their half twice."""
    form = paged if isinstance(q_weight_d, PackedVector) else _torch_forms(q_weight_d)
    return form.qk_norm_rope(q_THd, k_TKd, q_weight_d, k_weight_d, eps, cos_Td, sin_Td)


def linear(x_TD: Tensor, weight_ND: Weight, residual_TN: Tensor | None = None) -> Tensor:
    """[T, D] x [N, D] -> [T, N], added to the residual if there is one."""
    if isinstance(weight_ND, PackedWeight):
        return packed.packed_linear(x_TD, weight_ND, residual_TN)
    return _torch_forms(weight_ND).linear(x_TD, weight_ND, residual_TN)


def norm_linear(x_TD: Tensor, norm_weight_D: Vector, eps: float, weights: Sequence[Weight]) -> list[Tensor]:
    """One norm feeding several projections of one storage: [T, D] and n weights [N_i, D] -> n tensors [T, N_i]."""
    if isinstance(weights[0], PackedWeight):
        return packed.packed_norm_linear(x_TD, norm_weight_D.values, eps, weights)
    return _torch_forms(norm_weight_D).norm_linear(x_TD, norm_weight_D, eps, weights)


def swiglu_linear(gate_TF: Tensor, up_TF: Tensor, down_weight_DF: Weight, residual_TD: Tensor | None = None) -> Tensor:
    """SwiGLU and the projection down, added to the residual if there is one: [T, F], [T, F] -> [T, D]."""
    if isinstance(down_weight_DF, PackedWeight):
        return packed.packed_swiglu_linear(gate_TF, up_TF, down_weight_DF, residual_TD)
    return _torch_forms(down_weight_DF).swiglu_linear(gate_TF, up_TF, down_weight_DF, residual_TD)


def moe(
    x_TD: Tensor,
    norm_weight_D: Vector,
    eps: float,
    router_weight_ED: Tensor,
    experts: Experts,
    top_k: int,
    renormalise: bool,
) -> Tensor:
    """A sparse layer's norm, router and experts, added to x [T, D]: see `reference.moe`."""
    if isinstance(experts, PackedExperts):
        return packed_moe(x_TD, norm_weight_D.values, eps, router_weight_ED, experts, top_k, renormalise)
    form = _torch_forms(router_weight_ED, experts)
    return form.moe_and_router(x_TD, norm_weight_D, eps, router_weight_ED, experts, top_k, renormalise)[0]


def moe_and_router(
    x_TD: Tensor,
    norm_weight_D: Tensor,
    eps: float,
    router_weight_ED: Tensor,
    experts: Experts,
    top_k: int,
    renormalise: bool,
) -> tuple[Tensor, Tensor]:
    """`moe` and the router's logits [T, E], for training; not for packed experts."""
    form = _torch_forms(router_weight_ED, experts)
    return form.moe_and_router(x_TD, norm_weight_D, eps, router_weight_ED, experts, top_k, renormalise)


def token_losses(hidden_TD: Tensor, head_weight_VD: Tensor, targets_T: Tensor, chunk: int = 1024) -> Tensor:
    """Cross-entropy of each target in nats, float32 [T], straight from the hidden states, `chunk` tokens at a time."""
    return _torch_forms(head_weight_VD).token_losses(hidden_TD, head_weight_VD, targets_T, chunk)


def weighted_loss(hidden_TD: Tensor, head_weight_VD: Tensor, targets_T: Tensor, weights_T: Tensor) -> Tensor:
    """The sum of the cross-entropies of targets [T], each times its float32 weight, in nats: the training loss.

    It is for one backward pass; without gradients `token_losses` is the cheaper one.
    """
    form = _torch_forms(head_weight_VD)
    if form is reference:
        return WeightedLoss.apply(hidden_TD, head_weight_VD, targets_T, weights_T)
    return form.weighted_loss(hidden_TD, head_weight_VD, targets_T, weights_T)


def draw(logits_V: Tensor, temperature: float, top_k: int, top_p: float, min_p: float, noise: float) -> int | None:
    """A token of float32 logits [V], by inverse CDF; None if the largest logit is not finite: see `reference.draw`."""
    form = sampling.draw if logits_V.is_cpu else reference.draw
    return form(logits_V, temperature, top_k, top_p, min_p, noise)


def largest(logits_V: Tensor, count: int) -> Tensor:
    """Ids of the `count` largest of float32 logits [V], the largest first."""
    return (sampling.largest if logits_V.is_cpu else reference.largest)(logits_V, count)
