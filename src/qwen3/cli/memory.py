"""`qwen3 memory`: what a model needs and where it fits. The figures are `qwen3.memory`'s; this shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen3.cli import options
from qwen3.cli.report import table
from qwen3.memory import (
    FORMATS,
    KV_FORMATS,
    MAX_CONTEXT,
    MIB,
    OPTIMIZERS,
    Estimate,
    estimate,
    estimate_training,
    longest_context,
    what_fits,
)

if TYPE_CHECKING:
    from rich.table import Table

    from qwen3.config import ModelConfig

_GIB = 1024 * MIB
_DEFAULT_MODEL = "Qwen3-4B"
_COMPARED = ["bf16", "fp8", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "awq", "int8", "int4"]
_COMPARED_ON_MACHINES = ["bf16", "q8_0", "q4_k_m"]


def memory(
    model: Annotated[
        str | None,
        typer.Argument(help=f"An official name, a directory or a name on the hub. Default: {_DEFAULT_MODEL}."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Formats, separated by commas, such as bf16,q4_k_m,int4-g64; or all.", show_default=False),
    ] = None,
    kv: Annotated[str, typer.Option(help=f"Type of the cache: {', '.join(KV_FORMATS)}.")] = "bf16",
    context: Annotated[
        str | None,
        typer.Option(help="Tokens a sequence, separated by commas; k is 1,024: 8192,128k.", show_default=False),
    ] = None,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    tensor_parallel: Annotated[
        int, typer.Option("--tp", help="Tensor-parallel ranks; all figures are for one of them.")
    ] = 1,
    device: Annotated[str, typer.Option(help="Whose own overhead to count: cpu or cuda.")] = "cpu",
    fits: Annotated[
        float | None,
        typer.Option(min=0, help="Show the longest context that this many GiB hold.", show_default=False),
    ] = None,
    cards: Annotated[bool, typer.Option("--cards", help="Show only which cards and computers fit.")] = False,
    train: Annotated[bool, typer.Option("--train", help="Show what a training step needs.")] = False,
    optimizer: Annotated[
        str, typer.Option(help=f"For --train: {', '.join(OPTIMIZERS)}; qwen3 train has the first or muon.")
    ] = "adamw",
    checkpointing: Annotated[
        bool, typer.Option(help="For --train: keep each layer's input alone and compute the rest again.")
    ] = True,
    as_json: options.Json = False,
) -> None:
    """What a model needs in memory, to run and to train, and which machines hold it.

    Sizes are in GiB (bytes in JSON), for one rank.

    Examples:

    \b
      qwen3 memory
      qwen3 memory Qwen3-30B-A3B --weights q4_k_m --kv int8 --context 32k,128k
      qwen3 memory Qwen3-8B --fits 24
      qwen3 memory Qwen3-32B --cards --tp 2
      qwen3 memory Qwen3-0.6B --train --no-checkpointing
    """
    title, config = _find(model or _DEFAULT_MODEL)
    formats = list(FORMATS) if weights == "all" else weights.split(",") if weights else None
    shared: dict[str, Any] = {"batch": batch, "tensor_parallel": tensor_parallel}
    report: dict[str, Any] = {
        "model": title,
        "parameters": config.num_parameters,
        "active_parameters": config.num_active_parameters,
        "max_context": config.max_context,
        **shared,
    }
    if train and (cards or fits is not None):
        raise typer.BadParameter("--cards and --fits are about running a model, not about --train")
    if train:
        shared |= {"optimizer": optimizer, "checkpointing": checkpointing, "device": device}
        report |= shared
        report["estimates"] = [
            _entry(name, tokens, estimate_training(config, weights=name, context=tokens, **shared))
            for name in formats or ["bf16"]
            for tokens in _contexts(context or "4k,32k")
        ]
    else:
        shared["kv"] = kv
        report["kv"] = kv
        show_all = fits is None and not cards
        if show_all:
            report["device"] = device
            report["estimates"] = [
                _entry(name, tokens, estimate(config, weights=name, context=tokens, device=device, **shared))
                for name in formats or _COMPARED
                for tokens in _contexts(context or "4k,32k,128k,256k")
            ]
        if fits is not None:
            report["budget"] = {
                "gib": fits,
                "longest_context": {
                    name: longest_context(config, int(fits * _GIB), weights=name, device=device, **shared)
                    for name in formats or _COMPARED
                },
            }
        if cards or (show_all and not context):
            report["machines"] = _machines(config, formats or _COMPARED_ON_MACHINES, shared)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _show(report, config, is_default=model is None)


def _find(model: str) -> tuple[str, ModelConfig]:
    """The model's name and config; official names need no network."""
    from qwen3.checkpoint.hub import resolve
    from qwen3.config import ConfigError, ModelConfig
    from qwen3.presets import preset, preset_name

    if Path(model).expanduser().exists():
        return model, ModelConfig.load(Path(model).expanduser())
    try:
        official = preset_name(model)
    except ConfigError:
        return model, ModelConfig.load(resolve(model, weights=False))
    return official, preset(official)


def _contexts(text: str) -> list[int]:
    contexts = []
    for part in text.lower().split(","):
        digits = part.strip().removesuffix("k")
        if not digits.isdecimal():
            raise ValueError(f"--context {text!r} is not a list of token counts such as 32768,128k")
        contexts.append(int(digits) * (1024 if part.strip().endswith("k") else 1))
    return contexts


def _entry(weights: str, context: int, figures: Estimate) -> dict[str, Any]:
    return {"format": weights, "context": context, "bytes": {**asdict(figures), "total": figures.total}}


def _machines(config: ModelConfig, formats: Sequence[str], shared: Mapping[str, Any]) -> list[dict[str, Any]]:
    fitting = {name: what_fits(config, weights=name, **shared) for name in formats}
    return [
        {
            "machine": machine.name,
            "usable_bytes": machine.usable_bytes,
            "longest_context": {name: fitting[name][machine] for name in formats},
        }
        for machine in fitting[formats[0]]
    ]


# ---- As text --------------------------------------------------------------------------------------------------


def _show(report: Mapping[str, Any], config: ModelConfig, *, is_default: bool) -> None:
    from rich.console import Console

    # Tables take their natural width; in a narrow console rich would cut numbers off.
    console = Console(highlight=False, markup=False, width=1000)
    active = f", {config.num_active_parameters:,} active" if config.is_moe else ""
    other = " (for another: qwen3 memory Qwen3-8B)" if is_default else ""
    console.print(f"{report['model']}: {config.num_parameters:,} parameters{active}{other}")
    console.print("; ".join(_settings(report, config)))
    for each in _tables(report, config.max_context):
        console.print(f"\n{each.title}", style="bold")
        each.title = None
        console.print(each)
    if any(entry["context"] > config.max_context for entry in report.get("estimates", ())):
        console.print(f"\n* beyond the model's own {config.max_context:,} tokens: needs YaRN or another version")


def _settings(report: Mapping[str, Any], config: ModelConfig) -> Iterator[str]:
    if "optimizer" in report:
        yield f"training with {report['optimizer']}, {'with' if report['checkpointing'] else 'without'} checkpointing"
    else:
        rows = config.num_kv_elements_per_token // config.head_dim
        yield f"{report['kv']} cache, {KV_FORMATS[report['kv']].num_bytes(rows, config.head_dim):,} bytes a token"
    if report["batch"] > 1:
        yield f"{report['batch']} sequences"
    if report["tensor_parallel"] > 1:
        yield f"one of {report['tensor_parallel']} tensor-parallel ranks"


def _tables(report: Mapping[str, Any], max_context: int) -> Iterator[Table]:
    if "estimates" in report:
        yield _estimates(report["estimates"], max_context)
    if "budget" in report:
        budget = report["budget"]
        title = f"Longest context in {budget['gib']:g} GiB, up to {MAX_CONTEXT:,}"
        rows = [(name, _tokens(tokens)) for name, tokens in budget["longest_context"].items()]
        yield table(title, ["format", "tokens"], rows)
    if "machines" in report:
        ranks = report["tensor_parallel"]
        title = f"Longest context that fits, up to {MAX_CONTEXT:,}{f', on {ranks} of each' if ranks > 1 else ''}"
        machines = report["machines"]
        rows = [
            (
                machine["machine"],
                _gib(machine["usable_bytes"]),
                *map(_tokens, machine["longest_context"].values()),
            )
            for machine in machines
        ]
        yield table(title, ["machine", "usable GiB", *machines[0]["longest_context"]], rows)


def _estimates(entries: Sequence[Mapping[str, Any]], max_context: int) -> Table:
    """Totals by format and context; of a single format, its parts."""
    contexts = list(dict.fromkeys(entry["context"] for entry in entries))
    formats = list(dict.fromkeys(entry["format"] for entry in entries))
    sizes = {(entry["format"], entry["context"]): entry["bytes"] for entry in entries}
    headings = [f"{context:,}{'*' if context > max_context else ''}" for context in contexts]
    if len(formats) > 1:
        totals = [
            (
                name,
                _gib(sizes[name, contexts[0]]["weights"]),
                *(_gib(sizes[name, context]["total"]) for context in contexts),
            )
            for name in formats
        ]
        return table("Total in GiB by tokens of context", ["format", "weights", *headings], totals)
    parts = [
        (part.replace("_", " "), *(_gib(sizes[formats[0], context][part]) for context in contexts))
        for part, size in sizes[formats[0], contexts[0]].items()
        if size
    ]
    return table("GiB by tokens of context", [formats[0], *headings], parts)


def _gib(size: int) -> str:
    return f"{size / _GIB:,.2f}"


def _tokens(count: int) -> str:
    return f"{count:,}" if count else "no"
