"""A run's state on disk: parameters, the optimizer's moments and a manifest, written so that a crash loses nothing.

    step_500/*.safetensors   float32: parameter.NAME, exp_avg.NAME, ...; whole, or each process's shards
    step_500/manifest.json   step, recipe, SHA-256 of each file, the parent's digest, code commit, what the trainer adds
    latest                   the name of the newest complete directory

A directory is written as `step_N.tmp` by all processes (torch.distributed.checkpoint in safetensors), synced, waited
for and renamed by the first; `latest` is replaced atomically afterwards. So whatever `latest` names is complete, and
any number of processes reads what any other number wrote. No pickles: nothing in a checkpoint can run.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from qwen3.checkpoint.integrity import sha256, step_of
from qwen3.checkpoint.safetensors import CheckpointError
from qwen3.strict_json import read_object
from qwen3.train.code_version import commit
from qwen3.train.data.saved import sync
from qwen3.train.distribute import World

MANIFEST, LATEST = "manifest.json", "latest"


def save(directory: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], world: World) -> Path:
    """Write the state after `step` steps; returns its directory. `facts` join the manifest. All processes call it.

    CheckpointError when the disk refuses; the checkpoint before stays the newest.
    """
    final = directory / f"step_{step}"
    temporary = final.with_name(f"{final.name}.tmp")
    before = newest(directory)
    parent = sha256(before / MANIFEST) if before and (before / MANIFEST).exists() else None
    if parent is not None and before == final:
        return final  # The state after a step is always the same.
    try:
        if world.is_first:
            for old in (*directory.glob("step_*.tmp"), final):
                shutil.rmtree(old, ignore_errors=True)
            temporary.mkdir(parents=True)
        world.wait()
        writer = HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        with _one_process_is_enough():
            dcp.save(dict(tensors), storage_writer=writer, no_dist=world.size == 1)
        world.wait()
        if world.is_first:
            files = {path.name: sha256(path) for path in sorted(temporary.glob("*.safetensors"))}
            manifest = {"step": step, "parent": parent, "commit": commit(), "files": files, **facts}
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            _complete(temporary, final)
    except (OSError, CheckpointException) as error:
        raise CheckpointError(
            f"{temporary} cannot be written: {_reason(error)}. The newest complete checkpoint is "
            f"{before.name if before else 'none'}: make room, and the same command goes on from it"
        ) from error
    world.wait()
    return final


def load(
    directory: Path, refusal: Callable[[Mapping[str, Any]], str], tensors: Mapping[str, Tensor], world: World
) -> dict[str, Any] | None:
    """Fill `tensors` in place from the newest state in `directory` and return its manifest; None where there is none.
    `refusal` says of a manifest why its recipe is not the one that goes on; empty if it is.

    CheckpointError for a damaged or incomplete state and for one that is refused.
    """
    path = newest(directory)
    if path is None:
        return None
    manifest = read_manifest(path)
    if reason := refusal(manifest):
        raise CheckpointError(f"{path} {reason}: choose another directory, or delete this one")
    if world.is_first:
        verify(path)
    world.wait()
    with _one_process_is_enough():
        dcp.load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(path)), no_dist=world.size == 1)
    return manifest


def newest(directory: Path) -> Path | None:
    """The checkpoint that `latest` names, complete unless it was damaged since; None where there is none.

    CheckpointError if it names nothing.
    """
    pointer = directory / LATEST
    if not pointer.exists():
        return None
    # A line written by hand has an end.
    if name := pointer.read_text(encoding="utf-8").strip():
        return directory / name
    raise _damaged(pointer, "it is empty")


def read_manifest(path: Path) -> dict[str, Any]:
    """What the checkpoint in the directory `path` says of itself; CheckpointError if it is no complete one."""
    try:
        manifest = read_object(path / MANIFEST)
    except (OSError, ValueError) as error:
        raise _damaged(path, f"{MANIFEST}: {error}") from None
    if missing := {"step", "recipe", "files"} - manifest.keys():
        raise _damaged(path, f"{MANIFEST} has no {', '.join(sorted(missing))}")
    return manifest


def verify(path: Path) -> None:
    """CheckpointError unless every file of the checkpoint in `path` is there and has its digest."""
    for name, expected in read_manifest(path)["files"].items():
        file = path / name
        if not file.is_file():
            raise _damaged(path, f"{name} is missing")
        if sha256(file) != expected:
            raise _damaged(path, f"{name} does not have the SHA-256 that {MANIFEST} says")


@contextmanager
def _one_process_is_enough() -> Iterator[None]:
    """Within, torch does not warn that there is no process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _damaged(path: Path, reason: str) -> CheckpointError:
    """Of a checkpoint, or of a name that is none: then any complete one can be gone back to."""
    complete = [file.parent for file in path.parent.glob(f"step_*/{MANIFEST}") if file.parent.suffix != ".tmp"]
    step = step_of(path)
    before = [other for other in complete if step_of(other) >= 0 and (step_of(other) < step or step < 0)]
    fix = f"write {max(before, key=step_of).name} into" if before else "delete"
    return CheckpointError(f"{path} is damaged: {reason}; {fix} {path.parent / LATEST} and run the same command again")


def _complete(temporary: Path, final: Path) -> None:
    """Make a written directory durable, give it its name, and point to it."""
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    temporary.rename(final)
    pointer = final.with_name(f"{LATEST}.tmp")
    pointer.write_text(final.name, encoding="utf-8")
    sync(pointer)
    pointer.replace(final.with_name(LATEST))
    sync(final.parent)


def _reason(error: BaseException) -> str:
    """The first error of any process."""
    if isinstance(error, CheckpointException):
        return "; ".join(str(failure[0]) for failure in error.failures.values())
    return str(error)
