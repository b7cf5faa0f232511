"""Pieces of documents into rows of equal length, every row full.

Best fit decreasing: the longest piece first, each into the fullest row that still holds it. What then fits nowhere is
cut to fill the gaps that are left. Nothing is dropped and nothing is padded: every row is full. The price is that some
pieces are cut, which `Rows.cut_tokens` counts. (Best-fit packing against truncation: Ding et al., "Fewer Truncations
Improve Language Modeling", arXiv 2404.10830.)
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

from qwen3.train.data.errors import DataError


@dataclass(frozen=True)
class Rows:
    """P pieces in R rows. A piece is tokens `first` to `last` (one past) of a document; int64 [P], in order of rows."""

    documents: np.ndarray
    first: np.ndarray
    last: np.ndarray
    ends: np.ndarray
    """[R]: the number of pieces in the rows up to and including each."""
    cut_tokens: int
    """Tokens of the pieces that were cut for packing alone: not too long for a row, nor at the end of a step."""

    def __len__(self) -> int:
        return len(self.ends)

    def pieces_of(self, rows: np.ndarray) -> np.ndarray:
        """Indices of the pieces of some rows, row by row."""
        starts = self.ends - np.diff(self.ends, prepend=0)
        return np.concatenate([np.arange(starts[row], self.ends[row]) for row in rows])


def split(documents: np.ndarray, first: np.ndarray, last: np.ndarray, longest: int) -> tuple[np.ndarray, ...]:
    """Pieces of at most `longest` tokens. A longer one gives full pieces and a rest; a rest below the half shares
    evenly with the piece before it. So all pieces of a long document are longer than half of `longest`."""
    lengths = last - first
    parts = np.maximum(1, -(-lengths // longest))
    number = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    documents, first, lengths, of = (np.repeat(each, parts) for each in (documents, first, lengths, parts))
    rest = lengths - (of - 1) * longest
    moved = np.where((of > 1) & (2 * rest < longest), longest - (longest + rest + 1) // 2, 0)
    begins = number * longest - np.where(number == of - 1, moved, 0)
    ends = np.minimum((number + 1) * longest - np.where(number == of - 2, moved, 0), lengths)
    return documents, first + begins, first + ends


def pack(documents: np.ndarray, first: np.ndarray, last: np.ndarray, row_tokens: int) -> Rows:
    """Pieces of at most `row_tokens` each, which fill a whole number of rows exactly."""
    lengths = last - first
    total = int(lengths.sum())
    if total % row_tokens or (len(lengths) and int(lengths.max()) > row_tokens):
        raise DataError(f"{total:,} tokens do not fill rows of {row_tokens:,}")
    rows: list[list[tuple[int, int, int]]] = [[] for _ in range(total // row_tokens)]
    free = [(row_tokens, row) for row in range(len(rows))]
    left = []
    order = np.argsort(-lengths, kind="stable")
    for piece in zip(documents[order].tolist(), first[order].tolist(), last[order].tolist(), strict=True):
        length = piece[2] - piece[1]
        place = bisect_left(free, (length, -1))
        if place == len(free):
            left.append(piece)
            continue
        room, row = free.pop(place)
        rows[row].append(piece)
        if room > length:
            insort(free, (room - length, row))
    cut_tokens = _fill(rows, free, left)
    return Rows(
        *(np.array([piece[part] for row in rows for piece in row], np.int64) for part in range(3)),
        ends=np.cumsum([len(row) for row in rows]),
        cut_tokens=cut_tokens,
    )


def _fill(rows: list[list[tuple[int, int, int]]], free: list[tuple[int, int]], left: list[tuple[int, int, int]]) -> int:
    """Cut the pieces that are left, longest first, to fill what is free, most first; returns the tokens of those cut.

    One piece after another, so that few are cut although nearly every row has a gap.
    """
    cut_tokens = 0
    pending, rest = left[::-1], None
    for room, row in reversed(free):
        while room:
            piece = pending.pop()
            document, start, stop = piece
            end = min(stop, start + room)
            rows[row].append((document, start, end))
            room -= end - start
            if end < stop:
                cut_tokens += 0 if piece is rest else stop - start
                rest = (document, end, stop)
                pending.append(rest)
    return cut_tokens
