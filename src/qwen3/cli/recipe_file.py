"""What a Python file defines that a command takes for --recipe or RECIPE.py. The file is run, once."""

from __future__ import annotations

import runpy
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen3.train.data.stage import Stage
    from qwen3.train.recipe import Recipe


def load_recipe(path: Path, variant: str | None = None) -> Recipe:
    """The recipe that `path` defines. ValueError if it does not define one."""
    return _recipe(path, _run(path), variant)


def load_data_stage(path: Path, variant: str | None, name: str) -> tuple[Stage, int]:
    """What the stage `name` of a file's `stages()` or `recipe()` reads, and the seed of the run. ValueError if there is
    no such stage."""
    defined = _run(path)
    if callable(make := defined.get("stages")):
        if variant is not None:
            raise ValueError(f"--variant is for a function recipe(), and {path} has stages(): leave it out")
        stages, seed = {each.name: each for each in _data_stages(path, make())}, 0
    else:
        made = _recipe(path, defined, variant)
        stages, seed = {each.name: each.shards.stage for each in made.stages if each.shards}, made.seed
    if name not in stages:
        there = f"it has {', '.join(stages)}" if stages else "none of its stages reads a data set"
        raise ValueError(f"{path} has no stage {name!r}; {there}")
    return stages[name], seed


def _run(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"no recipe at {path}: name a Python file with a function recipe()")
    return runpy.run_path(str(path))


def _recipe(path: Path, defined: dict[str, Any], variant: str | None) -> Recipe:
    from qwen3.train.recipe import Recipe

    make = defined.get("recipe")
    made = make(*([] if variant is None else [variant])) if callable(make) else None
    if not isinstance(made, Recipe):
        raise ValueError(f"{path} has no function recipe() that returns a qwen3.train.recipe.Recipe")
    return made


def _data_stages(path: Path, made: Any) -> list[Stage]:
    from qwen3.train.data.stage import Stage

    stages = list(made) if isinstance(made, Iterable) else []
    if not stages or not all(isinstance(each, Stage) for each in stages):
        raise ValueError(f"{path}: stages() must return a list of qwen3.train.data.stage.Stage objects")
    return stages
