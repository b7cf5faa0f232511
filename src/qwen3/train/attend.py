"""Causal attention for training: plain batched matrix products where documents are short, fused attention elsewhere.

On CPUs in bfloat16 the products take about a third of the time of torch's fused attention at lengths under 256. They
store all scores for the backward pass, so they are for short documents only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qwen3 import ops
from qwen3.model import CausalAttend

SHORT = 256
"""Tokens of the longest document that the plain products take; a power of two, as `CausalAttend` groups by those."""


def _attention(q_BLHd: Tensor, k_BLKd: Tensor, v_BLKd: Tensor) -> Tensor:
    B, L, H, d = q_BLHd.shape
    if L > SHORT:
        return ops.attention(q_BLHd, k_BLKd, v_BLKd)
    K = k_BLKd.shape[2]
    G = H // K  # query heads that share a key-value head
    q = q_BLHd.unflatten(2, (K, G)).permute(0, 2, 3, 1, 4).reshape(B * K, G * L, d)
    k, v = (x.transpose(1, 2).reshape(B * K, L, d) for x in (k_BLKd, v_BLKd))
    scores = torch.bmm(q, k.transpose(1, 2)).view(B * K, G, L, L) * d**-0.5
    future = torch.full((L, L), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    weights = (scores + future).softmax(-1)
    out = torch.bmm(weights.view(B * K, G * L, L), v)
    return out.view(B, K, G, L, d).permute(0, 3, 1, 2, 4).reshape(B, L, H, d)


class TrainingAttend(CausalAttend):
    """`CausalAttend` that treats short documents by themselves; equal up to rounding."""

    _attention = staticmethod(_attention)

    # A compiled block calls this from outside its graphs, which then do not depend on the documents' lengths.
    @torch.compiler.disable
    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        return super().__call__(layer, q_THd, k_TKd, v_TKd)
