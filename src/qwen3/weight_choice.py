"""In which form a checkpoint's weights are kept on this machine: the rule behind `--weights auto`.

The rule takes what a user would take who knows the figures. On a CPU a model from half a billion parameters on
runs in int8: each token reads half the bytes of 16 bits, and next to nothing is lost. Where int8 would leave little
memory for anything else, it runs in int4. Smaller models are fast as they are and lose more by rounding, so their
weights stay as stored, on the native kernels; so do, on torch, those that these kernels cannot take. What cannot fit is
refused with its numbers, before anything is loaded.

Bytes come from `memory`, what is free from `hardware`. The module knows no tensors and reads no files.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwen3.config import ModelConfig
from qwen3.memory import estimate, model_weights, weight_bytes

WEIGHTS = ("auto", "bf16", "int8", "int4")
STORED_FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""The calculator's name for weights that are kept in a dtype."""

_SMALL_PARAMETERS = 500_000_000
# What int8 must hold besides the weights to be preferred, and the share of free memory that it may take.
_COMFORTABLE_CONTEXT, _COMFORTABLE_SHARE = 8_192, 3 / 4
_LEAST_CONTEXT = 512
_LEAST_BITS = 4.5  # of the smallest type of GGUF that is read: Q4_0


class MemoryShortageError(ValueError):
    """The weights do not fit; the message has the numbers and what would fit."""


@dataclass(frozen=True)
class WeightChoice:
    """`name` is 'int8', 'int4' or a dtype's name; `line` says why, and is empty where nothing was decided."""

    name: str
    line: str = ""


def choose_weights(config: ModelConfig, weights: str | None, available: int) -> WeightChoice:
    """The form for a safetensors checkpoint on the CPU.

    Args:
        config: its config, whose dtype is the one that unpacked weights would have.
        weights: 'auto', 'int8' or 'int4'; None keeps that dtype.
        available: bytes of memory that are free.

    Raises MemoryShortageError for what does not fit.
    """
    stored = STORED_FORMATS[config.dtype]
    if weights != "auto":
        return _fitting(config, WeightChoice(weights or config.dtype), available)
    if config.num_parameters < _SMALL_PARAMETERS or not can_pack(config):
        return _fitting(config, WeightChoice(config.dtype), available)
    comfortable = needed_bytes(config, "int8", _COMFORTABLE_CONTEXT)
    if comfortable <= _COMFORTABLE_SHARE * available:
        reason = f"in place of {stored}'s {_gb(weight_bytes(config, stored))}, to be faster"
        return WeightChoice("int8", _line(config, "int8", reason, available))
    _fitting(config, WeightChoice("int4"), available)
    reason = (
        f"because int8 would take {_gb(comfortable)} of the {_gb(available)} free, with {_COMFORTABLE_CONTEXT:,} tokens"
    )
    return WeightChoice("int4", _line(config, "int4", reason, available))


def check_file_fits(config: ModelConfig, dtype: str | None, size: int, own_size: int, available: int) -> None:
    """Refuse the weights of a GGUF file that need more memory than is free.

    Args:
        dtype: into which they are dequantized; None keeps the file's own precision.
        size: their bytes in that form.
        own_size: their bytes at the file's own precision.
        available: bytes of memory that are free.

    Raises MemoryShortageError with what would fit.
    """
    form = STORED_FORMATS[dtype] if dtype else "int8"
    rest = needed_bytes(config, form) - weight_bytes(config, form)
    if size + rest <= available:
        return
    bits = max(0, available - rest) * 8 / config.num_parameters
    if own_size + rest <= available:
        advice = f"at its own precision, without another dtype or packing, they need {_gb(own_size + rest)}"
    elif bits >= _LEAST_BITS:
        own_bits = own_size * 8 / config.num_parameters
        advice = f"take a file of at most {bits:.1f} bits a weight (this one has {own_bits:.1f}), or a smaller model"
    else:
        advice = "take a smaller model"
    what = f"the file's weights in {form}" if dtype else "the file's weights"
    raise MemoryShortageError(f"{what} need {_gb(size + rest)}, but {_gb(available)} of memory are free: {advice}")


def can_pack(config: ModelConfig) -> bool:
    """Whether the native kernels take the model's shapes."""
    matrices = (weight for weight in model_weights(config) if weight.role not in ("norm", "router"))
    return config.head_dim % 16 == 0 and all(weight.columns % 32 == 0 for weight in matrices)


def needed_bytes(config: ModelConfig, weights: str, context: int = _LEAST_CONTEXT) -> int:
    """Bytes of the process with one conversation of `context` tokens, but at most the model's own."""
    context = min(context, config.max_context)
    return estimate(config, weights=weights, context=context, chunk=_LEAST_CONTEXT).total


def _fitting(config: ModelConfig, choice: WeightChoice, available: int) -> WeightChoice:
    """`choice`, if the model runs at all in it."""
    form = STORED_FORMATS.get(choice.name, choice.name)
    needed = needed_bytes(config, form)
    if needed <= available:
        return choice
    fitting = [other for other in ("int8", "int4") if needed_bytes(config, other) <= min(available, needed)]
    if fitting:
        advice = f"take weights {fitting[0]}, which need {_gb(needed_bytes(config, fitting[0]))}"
    else:
        advice = f"take a smaller model; the least for this one is {_gb(needed_bytes(config, 'int4'))}, in int4"
    raise MemoryShortageError(
        f"the weights in {form} need {_gb(needed)}, but {_gb(available)} of memory are free: {advice}"
    )


def _line(config: ModelConfig, name: str, reason: str, available: int) -> str:
    sixteen_bits = needed_bytes(config, "bf16")
    other = "keeps 16 bits" if sixteen_bits <= available else f"would need {_gb(sixteen_bits)}"
    return f"weights: {name}, {_gb(weight_bytes(config, name))}, {reason}; --weights bf16 {other}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
