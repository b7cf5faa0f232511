"""Attention over a cache: the engine's side of the model's `attend` seam."""

from __future__ import annotations

from torch import Tensor

from qwen3 import ops
from qwen3.engine.cache import KVCache


class CachedAttend:
    """New tokens of one sequence see themselves and everything cached before them."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        keys_SKd, values_SKd = self._cache.write(layer, k_TKd, v_TKd)
        return ops.attention(q_THd, keys_SKd, values_SKd)
