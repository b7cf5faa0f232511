"""Keys and values of sequences, in pages of 32 positions: the memory behind `engine.blocks`.

A page holds 32 positions of one sequence in all layers, so that a sequence grows without copying and two with an equal
beginning can share it. Packed models keep their pages as the native kernels read them; the others keep keys and values
as torch reads them. Who holds which page is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from qwen3.config import ModelConfig
from qwen3.engine.blocks import BLOCK_TOKENS
from qwen3.ops.paged import PAGE_TOKENS, PageLayout

assert PAGE_TOKENS == BLOCK_TOKENS


class PagePool:
    """The page of each block, made when the block is first used and kept.

    `layout` is None for torch's pages; `dtype` is that of the keys and values that are written, however they are kept.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device, kv_format: str | None) -> None:
        """`kv_format` is one of `ops.paged.KV_FORMATS` for a packed model; None makes pages of `dtype` for torch."""
        shape = (config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
        self.layout = None if kv_format is None else PageLayout(kv_format, *shape)
        self._torch_shape = (shape[0], 2, shape[1], PAGE_TOKENS, shape[2])
        self.dtype, self._device = dtype, device
        self._pages: list[Tensor] = []

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

    def pages(self, blocks: Iterable[int]) -> list[Tensor]:
        """The pages of these blocks. A block's first use makes its page and those of all lower numbers."""
        pages = self._pages
        found = []
        for block in blocks:
            while block >= len(pages):
                pages.append(self.new_page())
            found.append(pages[block])
        return found

    def new_page(self) -> Tensor:
        """One of no block, with anything in it: uint8 bytes of the layout, or [layers, 2, K, 32, d] for torch."""
        if self.layout is not None:
            return self.layout.new_page()
        return torch.empty(self._torch_shape, dtype=self.dtype, device=self._device)


class KVCache:
    """One sequence's pages, of which the first `length` positions are filled."""

    def __init__(self, pool: PagePool, pages: Iterable[Tensor] = (), length: int = 0) -> None:
        self.pool, self.pages, self.length = pool, list(pages), length

    def reserve(self, num_tokens: int) -> None:
        """Have pages for `num_tokens` more positions; those that are not there are made, and belong to no block."""
        while len(self.pages) * PAGE_TOKENS < self.length + num_tokens:
            self.pages.append(self.pool.new_page())

    def advance(self, num_tokens: int) -> None:
        """Count the positions that every layer has now written as filled."""
        self.length += num_tokens
