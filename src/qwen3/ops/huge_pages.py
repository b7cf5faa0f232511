"""Memory for weights and cached keys and values, in huge pages where the system has them.

A matrix of a small model, or a page of its cache, fills no huge page (2 MiB on most machines) by itself, and what lies
in small ones is read at two thirds of the memory's speed where address translation is slow. So pieces are cut from
large allocations. One is given back when the last of its pieces is; until then it costs what was written to, because
memory is taken at first use.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

from qwen3.ops.native import _native

_ALIGNMENT = 64
_ALLOCATION = 64 << 20


class Supply:
    """Cuts pieces from allocations of its own, so that nothing else keeps them from being given back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rest = torch.empty(0, dtype=torch.uint8)

    def take(self, num_bytes: int) -> Tensor:
        """uint8 [num_bytes] with nothing written in it, aligned to 64 bytes."""
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


_weights = Supply()


def empty_bytes(*shape: int) -> Tensor:
    """Memory for a weight: a uint8 tensor of this shape with nothing written in it, aligned to 64 bytes."""
    return _weights.take(math.prod(shape)).view(shape)
