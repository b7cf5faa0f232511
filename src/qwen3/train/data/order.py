"""Which documents come when: a pure function of a key and a position, with no state and no shuffled list.

`permute` is a keyed permutation of 0 .. size-1 that is computed for any index alone: a Feistel network over the next
power of two, walked until it lands inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).

A `Stream` is the documents of a pool one after another without end, pass after pass. One of weight w appears
floor((e + 1) w + u) - floor(e w + u) times in pass e, with u a hash of the document: after e passes it has been seen
e w times, give or take one, and where a pass begins is known without looking at those before it.

Memory: 8 bytes a document if all weights are equal, else 32, and 8 for every 256 documents of the passes in use.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from qwen3.train.data.duplicates import mix

_ROUNDS = 6
_BLOCK = 256
_UNIT = 1 << 16
"""Weights are whole multiples of 1 / _UNIT, so that all counts are exact."""


def permute(index: np.ndarray, size: int, key: int) -> np.ndarray:
    """The places of `index` (uint64, each below `size`) under the permutation `key` of 0 .. size-1."""
    bits = max(2, (size - 1).bit_length())
    keys = mix(np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key))
    out = _feistel(index, bits, keys)
    outside = np.flatnonzero(out >= size)
    while outside.size:
        out[outside] = _feistel(out[outside], bits, keys)
        outside = outside[out[outside] >= size]
    return out


def _feistel(x: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    # The halves differ by a bit where `bits` is odd, and change places every round; the rounds are even in number.
    low = np.uint64(bits - bits // 2)
    masks = [np.uint64((1 << bits // 2) - 1), (np.uint64(1) << low) - np.uint64(1)]
    left, right = x >> low, x & masks[1]
    for number, key in enumerate(keys):
        left, right = right, left ^ (mix(right + key) & masks[number % 2])
    return (left << low) | right


class Stream:
    """An endless sequence of tokens: documents of `lengths_N` tokens (int), as often as `weights_N` says."""

    def __init__(self, lengths_N: np.ndarray, weights_N: np.ndarray, key: int) -> None:
        """Weights are relative: they are scaled so that a pass has about as many tokens as the documents together."""
        lengths_N = lengths_N.astype(np.int64)
        scaled = weights_N * (lengths_N.sum() / (lengths_N * weights_N).sum())
        rates = np.maximum(np.rint(scaled * _UNIT), 1).astype(np.int64)
        self._lengths, self._key = lengths_N, key
        # Equal weights need no table of copies: every document appears once.
        self._rates = None if (rates == _UNIT).all() else rates
        self._phases = (mix(np.arange(len(lengths_N), dtype=np.uint64) + np.uint64(key)) % np.uint64(_UNIT)).astype(
            np.int64
        )
        self._pass = lru_cache(maxsize=2)(self._make_pass)

    def pieces(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tokens `start` to `stop` of the stream: documents (indices into `lengths_N`), and the first and one past
        the last token of each that belong to them; int64, in order."""
        found = []
        number = self.pass_of(start)
        while start < stop:
            begin, end = self.pass_start(number), self.pass_start(number + 1)
            part = self._pass(number).pieces(start - begin, min(stop, end) - begin)
            found.append(part)
            start, number = end, number + 1
        documents, first, last = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return documents, first, last

    def pass_start(self, number: int) -> int:
        """The first token of a pass."""
        if self._rates is None:
            return number * int(self._lengths.sum())
        return int(self._lengths @ self._copies_before(number))

    def pass_of(self, token: int) -> int:
        """The pass that a token of the stream is in."""
        low, high = 0, 1
        while self.pass_start(high) <= token:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.pass_start(middle) <= token else (low, middle)
        return low

    def _copies_before(self, number: int) -> np.ndarray:
        return (number * self._rates + self._phases) >> 16

    def _make_pass(self, number: int) -> _Pass:
        key = int(mix(np.array([self._key ^ (number * 0xD1342543DE82EF95 % 2**64)], np.uint64))[0])
        ends = None
        if self._rates is not None:
            ends = np.cumsum(self._copies_before(number + 1) - self._copies_before(number))
        return _Pass(self._lengths, ends, key)


class _Pass:
    """One pass: an order of documents, of which only the total length of each block of places is kept."""

    def __init__(self, lengths: np.ndarray, copy_ends: np.ndarray | None, key: int) -> None:
        self._lengths, self._copy_ends, self._key = lengths, copy_ends, key
        self._size = len(lengths) if copy_ends is None else int(copy_ends[-1])
        totals = []
        many = 4096 * _BLOCK
        for first in range(0, self._size, many):
            found = lengths[self._documents(first, min(first + many, self._size))]
            totals.append(np.add.reduceat(found, np.arange(0, len(found), _BLOCK)))
        self._block_ends = np.cumsum(np.concatenate(totals)) if totals else np.zeros(0, np.int64)
        # The next step begins in the block that this one ends in.
        self._block = lru_cache(maxsize=4)(self._make_block)

    def pieces(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        blocks = range(
            int(np.searchsorted(self._block_ends, start, "right")),
            int(np.searchsorted(self._block_ends, stop, "left")) + 1,
        )
        documents, ends = (np.concatenate(arrays) for arrays in zip(*map(self._block, blocks), strict=True))
        chosen = slice(int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, stop, "left")) + 1)
        documents, ends = documents[chosen], ends[chosen]
        begins = ends - self._lengths[documents]
        return documents, np.maximum(start - begins, 0), np.minimum(stop, ends) - begins

    def _make_block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents of a block, and where each ends in the pass."""
        documents = self._documents(number * _BLOCK, min((number + 1) * _BLOCK, self._size))
        begin = int(self._block_ends[number - 1]) if number else 0
        return documents, begin + np.cumsum(self._lengths[documents])

    def _documents(self, first: int, last: int) -> np.ndarray:
        """The documents at places `first` to `last` of the pass."""
        places = permute(np.arange(first, last, dtype=np.uint64), self._size, self._key).astype(np.int64)
        return places if self._copy_ends is None else np.searchsorted(self._copy_ends, places, "right")
