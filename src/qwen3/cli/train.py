"""`qwen3 train`: run a recipe, show how it goes, stop and resume; its plan, and the curves of a run."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from qwen3.cli import options
from qwen3.cli.report import print_sections, readable_bytes

if TYPE_CHECKING:
    from qwen3.train.layout import Layout
    from qwen3.train.recipe import Recipe
    from qwen3.train.trainer import StepReport, Trainer


class _RunByDefault(TyperGroup):
    """`qwen3 train RECIPE.py` is `qwen3 train run RECIPE.py`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


train = typer.Typer(cls=_RunByDefault)


@train.command("run")
def run_recipe(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.py", help="A Python file with a function `recipe()`; it is run.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Checkpoints, log and model; a run found there goes on. Default: runs/NAME.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Where the finished model goes. Default: model/ in the run's directory.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="What recipe() is called with: for recipes/pretrain.py a size, as 4B.")
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="The recipe's small variant, which runs in seconds.")] = False,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between two log lines.")] = 20,
    tensor_parallel: Annotated[
        int, typer.Option(min=1, help="Neighbouring processes that share every matrix: heads, feed-forward columns.")
    ] = 1,
    expert_parallel: Annotated[int, typer.Option(min=1, help="Processes that share the experts of a layer.")] = 1,
    context_parallel: Annotated[
        int, typer.Option(min=1, help="Processes that share the tokens of a row: for long sequences.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost; train nothing.")] = False,
    devices: Annotated[int, typer.Option(min=1, help="For --dry-run: how many devices.")] = 1,
    device: Annotated[str, typer.Option(help="For --dry-run: their kind.")] = "H100",
    mfu: Annotated[float, typer.Option(min=0.01, max=1, help="For --dry-run: share of their nominal speed.")] = 0.4,
) -> None:
    """Train a model from a recipe. Ctrl-C saves a checkpoint; the same command goes on from it.

    Several processes or devices: torchrun --nproc-per-node N -m qwen3 train RECIPE.py. How they share the work may
    change between two starts. The curves of a run as SVG: qwen3 train plot RUN.
    """
    from qwen3.cli.recipe_file import load_recipe
    from qwen3.train.layout import Layout

    chosen = load_recipe(recipe, variant)
    chosen = chosen.tiny() if tiny else chosen
    layout = Layout(tensor_parallel, expert_parallel, context_parallel)
    if dry_run:
        print_plan(chosen, devices, device, mfu, layout)
    else:
        run(chosen, out, export, log_every, layout)


@train.command()
def plot(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")],
    out: Annotated[Path | None, typer.Option(help="The SVG file. Default: curves.svg in the run's directory.")] = None,
) -> None:
    """Draw a run's loss, gradient norm and learning rate; of a sparse one also its experts' loads, as NAME-experts.svg
    beside it."""
    from qwen3.train import curves

    out = out or directory / "curves.svg"
    out.write_text(curves.svg(curves.read_log(directory), directory.resolve().name), encoding="utf-8")
    print(f"the curves are in {out}")
    if records := curves.read_experts(directory):
        loads = out.with_name(f"{out.stem}-experts.svg")
        loads.write_text(curves.experts_svg(records), encoding="utf-8")
        print(f"the experts' loads are in {loads}")


@train.command()
def experts(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A sparse model's directory or its name on the hub.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="What `qwen3 data build` made.")],
    label: Annotated[str, typer.Option(help="A label with words: source, language, domain, license.")] = "source",
    where: Annotated[list[str] | None, typer.Option(help="A rule that documents must pass, as in data builds.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Read of each value of the label.")] = 20_000,
    chart: Annotated[Path | None, typer.Option(help="Write the most specialised layer's preferences as SVG.")] = None,
    as_json: options.Json = False,
) -> None:
    """Which experts serve which source, language or other label of a data set, and how much they specialise on it.

    Specialisation is 0 where every value spreads its tokens alike, 1 where the expert tells the value.

    Example:

    \b
      qwen3 train experts runs/moe/model data/web --label language --where 'bucket<10'
    """
    from qwen3.checkpoint.load import load_model
    from qwen3.train import charts
    from qwen3.train.data.dataset import Dataset
    from qwen3.train.specialisation import choices

    found = choices(load_model(options.find(model)), Dataset(data), label, tuple(where or ()), tokens)
    special, balance = found.specialisation, found.balance
    most = int(special.argmax())
    if chart:
        title = f"Experts of layer {most} by {label}, 1 is indifferent"
        chart.write_text(charts.grid(title, found.values, found.preference[:, most].tolist()), encoding="utf-8")
    if as_json:
        counts = dict(zip(found.values, found.counts_YLE.tolist(), strict=True))
        print(json.dumps({"specialisation": special.tolist(), "balance": balance.tolist(), "counts": counts}))
        return
    preference_YE = found.preference[:, most]
    favourites = {
        value: ", ".join(f"{e} ({row[e]:.1f})" for e in (-row).argsort()[:4].tolist())
        for value, row in zip(found.values, preference_YE, strict=True)
    }
    layers = [(str(layer), f"{special[layer]:.4f}, balance {balance[layer]:.3f}") for layer in range(len(special))]
    preferred = f"experts that layer {most} prefers, by how much"
    print_sections({"specialisation by sparse layer": layers, preferred: favourites.items()})
    if chart:
        print(f"the chart is in {chart}")


def run(
    recipe: Recipe,
    out: Path | None = None,
    export: Path | None = None,
    log_every: int = 20,
    layout: Layout | None = None,
) -> None:
    """Train `recipe` to its end in `out` and write the model to `export`; Ctrl-C stops it between two steps."""
    from qwen3 import __version__
    from qwen3.train import distribute, start
    from qwen3.train.bookkeeping import Bookkeeper
    from qwen3.train.trainer import Trainer

    out = out or Path("runs") / recipe.name
    world = distribute.join(layout)
    parent = start.parent(recipe, out)
    book = Bookkeeper(recipe, out, world, software=f"qwen3 {__version__}", parent=parent)
    trainer = Trainer(recipe, out, world, book, parent)
    say = print if trainer.world.is_first else lambda *_, **__: None
    processes = f" on {trainer.world.size} processes" if trainer.world.size > 1 else ""
    parameters = f"{recipe.model.num_parameters:,} parameters"
    say(f"{recipe.name}: {parameters}, step {trainer.step} of {recipe.steps}, in {out}{processes}", flush=True)
    shown = _shown(trainer, log_every) if trainer.world.is_first else nullcontext(lambda _: None)
    with _interrupt_flag() as is_interrupted, shown as show:
        for report in trainer.run():
            show(report)
            if trainer.world.any(is_interrupted()) and trainer.step < recipe.steps:
                trainer.save()
                book.close()
                say(f"stopped at step {trainer.step}; the same command goes on from there")
                raise SystemExit(130)
    book.close()
    export = export or out / "model"
    trainer.export(export)
    say(f"the model is in {export}")
    # Last: data that do not add up must not cost the model.
    book.count_shares(trainer.tokenizer)


def print_plan(recipe: Recipe, devices: int, device: str, mfu: float, layout: Layout | None = None) -> None:
    """The whole plan: stages, tokens, steps, operations, memory on each device, days."""
    from qwen3.train.plan import plan

    stages, model = plan(recipe, devices, device, mfu, layout, _sampled_conversations(recipe)), recipe.model
    used = f", {model.num_active_parameters:,} of them for a token" if model.is_moe else ""
    dtype = "bfloat16" if recipe.bfloat16 else "float32"
    recomputes = ", activation checkpointing" if recipe.recompute else ""
    sections = {recipe.name: [("model", f"{model.num_parameters:,} parameters{used}")]}
    sections[recipe.name].append(("method", f"{recipe.optimizer}, {dtype}{recomputes}"))
    for each in stages:
        idle = f", but only {each.batches} micro-batches a step" if each.batches < each.readers else ""
        first, last = each.peak_rate, each.stage.schedule[-1][1]
        parts = ("weights", "gradients", "optimizer", "activations", "runtime")
        split = ", ".join(f"{part} {readable_bytes(getattr(each.memory, part))}" for part in parts)
        sections[each.stage.name] = [
            ("tokens", f"{each.tokens:.4g} in {each.stage.steps:,} steps of {each.tokens_per_step:,}"),
            ("sequences", f"{each.sequence_length:,} tokens, RoPE base {each.rope_theta:,.0f}"),
            ("learning rate", f"{first:.2e}, at the end {last:.2e}"),
            ("FLOPs", f"{each.flops:.3g}"),
            ("memory", f"{readable_bytes(each.memory.total)} on each device: {split}"),
            ("days", f"{each.days:,.1f}{'' if each.refusal else idle}"),
        ]
        if each.refusal:
            sections[each.stage.name].append(("would not start", each.refusal))
    tokens, flops, days = (sum(getattr(each, name) for each in stages) for name in ("tokens", "flops", "days"))
    sections["in all"] = [
        ("tokens", f"{tokens:.4g}"),
        ("FLOPs", f"{flops:.3g}"),
        ("days", f"{days:,.1f} on {devices:,} x {device} at {mfu:.0%} of their nominal speed"),
    ]
    print_sections(sections)
    print("FLOPs of a token: 6 x the parameters it is multiplied with + 12 x layers x heads x head_dim x length")


def _sampled_conversations(recipe: Recipe) -> dict[str, list[int]]:
    """Lengths of some conversations of each stage that has any, with the run's tokenizer; where its data set is not
    built yet, with the built-in model's."""
    if not any(stage.conversations for stage in recipe.stages):
        return {}
    from qwen3.checkpoint.hub import resolve
    from qwen3.tokenizer import Tokenizer
    from qwen3.train.conversations import learn_tokenizer, sample_lengths
    from qwen3.train.data import manifest
    from qwen3.train.data.dataset import Dataset

    directories = [Path(stage.shards.directory) for stage in recipe.stages if stage.shards]
    if not directories:
        tokenizer = learn_tokenizer(recipe.seed, recipe.tokenizer_examples, recipe.model.vocab_size)
    elif (directories[0] / manifest.NAME).is_file():
        tokenizer = Dataset(directories[0]).tokenizer
    else:
        tokenizer = Tokenizer.load(resolve("builtin"))
    return {
        stage.name: sample_lengths(tokenizer, recipe.seed, stage.conversations, recipe.first_example(number))
        for number, stage in enumerate(recipe.stages)
        if stage.conversations
    }


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


class _Lines:
    """Log lines: the mean loss since the last line, speed, share of the device's nominal speed, time left."""

    def __init__(self, trainer: Trainer, log_every: int) -> None:
        self._trainer, self._log_every = trainer, log_every
        self._reports: list[StepReport] = []

    def line(self, report: StepReport) -> str | None:
        """The line that `report` completes, if it does."""
        self._reports.append(report)
        recipe = self._trainer.recipe
        due = report.step % self._log_every == 0 or report.step == recipe.steps
        if not due and report.held_out_loss is None and not report.skipped:
            return None
        trained = sum(each.trained_tokens for each in self._reports)
        loss = sum(each.loss * each.trained_tokens for each in self._reports) / trained
        seconds = sum(each.seconds for each in self._reports)
        speed = sum(each.tokens for each in self._reports) / seconds
        flops = sum(each.model_flops for each in self._reports) / seconds
        left = seconds / len(self._reports) * (recipe.steps - report.step)
        self._reports.clear()
        held_out = "" if report.held_out_loss is None else f"  held out {report.held_out_loss:.4f}"
        skipped = f"  skipped: {report.skipped}" if report.skipped else ""
        return (
            f"{report.stage} step {report.step:>6}  loss {loss:.4f}{held_out}  rate {report.learning_rate:.2e}  "
            f"{speed:,.0f} tokens/s{self._share(flops)}  {left / 60:.0f} min left{skipped}"
        )

    def _share(self, flops: float) -> str:
        """Of the nominal speed, the operations a second that the documents need."""
        from qwen3.hardware import peak_flops

        world = self._trainer.world
        nominal = peak_flops(world.device_name)
        return f"  {flops / 1e9:,.1f} GFLOP/s" if nominal is None else f"  MFU {flops / nominal / world.size:.1%}"


@contextmanager
def _shown(trainer: Trainer, log_every: int) -> Iterator:
    """A function to show each step's report with: log lines, TensorBoard if installed, a bar on a terminal."""
    lines = _Lines(trainer, log_every)
    with _tensorboard(trainer.directory) as board:
        if not sys.stderr.isatty():

            def show(report: StepReport) -> None:
                board(report)
                if text := lines.line(report):
                    print(text, flush=True)

            yield show
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("training", total=trainer.recipe.steps, completed=trainer.step)

            def show_live(report: StepReport) -> None:
                board(report)
                bar.update(task, completed=report.step, description=f"{report.stage}  loss {report.loss:.3f}")
                if text := lines.line(report):
                    bar.console.print(text, highlight=False)

            yield show_live


@contextmanager
def _tensorboard(directory: Path) -> Iterator:
    """A function that takes each step's report."""
    if find_spec("tensorboard") is None:
        yield lambda report: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(directory / "tensorboard") as writer:

        def add(report: StepReport) -> None:
            for name in ("loss", "held_out_loss", "gradient_norm", "learning_rate", "balance"):
                if (value := getattr(report, name)) is not None:
                    writer.add_scalar(name, value, report.step)

        yield add
