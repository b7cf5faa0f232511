"""GGUF's block types: how each lays out its bytes, and what values the bytes stand for.

A row of a matrix is a run of blocks of `num_values` consecutive values. `BLOCK_TYPES` sizes every type that a file may
hold; `dequantize` knows those of Qwen3's releases. The layouts below are packed, little-endian, and read as follows:

- `quants` of 4 bits lie in runs of bytes whose low halves come before their high halves: a run of 16 bytes holds values
  0..15 low and 16..31 high; the 256-value types use runs of 32 bytes (Q6_K of 64);
- `high` adds the bits above: bit i of Q5_0's and Q5_1's word belongs to value i; in Q5_K, bit i of byte j belongs to
  value 32 i + j; in Q6_K, the two bits 2 i of byte j in each half belong to value 32 i + j of that half of the block;
- `scale` and `minimum` are of the block. In the 256-value types each group of 32 (Q6_K: 16) has a scale of its own in
  `scales`, as a multiple of the block's.

Each arithmetic step is one float32 operation, in the order of llama.cpp's reference, so results are equal bit for bit.
The module knows no files and no models. Source of the facts: ggml-common.h and ggml-quants.c of ggml.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_Q4_0 = np.dtype([("scale", "<f2"), ("quants", "u1", 16)])
_Q4_1 = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("quants", "u1", 16)])
_Q5_0 = np.dtype([("scale", "<f2"), ("high", "u1", 4), ("quants", "u1", 16)])
_Q5_1 = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("high", "u1", 4), ("quants", "u1", 16)])
_Q8_0 = np.dtype([("scale", "<f2"), ("quants", "i1", 32)])
_Q4_K = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("scales", "u1", 12), ("quants", "u1", 128)])
_Q5_K = np.dtype([*_Q4_K.descr[:3], ("high", "u1", 32), ("quants", "u1", 128)])
_Q6_K = np.dtype([("quants", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), ("scale", "<f2")])


@dataclass(frozen=True, slots=True)
class BlockType:
    """`id` is the type's number in files; a block has `num_values` values in `num_bytes` bytes."""

    name: str
    id: int
    num_values: int
    num_bytes: int


BLOCK_TYPES: dict[str, BlockType] = {
    name: BlockType(name, id, num_values, num_bytes)
    for name, id, num_values, num_bytes in (
        ("F32", 0, 1, 4),
        ("F16", 1, 1, 2),
        ("Q4_0", 2, 32, _Q4_0.itemsize),
        ("Q4_1", 3, 32, _Q4_1.itemsize),
        ("Q5_0", 6, 32, _Q5_0.itemsize),
        ("Q5_1", 7, 32, _Q5_1.itemsize),
        ("Q8_0", 8, 32, _Q8_0.itemsize),
        ("Q8_1", 9, 32, 40),
        ("Q2_K", 10, 256, 84),
        ("Q3_K", 11, 256, 110),
        ("Q4_K", 12, 256, _Q4_K.itemsize),
        ("Q5_K", 13, 256, _Q5_K.itemsize),
        ("Q6_K", 14, 256, _Q6_K.itemsize),
        ("Q8_K", 15, 256, 292),
        ("IQ2_XXS", 16, 256, 66),
        ("IQ2_XS", 17, 256, 74),
        ("IQ3_XXS", 18, 256, 98),
        ("IQ1_S", 19, 256, 50),
        ("IQ4_NL", 20, 32, 18),
        ("IQ3_S", 21, 256, 110),
        ("IQ2_S", 22, 256, 82),
        ("IQ4_XS", 23, 256, 136),
        ("I8", 24, 1, 1),
        ("I16", 25, 1, 2),
        ("I32", 26, 1, 4),
        ("I64", 27, 1, 8),
        ("F64", 28, 1, 8),
        ("IQ1_M", 29, 256, 56),
        ("BF16", 30, 1, 2),
        ("TQ1_0", 34, 256, 54),
        ("TQ2_0", 35, 256, 66),
        ("MXFP4", 39, 32, 17),
        ("NVFP4", 40, 64, 36),
        ("Q1_0", 41, 128, 18),
        ("Q2_0", 42, 64, 18),
    )
}

# Temporaries stay in the processor's cache: about half a megabyte of float32 at a time.
_CHUNK_VALUES = 1 << 17


def dequantize(rows: np.ndarray, type: str) -> np.ndarray:
    """The values, float32 [rows, columns], of matrix rows that are uint8 [rows, bytes of a row] of block type `type`.

    Raises ValueError for a type not in `DEQUANTIZED`, and for rows that do not consist of whole blocks.
    """
    if type not in _DECODERS:
        raise ValueError(f"block type {type} cannot be dequantized: those that can are {', '.join(_DECODERS)}")
    block = BLOCK_TYPES[type]
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] % block.num_bytes:
        raise ValueError(f"expected uint8 rows of whole {type} blocks, {block.num_bytes} bytes each, got {rows.shape}")
    blocks = np.ascontiguousarray(rows).reshape(-1, block.num_bytes)
    out = np.empty((len(blocks), block.num_values), np.float32)
    step = _CHUNK_VALUES // block.num_values
    # Scales in damaged files may be anything; what comes of them is the caller's to judge.
    with np.errstate(over="ignore", invalid="ignore"):
        for begin in range(0, len(blocks), step):
            chunk = slice(begin, begin + step)
            _DECODERS[type](blocks[chunk], out[chunk])
    return out.reshape(len(rows), rows.shape[1] // block.num_bytes * block.num_values)


# ---- One decoder a type: blocks [N, num_bytes] to `out` [N, num_values] ---------------------------------------


def _f32(blocks: np.ndarray, out: np.ndarray) -> None:
    out[:] = blocks.view("<f4")


def _f16(blocks: np.ndarray, out: np.ndarray) -> None:
    out[:] = blocks.view("<f2")


def _bf16(blocks: np.ndarray, out: np.ndarray) -> None:
    np.left_shift(blocks.view("<u2"), 16, out=out.view(np.uint32), dtype=np.uint32)


def _q8_0(blocks: np.ndarray, out: np.ndarray) -> None:
    fields = _fields(blocks, _Q8_0)
    np.multiply(fields["quants"], _float(fields["scale"]), out=out)


def _q4_0(blocks: np.ndarray, out: np.ndarray) -> None:
    fields = _fields(blocks, _Q4_0)
    quants = _halves(fields["quants"], 16).view(np.int8) - np.int8(8)
    np.multiply(quants, _float(fields["scale"]), out=out)


def _q4_1(blocks: np.ndarray, out: np.ndarray) -> None:
    fields = _fields(blocks, _Q4_1)
    np.multiply(_halves(fields["quants"], 16), _float(fields["scale"]), out=out)
    out += _float(fields["minimum"])


def _q5_0(blocks: np.ndarray, out: np.ndarray) -> None:
    fields = _fields(blocks, _Q5_0)
    quants = _with_fifth_bit(fields).view(np.int8) - np.int8(16)
    np.multiply(quants, _float(fields["scale"]), out=out)


def _q5_1(blocks: np.ndarray, out: np.ndarray) -> None:
    fields = _fields(blocks, _Q5_1)
    np.multiply(_with_fifth_bit(fields), _float(fields["scale"]), out=out)
    out += _float(fields["minimum"])


def _q4_k(blocks: np.ndarray, out: np.ndarray) -> None:
    fields = _fields(blocks, _Q4_K)
    _scale_groups(fields, _halves(fields["quants"], 32), out)


def _q5_k(blocks: np.ndarray, out: np.ndarray) -> None:
    fields = _fields(blocks, _Q5_K)
    _scale_groups(fields, _halves(fields["quants"], 32) | _spread(fields["high"], 32, 1) << 4, out)


def _q6_k(blocks: np.ndarray, out: np.ndarray) -> None:
    fields = _fields(blocks, _Q6_K)
    quants = (_halves(fields["quants"], 64) | _spread(fields["high"], 32, 2) << 4).view(np.int8) - np.int8(32)
    scales = _float(fields["scale"]) * fields["scales"]
    np.multiply(quants.reshape(-1, 16, 16), scales[:, :, None], out=out.reshape(-1, 16, 16))


_DECODERS: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
DEQUANTIZED = frozenset(_DECODERS)
"""The types that `dequantize` knows."""


def _fields(blocks: np.ndarray, layout: np.dtype) -> np.ndarray:
    return blocks.view(layout)[:, 0]


def _float(halves_N: np.ndarray) -> np.ndarray:
    """float16 [N] as float32 [N, 1], to multiply the values of each block by."""
    return halves_N.astype(np.float32)[:, None]


def _halves(bytes_NB: np.ndarray, run: int) -> np.ndarray:
    """4-bit values [N, 2 B]: for each `run` of bytes first the low halves, then the high ones."""
    return _spread(bytes_NB, run, 4)


def _spread(bytes_NB: np.ndarray, run: int, bits: int) -> np.ndarray:
    """Values of `bits` bits, [N, B * 8 / bits]: for each `run` of bytes first the lowest bits of all, and so on up."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    runs = bytes_NB.reshape(len(bytes_NB), -1, 1, run)
    return (runs >> shifts & np.uint8(2**bits - 1)).reshape(len(bytes_NB), -1)


def _with_fifth_bit(fields: np.ndarray) -> np.ndarray:
    """The 5-bit values, uint8 [N, 32], of Q5_0 and Q5_1."""
    high = np.unpackbits(fields["high"], axis=1, bitorder="little")
    return _halves(fields["quants"], 16) | high << 4


def _scale_groups(fields: np.ndarray, quants: np.ndarray, out: np.ndarray) -> None:
    """`out` = scale * quants - minimum for the groups of 32 of Q4_K and Q5_K.

    `scales` holds eight 6-bit scales and eight 6-bit minima: the first four scales are the low bits of bytes 0-3, the
    first four minima those of bytes 4-7. Of the others, bytes 8-11 hold the low four bits (scales in the low halves,
    minima in the high ones), and the two highest bits of bytes 0-3 and 4-7 their high two.
    """
    scales, minima, rest = (fields["scales"][:, begin : begin + 4] for begin in (0, 4, 8))
    scales = np.concatenate([scales & 63, rest & 15 | scales >> 6 << 4], axis=1)
    minima = np.concatenate([minima & 63, rest >> 4 | minima >> 6 << 4], axis=1)
    scales = _float(fields["scale"]) * scales
    minima = _float(fields["minimum"]) * minima
    groups = out.reshape(-1, 8, 32)
    np.multiply(quants.reshape(-1, 8, 32), scales[:, :, None], out=groups)
    groups -= minima[:, :, None]
