"""Documents that are the same, or nearly: SHA-256 of the text, and MinHash over sequences of five tokens.

Two documents are near duplicates if, of all distinct five-token sequences in either, about 80% or more are in both
(Jaccard similarity, estimated from 112 minima in 14 bands of 8, the setting of FineWeb, arXiv 2406.17557). Two of
similarity 0.8 share a band with probability 92%, two of 0.5 with 5%; who shares a band is compared minimum by minimum.
The first of the documents that resemble each other stays.

Cost per document: 32 + 448 bytes on disk while building; 24 bytes in memory, and eight more while one band is sorted.
`benchmarks/data_loader.py` measures the time. Everything is a function of the documents' order and content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

NUM_BANDS, BAND_ROWS = 14, 8
NUM_MINIMA = NUM_BANDS * BAND_ROWS
_NGRAM = 5

FINGERPRINT = np.dtype([("text", "<u8", (2,)), ("minima", "<u4", (NUM_MINIMA,))])


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit integers that looks random: the finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


_draws = mix(np.arange(1, 2 * NUM_MINIMA + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
_FACTORS, _ADDENDS = _draws[:NUM_MINIMA] | np.uint64(1), _draws[NUM_MINIMA:]


def text_hash(text: str) -> tuple[int, int]:
    """The first 128 bits of the SHA-256 of the UTF-8 text, as two numbers."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def minima(ids: np.ndarray) -> np.ndarray:
    """[NUM_MINIMA] uint32: of each of as many random orders of the hashed five-token sequences, the smallest."""
    ids = ids.astype(np.uint64)
    length = max(1, len(ids) - _NGRAM + 1)
    sequences = np.zeros(length, np.uint64)
    for offset in range(min(_NGRAM, len(ids))):
        sequences = mix(sequences + np.uint64(0x9E3779B97F4A7C15) + ids[offset : offset + length])
    sequences = np.unique(sequences)
    found = np.empty(NUM_MINIMA, np.uint32)
    for number, (factor, addend) in enumerate(zip(_FACTORS, _ADDENDS, strict=True)):
        found[number] = (sequences * factor + addend).min() >> np.uint64(32)
    return found


def find_duplicates(parts: Sequence[np.ndarray], exact: bool, near: float) -> tuple[np.ndarray, np.ndarray]:
    """Of the documents of all parts (FINGERPRINT arrays) in order: which are equal to, and which only resemble, an
    earlier one. `near` is the least similarity, 0 for none."""
    count = sum(map(len, parts))
    equal, similar = np.zeros(count, bool), np.zeros(count, bool)
    if exact:
        equal = _repeats(np.concatenate([part["text"] for part in parts]))[0]
    if not near:
        return equal, similar
    ends = np.cumsum([len(part) for part in parts])
    for band in range(NUM_BANDS):
        rows = slice(band * BAND_ROWS, (band + 1) * BAND_ROWS)
        keys = np.concatenate([_band_key(part["minima"][:, rows]) for part in parts])
        repeated, first = _repeats(keys[:, None])
        candidates = np.flatnonzero(repeated & ~equal & ~similar)
        for start in range(0, len(candidates), 65_536):
            some = candidates[start : start + 65_536]
            mine, theirs = _gather(parts, ends, some), _gather(parts, ends, first[some])
            similar[some] |= (mine == theirs).mean(axis=1) >= near
    return equal, similar


def _band_key(minima: np.ndarray) -> np.ndarray:
    key = np.zeros(len(minima), np.uint64)
    for row in minima.T:
        key = mix(key + np.uint64(0x9E3779B97F4A7C15) + row.astype(np.uint64))
    return key


def _repeats(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of keys [N, k]: whether an equal one comes before it, and the index of the first equal one."""
    order = np.lexsort((np.arange(len(keys)), *keys.T))
    ordered = keys[order]
    is_first = np.ones(len(keys), bool)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(keys), np.int64)
    first[order] = order[np.flatnonzero(is_first)[np.cumsum(is_first) - 1]]
    return first != np.arange(len(keys)), first


def _gather(parts: Sequence[np.ndarray], ends: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The minima of some documents, which may be in any part."""
    out = np.empty((len(indices), NUM_MINIMA), np.uint32)
    owner = np.searchsorted(ends, indices, "right")
    for part in np.unique(owner):
        here = owner == part
        start = ends[part] - len(parts[part])
        out[here] = parts[part]["minima"][indices[here] - start]
    return out
