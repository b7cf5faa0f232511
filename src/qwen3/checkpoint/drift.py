"""How far apart two versions of a model are, tensor by tensor, and what else changed: config, tokenizer, template.

Takes Hugging Face directories and training checkpoints (whole or in shards, whose `parameter.` tensors count), in any
pair. Memory stays bounded: both files are mapped and compared a piece at a time, in float64.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwen3.checkpoint.directory import INDEX, SINGLE, stored_tensors
from qwen3.checkpoint.integrity import sha256
from qwen3.checkpoint.safetensors import CheckpointError, SafetensorsFile
from qwen3.strict_json import parse_object, read_object

PIECE = 1 << 20
"""Elements compared at once."""
_PREFIX = "parameter."
# How torch.distributed.checkpoint says which part of a tensor a file of one process holds.
_SHARDS = "DCP_SHARDING_INFO"
_TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")
_INERT = {"transformers_version", "_name_or_path"}


@dataclass(frozen=True)
class Drift:
    """How a tensor changed. `relative` is the norm of the change over the norm before; `cosine` that of the angle
    between both."""

    name: str
    elements: int
    relative: float
    largest: float
    cosine: float


@dataclass(frozen=True)
class Comparison:
    """`drifts` are sorted, most changed first. `files` says what else changed: (what, before, after)."""

    drifts: tuple[Drift, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    reshaped: tuple[str, ...]
    files: tuple[tuple[str, str, str], ...]

    total: float
    """Norm of all changes over the norm of all shared tensors before."""

    @property
    def is_same(self) -> bool:
        changed = [drift for drift in self.drifts if drift.largest]
        return not (changed or self.only_before or self.only_after or self.reshaped or self.files)


def compare(before: Path, after: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Comparison:
    """What changed from one checkpoint to another. CheckpointError for what is none."""
    first, second = _tensors(before), _tensors(after)
    shared = [name for name in first if name in second]
    reshaped = [name for name in shared if first[name].shape != second[name].shape]
    drifts, change, norm = [], 0.0, 0.0
    for number, name in enumerate(shared):
        progress(number, len(shared))
        if name not in reshaped:
            drift, changed, had = _drift(name, first[name], second[name])
            drifts.append(drift)
            change, norm = change + changed, norm + had
    return Comparison(
        tuple(sorted(drifts, key=lambda drift: (-drift.relative, drift.name))),
        tuple(sorted(first.keys() - second.keys())),
        tuple(sorted(second.keys() - first.keys())),
        tuple(reshaped),
        tuple(_other_changes(before, after)),
        (change / norm) ** 0.5 if norm else 0.0,
    )


@dataclass(frozen=True)
class _Tensor:
    """A tensor as it lies in one file, or in several that divide its first axis: (first row, file, name there)."""

    parts: tuple[tuple[int, SafetensorsFile, str], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        shapes = [file.tensors[stored].shape for _, file, stored in self.parts]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:]) if shapes[0] else ()

    def pieces(self) -> Iterator[np.ndarray]:
        """All elements, PIECE at a time, wherever the parts end."""
        rest = np.zeros(0)
        for _, file, stored in self.parts:
            flat, dtype = file.read(stored).reshape(-1), file.tensors[stored].dtype
            for start in range(0, len(flat), PIECE):
                rest = np.concatenate([rest, _floats(flat[start : start + PIECE], dtype)])
                if len(rest) >= PIECE:
                    yield rest[:PIECE]
                    rest = rest[PIECE:]
        yield rest


def _tensors(directory: Path) -> dict[str, _Tensor]:
    """The model's tensors of a checkpoint by name; moments of an optimizer are left out."""
    if (directory / SINGLE).is_file() or (directory / INDEX).is_file():
        paths = sorted({tensor.path for tensor in stored_tensors(directory).values()})
    else:
        paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise CheckpointError(f"{directory} holds no safetensors files: name a checkpoint or a model")
    files = [SafetensorsFile(path) for path in paths]
    is_training = any(name.startswith(_PREFIX) for file in files for name in file.tensors)
    found: dict[str, list[tuple[int, SafetensorsFile, str]]] = {}
    for file in files:
        places = parse_object(file.metadata.get(_SHARDS, "{}").encode())
        for stored in file.tensors:
            if stored.startswith(_PREFIX) or not is_training:
                first, *others = places.get(stored, {}).get("saved_offsets") or [0]
                if any(others):
                    raise CheckpointError(f"{file.path}: {stored} is divided along more than its first axis")
                found.setdefault(stored.removeprefix(_PREFIX), []).append((first, file, stored))
    return {name: _whole(name, sorted(parts, key=lambda part: part[0])) for name, parts in found.items()}


def _whole(name: str, parts: list[tuple[int, SafetensorsFile, str]]) -> _Tensor:
    row = 0
    for first, file, stored in parts:
        if first != row:
            raise CheckpointError(f"{file.path}: {name} has rows from {first:,} here, but {row:,} come before")
        row += (file.tensors[stored].shape or (1,))[0]
    return _Tensor(tuple(parts))


def _drift(name: str, before: _Tensor, after: _Tensor) -> tuple[Drift, float, float]:
    """The drift, and the squares of the change's and the first one's norm."""
    change = dot = old = new = largest = 0.0
    for a, b in zip(before.pieces(), after.pieces(), strict=True):
        delta = b - a
        change += float(delta @ delta)
        dot, old, new = dot + float(a @ b), old + float(a @ a), new + float(b @ b)
        largest = max(largest, float(np.abs(delta).max(initial=0.0)))
    relative = (change / old) ** 0.5 if old else float(change > 0)
    cosine = dot / (old * new) ** 0.5 if old and new else float(old == new)
    return Drift(name, int(np.prod(before.shape)), relative, largest, min(1.0, cosine)), change, old


def _floats(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    elif dtype.startswith("F8"):
        raise CheckpointError(f"{dtype} tensors cannot be compared: compare the versions before quantization")
    return values.astype(np.float64)


# ---- What is not a tensor -------------------------------------------------------------------------------------


def _other_changes(before: Path, after: Path) -> Iterator[tuple[str, str, str]]:
    for name in ("config.json", "generation_config.json"):
        values = [_object(directory / name) for directory in (before, after)]
        if None in values:
            if values[0] is not values[1]:
                yield (name, *("missing" if value is None else "there" for value in values))
            continue
        for key in sorted(values[0].keys() | values[1].keys()):
            old, new = (json.dumps(value.get(key)) if key in value else "not there" for value in values)
            if old != new and key not in _INERT:
                yield f"{name}: {key}", old, new
    for name in _TOKENIZER:
        old, new = (_brief(directory / name) for directory in (before, after))
        if old != new:
            yield name, old, new
    old, new = (_template(directory) for directory in (before, after))
    if old != new:
        yield "chat template", old, new


def _object(path: Path) -> dict[str, Any] | None:
    return read_object(path) if path.is_file() else None


def _brief(path: Path) -> str:
    if not path.is_file():
        return "missing"
    size = f", {len(_vocabulary(path)):,} ids" if path.name == "tokenizer.json" else ""
    return f"SHA-256 {sha256(path)[:16]}{size}"


def _vocabulary(tokenizer: Path) -> dict[str, int]:
    value = parse_object(tokenizer.read_bytes())
    added = {each["content"]: each["id"] for each in value.get("added_tokens", [])}
    return value.get("model", {}).get("vocab", {}) | added


def _template(directory: Path) -> str:
    """The template's digest, wherever the directory keeps it."""
    config = _object(directory / "tokenizer_config.json") or {}
    jinja = directory / "chat_template.jinja"
    text = jinja.read_text(encoding="utf-8") if jinja.is_file() else config.get("chat_template")
    return "none" if text is None else f"SHA-256 {hashlib.sha256(str(text).encode()).hexdigest()[:16]}"
