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
        parts = (x.split(self._counts) for x in (q_THd, k_TKd, v_TKd))
        return torch.cat([_attend(cache, layer, *new) for cache, *new in zip(self._caches, *parts, strict=True)])


def _attend(cache: KVCache, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
    new_2KTd = torch.stack([k_TKd, v_TKd]).transpose(1, 2)
    first, last = cache.length // PAGE_TOKENS, (cache.length + len(k_TKd) - 1) // PAGE_TOKENS
    for page in range(first, last + 1):
        begin, end = page * PAGE_TOKENS - cache.length, (page + 1) * PAGE_TOKENS - cache.length
        rows = new_2KTd[:, :, max(begin, 0) : end]
        offset = max(-begin, 0)
        cache.pages[page][layer][:, :, offset : offset + rows.shape[2]] = rows
    all_2KSd = torch.cat([page[layer] for page in cache.pages], dim=2)[:, :, : cache.length + len(k_TKd)]
    keys_SKd, values_SKd = all_2KSd.transpose(1, 2)
    return ops.attention(q_THd, keys_SKd, values_SKd)
