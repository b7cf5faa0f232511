"""Reader of the GGUF format that believes nothing a file says before it is checked by arithmetic.

A file is a header (counts, metadata, one entry a tensor) and, from a multiple of the alignment on, the tensors' bytes.
After `GGUFFile` is made, every tensor is known to lie within the file, to have exactly the bytes that its shape and
block type need, to begin where the one before it ends but for padding, and to be named once. Counts are compared with
the bytes that are left before anything is made of them, so a small file cannot ask for much memory or time.

Versions 2 and 3, little-endian. The file is mapped and never copied as a whole; it may be deleted or replaced while in
use, but not cut short. The module knows nothing of models, and of what the blocks mean only their sizes.
Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from qwen3.checkpoint.safetensors import CheckpointError
from qwen3.quant.blocks import BLOCK_TYPES, BlockType

# Several times what the largest Qwen3 needs (7 MB, 303,000 strings, 50 keys, 1,200 tensors; older files with one tensor
# for each expert 37,000), and little enough to be read in a second.
MAX_HEADER_BYTES = 100_000_000
MAX_STRINGS = 1_000_000
MAX_KEYS = 65_536
MAX_TENSORS = 131_072

# The format's own bounds.
_MAX_KEY_BYTES = 65_535
_MAX_NAME_BYTES = 64
_MAX_DIMENSIONS = 4

_MAGIC = b"GGUF"
_ALIGNMENT, _DEFAULT_ALIGNMENT = "general.alignment", 32

_NUMBERS: Mapping[int, np.dtype] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_UINT32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9
_TYPE_OF_ID: Mapping[int, BlockType] = {block_type.id: block_type for block_type in BLOCK_TYPES.values()}

Value = int | float | bool | str | np.ndarray | tuple[str, ...]
"""A metadata value. Arrays of numbers and of bools are read-only numpy arrays of the file's own type."""


class GGUFError(CheckpointError):
    """A GGUF file that is damaged, or of a kind that is not read; the message names file, thing and fix."""


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """`shape` is row-major, as in numpy; `type` a name in `BLOCK_TYPES`; `offset` counts from the file's start."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)


class GGUFFile:
    """One checked file: `version`, `alignment`, `metadata` by key, `tensors` by name in the order of their bytes."""

    def __init__(self, path: str | Path) -> None:
        """Map the file and check its header. Raises GGUFError naming the file and the fault, or OSError."""
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                self.num_bytes = file.seek(0, 2)
                if self.num_bytes < 24:
                    raise GGUFError(f"it has {self.num_bytes} bytes, too few for a GGUF file")
                self._map = mmap.mmap(file.fileno(), self.num_bytes, access=mmap.ACCESS_READ)
            header = _Header(self._map)
            self.version = _checked_version(header)
            num_tensors = header.count("number of tensors", MAX_TENSORS)
            num_keys = header.count("number of metadata keys", MAX_KEYS)
            self.metadata: Mapping[str, Value] = _read_metadata(header, num_keys)
            self.alignment: int = self.metadata.get(_ALIGNMENT, _DEFAULT_ALIGNMENT)
            entries = [_read_tensor(header) for _ in range(num_tensors)]
            self.tensors: Mapping[str, GGUFTensor] = _checked_layout(
                entries, header.position, self.alignment, self.num_bytes
            )
        except GGUFError as error:
            raise GGUFError(f"{self.path}: {error}") from None

    def read(self, name: str) -> np.ndarray:
        """A read-only view of a tensor's blocks in the mapped file, uint8 [bytes]; nothing is copied."""
        tensor = self.tensors[name]
        return np.frombuffer(self._map, np.uint8, tensor.num_bytes, tensor.offset)

    def release(self, blocks: np.ndarray) -> None:
        """Let the process's memory go that holds contiguous `blocks` of the file; reading them again still works."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on every system
            offset = blocks.ctypes.data - np.frombuffer(self._map, np.uint8, 1).ctypes.data
            begin, end = (position // mmap.PAGESIZE * mmap.PAGESIZE for position in (offset, offset + blocks.nbytes))
            if begin < end:
                self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)


class _Header:
    """A position in the mapped file that moves only over bytes that are there."""

    def __init__(self, data: mmap.mmap) -> None:
        self.position = 0
        self._data = data
        self._end = min(len(data), MAX_HEADER_BYTES)
        self._num_strings = 0

    def numbers(self, dtype: np.dtype, count: int, what: str) -> np.ndarray:
        begin = self._advance(dtype.itemsize * count, what)
        return np.frombuffer(self._data, dtype, count, begin)

    def integer(self, num_bytes: int, what: str) -> int:
        begin = self._advance(num_bytes, what)
        return int.from_bytes(self._data[begin : begin + num_bytes], "little")

    def count(self, what: str, limit: int) -> int:
        count = self.integer(8, what)
        if count > limit:
            raise GGUFError(f"its {what} is {count:,}, more than the {limit:,} allowed: it is damaged")
        return count

    def string(self, what: str, max_bytes: int = MAX_HEADER_BYTES) -> str:
        length = self.integer(8, f"length of {what}")
        begin = self._advance(length, what)
        if length > max_bytes:
            raise GGUFError(f"{what} has {length:,} bytes, more than the {max_bytes:,} allowed")
        try:
            return str(self._data[begin : self.position], "utf-8")
        except UnicodeDecodeError:
            raise GGUFError(f"{what} is not UTF-8") from None

    def strings(self, count: int, what: str) -> tuple[str, ...]:
        """The one long loop of a header: 300,000 strings in a Qwen3 file."""
        self._num_strings += count
        if self._num_strings > MAX_STRINGS:
            raise GGUFError(
                f"{what} is the last of {self._num_strings:,} strings, more than the {MAX_STRINGS:,} allowed"
            )
        self._check_left(8 * count, what)
        data, end, position = self._data, self._end, self.position
        strings = []
        for _ in range(count):
            begin = position + 8
            # Beyond the end a slice is short, and the length something or other: `begin` alone is then too far.
            position = begin + int.from_bytes(data[begin - 8 : begin], "little")
            if position > end:
                self._refuse(position - begin, f"string {len(strings)} of {what}")
            try:
                strings.append(str(data[begin:position], "utf-8"))
            except UnicodeDecodeError:
                raise GGUFError(f"string {len(strings)} of {what} is not UTF-8") from None
        self.position = position
        return tuple(strings)

    def _advance(self, num_bytes: int, what: str) -> int:
        """Move over `num_bytes` and return where they begin."""
        self._check_left(num_bytes, what)
        begin = self.position
        self.position += num_bytes
        return begin

    def _check_left(self, num_bytes: int, what: str) -> None:
        if num_bytes > self._end - self.position:
            self._refuse(num_bytes, what)

    def _refuse(self, num_bytes: int, what: str) -> NoReturn:
        if self._end < len(self._data):
            raise GGUFError(f"{what} ends beyond the {MAX_HEADER_BYTES:,} bytes that a header may have: it is damaged")
        raise GGUFError(
            f"{what} needs {num_bytes:,} bytes, more than the file has left: it is damaged or truncated; "
            "download it again"
        )


# ---- Header ---------------------------------------------------------------------------------------------------


def _checked_version(header: _Header) -> int:
    magic = header.numbers(np.dtype("u1"), 4, "magic").tobytes()
    if magic != _MAGIC:
        raise GGUFError(f"it begins with {magic!r}, not with {_MAGIC!r}: it is not a GGUF file")
    version = header.integer(4, "version")
    if version in (2, 3):
        return version
    if version & 0xFFFF == 0 and version:
        raise GGUFError("it is big-endian: convert it with gguf-py's gguf_convert_endian, or take a little-endian one")
    if version == 1:
        raise GGUFError("it is of version 1, which nobody writes since 2023: take a newer conversion of the model")
    raise GGUFError(f"it is of version {version}; versions 2 and 3 are read")


def _read_metadata(header: _Header, num_keys: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for number in range(num_keys):
        key = header.string(f"metadata key {number}", _MAX_KEY_BYTES)
        what = f"metadata {_quoted(key)}"
        if not key:
            raise GGUFError(f"metadata key {number} is empty")
        if key in metadata:
            raise GGUFError(f"{what} is given twice")
        type_id = header.integer(4, f"type of {what}")
        metadata[key] = _read_value(header, type_id, what)
        if key == _ALIGNMENT:
            _check_alignment(type_id, metadata[key])
    return metadata


def _read_value(header: _Header, type_id: int, what: str) -> Value:
    if type_id == _STRING:
        return header.string(what)
    if type_id != _ARRAY:
        return _read_numbers(header, type_id, 1, what)[0].item()
    type_id = header.integer(4, f"element type of {what}")
    count = header.integer(8, f"length of {what}")
    if type_id == _STRING:
        return header.strings(count, what)
    if type_id == _ARRAY:
        raise GGUFError(f"{what} is an array of arrays, which is not supported")
    return _read_numbers(header, type_id, count, what)


def _read_numbers(header: _Header, type_id: int, count: int, what: str) -> np.ndarray:
    if type_id == _BOOL:
        bools = header.numbers(np.dtype("u1"), count, what)
        if count and bools.max() > 1:
            raise GGUFError(f"{what} holds a bool that is neither 0 nor 1")
        return bools.view(bool)
    if type_id not in _NUMBERS:
        raise GGUFError(f"{what} has the unknown type {type_id}")
    return header.numbers(_NUMBERS[type_id], count, what)


def _check_alignment(type_id: int, alignment: Value) -> None:
    if type_id != _UINT32:
        raise GGUFError(f"metadata {_ALIGNMENT!r} is not an unsigned 32-bit number")
    if alignment == 0 or alignment & (alignment - 1):
        raise GGUFError(f"metadata {_ALIGNMENT!r} is {alignment}, not a power of two")


# ---- Tensors --------------------------------------------------------------------------------------------------


def _read_tensor(header: _Header) -> GGUFTensor:
    """One entry; its offset still counts from the first tensor's byte, and nothing is compared with the file yet."""
    name = header.string("name of a tensor", _MAX_NAME_BYTES)
    if not name:
        raise GGUFError("a tensor has an empty name")
    what = f"tensor {_quoted(name)}"
    num_dimensions = header.integer(4, f"number of dimensions of {what}")
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise GGUFError(f"{what} has {num_dimensions:,} dimensions, not 1 to {_MAX_DIMENSIONS}")
    # The file lists the dimension that varies fastest first.
    shape = tuple(header.numbers(np.dtype("<u8"), num_dimensions, f"shape of {what}").tolist())[::-1]
    if 0 in shape:
        raise GGUFError(f"{what} has no elements: its shape is {list(shape)}")
    # The format's integers are signed elsewhere; it also keeps the messages short.
    if max(shape) >= 2**63:
        raise GGUFError(f"{what} has a negative or an absurd dimension")
    type_id = header.integer(4, f"type of {what}")
    if type_id not in _TYPE_OF_ID:
        raise GGUFError(f"{what} has the unknown block type {type_id}: a newer version of this program may know it")
    block = _TYPE_OF_ID[type_id]
    if shape[-1] % block.num_values:
        raise GGUFError(
            f"{what} has rows of {shape[-1]:,} values, not a multiple of {block.name}'s blocks of {block.num_values}"
        )
    num_bytes = math.prod(shape) // block.num_values * block.num_bytes
    return GGUFTensor(name, block.name, shape, header.integer(8, f"offset of {what}"), num_bytes)


def _checked_layout(
    entries: list[GGUFTensor], header_end: int, alignment: int, num_file_bytes: int
) -> dict[str, GGUFTensor]:
    """The tensors in the order of their bytes, which they cover without overlap, gap or rest, but for padding."""
    tensors: dict[str, GGUFTensor] = {}
    data_begin = position = _padded(header_end, alignment)
    for entry in sorted(entries, key=lambda entry: entry.offset):
        what = f"tensor {_quoted(entry.name)}"
        if entry.name in tensors:
            raise GGUFError(f"{what} is there twice")
        if entry.offset % alignment:
            raise GGUFError(f"{what} is at {entry.offset:,}, not a multiple of the alignment {alignment}")
        begin = data_begin + entry.offset
        if begin < position:
            raise GGUFError(f"{what} overlaps the one before it")
        if begin > position:
            raise GGUFError(f"{begin - position:,} bytes before {what} belong to no tensor")
        end = begin + entry.num_bytes
        if end > num_file_bytes:
            raise GGUFError(
                f"{what} needs {entry.num_bytes:,} bytes, more than the file has left: it is damaged or truncated; "
                "download it again"
            )
        tensors[entry.name] = GGUFTensor(entry.name, entry.type, entry.shape, begin, entry.num_bytes)
        position = _padded(end, alignment)
    # The padding after the last tensor may be missing: not every writer adds it.
    if num_file_bytes > position:
        raise GGUFError(f"{num_file_bytes - position:,} bytes at its end belong to no tensor")
    return tensors


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _quoted(name: str) -> str:
    return ascii(name) if len(name) <= 100 else ascii(name[:100]) + "..."
