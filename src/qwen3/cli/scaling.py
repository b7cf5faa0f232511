"""`qwen3 scaling`: plan a sweep of small runs, train them, fit laws to their losses, predict for a target."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwen3.cli import options
from qwen3.cli.report import print_sections, table

if TYPE_CHECKING:
    from qwen3.config import ModelConfig
    from qwen3.train.recipe import Recipe
    from qwen3.train.scaling import Interval, Laws

scaling = typer.Typer(
    no_args_is_help=True, help="Scaling laws: plan sweeps, fit laws with intervals, predict rate, batch and loss."
)

Target = Annotated[str, typer.Option(help="An official name such as 4B or 30B-A3B, or a directory with config.json.")]


@scaling.command()
def plan(
    out: Annotated[Path, typer.Option(help="The plan, a run a line (JSONL).")],
    target: Target = "4B",
    widths: Annotated[str, typer.Option(help="Hidden sizes of the small models, which keep its proportions.")] = (
        "256,384,512,768"
    ),
    tokens: Annotated[str, typer.Option(help="Tokens of each, as multiples of its parameters.")] = "10,20,40,80",
    rates: Annotated[str, typer.Option(help="Learning rates, as factors of Step Law's.")] = "0.25,0.5,1,2,4",
    batches: Annotated[str, typer.Option(help="Batches, as factors of Step Law's.")] = "0.25,0.5,1,2,4",
    stage: Annotated[
        str, typer.Option(help="The stage of training, whose data the runs see: general, reasoning, long-context.")
    ] = "general",
    sequence_length: Annotated[int, typer.Option(min=2, help="Tokens of a sequence.")] = 4096,
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Ids of the small models. Default: the target's.")] = (
        None
    ),
) -> None:
    """Write the runs of a sweep with their cost; each needs its held-out loss filled in before a fit.

    For each model and number of tokens, learning rates at one batch and batches at one rate.

    Example:

    \b
      qwen3 scaling plan --target 30B-A3B --widths 256,512 --out sweep.jsonl
    """
    from qwen3.train import sweep

    numbers = {
        name: _numbers(name, text)
        for name, text in (("widths", widths), ("tokens", tokens), ("rates", rates), ("batches", batches))
    }
    runs = list(
        sweep.plan(
            _config(target),
            [int(width) for width in numbers["widths"]],
            numbers["tokens"],
            numbers["rates"],
            numbers["batches"],
            stage=stage,
            sequence_length=sequence_length,
            vocab_size=vocab_size,
        )
    )
    sweep.write_plan(out, runs)
    sizes = sorted({run.parameters for run in runs})
    print(f"{len(runs):,} runs of {len(sizes)} models with {sizes[0]:,} to {sizes[-1]:,} parameters are in {out}")
    print(f"tokens {sum(run.tokens for run in runs):.3g}, FLOPs {sum(run.flops for run in runs):.3g} in all")
    print(f"the largest: {runs[-1].name}, {runs[-1].steps:,} steps, FLOPs {runs[-1].flops:.3g}")


@scaling.command()
def run(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.jsonl", help="What `qwen3 scaling plan` wrote.")],
    data: Annotated[Path, typer.Option(help="The data set, made by `qwen3 data build`.")],
    held_out: Annotated[int, typer.Option(min=1, help="Tokens of held-out documents that give a loss.")] = 131_072,
) -> None:
    """Train every run of a plan that has no loss yet, one after another, and write its held-out loss into the plan.

    After an interruption the same command goes on. A run that diverges gets no loss, and the reason as `failed`:
    delete that to try it again. For many machines, divide the plan's lines among them.

    Example:

    \b
      qwen3 scaling run sweep.jsonl --data data/web
    """
    from qwen3.train import sweep
    from qwen3.train.spikes import DivergedError

    runs = sweep.read_plan(plan)
    for number, each in enumerate(runs):
        if each.loss is not None or each.failed:
            continue
        chosen = sweep.recipe(each, str(data), held_out_tokens=held_out)
        try:
            done = replace(each, loss=held_out_loss(chosen))
        except DivergedError as error:
            done = replace(each, failed=str(error))
        runs[number] = done
        unfinished = plan.with_suffix(".tmp")
        sweep.write_plan(unfinished, runs)
        unfinished.replace(plan)
        outcome = f"failed, {done.failed}" if done.failed else f"{done.loss:.4f} nats"
        print(f"{each.name}: {outcome} ({number + 1} of {len(runs)})", flush=True)
    print(f"the losses are in {plan}")
    _tell_failed([each.name for each in runs if each.failed])


def held_out_loss(recipe: Recipe) -> float:
    """Train a recipe in a directory that is then gone; the held-out loss of its last step. DivergedError also if that
    is not finite, or of weights that no step changed."""
    from qwen3.train.spikes import DivergedError
    from qwen3.train.trainer import Trainer

    with tempfile.TemporaryDirectory() as folder:
        reports = list(Trainer(recipe, Path(folder)).run())
    last = reports[-1]
    if all(report.skipped for report in reports):
        raise DivergedError(f"all {len(reports)} steps had to be skipped: {last.skipped}")
    if not math.isfinite(last.held_out_loss):
        raise DivergedError(f"the held-out loss is {last.held_out_loss}")
    return last.held_out_loss


def _tell_failed(names: list[str]) -> None:
    if names:
        print(f"failed, and left out of a fit: {', '.join(names)}", file=sys.stderr)


@scaling.command()
def fit(
    runs: Annotated[
        Path,
        typer.Argument(metavar="RUNS.jsonl", help="Lines with parameters, tokens, learning_rate, batch and loss."),
    ],
    out: Annotated[Path | None, typer.Option(help="Where the laws go, for `predict`.")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Fit L(N, D) = E + A/N^a + B/D^b and power laws of learning rate and batch, with 95% intervals.

    N are the parameters that a token meets, without embeddings; D tokens. Kinds (dense, moe) and stages apart.
    Runs that failed are left out.

    Example:

    \b
      qwen3 scaling fit sweep.jsonl --out laws.json
    """
    from qwen3.train import sweep
    from qwen3.train.scaling import fit as fit_laws
    from qwen3.train.scaling import groups

    _tell_failed(sweep.failed_runs(runs))
    laws = {key: fit_laws(each, seed) for key, each in groups(sweep.read_runs(runs)).items()}
    if out:
        sweep.write_laws(out, laws)
    if as_json:
        print(json.dumps([{"kind": kind, "stage": stage} | _named(each) for (kind, stage), each in laws.items()]))
        return
    for (kind, stage), each in laws.items():
        sections = {
            f"{kind}, {stage}: {name}": [(what, _shown(value)) for what, value in law.items()]
            for name, law in _intervals(each).items()
        }
        print_sections(sections)
        if missing := [
            name.replace("_", " ") for name in ("loss", "learning_rate", "batch") if not getattr(each, name)
        ]:
            print(f"{kind}, {stage}: the runs do not tell the law of {', '.join(missing)}")
    if out:
        print(f"the laws are in {out}")


@scaling.command()
def predict(
    laws: Annotated[Path, typer.Argument(metavar="LAWS.json", help="What `qwen3 scaling fit --out` wrote.")],
    target: Target = "4B",
    tokens: Annotated[float, typer.Option(min=1, help="Tokens that it will see, e.g. 36e12.")] = 36e12,
    chart: Annotated[
        Path | None, typer.Option(help="Write the laws over tokens as SVG, with Step Law's and DeepSeek's.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Learning rate, batch and loss of a target for each stage that was fitted, beside Step Law and DeepSeek.

    Example:

    \b
      qwen3 scaling predict laws.json --target 4B --tokens 30e12 --chart laws.svg
    """
    from qwen3.train import sweep
    from qwen3.train.scaling import ScalingError, deepseek, step_law

    config = _config(target)
    size, kind = sweep.size_of(config), sweep.kind_of(config)
    fitted = {stage: each for (of, stage), each in sweep.read_laws(laws).items() if of == kind}
    if not fitted:
        raise ScalingError(f"{laws} has no law for {kind} models, which {target} is one of")
    public = {"Step Law": step_law(size, tokens), "DeepSeek": deepseek(size, tokens)}
    if chart:
        chart.write_text(laws_chart(fitted, size, tokens), encoding="utf-8")
    if as_json:
        predicted = {
            stage: {name: asdict(law(size, tokens)) for name, law in _laws(each).items()}
            for stage, each in fitted.items()
        }
        public_json = {name: {"learning_rate": rate, "batch": batch} for name, (rate, batch) in public.items()}
        print(json.dumps({"parameters": size, "tokens": tokens, "stages": predicted, "public": public_json}))
        return
    rows = []
    for stage, each in fitted.items():
        values = {name: _shown(law(size, tokens)) for name, law in _laws(each).items()}
        rows.append((stage, *(values.get(name, "not fitted") for name in ("learning_rate", "batch", "loss"))))
    rows += [(name, f"{rate:.3g}", f"{batch:,.0f}", "") for name, (rate, batch) in public.items()]
    from rich.console import Console

    title = f"{size:,} parameters of a token without embeddings, {tokens:.3g} tokens"
    Console().print(table(title, ("law", "learning rate", "batch in tokens", "loss"), rows))
    if chart:
        print(f"the chart is in {chart}")


def _laws(laws: Laws) -> dict:
    found = {"loss": laws.loss, "learning_rate": laws.learning_rate, "batch": laws.batch}
    return {name: law for name, law in found.items() if law is not None}


def _intervals(laws: Laws) -> dict[str, dict[str, Interval]]:
    return {name: law.named for name, law in _laws(laws).items()}


def _named(laws: Laws) -> dict:
    return {name: {what: asdict(value) for what, value in law.items()} for name, law in _intervals(laws).items()}


def _shown(value: Interval) -> str:
    return f"{value.value:.4g} ({value.low:.4g} to {value.high:.4g})"


def laws_chart(fitted: dict[str, Laws], size: int, tokens: float) -> str:
    """Three charts over tokens for a model of `size`: learning rate, batch, loss."""
    from qwen3.train import charts
    from qwen3.train.scaling import deepseek, step_law

    lengths = [tokens * 10 ** (step / 10 - 3) for step in range(36)]
    made = []
    for name, title in (("learning_rate", "learning rate"), ("batch", "batch in tokens"), ("loss", "loss in nats")):
        series = [
            charts.Series(f"fit: {stage}", [(d, law(size, d).value) for d in lengths])
            for stage, each in fitted.items()
            if (law := getattr(each, name)) is not None
        ]
        if name != "loss":
            place = 0 if name == "learning_rate" else 1
            series += [
                charts.Series(public, [(d, law(size, d)[place]) for d in lengths])
                for public, law in (("Step Law", step_law), ("DeepSeek", deepseek))
            ]
        heading = f"Best {title} of {size:,} parameters" if name != "loss" else "Loss in nats"
        made.append(charts.lines(heading, series, "tokens", title, log_x=True, log_y=name != "loss"))
    return charts.stacked(made)


def _config(target: str) -> ModelConfig:
    from qwen3.config import ModelConfig

    return ModelConfig.load(target) if Path(target).exists() else ModelConfig.preset(target)


def _numbers(name: str, text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--{name} {text!r}: give numbers separated by commas") from None
    if any(not value > 0 for value in values):
        raise ValueError(f"--{name} {text!r}: all must be above 0")
    return values
