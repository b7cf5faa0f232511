"""Rotary position embedding: frequencies (plain and YaRN) and the cos / sin rows of given positions."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from qwen3.config import RopeParameters


@cache
def inverse_frequencies(rope: RopeParameters, head_dim: int) -> Tensor:
    """Radians per position of each rotated pair: float32 [head_dim / 2], on the CPU.

    YaRN (arXiv 2309.00071, section 3.2) divides the slow pairs by `factor`, keeps the fast ones, and ramps between
    the pairs that turn `beta_fast` and `beta_slow` times within the original context.
    """
    pair = torch.arange(0, head_dim, 2, dtype=torch.float32)
    plain = 1.0 / (rope.rope_theta ** (pair / head_dim))
    if rope.rope_type == "default":
        return plain

    def pair_turning(rotations: float) -> float:
        wavelength = rope.original_max_position_embeddings / (rotations * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(rope.rope_theta))

    low = max(math.floor(pair_turning(rope.beta_fast)), 0)
    high = min(math.ceil(pair_turning(rope.beta_slow)), head_dim - 1)
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    stretched = 1.0 / (rope.factor * rope.rope_theta ** (pair / head_dim))
    kept = 1.0 - ramp.clamp(0, 1)
    return stretched * (1 - kept) + plain * kept


def cos_sin(rope: RopeParameters, head_dim: int, positions_T: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of each position's angles, [T, head_dim] each, both halves alike; angles in float32."""
    frequencies = inverse_frequencies(rope, head_dim).to(positions_T.device)
    angles_Td = (positions_T[:, None].float() * frequencies).repeat(1, 2)
    scale = rope.cos_sin_scale
    return (angles_Td.cos() * scale).to(dtype), (angles_Td.sin() * scale).to(dtype)
