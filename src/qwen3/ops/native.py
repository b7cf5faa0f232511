"""The door to the C++ kernels (`qwen3._native`): what this CPU can do, and the check of what kernels are given.

The kernels take plain addresses, so the modules that call them refuse whatever could make them read past a tensor: a
wrong device, dtype, shape or stride. Every instruction set gives the same bits. This module knows nothing of the
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
