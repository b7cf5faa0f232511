"""`qwen3 train`: run a recipe, show how it goes, stop and resume."""

from __future__ import annotations

import runpy
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qwen3.train.recipe import Recipe
    from qwen3.train.trainer import StepReport


def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.py", help="A Python file with a function `recipe()`; it is run.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Checkpoints, log and model; a run found there goes on. Default: runs/NAME.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Where the finished model goes. Default: model/ in the run's directory.")
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="The recipe's small variant, which runs in seconds.")] = False,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between two log lines.")] = 20,
) -> None:
    """Train a model from a recipe. Ctrl-C saves a checkpoint; the same command goes on from it."""
    chosen = load_recipe(recipe)
    run(chosen.tiny() if tiny else chosen, out, export, log_every)


def load_recipe(path: Path) -> Recipe:
    """The recipe that `path` defines. Runs the file; ValueError if it does not define one."""
    from qwen3.train.recipe import Recipe

    if not path.is_file():
        raise ValueError(f"no recipe at {path}: name a Python file with a function recipe()")
    make = runpy.run_path(str(path)).get("recipe")
    made = make() if callable(make) else None
    if not isinstance(made, Recipe):
        raise ValueError(f"{path} has no function recipe() that returns a qwen3.train.recipe.Recipe")
    return made


def run(recipe: Recipe, out: Path | None = None, export: Path | None = None, log_every: int = 20) -> None:
    """Train `recipe` to its end in `out` and write the model to `export`; Ctrl-C stops it between two steps."""
    from qwen3.train.trainer import Trainer

    out = out or Path("runs") / recipe.name
    trainer = Trainer(recipe, out)
    parameters = f"{recipe.model.num_parameters:,} parameters"
    print(f"{recipe.name}: {parameters}, step {trainer.step} of {recipe.steps}, in {out}", flush=True)
    with _interrupt_flag() as is_interrupted, _shown(trainer.step, recipe.steps, log_every) as show:
        for report in trainer.run():
            show(report)
            if is_interrupted() and trainer.step < recipe.steps:
                trainer.save()
                print(f"stopped at step {trainer.step}; the same command goes on from there")
                raise typer.Exit(130)
    export = export or out / "model"
    trainer.export(export)
    print(f"the model is in {export}")


@contextmanager
def _interrupt_flag() -> Iterator:
    """Within, Ctrl-C only sets what the yielded function returns, so that no step is torn; a second one ends."""
    pressed = False

    def remember(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _shown(first_step: int, steps: int, log_every: int) -> Iterator:
    """A function to show each step's report with: log lines, and a progress bar on a terminal."""
    reports: list[StepReport] = []

    def line(report: StepReport) -> str | None:
        reports.append(report)
        if report.step % log_every and report.step != steps:
            return None
        trained = sum(each.trained_tokens for each in reports)
        loss = sum(each.loss * each.trained_tokens for each in reports) / trained
        seconds = sum(each.seconds for each in reports)
        speed = sum(each.tokens for each in reports) / seconds
        left = seconds / len(reports) * (steps - report.step)
        reports.clear()
        return (
            f"step {report.step:>6}  loss {loss:.4f}  rate {report.learning_rate:.2e}  "
            f"{speed:,.0f} tokens/s  {left / 60:.0f} min left"
        )

    if not sys.stderr.isatty():
        yield lambda report: (text := line(report)) and print(text, flush=True)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=steps, completed=first_step)

        def show(report: StepReport) -> None:
            bar.update(task, completed=report.step)
            if text := line(report):
                bar.console.print(text, highlight=False)

        yield show
