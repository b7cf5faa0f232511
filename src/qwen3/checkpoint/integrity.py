"""Whether a checkpoint is what was written, and which checkpoints it comes from.

Works on Hugging Face directories and training checkpoints alike. Digests come from where they are: a training
checkpoint's manifest, a SHA256SUMS file (as `sha256sum` writes and checks it), or the names of the hub cache's blobs.
A safetensors file without a digest still has its layout checked, and is reported as unknown, not as right.

    manifest.json    step, recipe, parent (SHA-256 of the parent's manifest.json), commit, files (SHA-256 of each)

Knows no torch and reads files in pieces.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3.checkpoint.safetensors import CheckpointError, SafetensorsFile
from qwen3.strict_json import read_object

MANIFEST, SUMS = "manifest.json", "SHA256SUMS"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Checked:
    """One file. `fault` is empty where there is none; `source` says where the expected digest came from, and is empty
    where there was none to compare with."""

    file: str
    source: str
    fault: str = ""


def checkpoints(path: Path) -> list[Path]:
    """The training checkpoints of a run by step, or the one checkpoint or model that `path` is."""
    found = sorted(path.glob(f"step_*/{MANIFEST}"), key=lambda file: step_of(file.parent))
    if found:
        return [file.parent for file in found if file.parent.suffix != ".tmp"]
    if not path.is_dir():
        reason = "is no directory" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {reason}: name a run, a checkpoint or a model")
    return [path]


def step_of(checkpoint: Path) -> int:
    """The N of step_N; -1 for any other name."""
    number = checkpoint.name.removeprefix("step_").removesuffix(".tmp")
    return int(number) if number.isdecimal() else -1


def verify(directory: Path) -> list[Checked]:
    """Every file of a checkpoint or model, read and compared. CheckpointError if there is nothing to verify."""
    expected = _expected(directory)
    files = {path.name for path in directory.iterdir() if path.is_file()}
    names = sorted(expected.keys() | {name for name in files if name.endswith(".safetensors")})
    if not names:
        raise CheckpointError(f"{directory} holds neither {MANIFEST}, nor {SUMS}, nor safetensors files")
    return [_check(directory / name, *expected.get(name, ("", ""))) for name in names]


def record(directory: Path) -> Path:
    """Write SHA256SUMS of every file in a directory, for later; returns its path.

    CheckpointError if there are digests already: new ones would say of a damaged file that it is right.
    """
    if (directory / SUMS).exists():
        raise CheckpointError(f"{directory / SUMS} is there already: verify against it, or delete it to record anew")
    if (directory / MANIFEST).exists() or _expected(directory):
        raise CheckpointError(
            f"{directory} has digests, in {MANIFEST} or as the hub's names of files: verify against them"
        )
    files = sorted(path for path in directory.iterdir() if path.is_file())
    text = "".join(f"{sha256(path)}  {path.name}\n" for path in files)
    (directory / SUMS).write_text(text, encoding="utf-8")
    return directory / SUMS


def _expected(directory: Path) -> dict[str, tuple[str, str]]:
    """Digest and where it is from, by file name."""
    found = {}
    for path in directory.iterdir():
        blob = path.resolve().name
        if path.is_symlink() and _SHA256.fullmatch(blob):
            found[path.name] = (blob, "the hub's name of it")
    if (directory / SUMS).is_file():
        for number, line in enumerate((directory / SUMS).read_text(encoding="utf-8").splitlines(), start=1):
            digest, _, name = line.partition("  ")
            if not _SHA256.fullmatch(digest) or Path(name).name != name or not name:
                raise CheckpointError(f"{directory / SUMS}, line {number}: not a SHA-256 and a file beside it")
            found[name] = (digest, SUMS)
    if (directory / MANIFEST).is_file():
        files = manifest(directory)["files"]
        found |= {name: (digest, MANIFEST) for name, digest in files.items()}
    return found


def manifest(checkpoint: Path) -> dict[str, Any]:
    """What a training checkpoint says of itself. CheckpointError if it is none."""
    path = checkpoint / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{checkpoint} is no training checkpoint: it has no {MANIFEST}")
    try:
        value = read_object(path)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    # The first form of the file had one state and its digest.
    value.setdefault("files", {"state.safetensors": value["sha256"]} if "sha256" in value else {})
    for name, digest in value["files"].items():
        if Path(name).name != name or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise CheckpointError(f"{path}: files.{name[:100]} is not the SHA-256 of a file beside it")
    if not isinstance(value.get("step"), int):
        raise CheckpointError(f"{path}: it has no step")
    return value


def _check(path: Path, digest: str, source: str) -> Checked:
    if not path.is_file():
        return Checked(path.name, source, f"is missing, but {source} names it")
    if digest and (found := sha256(path)) != digest:
        return Checked(path.name, source, f"has the SHA-256 {found[:16]}..., not {digest[:16]}... of {source}")
    if path.suffix == ".safetensors":
        try:
            SafetensorsFile(path)
        except CheckpointError as error:
            return Checked(path.name, source, str(error))
    return Checked(path.name, source)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- Lineage --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ancestor:
    """A checkpoint of a run, as its manifest has it. `digest` is the SHA-256 of the manifest itself, by which the next
    one names it."""

    directory: Path
    step: int
    stage: str
    digest: str
    parent: str | None
    recipe: str
    commit: str


def lineage(run: Path) -> list[Ancestor]:
    """The checkpoints of a run that are still there, by step."""
    found = []
    for directory in checkpoints(run):
        value = manifest(directory)
        texts = {key: str(value.get(key) or "") for key in ("stage", "recipe", "commit")}
        digest = sha256(directory / MANIFEST)
        found.append(Ancestor(directory, value["step"], digest=digest, parent=value.get("parent"), **texts))
    return found


def is_child(child: Ancestor, before: Ancestor) -> bool:
    """Whether `child` was made from `before` as it is now."""
    return child.parent == before.digest
