"""Matrix products with packed weights on the CPU: packing, and the operations of the model that use the result.

`FORMATS` names what a packed weight may be: 4 and 8 bits with a float16 scale for every 32, 64 or 128 columns of a row,
GGUF's block types with all their scales and minima, and 16- or 32-bit floats. For the formats of integers activations
are rounded to 8 bits with a scale for every token and 32 columns; for floats they stay float32. Integer sums are exact
and the order of the float operations is fixed, so a token's result has the same bits alone or in any batch, on any
instruction set and any number of threads. `docs/kernels.md` gives the layouts and the arithmetic.

This module checks what the native code trusts: dtypes, shapes, contiguity. It knows neither the model nor files.

Shapes: M tokens, K input features, N output features, G = K / group.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qwen3.ops.huge_pages import empty_bytes
from qwen3.ops.native import FASTEST, _native, check, place_of
from qwen3.quant.blocks import BLOCK_TYPES

_ACTIVATION_GROUP = 32
PANEL_ROWS = 16
_PLAIN, _NORM, _SWIGLU = range(3)  # TokenSource::Kind
_FLOATS = (torch.float32, torch.bfloat16)
_STORED = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # WeightRows::Type


_QUANTIZED, _VALUES = 1, 2  # what a buffer of activations holds


@dataclass(frozen=True, slots=True)
class Format:
    """Sizes of 16 rows and `block_columns` columns, and whether products take activations as they are."""

    block_columns: int
    quant_bytes: int
    scale_bytes: int
    takes_floats: bool

    @property
    def bits_per_weight(self) -> float:
        return 8 * (self.quant_bytes + self.scale_bytes) / (PANEL_ROWS * self.block_columns)


FORMATS: dict[str, Format] = {name: Format(*sizes) for name, *sizes in _native.packed_formats()}

REPACKED: dict[str, str] = {
    "Q4_0": "int4-g32",
    "Q8_0": "int8-g32",
    "F16": "fp16",
    "BF16": "bf16",
    "F32": "fp32",
    **{name.upper(): name for name in ("q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k")},
}
"""The format that holds a GGUF block type without loss."""


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight [N, K] in panels of 16 rows; made by `pack`, `pack_quantized` or `repack`.

    `quants` and `scales` are uint8 [panels, bytes]: all that a copy on disk needs, with `shape` and `format`.
    """

    quants: Tensor
    scales: Tensor
    shape: tuple[int, int]
    format: str

    def __post_init__(self) -> None:
        num_rows, num_columns = self.shape
        num_panels, quant_bytes, scale_bytes = _panel_sizes(num_rows, num_columns, self.format)
        check("quants", self.quants, (torch.uint8,), (num_panels, quant_bytes))
        check("scales", self.scales, (torch.uint8,), (num_panels, scale_bytes))
        matrix = _native.packed_matrix(
            self.quants.data_ptr(), self.scales.data_ptr(), num_rows, num_columns, self.format
        )
        object.__setattr__(self, "_matrix", matrix)
        object.__setattr__(self, "_form", _VALUES if FORMATS[self.format].takes_floats else _QUANTIZED)

    @classmethod
    def empty(cls, num_rows: int, num_columns: int, format: str) -> PackedWeight:
        """Memory for a packed weight, in huge pages where the system has them, with nothing written in it."""
        num_panels, *sizes = _panel_sizes(num_rows, num_columns, format)
        quants, scales = (empty_bytes(num_panels, size) for size in sizes)
        return cls(quants, scales, (num_rows, num_columns), format)

    @property
    def nbytes(self) -> int:
        return self.quants.nbytes + self.scales.nbytes

    def rows(self, begin: int, end: int) -> PackedWeight:
        """Rows [begin, end) in the same memory; both are multiples of 16, or `end` is the last row's."""
        if begin % PANEL_ROWS or (end % PANEL_ROWS and end != self.shape[0]) or not 0 <= begin < end <= self.shape[0]:
            raise ValueError(f"rows {begin} to {end} of {self.shape[0]} are not whole panels of {PANEL_ROWS}")
        panels = slice(begin // PANEL_ROWS, -(-end // PANEL_ROWS))
        shape = (end - begin, self.shape[1])
        return replace(self, quants=self.quants[panels], scales=self.scales[panels], shape=shape)


def _panel_sizes(num_rows: int, num_columns: int, format: str) -> tuple[int, int, int]:
    """Panels of a weight, and bytes of one panel's quants and scales."""
    if format not in FORMATS:
        raise ValueError(f"weights pack into {', '.join(FORMATS)}, not {format}")
    sizes = FORMATS[format]
    if num_rows < 1 or num_columns < 1 or num_columns % sizes.block_columns:
        raise ValueError(
            f"a weight {[num_rows, num_columns]} does not divide into {format}'s blocks of {sizes.block_columns} "
            "columns; choose another format or keep it unquantized"
        )
    num_blocks = num_columns // sizes.block_columns
    return -(-num_rows // PANEL_ROWS), num_blocks * sizes.quant_bytes, num_blocks * sizes.scale_bytes


def pack(weight_NK: Tensor, bits: int = 4, group: int = 32, *, instruction_set: str = FASTEST) -> PackedWeight:
    """Quantizes and packs a weight, on all threads.

    Four bits hold (q - 8) * scale with q in 0..15 and a scale near Q4_0's that has a smaller squared error.
    Eight bits hold q * scale with q in -127..127 and scale amax / 127.

    Args:
        weight_NK: float32, bfloat16 or float16 [N, K], contiguous, on the CPU; K a multiple of `group`.

    Raises:
        ValueError: an argument is not as said, or a weight is infinite, NaN, or too large for a float16 scale.
    """
    if weight_NK.ndim != 2:
        raise ValueError(f"need a weight [N, K], got {list(weight_NK.shape)}")
    packed = PackedWeight.empty(*weight_NK.shape, f"int{bits}-g{group}")
    pack_into(packed, weight_NK, instruction_set=instruction_set)
    return packed


def pack_into(packed: PackedWeight, weight_NK: Tensor, *, instruction_set: str = FASTEST) -> None:
    """`pack` into memory that is there already, such as some rows of a larger weight (`PackedWeight.rows`)."""
    if not packed.format.startswith("int") and packed.format != "q6_k":
        raise ValueError(f"weights are quantized to int4, int8 or q6_k, not {packed.format}")
    check("weight", weight_NK, tuple(_STORED), packed.shape)
    if not _native.pack(place_of(instruction_set), packed._matrix, weight_NK.data_ptr(), _STORED[weight_NK.dtype]):
        raise ValueError("the weight has a value that is infinite, NaN, or too large for a float16 scale")


def pack_quantized(quants_NK: Tensor, scales_NG: Tensor, bits: int) -> PackedWeight:
    """Packs a weight that is quantized already, changing no bit of it.

    Args:
        quants_NK: uint8 [N, K], contiguous: 0..15 for (q - 8) * scale in 4 bits, 0..255 for (q - 128) * scale in 8.
        scales_NG: float16 [N, G], contiguous and finite; K / G is the group.
    """
    if quants_NK.ndim != 2 or scales_NG.ndim != 2 or not scales_NG.shape[1]:
        raise ValueError(f"need quants [N, K] and scales [N, G], got {list(quants_NK.shape)}, {list(scales_NG.shape)}")
    (num_rows, num_columns), num_groups = quants_NK.shape, scales_NG.shape[1]
    check("quants", quants_NK, (torch.uint8,), quants_NK.shape)
    check("scales", scales_NG, (torch.float16,), (num_rows, num_groups))
    packed = PackedWeight.empty(num_rows, num_columns, f"int{bits}-g{num_columns // num_groups}")
    if bits == 4 and quants_NK.max() > 15:
        raise ValueError("4-bit quants must be 0..15")
    if not scales_NG.isfinite().all():
        raise ValueError("a scale is infinite or NaN")
    _native.pack_quantized(packed._matrix, quants_NK.data_ptr(), scales_NG.data_ptr())
    return packed


def repack(block_type: str, blocks: np.ndarray, packed: PackedWeight, first_row: int = 0) -> None:
    """Lays out rows of GGUF blocks, changing no number in them, on all threads.

    Args:
        block_type: one of `REPACKED`, whose format `packed` has.
        blocks: uint8 [rows, bytes of a row], contiguous.
        packed: receives the rows from `first_row` on, a multiple of 16; unless they end with the last row of the
            weight, so must their number be.

    Raises:
        ValueError: an argument is not as said, or a scale or a float is infinite or NaN.
    """
    (num_rows, num_columns), count = packed.shape, len(blocks)
    end = first_row + count
    is_whole = first_row % PANEL_ROWS == 0 and (end == num_rows or end % PANEL_ROWS == 0)
    if REPACKED.get(block_type) != packed.format or not is_whole or not 0 <= first_row <= end <= num_rows:
        raise ValueError(f"{count} rows of {block_type} do not fit row {first_row} of {num_rows} in {packed.format}")
    row_bytes = num_columns // BLOCK_TYPES[block_type].num_values * BLOCK_TYPES[block_type].num_bytes
    if blocks.dtype != np.uint8 or blocks.shape != (count, row_bytes) or not blocks.flags.c_contiguous:
        raise ValueError(f"the blocks must be contiguous uint8 {[count, row_bytes]}, not {blocks.dtype} {blocks.shape}")
    panels = (first_row // PANEL_ROWS, -(-count // PANEL_ROWS))
    if not _native.repack(block_type, blocks.ctypes.data, packed._matrix, *panels):
        raise ValueError(f"a scale or a value in the {block_type} blocks is infinite or NaN")


def dequantize(packed: PackedWeight) -> Tensor:
    """The weight as float32 [N, K], each value as its format defines it."""
    return packed_embedding(torch.arange(packed.shape[0]), packed)


def packed_embedding(tokens_T: Tensor, packed: PackedWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of an embedding that shares its storage with the output head: int64 [T] -> [T, K]."""
    if tokens_T.ndim != 1:
        raise ValueError(f"need ids [T], got {list(tokens_T.shape)}")
    check("ids", tokens_T, (torch.int64,), tokens_T.shape)
    num_rows, num_columns = packed.shape
    if len(tokens_T) and not (tokens_T.min() >= 0 and tokens_T.max() < num_rows):
        raise ValueError(f"an id is not in 0..{num_rows - 1}")
    out_TK = torch.empty(len(tokens_T), num_columns)
    _native.unpack_rows(packed._matrix, tokens_T.data_ptr(), len(tokens_T), out_TK.data_ptr())
    return out_TK.to(dtype)


def packed_linear(
    x_MK: Tensor, packed: PackedWeight, residual_MN: Tensor | None = None, *, instruction_set: str = FASTEST
) -> Tensor:
    """float32 or bfloat16 [M, K] times the transposed weight -> [M, N] of the same dtype, added to the residual.

    A token with an infinite or NaN activation gives NaN in all N; with weights that are floats, what their sums give.
    """
    (y_MN,) = _products(instruction_set, _PLAIN, x_MK, [packed], residual_MN=residual_MN)
    return y_MN


def packed_norm_linear(
    x_MK: Tensor,
    norm_weight_K: Tensor,
    eps: float,
    weights: Sequence[PackedWeight],
    *,
    instruction_set: str = FASTEST,
) -> list[Tensor]:
    """Root-mean-square norm, one quantization, and several products: [M, K] and n weights [N_i, K] -> n of [M, N_i].

    The weights may differ in format. The norm is in float32 and rounded nowhere before its quantization;
    `norm_weight_K` is float32.
    """
    return _products(instruction_set, _NORM, x_MK, weights, norm_weight_K=norm_weight_K, eps=eps)


def packed_swiglu_linear(
    gate_MK: Tensor,
    up_MK: Tensor,
    packed: PackedWeight,
    residual_MN: Tensor | None = None,
    *,
    instruction_set: str = FASTEST,
) -> Tensor:
    """silu(gate) * up, quantized, times the transposed weight -> [M, N], added to the residual; all of one dtype."""
    (y_MN,) = _products(instruction_set, _SWIGLU, gate_MK, [packed], up_MK=up_MK, residual_MN=residual_MN)
    return y_MN


def num_threads() -> int:
    """Threads that the kernels use: QWEN3_THREADS, else the CPUs that this process may use, or what the system gave."""
    return _native.num_threads()


def set_num_threads(count: int) -> None:
    """Changes the number of threads, the caller's own included; no result depends on it. The system may give fewer."""
    if not 1 <= count <= 1024:
        raise ValueError(f"the number of threads must be 1 to 1024, not {count}")
    _native.set_num_threads(count)


class PlainMemory:
    """Memory to compare with: how fast the kernels' threads read it when there is nothing to compute."""

    def __init__(self, megabytes: int = 512) -> None:
        self._bytes_M = torch.empty(megabytes << 20, dtype=torch.uint8)
        _native.advise_huge_pages(self._bytes_M.data_ptr(), self._bytes_M.nbytes)
        self._bytes_M.fill_(1)

    def bandwidth(self) -> float:
        """Of one pass, on all threads, in GB/s."""
        start = time.perf_counter()
        _native.read_all(self._bytes_M.data_ptr(), self._bytes_M.nbytes)
        return self._bytes_M.nbytes / (time.perf_counter() - start) / 1e9


def _products(
    instruction_set: str,
    kind: int,
    x_MK: Tensor,
    weights: Sequence[PackedWeight],
    *,
    up_MK: Tensor | None = None,
    norm_weight_K: Tensor | None = None,
    eps: float = 0.0,
    residual_MN: Tensor | None = None,
) -> list[Tensor]:
    """Activations prepared once and multiplied by each weight, in one call."""
    place = place_of(instruction_set)
    if x_MK.ndim != 2 or x_MK.shape[1] % _ACTIVATION_GROUP or not x_MK.shape[1]:
        raise ValueError(f"need activations [M, K] with K a multiple of {_ACTIVATION_GROUP}, got {list(x_MK.shape)}")
    check("activations", x_MK, _FLOATS, x_MK.shape)
    num_tokens, num_columns = x_MK.shape
    forms = up = norm_weight = residual = 0
    if up_MK is not None:
        check("second factor", up_MK, (x_MK.dtype,), x_MK.shape)
        up = up_MK.data_ptr()
    if norm_weight_K is not None:
        check("norm weight", norm_weight_K, (torch.float32,), (num_columns,))
        norm_weight = norm_weight_K.data_ptr()
    ys_MN = []
    for packed in weights:
        if num_columns != packed.shape[1]:
            raise ValueError(f"activations {list(x_MK.shape)} do not fit a weight {list(packed.shape)}")
        ys_MN.append(torch.empty(num_tokens, packed.shape[0], dtype=x_MK.dtype))
        forms |= packed._form
    if residual_MN is not None:
        check("residual", residual_MN, (x_MK.dtype,), ys_MN[0].shape)
        residual = residual_MN.data_ptr()
    buffer = torch.empty(_native.activation_bytes(num_tokens, num_columns, forms), dtype=torch.uint8)
    _native.products(
        place, kind, x_MK.dtype == torch.bfloat16, x_MK.data_ptr(), up, norm_weight, eps, num_tokens, num_columns,
        buffer.data_ptr(), forms, [packed._matrix for packed in weights], residual, [y.data_ptr() for y in ys_MN],
    )  # fmt: skip
    return ys_MN
