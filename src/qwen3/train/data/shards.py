"""Token shards on disk: Megatron's indexed data set, byte for byte, and a table of what is known of each document.

    NAME.bin   the documents' token ids one after another, each ending with <|endoftext|>
    NAME.idx   magic "MMIDIDX\\0\\0", version 1 (uint64), dtype code (uint8), sequence count (uint64), count of document
               bounds (uint64), lengths in tokens (int32 each), offsets in bytes (int64 each), bounds (int64 each)
    NAME.npy   a NumPy structured array, a row a document: where it came from and its labels

All numbers are little endian. A sequence is a document here, so the bounds are 0, 1, ..., N. Ids are uint16 where the
vocabulary allows, else int32, by Megatron's own rule. Files are mapped: opening a shard reads its index only.

This module does not know what the labels mean, nor where shards belong (`manifest`).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from qwen3.train.data.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_CODES = {4: np.dtype("<i4"), 8: np.dtype("<u2")}


def token_dtype(vocab_size: int) -> np.dtype:
    """The type of ids on disk, as Megatron chooses it."""
    return np.dtype("<u2") if vocab_size < 65_500 else np.dtype("<i4")


class ShardWriter:
    """Writes NAME.bin while documents come, and NAME.idx at the end; within `with`."""

    def __init__(self, prefix: Path, dtype: np.dtype) -> None:
        self.prefix, self.dtype = prefix, dtype
        self.lengths: list[int] = []
        self._bin = prefix.with_suffix(".bin").open("wb")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bin.close()
        if kind is None:
            self._write_index()

    def add(self, ids: np.ndarray) -> None:
        """One document, its end included."""
        self._bin.write(ids.astype(self.dtype, copy=False).tobytes())
        self.lengths.append(len(ids))

    def _write_index(self) -> None:
        lengths = np.array(self.lengths, "<i4")
        code = next(code for code, dtype in _CODES.items() if dtype == self.dtype)
        with self.prefix.with_suffix(".idx").open("wb") as file:
            file.write(_HEADER.pack(MAGIC, 1, code, len(lengths), len(lengths) + 1))
            file.write(lengths.tobytes())
            file.write(_offsets(lengths, self.dtype).tobytes())
            file.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())


class Shard:
    """A shard that is mapped and whose index has been checked; raises DataError naming file and byte otherwise."""

    def __init__(self, prefix: Path) -> None:
        self.bin, self.idx = prefix.with_suffix(".bin"), prefix.with_suffix(".idx")
        self.lengths, self.dtype = self._read_index()
        self.starts = np.zeros(len(self.lengths) + 1, np.int64)
        np.cumsum(self.lengths, out=self.starts[1:])
        size = self.bin.stat().st_size
        if size != (expected := int(self.starts[-1]) * self.dtype.itemsize):
            at = min(size, expected)
            raise DataError(f"{self.bin}: {size:,} bytes, but its index says {expected:,}: damaged from byte {at:,}")
        self.tokens = np.asarray(np.memmap(self.bin, self.dtype, "r")) if size else np.zeros(0, self.dtype)

    def __len__(self) -> int:
        return len(self.lengths)

    def document(self, index: int) -> np.ndarray:
        """The ids of a document, its end included."""
        return self.tokens[self.starts[index] : self.starts[index + 1]]

    def check_tokens(self, vocab_size: int, end_of_text: int) -> None:
        """Read all tokens: every id is in the vocabulary, and exactly the last one of each document is the end."""
        step = 1 << 24
        for start in range(0, len(self.tokens), step):
            bad = np.flatnonzero(
                (self.tokens[start : start + step] >= vocab_size) | (self.tokens[start : start + step] < 0)
            )
            if len(bad):
                self._refuse_token(start + int(bad[0]), f"is not one of {vocab_size:,} tokens")
        if (bad := np.flatnonzero(self.tokens[self.starts[1:] - 1] != end_of_text)).size:
            self._refuse_token(int(self.starts[bad[0] + 1]) - 1, f"ends document {bad[0]:,} without <|endoftext|>")

    def _refuse_token(self, at: int, reason: str) -> None:
        raise DataError(f"{self.bin}: id {self.tokens[at]} at byte {at * self.dtype.itemsize:,} {reason}")

    def _read_index(self) -> tuple[np.ndarray, np.dtype]:
        path = self.idx
        size = path.stat().st_size
        if size < _HEADER.size:
            raise DataError(f"{path}: cut off at byte {size}, within its header")
        data = np.memmap(path, np.uint8, "r")
        magic, version, code, count, bounds = _HEADER.unpack(data[: _HEADER.size].tobytes())
        if magic != MAGIC:
            raise DataError(f"{path}: not an index: it does not begin with {MAGIC!r} at byte 0")
        if version != 1:
            raise DataError(f"{path}: version {version} at byte 9; only version 1 is known")
        if code not in _CODES:
            raise DataError(f"{path}: dtype code {code} at byte 17; known are {', '.join(map(str, _CODES))}")
        if bounds != count + 1:
            raise DataError(
                f"{path}: {bounds} bounds at byte 26 for {count} documents; a document is one sequence here"
            )
        if size != (expected := _HEADER.size + 4 * count + 8 * count + 8 * bounds):
            raise DataError(f"{path}: {size:,} bytes, but {count:,} documents (byte 18) take {expected:,}")
        at, dtype = _HEADER.size, _CODES[code]
        lengths = data[at : at + 4 * count].view("<i4")
        if (bad := np.flatnonzero(lengths < 1)).size:
            raise DataError(f"{path}: document {bad[0]:,} has length {lengths[bad[0]]} at byte {at + 4 * bad[0]:,}")
        at += 4 * count
        stored = data[at : at + 8 * count].view("<i8")
        if (bad := np.flatnonzero(stored != _offsets(lengths, dtype))).size:
            raise DataError(f"{path}: wrong offset of document {bad[0]:,} at byte {at + 8 * bad[0]:,}")
        at += 8 * count
        if (bad := np.flatnonzero(data[at:].view("<i8") != np.arange(count + 1))).size:
            raise DataError(f"{path}: wrong bound of document {bad[0]:,} at byte {at + 8 * bad[0]:,}")
        return np.array(lengths), dtype


def _offsets(lengths: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Where each document begins, in bytes."""
    ends = np.cumsum(lengths, dtype="<i8")
    return (ends - lengths) * dtype.itemsize


def read_rows(path: Path) -> np.ndarray:
    """A table of documents, mapped."""
    try:
        rows = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable table, from byte 0: {error}") from None
    return rows


def row_dtype(labels: Mapping[str, tuple[str, ...] | None]) -> np.dtype:
    """A row of the table: file and record the document came from, the first 64 bits of its text's SHA-256, labels.

    A label that is a word is an index into its words, one that is a number (None) a float32.
    """
    fields = [("file", "<u4"), ("record", "<u8"), ("hash", "<u8")]
    for label, words in labels.items():
        if words is not None and len(words) > 1 << 16:
            raise DataError(f"the label {label} has {len(words):,} values; more than 65,536 are too many")
        fields.append((label, "<f4" if words is None else "<u2"))
    return np.dtype(fields)
