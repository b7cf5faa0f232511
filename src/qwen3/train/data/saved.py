"""Frozen dataclasses as JSON files: written whole or not at all, and read with every type checked."""

from __future__ import annotations

import json
import os
import types
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from qwen3.strict_json import read_object
from qwen3.train.data.errors import DataError

T = TypeVar("T")


def write(path: Path, value: Any) -> None:
    """Write a dataclass; after a crash at any moment `path` holds the old content or the new."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(value), file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read(path: Path, kind: type[T]) -> T:
    """The dataclass in a file. DataError naming file and key for anything else."""
    try:
        return _typed(read_object(path), kind, "")
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def sync(path: Path) -> None:
    """Have a file, or a directory's list of names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _typed(value: Any, kind: Any, where: str) -> Any:
    """`value` as `kind`: a dataclass, tuple[X, ...], dict[str, X], X | None, str, int, float or bool."""
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise DataError(f"{where or 'it'} is not an object")
        names = [field.name for field in fields(kind)]
        if wrong := sorted(value.keys() ^ set(names)):
            raise DataError(f"{where}.{wrong[0]} is {'unknown' if wrong[0] in value else 'missing'}".lstrip("."))
        hints = get_type_hints(kind)
        return kind(**{name: _typed(value[name], hints[name], f"{where}.{name}".lstrip(".")) for name in names})
    arguments = get_args(kind)
    if isinstance(kind, types.UnionType):
        return None if value is None else _typed(value, arguments[0], where)
    if get_origin(kind) is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            return tuple(_typed(each, arguments[0], f"{where}[{index}]") for index, each in enumerate(value))
    elif get_origin(kind) is dict and isinstance(value, dict):
        return {name: _typed(each, arguments[1], f"{where}.{name}") for name, each in value.items()}
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif type(value) is kind and not (kind is int and value < 0):
        return value
    raise DataError(f"{where} is {value!r:.80}, not {getattr(kind, '__name__', kind)}")
