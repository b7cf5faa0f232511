"""generation_config.json: the sampling that a checkpoint recommends, and the tokens that end its answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qwen3.checkpoint.safetensors import CheckpointError
from qwen3.strict_json import read_object


def _is_number(low: float, high: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high and abs(value) < 1e9


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


_VALID: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "do_sample": (lambda value: isinstance(value, bool), "true or false"),
    "temperature": (_is_number(0), "a number from 0 up"),
    "top_k": (_is_count, "a whole number from 0 up"),
    "top_p": (_is_number(0, 1), "a number from 0 to 1"),
    "min_p": (_is_number(0, 1), "a number from 0 to 1"),
    "repetition_penalty": (_is_number(1e-3), "a positive number"),
    "max_new_tokens": (_is_count, "a whole number from 0 up"),
    "bos_token_id": (_is_count, "a token id"),
    "pad_token_id": (_is_count, "a token id"),
    "eos_token_id": (
        lambda value: bool(value) and all(map(_is_count, value)) if isinstance(value, list) else _is_count(value),
        "a token id or a list of them",
    ),
}


def load_generation_config(directory: str | Path) -> dict[str, Any]:
    """The keys of generation_config.json that this system knows; empty where there is no file.

    `eos_token_id` is always a list. Keys of other systems' sampling are left out, and so are nulls.
    Raises CheckpointError for a damaged file or a value that makes no sense.
    """
    file = Path(directory) / "generation_config.json"
    if not file.is_file():
        return {}
    try:
        values = checked_generation_config(read_object(file))
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    known = {key: value for key, value in values.items() if key in _VALID and value is not None}
    if isinstance(known.get("eos_token_id"), int):
        known["eos_token_id"] = [known["eos_token_id"]]
    return known


def checked_generation_config(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """`values` themselves. Raises CheckpointError naming the first key known here that makes no sense."""
    for key, (is_valid, meaning) in _VALID.items():
        if values.get(key) is not None and not is_valid(values[key]):
            raise CheckpointError(f"{key} {repr(values[key])[:100]} is not {meaning}")
    return values
