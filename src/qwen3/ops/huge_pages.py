"""Memory for weights, in huge pages where the system has them.

A matrix of a small model fills no huge page (2 MiB on most machines) by itself, and one in small pages is read at two
thirds of the memory's speed where address translation is slow. So pieces are cut from large allocations. One is given
back when the last of its pieces is; until then it costs what was written to, because pages are taken at first use.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

from qwen3.ops.native import _native

_ALIGNMENT = 64
_ALLOCATION = 64 << 20


class _Supply:
    """The rest of the newest allocation."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rest = torch.empty(0, dtype=torch.uint8)

    def take(self, num_bytes: int) -> Tensor:
        if num_bytes > _ALLOCATION // 2:
            return _allocate(num_bytes)
        size = -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        with self._lock:
            if size > self._rest.nbytes:
                self._rest = _allocate(_ALLOCATION)
            piece, self._rest = self._rest[:num_bytes], self._rest[size:]
        return piece


def _allocate(num_bytes: int) -> Tensor:
    memory = torch.empty(num_bytes, dtype=torch.uint8)
    _native.advise_huge_pages(memory.data_ptr(), memory.nbytes)
    return memory


_supply = _Supply()


def empty_bytes(*shape: int) -> Tensor:
    """A uint8 tensor of this shape with nothing written in it, aligned to 64 bytes."""
    return _supply.take(math.prod(shape)).view(shape)
