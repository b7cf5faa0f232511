"""Attention over cached sequences: the engine's side of the model's `attend` seam."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwen3 import ops
from qwen3.engine.cache import KVCache
from qwen3.model import Attend
from qwen3.ops.paged import PAGE_TOKENS, PagedStep


def cached_attend(caches: Sequence[KVCache], counts: Sequence[int]) -> Attend:
    """For new tokens of several sequences, one after another; each sees its own sequence up to itself.

    `counts[i]` of the flat tokens belong to `caches[i]`, which gets the pages for them; all share one pool.
    """
    for cache, count in zip(caches, counts, strict=True):
        cache.reserve(count)
    layout = caches[0].pool.layout
    if layout is None:
        return TorchAttend(caches, counts)
    return PagedStep(layout, [cache.pages for cache in caches], [cache.length for cache in caches], counts)


class TorchAttend:
    """On torch: gathers each sequence's pages, so it costs a copy of its keys and values in every layer."""

    def __init__(self, caches: Sequence[KVCache], counts: Sequence[int]) -> None:
        self._caches, self._counts = caches, list(counts)

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        self.write(layer, k_TKd, v_TKd)
        parts = zip(self._caches, q_THd.split(self._counts), strict=True)
        return torch.cat([_attend(cache, layer, q_nHd) for cache, q_nHd in parts])

    def write(self, layer: int, k_TKd: Tensor, v_TKd: Tensor) -> None:
        """Only put keys and values [T, K, d] into their slots."""
        for cache, *new in zip(self._caches, k_TKd.split(self._counts), v_TKd.split(self._counts), strict=True):
            _write(cache, layer, torch.stack(new).transpose(1, 2))


def _write(cache: KVCache, layer: int, new_2Knd: Tensor) -> None:
    begin, end = cache.length, cache.length + new_2Knd.shape[2]
    for number in range(begin // PAGE_TOKENS, (end - 1) // PAGE_TOKENS + 1):
        page_begin = number * PAGE_TOKENS
        first, last = max(begin, page_begin), min(end, page_begin + PAGE_TOKENS)
        slots = cache.pages[number][layer][:, :, first - page_begin : last - page_begin]
        slots.copy_(new_2Knd[:, :, first - begin : last - begin])


def _attend(cache: KVCache, layer: int, q_nHd: Tensor) -> Tensor:
    all_2KSd = torch.cat([page[layer] for page in cache.pages], dim=2)[:, :, : cache.length + len(q_nHd)]
    keys_SKd, values_SKd = all_2KSd.transpose(1, 2)
    return ops.attention(q_nHd, keys_SKd, values_SKd)
