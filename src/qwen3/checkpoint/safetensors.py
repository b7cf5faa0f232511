"""Reader of the safetensors format that believes nothing a file says before it is checked by arithmetic.

A file is 8 bytes of header length (little-endian), a JSON header, and the tensors' bytes. After `SafetensorsFile`
is made, every tensor is known to lie within the file, to have exactly the bytes that its shape and dtype need, and
to share none of them; no byte belongs to no tensor.

It knows nothing of models and of torch: bfloat16 and float8, which numpy lacks, are read as unsigned integers.
Source of the format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qwen3.strict_json import parse_object

# The bound of the format's own library.
MAX_HEADER_BYTES = 100_000_000

STORAGE_DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype("u1"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read or written; the message names file, tensor and fix."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `begin` and `end` are bytes from the start of its file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """One checked file: `tensors` by name in the order of their bytes, `metadata`, and `read`."""

    def __init__(self, path: str | Path) -> None:
        """Read and check the header. Raises CheckpointError naming the file and the fault, or OSError."""
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                self._num_bytes = file.seek(0, 2)
                file.seek(0)
                if self._num_bytes < 8:
                    raise CheckpointError(f"it has {self._num_bytes} bytes, too few for a safetensors file")
                header_bytes = int.from_bytes(file.read(8), "little")
                if header_bytes > MAX_HEADER_BYTES:
                    raise CheckpointError(
                        f"its header claims {header_bytes:,} bytes, more than the {MAX_HEADER_BYTES:,} allowed"
                    )
                if 8 + header_bytes > self._num_bytes:
                    raise CheckpointError(
                        f"its header claims {header_bytes:,} bytes but the file has {self._num_bytes:,}; "
                        "it is truncated: download it again"
                    )
                header = parse_object(file.read(header_bytes))
            self.metadata = _checked_metadata(header.pop("__metadata__", {}))
            data_begin = 8 + header_bytes
            self.tensors = _checked_layout(
                {name: _checked_tensor(name, entry, data_begin, self._num_bytes) for name, entry in header.items()},
                data_begin,
                self._num_bytes,
            )
        except ValueError as error:
            raise CheckpointError(f"{self.path}: {error}") from None

    def read(self, name: str) -> np.ndarray:
        """A read-only view of a tensor in the mapped file, [shape] of `STORAGE_DTYPES[dtype]`; nothing is copied."""
        info = self.tensors[name]
        dtype = STORAGE_DTYPES[info.dtype]
        count = (info.end - info.begin) // dtype.itemsize
        return np.frombuffer(self._map, dtype, count, info.begin).reshape(info.shape)

    @cached_property
    def _map(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(mapped) != self._num_bytes:
            raise CheckpointError(f"{self.path}: it changed its length while it was read")
        return mapped


def _checked_metadata(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("__metadata__ is not an object of strings")
    return metadata


def _checked_tensor(name: str, entry: Any, data_begin: int, num_bytes: int) -> TensorInfo:
    """The entry of one tensor, wholly within the file and as long as its shape says."""
    label = f"tensor {name[:200]!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{label} is not an object of dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in STORAGE_DTYPES:
        raise CheckpointError(f"{label} has the unknown dtype {str(dtype)[:50]!r}")
    if not _is_counts(shape):
        raise CheckpointError(f"{label} has a shape that is not a list of counts")
    if not _is_counts(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{label} has data_offsets that are not two counts")
    begin, end = offsets
    if begin > end:
        raise CheckpointError(f"{label} ends at {end:,}, before it begins at {begin:,}")
    if data_begin + end > num_bytes:
        raise CheckpointError(
            f"{label} ends at {end:,} but the file has {num_bytes - data_begin:,} bytes of tensors; "
            "it is truncated: download it again"
        )
    needed = _tensor_bytes(shape, STORAGE_DTYPES[dtype].itemsize, num_bytes)
    if needed != end - begin:
        more = "more than the file has" if needed is None else f"{needed:,}"
        raise CheckpointError(f"{label} has {end - begin:,} bytes but its shape and dtype need {more}")
    return TensorInfo(dtype, tuple(shape), data_begin + begin, data_begin + end)


def _is_counts(value: Any) -> bool:
    # 64 bits as in the format; it also keeps the arithmetic and the messages short.
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _tensor_bytes(shape: list[int], itemsize: int, limit: int) -> int | None:
    """Bytes of a tensor, or None beyond `limit`: the product of a hostile shape is never computed in full."""
    if 0 in shape:
        return 0
    needed = itemsize
    for size in shape:
        needed *= size
        if needed > limit:
            return None
    return needed


def _checked_layout(tensors: dict[str, TensorInfo], data_begin: int, num_bytes: int) -> dict[str, TensorInfo]:
    """The tensors in the order of their bytes, which they cover without overlap, gap or rest."""
    position = data_begin
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    for name, info in ordered.items():
        if info.begin < position:
            raise CheckpointError(f"tensor {name[:200]!r} overlaps the one before it")
        if info.begin > position:
            raise CheckpointError(f"{info.begin - position:,} bytes before tensor {name[:200]!r} belong to no tensor")
        position = info.end
    if position != num_bytes:
        raise CheckpointError(f"{num_bytes - position:,} bytes at its end belong to no tensor")
    return ordered
