"""The model of a checkpoint, with its weights kept in the way that was asked for: `LLM`'s loading.

Files come in two kinds (`checkpoint.load`, `checkpoint.gguf_load`), weights in several forms; which form a directory's
weights take on this machine is `weight_choice`'s rule. Nothing here knows text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from qwen3.checkpoint.gguf import GGUFFile
from qwen3.checkpoint.gguf_load import keeps_precision, load_gguf, loaded_bytes
from qwen3.checkpoint.gguf_model import model_config, stored_parameters
from qwen3.checkpoint.load import Progress, checked_directory, dtype_name, load_model
from qwen3.checkpoint.packed_cache import load_cached
from qwen3.engine.request import RequestError
from qwen3.hardware import available_bytes
from qwen3.model import Qwen3
from qwen3.model.transforms import PACKINGS, pack_as_stored, quantize_weights
from qwen3.weight_choice import WEIGHTS, can_pack, check_file_fits, choose_weights

Notify = Callable[[str], object]
"""Called with one line for the user."""


def load_checkpoint(
    source: Path | GGUFFile,
    *,
    dtype: str | None,
    weights: str | None,
    cache_packed: bool,
    device: str,
    progress: Progress | None,
    notify: Notify | None,
) -> Qwen3:
    """The model of a directory or GGUF file.

    Arguments are `LLM`'s. Raises RequestError where they contradict each other, MemoryShortageError where the weights
    do not fit, and what the readers raise.
    """
    is_cpu = torch.device(device).type == "cpu"
    if weights not in (None, *WEIGHTS):
        raise RequestError(f"weights {weights!r} is not one of {', '.join(WEIGHTS)}")
    if weights in PACKINGS and not is_cpu:
        raise RequestError(f"weights {weights!r} are for the CPU; on {device} use 'bf16', or a dtype")
    if weights not in (None, "auto") and dtype is not None:
        raise RequestError(f"weights {weights!r} and dtype {dtype!r} both say how weights are kept: give one of them")
    if weights == "bf16":
        dtype, weights = "bfloat16", None

    if isinstance(source, GGUFFile):
        # Packing anew starts from plain weights.
        plain = "bfloat16" if weights in PACKINGS else dtype
        if is_cpu:
            _check_file_fits(source, plain)
        model = load_gguf(source, dtype=plain, device=device, progress=progress)
        if weights in PACKINGS:
            quantize_weights(model, PACKINGS[weights].bits)
        return model
    is_auto = is_cpu and weights == "auto" and dtype is None
    if is_cpu:
        weights = _chosen(source, dtype, weights, notify)
    if weights not in PACKINGS:
        model = load_model(source, dtype=dtype, device=device, progress=progress)
        if is_auto and can_pack(model.config):
            pack_as_stored(model)
        return model
    if cache_packed:
        return load_cached(source, PACKINGS[weights], progress=progress)
    return load_model(source, packing=PACKINGS[weights], progress=progress)


def _check_file_fits(file: GGUFFile, dtype: str | None) -> None:
    config = model_config(file)
    stored_parameters(file, config)  # first whether it is a model at all
    is_packed = keeps_precision(file, dtype)
    form = None if is_packed else dtype_name(dtype or config.dtype)
    check_file_fits(config, form, loaded_bytes(file, dtype), loaded_bytes(file), available_bytes())


def _chosen(directory: Path, dtype: str | None, weights: str | None, notify: Notify | None) -> str:
    config, _ = checked_directory(directory)
    if dtype is not None:
        config, weights = replace(config, dtype=dtype_name(dtype)), None
    choice = choose_weights(config, weights, available_bytes())
    if choice.line and notify is not None:
        notify(choice.line)
    return choice.name
