"""The door to the C++ kernels (`qwen3._native`): what this CPU can do, and one checked function per kernel.

The kernels take plain addresses, so whatever could make them read past a tensor is refused here: a wrong
device, dtype, shape or stride. Every instruction set gives the same bits. This module knows nothing of the
model, and does not decide when a kernel is used.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

try:
    from qwen3 import _native
except ImportError as error:
    raise ImportError(
        "the C++ module qwen3._native is missing or does not load; "
        "build it from the source tree with `pip install -e .` (it needs a C++17 compiler)"
    ) from error

_AVAILABLE = tuple(_native.available_instruction_sets())
_PLACES = {name: place for place, name in enumerate(_AVAILABLE)}
FASTEST = _AVAILABLE[-1]


def cpu_features() -> tuple[str, ...]:
    """What this CPU has and the operating system lets programs use, such as `avx2`, `amx_int8`, `i8mm`."""
    return tuple(_native.cpu_features())


def available_instruction_sets() -> tuple[str, ...]:
    """Instruction sets that the kernels were built for and that run here, slowest first, `generic` always."""
    return _AVAILABLE


def instruction_set() -> str:
    """The instruction set that kernels use unless told otherwise: the fastest available."""
    return FASTEST


def place_of(instruction_set: str) -> int:
    """The number by which native functions know an instruction set."""
    if instruction_set not in _PLACES:
        raise ValueError(f"instruction set {instruction_set!r} is not one of {', '.join(_PLACES)}")
    return _PLACES[instruction_set]


def check(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], shape: Sequence[int]) -> None:
    """Refuse a tensor that native code would misread."""
    if tensor.dtype not in dtypes or not tensor.is_cpu or not tensor.is_contiguous() or tensor.shape != tuple(shape):
        raise ValueError(
            f"the {name} must be contiguous {list(shape)} on the CPU, in {' or '.join(map(str, dtypes))}, "
            f"not {list(tensor.shape)} {tensor.dtype} on {tensor.device} with strides {tensor.stride()}"
        )


def matvec_bf16(weight_NK: Tensor, x_K: Tensor, *, instruction_set: str = FASTEST) -> Tensor:
    """Multiply a matrix by a vector, with the weights in bfloat16 and the sums in float32.

    Args:
        weight_NK: bfloat16 [N, K], contiguous, on the CPU.
        x_K: float32 [K], contiguous, on the CPU.
        instruction_set: one of `available_instruction_sets()`; the result's bits do not depend on it.

    Returns:
        float32 [N], without a gradient.

    Raises:
        ValueError: an argument is not as said above.
    """
    if weight_NK.ndim != 2 or x_K.shape != weight_NK.shape[1:]:
        raise ValueError(f"need a weight [N, K] and a vector [K], got {list(weight_NK.shape)} and {list(x_K.shape)}")
    for name, tensor, dtype in (("weight", weight_NK, torch.bfloat16), ("vector", x_K, torch.float32)):
        if tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise ValueError(
                f"the {name} must be a contiguous {dtype} tensor on the CPU, not {tensor.dtype} on "
                f"{tensor.device} with strides {tensor.stride()}; use .to('cpu', {dtype}).contiguous()"
            )
    place_of(instruction_set)

    num_rows, num_columns = weight_NK.shape
    y_N = torch.empty(num_rows)
    _native.matvec_bf16(instruction_set, weight_NK.data_ptr(), x_K.data_ptr(), y_N.data_ptr(), num_columns, 0, num_rows)
    return y_N
