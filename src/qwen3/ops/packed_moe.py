"""A sparse layer's feed-forward with packed experts, in one native call.

The arithmetic is `native/moe.h`'s: a token's result has the same bits alone or in any batch, on any instruction set
and any number of threads. This module checks what the native code trusts.

Shapes: T tokens, D hidden, F an expert's feed-forward, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3.ops.native import FASTEST, _native, check, place_of
from qwen3.ops.packed import PackedWeight


@dataclass(frozen=True, eq=False)
class PackedExperts:
    """The (gate [F, D], up [F, D], down [D, F]) of every expert, E of them, in any formats."""

    weights: Sequence[tuple[PackedWeight, PackedWeight, PackedWeight]]

    def __post_init__(self) -> None:
        shapes = {tuple(weight.shape for weight in expert) for expert in self.weights}
        (features, hidden), *_ = next(iter(shapes), ((0, 0),))
        if shapes != {((features, hidden), (features, hidden), (hidden, features))}:
            raise ValueError(f"need a gate [F, D], an up [F, D] and a down [D, F] for each expert, got {shapes}")
        matrices = zip(*([weight._matrix for weight in expert] for expert in self.weights), strict=True)
        object.__setattr__(self, "_experts", _native.Experts(*matrices))


def packed_moe(
    x_TD: Tensor,
    norm_weight_D: Tensor,
    eps: float,
    router_weight_ED: Tensor,
    experts: PackedExperts,
    top_k: int,
    renormalise: bool,
    *,
    instruction_set: str = FASTEST,
) -> Tensor:
    """x and the weighted sum of its norm's chosen experts: `reference.moe` with packed experts.

    Of equally likely experts the ones with the lower index are chosen.

    Args:
        x_TD: float32, contiguous, on the CPU.
        norm_weight_D, router_weight_ED: float32.

    Returns:
        float32 [T, D]. A token with an infinite or NaN value gives NaN in all D.

    Raises:
        ValueError: an argument is not as said above.
    """
    num_experts, hidden = len(experts.weights), experts.weights[0][0].shape[1]
    if x_TD.ndim != 2 or len(x_TD) >= 2**32:
        raise ValueError(f"need activations [T, D], got {list(x_TD.shape)}")
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k must be 1 to {num_experts}, not {top_k}")
    check("activations", x_TD, (torch.float32,), (len(x_TD), hidden))
    check("norm weight", norm_weight_D, (torch.float32,), (hidden,))
    check("router", router_weight_ED, (torch.float32,), (num_experts, hidden))
    layer = experts._experts.layer(router_weight_ED.data_ptr(), norm_weight_D.data_ptr(), eps, top_k, renormalise)
    place = place_of(instruction_set)
    scratch = torch.empty(_native.moe_scratch_bytes(place, layer, len(x_TD)), dtype=torch.uint8)
    y_TD = torch.empty_like(x_TD)
    _native.moe(place, layer, x_TD.data_ptr(), len(x_TD), scratch.data_ptr(), y_TD.data_ptr())
    return y_TD
