"""Keys and values of the running sequences, in pages of 32 positions.

A page belongs to one sequence and holds its positions of all layers, so that a sequence grows without copying and what
it frees serves any other. Packed models keep their pages as the native kernels read them; the others keep keys and
values as torch reads them. Who gets how many pages is not decided here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qwen3.config import ModelConfig
from qwen3.ops.paged import PAGE_TOKENS, PageLayout


class PagePool:
    """Makes pages on demand and hands out freed ones again.

    `layout` is None for torch's pages; `dtype` is that of the keys and values that are written, however they are kept.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device, kv_format: str | None) -> None:
        """`kv_format` is one of `ops.paged.KV_FORMATS` for a packed model; None makes pages of `dtype` for torch."""
        shape = (config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
        self.layout = None if kv_format is None else PageLayout(kv_format, *shape)
        self._torch_shape = (shape[0], 2, shape[1], PAGE_TOKENS, shape[2])
        self.dtype, self._device = dtype, device
        self._free: list[Tensor] = []

    @property
    def format(self) -> str:
        """How keys and values are kept, for people."""
        return str(self.dtype).removeprefix("torch.") if self.layout is None else self.layout.format

    @property
    def bytes_per_token(self) -> float:
        """Memory that a position takes in all layers."""
        if self.layout is not None:
            return self.layout.page_bytes / PAGE_TOKENS
        return math.prod(self._torch_shape) * self.dtype.itemsize / PAGE_TOKENS

    def take(self) -> Tensor:
        """A page with anything in it: uint8 bytes of the layout, or [layers, 2, K, 32, d] for torch."""
        if self._free:
            return self._free.pop()
        if self.layout is not None:
            return self.layout.new_page()
        return torch.empty(self._torch_shape, dtype=self.dtype, device=self._device)

    def give_back(self, pages: list[Tensor]) -> None:
        self._free += pages


class KVCache:
    """One sequence's pages, of which the first `length` positions are filled."""

    def __init__(self, pool: PagePool) -> None:
        self.pool, self.length = pool, 0
        self.pages: list[Tensor] = []

    def reserve(self, num_tokens: int) -> None:
        """Have pages for `num_tokens` more positions."""
        while len(self.pages) * PAGE_TOKENS < self.length + num_tokens:
            self.pages.append(self.pool.take())

    def advance(self, num_tokens: int) -> None:
        """Count the positions that every layer has now written as filled."""
        self.length += num_tokens

    def release(self) -> None:
        """Give all pages back."""
        self.pool.give_back(self.pages)
        self.pages, self.length = [], 0
