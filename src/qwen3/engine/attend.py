"""Attention over caches: the engine's side of the model's `attend` seam."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwen3 import ops
from qwen3.engine.cache import KVCache


class CachedAttend:
    """New tokens of several sequences, one after another; each sees its own sequence up to itself."""

    def __init__(self, caches: Sequence[KVCache], counts: Sequence[int]) -> None:
        """`counts[i]` of the flat tokens belong to `caches[i]`."""
        self._caches, self._counts = caches, list(counts)

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        parts = (x.split(self._counts) for x in (q_THd, k_TKd, v_TKd))
        attended = [
            ops.attention(q, *cache.write(layer, k, v)) for cache, q, k, v in zip(self._caches, *parts, strict=True)
        ]
        return attended[0] if len(attended) == 1 else torch.cat(attended)
