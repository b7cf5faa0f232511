"""Matrix products with 4- and 8-bit weights on the CPU: packing, and the operations of the model that use the result.

Weights keep a float16 scale for every `group` columns of a row; activations are rounded to 8 bits with a scale for
every token and 32 columns. Integer sums are exact and the order of the float operations is fixed, so a token's result
has the same bits alone or in any batch, on any instruction set and any number of threads. `docs/kernels.md` gives the
layouts and the arithmetic.

This module checks what the native code trusts: dtypes, shapes, contiguity. It knows neither the model nor files.

Shapes: M tokens, K input features, N output features, G = K / group.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qwen3.ops import native
from qwen3.ops.native import _native

GROUPS = (32, 64, 128)

PANEL_ROWS = 16
_PLACES = {name: place for place, name in enumerate(native.available_instruction_sets())}
_FASTEST = native.instruction_set()
_PLAIN, _NORM, _SWIGLU = range(3)  # TokenSource::Kind
_FLOATS = (torch.float32, torch.bfloat16)
_STORED = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # WeightRows::Type


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight [N, K] in panels of 16 rows; made by `pack` or `pack_quantized`.

    `quants` is uint8 [panels, 16 * K * bits / 8] and `scales` float16 [panels, G, 16]: all that a copy on disk needs.
    """

    quants: Tensor
    scales: Tensor
    shape: tuple[int, int]
    bits: int
    group: int

    def __post_init__(self) -> None:
        num_rows, num_columns = self.shape
        if self.bits not in (4, 8) or self.group not in GROUPS:
            raise ValueError(f"weights pack into 4 or 8 bits in groups of {GROUPS}, not {self.bits} and {self.group}")
        if num_rows < 1 or num_columns < 1 or num_columns % self.group:
            raise ValueError(
                f"a weight {[num_rows, num_columns]} does not divide into groups of {self.group} columns; "
                f"choose another group of {GROUPS} or keep it unquantized"
            )
        panels = -(-num_rows // PANEL_ROWS)
        _check("quants", self.quants, (torch.uint8,), (panels, PANEL_ROWS * num_columns * self.bits // 8))
        _check("scales", self.scales, (torch.float16,), (panels, num_columns // self.group, PANEL_ROWS))
        matrix = _native.packed_matrix(
            self.quants.data_ptr(), self.scales.data_ptr(), num_rows, num_columns, self.bits, self.group
        )
        object.__setattr__(self, "_matrix", matrix)

    @classmethod
    def empty(cls, num_rows: int, num_columns: int, bits: int, group: int) -> PackedWeight:
        """Memory for a packed weight, in huge pages where the system has them, with nothing written in it."""
        panels = -(-num_rows // PANEL_ROWS)
        quants = torch.empty(panels, PANEL_ROWS * num_columns * bits // 8, dtype=torch.uint8)
        scales = torch.empty(panels, num_columns // max(group, 1), PANEL_ROWS, dtype=torch.float16)
        for tensor in (quants, scales):
            _native.advise_huge_pages(tensor.data_ptr(), tensor.nbytes)
        return cls(quants, scales, (num_rows, num_columns), bits, group)

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


def pack(weight_NK: Tensor, bits: int = 4, group: int = 32, *, instruction_set: str = _FASTEST) -> PackedWeight:
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
    packed = PackedWeight.empty(*weight_NK.shape, bits, group)
    pack_into(packed, weight_NK, instruction_set=instruction_set)
    return packed


def pack_into(packed: PackedWeight, weight_NK: Tensor, *, instruction_set: str = _FASTEST) -> None:
    """`pack` into memory that is there already, such as some rows of a larger weight (`PackedWeight.rows`)."""
    _check("weight", weight_NK, tuple(_STORED), packed.shape)
    if not _native.pack(_place(instruction_set), packed._matrix, weight_NK.data_ptr(), _STORED[weight_NK.dtype]):
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
    _check("quants", quants_NK, (torch.uint8,), quants_NK.shape)
    _check("scales", scales_NG, (torch.float16,), (num_rows, num_groups))
    packed = PackedWeight.empty(num_rows, num_columns, bits, num_columns // num_groups)
    if bits == 4 and quants_NK.max() > 15:
        raise ValueError("4-bit quants must be 0..15")
    if not scales_NG.isfinite().all():
        raise ValueError("a scale is infinite or NaN")
    _native.pack_quantized(packed._matrix, quants_NK.data_ptr(), scales_NG.data_ptr())
    return packed


def dequantize(packed: PackedWeight) -> Tensor:
    """The weight as float32 [N, K]: quants times scale."""
    return packed_embedding(torch.arange(packed.shape[0]), packed)


def packed_embedding(tokens_T: Tensor, packed: PackedWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of an embedding that shares its storage with the output head: int64 [T] -> [T, K]."""
    if tokens_T.ndim != 1:
        raise ValueError(f"need ids [T], got {list(tokens_T.shape)}")
    _check("ids", tokens_T, (torch.int64,), tokens_T.shape)
    num_rows, num_columns = packed.shape
    if len(tokens_T) and not (tokens_T.min() >= 0 and tokens_T.max() < num_rows):
        raise ValueError(f"an id is not in 0..{num_rows - 1}")
    out_TK = torch.empty(len(tokens_T), num_columns)
    _native.unpack_rows(packed._matrix, tokens_T.data_ptr(), len(tokens_T), out_TK.data_ptr())
    return out_TK.to(dtype)


def packed_linear(
    x_MK: Tensor, packed: PackedWeight, residual_MN: Tensor | None = None, *, instruction_set: str = _FASTEST
) -> Tensor:
    """float32 or bfloat16 [M, K] times the transposed weight -> [M, N] of the same dtype, added to the residual.

    A token with an infinite or NaN activation gives NaN in all N.
    """
    place = _place(instruction_set)
    activations = _quantize(place, _PLAIN, x_MK)
    return _matmul(place, activations, x_MK, packed, residual_MN)


def packed_norm_linear(
    x_MK: Tensor,
    norm_weight_K: Tensor,
    eps: float,
    weights: Sequence[PackedWeight],
    *,
    instruction_set: str = _FASTEST,
) -> list[Tensor]:
    """Root-mean-square norm, one quantization, and several products: [M, K] and n weights [N_i, K] -> n of [M, N_i].

    The norm is in float32 and rounded nowhere before its quantization; `norm_weight_K` is float32.
    """
    place = _place(instruction_set)
    activations = _quantize(place, _NORM, x_MK, norm_weight_K=norm_weight_K, eps=eps)
    return [_matmul(place, activations, x_MK, packed) for packed in weights]


def packed_swiglu_linear(
    gate_MK: Tensor,
    up_MK: Tensor,
    packed: PackedWeight,
    residual_MN: Tensor | None = None,
    *,
    instruction_set: str = _FASTEST,
) -> Tensor:
    """silu(gate) * up, quantized, times the transposed weight -> [M, N], added to the residual; all of one dtype."""
    place = _place(instruction_set)
    activations = _quantize(place, _SWIGLU, gate_MK, up_MK=up_MK)
    return _matmul(place, activations, gate_MK, packed, residual_MN)


def num_threads() -> int:
    """Threads that the kernels use: QWEN3_THREADS, else the CPUs that this process may use."""
    return _native.num_threads()


def set_num_threads(count: int) -> None:
    """Changes the number of threads, the caller's own included; no result depends on it."""
    if not 1 <= count <= 1024:
        raise ValueError(f"the number of threads must be 1 to 1024, not {count}")
    _native.set_num_threads(count)


def read_bandwidth(megabytes: int = 512, rounds: int = 5) -> float:
    """What the kernels could read at best, in GB/s: the fastest of `rounds` passes over memory, on all threads."""
    memory = torch.empty(megabytes << 20, dtype=torch.uint8)
    _native.advise_huge_pages(memory.data_ptr(), memory.nbytes)
    memory.fill_(1)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        _native.read_all(memory.data_ptr(), memory.nbytes)
        seconds.append(time.perf_counter() - start)
    return memory.nbytes / min(seconds) / 1e9


def _place(instruction_set: str) -> int:
    if instruction_set not in _PLACES:
        raise ValueError(f"instruction set {instruction_set!r} is not one of {', '.join(_PLACES)}")
    return _PLACES[instruction_set]


def _quantize(
    place: int,
    kind: int,
    x_MK: Tensor,
    *,
    up_MK: Tensor | None = None,
    norm_weight_K: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Activations in the blocks that the kernels of `place` read, as one buffer."""
    if x_MK.ndim != 2 or x_MK.shape[1] % GROUPS[0] or not x_MK.shape[1]:
        raise ValueError(f"need activations [M, K] with K a multiple of {GROUPS[0]}, got {list(x_MK.shape)}")
    _check("activations", x_MK, _FLOATS, x_MK.shape)
    num_tokens, num_columns = x_MK.shape
    up = norm_weight = 0
    if up_MK is not None:
        _check("second factor", up_MK, (x_MK.dtype,), x_MK.shape)
        up = up_MK.data_ptr()
    if norm_weight_K is not None:
        _check("norm weight", norm_weight_K, (torch.float32,), (num_columns,))
        norm_weight = norm_weight_K.data_ptr()
    buffer = torch.empty(_native.activation_bytes(num_tokens, num_columns), dtype=torch.uint8)
    is_bf16 = x_MK.dtype == torch.bfloat16
    _native.quantize(
        place, kind, is_bf16, x_MK.data_ptr(), up, norm_weight, eps, num_tokens, num_columns, buffer.data_ptr()
    )
    return buffer


def _matmul(
    place: int, activations: Tensor, x_MK: Tensor, packed: PackedWeight, residual_MN: Tensor | None = None
) -> Tensor:
    num_tokens, num_columns = x_MK.shape
    if num_columns != packed.shape[1]:
        raise ValueError(f"activations {list(x_MK.shape)} do not fit a weight {list(packed.shape)}")
    y_MN = torch.empty(num_tokens, packed.shape[0], dtype=x_MK.dtype)
    residual = 0
    if residual_MN is not None:
        _check("residual", residual_MN, (x_MK.dtype,), y_MN.shape)
        residual = residual_MN.data_ptr()
    is_bf16 = x_MK.dtype == torch.bfloat16
    _native.matmul(place, packed._matrix, activations.data_ptr(), num_tokens, residual, y_MN.data_ptr(), is_bf16)
    return y_MN


def _check(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], shape: Sequence[int]) -> None:
    if tensor.dtype not in dtypes or not tensor.is_cpu or not tensor.is_contiguous() or tensor.shape != tuple(shape):
        raise ValueError(
            f"the {name} must be contiguous {list(shape)} on the CPU, in {' or '.join(map(str, dtypes))}, "
            f"not {list(tensor.shape)} {tensor.dtype} on {tensor.device} with strides {tensor.stride()}"
        )
