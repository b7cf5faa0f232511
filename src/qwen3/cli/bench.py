"""`qwen3 bench`: how fast a model runs here. `qwen3.engine.bench` measures, this shows."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen3 import __version__
from qwen3.cli import options
from qwen3.cli.report import readable_bytes, table

if TYPE_CHECKING:
    from rich.table import Table

    from qwen3.config import ModelConfig
    from qwen3.engine.bench import Bench, Measurement

_WHAT = "What is measured"


def bench(
    model: options.Model = "builtin",
    prompt: Annotated[
        str, typer.Option(help="Tokens of the prompts to read, separated by commas; 0: none.", rich_help_panel=_WHAT)
    ] = "512",
    generate: Annotated[
        int, typer.Option(min=0, help="Tokens to generate a request; 0: none.", rich_help_panel=_WHAT)
    ] = 128,
    depth: Annotated[
        str, typer.Option(help="Tokens already in the cache, separated by commas.", rich_help_panel=_WHAT)
    ] = "0",
    batch: Annotated[str, typer.Option(help="Requests at once, separated by commas.", rich_help_panel=_WHAT)] = "1",
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions of everything.", rich_help_panel=_WHAT)] = 3,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also each operation's share of the time.", rich_help_panel=_WHAT)
    ] = False,
    random: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Instead of MODEL: random weights of an official shape, such as 0.6b, 4b or 30b-a3b.",
            rich_help_panel="Model",
            show_default=False,
        ),
    ] = None,
    dtype: options.Dtype = None,
    weights: options.Weights = "auto",
    kv: options.Kv = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Measure a model's speed on this machine.

    Prefill reads a prompt up to the first token; decode draws one token a request and step, greedily. Both run in the
    engine that chats. The cache is filled to --depth with random values, which costs no time. Of decode it also shows
    the bytes that it must read (weights, of experts the active ones, and the cache) as a share of the bandwidth at
    which the same threads read plain memory, five times a second between the steps. Ctrl-C prints what is measured so
    far.

    JSON: model, random, parameters, active_parameters, weights (bytes by storage), kv, load_seconds, peak_bytes (of the
    process; baseline_bytes of it before loading), machine, operations, repeat, complete; measurements: phase, tokens,
    depth, batch, seconds, tokens_per_second (median, min, max), and of decode bytes_per_step, gb_per_second,
    bandwidth_gb_per_second, bandwidth_share; profiles: phase, tokens, depth, batch, seconds, shares, outside_native.

    Examples:

    \b
      qwen3 bench
      qwen3 bench Qwen/Qwen3-4B --weights int4 --depth 0,4096 --batch 1,8
      qwen3 bench --random 30b-a3b --prompt 0 --generate 32
      qwen3 bench --random 0.6b --profile --json > report.json
    """
    if random is not None and model != "builtin":
        raise typer.BadParameter("it stands instead of MODEL; give one of them", param_hint="--random")
    lengths = [_numbers(name, text) for name, text in (("prompt", prompt), ("depth", depth), ("batch", batch))]

    from qwen3.engine.bench import Bench, peak_memory, plan
    from qwen3.model.random import random_model
    from qwen3.model.transforms import stored_bytes

    cases = plan(lengths[0], generate, *lengths[1:])
    baseline = peak_memory()
    started = time.perf_counter()
    if random is None:
        llm = options.load_llm(model, dtype=dtype, weights=weights, revision=revision, offline=offline)
        name, loaded, max_context = llm.name, llm.model, llm.max_context
    else:
        name, config, storage = _random(random, weights)
        loaded, max_context = random_model(config, storage), config.max_context
    report = {
        "model": name,
        "random": random is not None,
        "parameters": loaded.config.num_parameters,
        "active_parameters": loaded.config.num_active_parameters,
        "weights": stored_bytes(loaded),
        "load_seconds": time.perf_counter() - started,
        "baseline_bytes": baseline,
        **_machine(),
        "repeat": repeat,
    }
    measured = Bench(loaded, cases, max_context, kv_format=kv)
    report["kv"] = measured.kv_format
    report["complete"] = _run(measured, repeat, profile)
    report["peak_bytes"] = measured.peak_bytes or peak_memory()
    report["measurements"] = [_measurement(each) for each in measured.measurements]
    report["profiles"] = [
        {**asdict(each.case), "seconds": each.seconds, "shares": each.shares, "outside_native": each.outside_native}
        for each in measured.profiles
    ]
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _show(report)
    if not report["complete"]:
        raise typer.Exit(130)


def _numbers(name: str, text: str) -> list[int]:
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise ValueError(f"--{name} {text!r} is not a list of whole numbers such as 1,8")
    return [int(part) for part in text.split(",")]


def _random(size: str, weights: str) -> tuple[str, ModelConfig, str]:
    """The official name of `size`, its config, and the storage, if this machine's memory holds its weights."""
    from qwen3.memory import weight_bytes
    from qwen3.model.random import RANDOM_WEIGHTS
    from qwen3.presets import preset, preset_name

    name, storage = preset_name(size), "int4" if weights == "auto" else weights
    if storage not in RANDOM_WEIGHTS:
        raise ValueError(f"--weights {storage!r}: with --random choose one of {', '.join(RANDOM_WEIGHTS)}")
    needed = weight_bytes(preset(name), storage if storage == "bf16" else f"{storage}-g32")
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ValueError(
            f"{name} in {storage} has {readable_bytes(needed)} of weights, and this machine {readable_bytes(there)} of "
            "memory: choose a smaller size, or --weights int4"
        )
    return name, preset(name), storage


def _machine() -> dict[str, Any]:
    """What the model runs on, and by what."""
    import torch

    from qwen3.ops import IMPLEMENTATIONS, native
    from qwen3.ops.packed import num_threads

    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (found := re.search(r"model name\s*: (.+)", cpuinfo.read_text())):
        cpu = found[1]
    return {
        "machine": {
            "cpu": cpu,
            "threads": num_threads(),
            "torch_threads": torch.get_num_threads(),
            "instruction_set": native.instruction_set(),
            "qwen3": __version__,
            "torch": torch.__version__,
        },
        "operations": dict(IMPLEMENTATIONS),
    }


def _run(measured: Bench, repeat: int, with_profile: bool) -> bool:
    """Run all of it; False where Ctrl-C ended it early."""
    with _progress() as show:
        try:
            for step in measured.run(repeat, with_profile=with_profile):
                show(step)
        except KeyboardInterrupt:
            return False
    return True


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """On a terminal, a line on stderr says what is running."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield lambda text: status.update(f"[dim]{text}")


def _measurement(measurement: Measurement) -> dict[str, Any]:
    entry = {
        **asdict(measurement.case),
        "seconds": [each.seconds for each in measurement.repetitions],
        "tokens_per_second": asdict(measurement.tokens_per_second),
    }
    if measurement.bytes_per_step:
        entry |= {
            "bytes_per_step": round(measurement.bytes_per_step),
            "gb_per_second": asdict(measurement.gb_per_second),
            "bandwidth_gb_per_second": [each.bandwidth for each in measurement.repetitions],
            "bandwidth_share": asdict(measurement.bandwidth_share),
        }
    return entry


# ---- As text --------------------------------------------------------------------------------------------------


def _show(report: Mapping[str, Any]) -> None:
    from rich.console import Console

    # Tables take their natural width; in a narrow console rich would cut numbers off.
    console = Console(highlight=False, markup=False, width=1000)
    for line in _facts(report):
        console.print(line)
    for each in _tables(report):
        console.print()
        console.print(each)
    if not report["complete"]:
        console.print("\nInterrupted: this is what was measured until then.")


def _facts(report: Mapping[str, Any]) -> Iterator[str]:
    machine, peak, baseline = report["machine"], report["peak_bytes"], report["baseline_bytes"]
    active = report["active_parameters"]
    counts = f"{report['parameters']:,} parameters" + (f", {active:,} active" if active < report["parameters"] else "")
    yield f"{report['model']}{', random weights' if report['random'] else ''}: {counts}"
    yield ", ".join(f"{storage} {readable_bytes(size)}" for storage, size in report["weights"].items())
    yield f"{machine['cpu']}, {machine['threads']} threads, {machine['instruction_set']}"
    yield (
        f"loaded in {report['load_seconds']:.1f} s; peak memory {readable_bytes(peak)}, "
        f"{readable_bytes(peak - baseline)} above Python and torch"
    )
    yield f"{report['repeat']} repetitions; depth is random keys and values, not computed ones"


def _tables(report: Mapping[str, Any]) -> Iterator[Table]:
    measurements, profiles = report["measurements"], report["profiles"]
    if measurements:
        columns = ["phase", "tokens", "depth", "batch", "tokens/s", "min", "max", "GB/s", "memory gives", "share"]
        yield table("", columns, map(_row, measurements))
    if profiles:
        names = sorted(profiles[-1]["shares"], key=profiles[-1]["shares"].get, reverse=True)
        names = list(dict.fromkeys([*names, *(name for each in profiles for name in each["shares"])]))
        rows = [(name, *(f"{each['shares'].get(name, 0):.1%}" for each in profiles)) for name in names]
        rows.append(("outside native code", *(f"{each['outside_native']:.1%}" for each in profiles)))
        headings = [f"{each['phase']}\ndepth {each['depth']:,}\nbatch {each['batch']}" for each in profiles]
        yield table("", ["share of time", *headings], rows)


def _row(measured: Mapping[str, Any]) -> Sequence[str]:
    speed = measured["tokens_per_second"]
    row = [measured["phase"], *(f"{measured[name]:,}" for name in ("tokens", "depth", "batch"))]
    row += [f"{speed[name]:,.2f}" for name in ("median", "min", "max")]
    if "gb_per_second" not in measured:
        return [*row, "", "", ""]
    bandwidth = statistics.median(measured["bandwidth_gb_per_second"])
    rate, share = measured["gb_per_second"]["median"], measured["bandwidth_share"]["median"]
    return [*row, f"{rate:.1f}", f"{bandwidth:.1f}", f"{share:.0%}"]
