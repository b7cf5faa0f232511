"""Grouped-query attention with QK-Norm, and the seam behind which keys and values live.

`Attend` is the only stateful part of a forward pass: training hands in `CausalAttend`, the engine its cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from qwen3 import ops
from qwen3.config import ModelConfig
from qwen3.model.layers import Linear, RMSNorm


class Attend(Protocol):
    """Attention of this step's flat tokens over whatever each of them may see."""

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        """Return the attended values [T, H, d] of layer `layer`."""
        ...


class Attention(nn.Module):
    """Projections and QK-Norm of one layer; adds its result to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        q_size, kv_size = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, q_size)
        self.k_proj = Linear(config.hidden_size, kv_size)
        self.v_proj = Linear(config.hidden_size, kv_size)
        self.o_proj = Linear(q_size, config.hidden_size)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(self, x_TD: Tensor, norm: RMSNorm, cos_Td: Tensor, sin_Td: Tensor, attend: Attend) -> Tensor:
        weights = [self.q_proj.weight, self.k_proj.weight, self.v_proj.weight]
        projected = ops.norm_linear(x_TD, norm.weight, norm.eps, weights)
        q_THd, k_TKd, v_TKd = (x.unflatten(-1, (-1, self.head_dim)) for x in projected)
        q_THd, k_TKd = ops.qk_norm_rope(
            q_THd, k_TKd, self.q_norm.weight, self.k_norm.weight, self.q_norm.eps, cos_Td, sin_Td
        )
        attended_TD = attend(self.layer, q_THd, k_TKd, v_TKd).flatten(-2)
        return ops.linear(attended_TD, self.o_proj.weight, residual_TN=x_TD)


class CausalAttend:
    """Attention within each of several documents packed one after another; none sees another."""

    _attention = staticmethod(ops.attention)

    def __init__(self, lengths: Sequence[int]) -> None:
        """`lengths` are the documents' lengths in tokens, in packing order; they sum to T."""
        # Documents of similar length share one padded call. The padding comes last in each row, so causality
        # alone hides it from the real tokens, and at most half of a row is padding.
        rows_of: dict[int, list[Tensor]] = {}
        start = 0
        for length in lengths:
            rows_of.setdefault((length - 1).bit_length(), []).append(torch.arange(start, start + length))
            start += length
        self._groups = []
        for rows in rows_of.values():
            index_BL = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
            self._groups.append((index_BL.clamp(min=0), index_BL >= 0))

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        out_THd = torch.empty_like(q_THd)
        for index_BL, real_BL in self._groups:
            index_BL, real_BL = index_BL.to(q_THd.device), real_BL.to(q_THd.device)
            attended = self._attention(q_THd[index_BL], k_TKd[index_BL], v_TKd[index_BL])
            out_THd = out_THd.index_put((index_BL[real_BL],), attended[real_BL])
        return out_THd
