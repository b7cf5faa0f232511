"""A run's state on disk: parameters, AdamW's moments and a manifest, written so that a crash loses nothing.

    step_500/state.safetensors   float32: parameter.NAME, exp_avg.NAME, exp_avg_sq.NAME
    step_500/manifest.json       step, recipe digest, SHA-256 of the state
    latest                       the name of the newest complete directory

A directory is written as `step_N.tmp`, synced and renamed; `latest` is replaced atomically afterwards. So
whatever `latest` names is complete. No pickles: nothing in a checkpoint can run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

MOMENTS = ("exp_avg", "exp_avg_sq")


def save(directory: Path, step: int, digest: str, model: nn.Module, optimizer: torch.optim.AdamW) -> Path:
    """Write the state after `step` optimizer steps; returns its directory. `digest` names the recipe."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"parameter.{name}"] = parameter.detach()
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    final = directory / f"step_{step}"
    temporary = final.with_name(f"{final.name}.tmp")
    for old in (temporary, final):
        if old.exists():
            shutil.rmtree(old)
    temporary.mkdir(parents=True)
    state = temporary / "state.safetensors"
    save_file(tensors, state)
    manifest = {"step": step, "recipe": digest, "sha256": _sha256(state)}
    (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for path in (*temporary.iterdir(), temporary):
        _sync(path)
    temporary.rename(final)
    pointer = directory / "latest.tmp"
    pointer.write_text(final.name, encoding="utf-8")
    _sync(pointer)
    pointer.replace(directory / "latest")
    _sync(directory)
    return final


def load(directory: Path, digest: str, model: nn.Module, optimizer: torch.optim.AdamW) -> int:
    """Restore the newest state in `directory` and return its step; 0 where there is none.

    Raises ValueError for a damaged state and for one of another recipe.
    """
    pointer = directory / "latest"
    if not pointer.exists():
        return 0
    path = directory / pointer.read_text(encoding="utf-8")
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    if manifest["recipe"] != digest:
        raise ValueError(f"{path} belongs to another recipe: choose another directory, or delete this one")
    if _sha256(path / "state.safetensors") != manifest["sha256"]:
        raise ValueError(f"{path} is damaged: delete it and write an earlier step's name into {pointer}")
    tensors = load_file(path / "state.safetensors")
    step = manifest["step"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"parameter.{name}"])
            optimizer.state[parameter] = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS}
            optimizer.state[parameter]["step"] = torch.tensor(float(step))
    return step


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
