"""What a run used: an append-only record of every step, and the totals that it gives.

    ledger/rank_0.jsonl    a start line for every attempt to run, a line for every step, an end line if it ended well

A run that is killed and resumed has several attempts. The steps that it did after the checkpoint it resumed from are
done again: their tokens count once, and their time, operations and energy are counted and shown apart, because they
were used. What is lost is the time between the last step's line and the kill. A step that was skipped saw its tokens
and trained on none. Joules are of the meters that the start line names; a device without joules in a line was not
measured then. Start and end lines hold the SHA-256 of all that stands before them, so a line that was changed later is
found.

Each process writes its own file; totals are sums, so either each gives its part of tokens and operations, or one gives
the whole and the others nothing. All processes of an attempt name it equally. `ledger_writer` writes what this module
reads; neither knows tensors.
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwen3.strict_json import parse_object
from qwen3.train.energy import MeterKind

FOLDER = "ledger"


class LedgerError(ValueError):
    """A ledger that cannot be trusted or continued; the message names the file and the line."""


@dataclass(frozen=True)
class Hardware:
    """The machine of one process. `devices` are what device-hours count: its GPUs, or the machine where it has none.
    Of several processes on one machine, one has its `cores` and the others 0."""

    processor: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...] = ()

    @property
    def devices(self) -> int:
        return len(self.gpus) or int(self.cores > 0)

    @property
    def text(self) -> str:
        gpus = f"{len(self.gpus)} x {self.gpus[0]}, " if self.gpus else ""
        return f"{gpus}{self.cores} cores of {self.processor}, {self.memory_bytes / 2**30:.0f} GiB"


@dataclass(frozen=True)
class Parent:
    """Where a run's first weights come from, if they were not drawn at random."""

    location: str
    step: int | None
    digest: str
    """SHA-256 of the parent's manifest or weights."""


@dataclass(frozen=True)
class Spent:
    """Totals over processes. `tokens` are those that steps saw; the `skipped_steps` among them trained on none."""

    device_hours: float = 0.0
    core_hours: float = 0.0
    flops: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    skipped_steps: int = 0
    joules: dict[MeterKind, float] = field(default_factory=dict)
    unmeasured_hours: dict[str, float] = field(default_factory=dict)
    """Of devices whose energy was not read: GPUs under "gpu", machines under "cpu"."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.device_hours + other.device_hours,
            self.core_hours + other.core_hours,
            self.flops + other.flops,
            self.tokens + other.tokens,
            self.trained_tokens + other.trained_tokens,
            self.skipped_steps + other.skipped_steps,
            _added(self.joules, other.joules),
            _added(self.unmeasured_hours, other.unmeasured_hours),
        )


def _added(a: Mapping[Any, float], b: Mapping[Any, float]) -> dict[Any, float]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}}


@dataclass(frozen=True)
class Attempt:
    """One start: steps `first` + 1 to `last` of it stand; later ones were done again. `hardware` is rank 0's."""

    attempt: str
    time: str
    first: int
    last: int
    processes: int
    hardware: str
    code: dict[str, str]
    command: str
    ended: bool


@dataclass(frozen=True)
class StageTotal:
    """Steps `first` + 1 to `last` of the run, as they stand."""

    name: str
    first: int
    last: int
    tokens: int
    trained_tokens: int
    flops: int


@dataclass(frozen=True)
class Totals:
    """A run's ledger, added up. `kept` are the steps that stand, skipped ones included, whose tokens its data shares
    count; `repeated` are those that were done again."""

    name: str
    recipe_sha256: str
    model: dict[str, Any]
    parent: Parent | None
    attempts: tuple[Attempt, ...]
    stages: tuple[StageTotal, ...]
    kept: Spent
    repeated: Spent
    recorded_steps: int
    knows_skips: bool
    """False of a ledger whose lines do not say which steps were skipped."""

    @property
    def steps(self) -> int:
        """The run's last step; more than `recorded_steps` if it once ran without a ledger."""
        return self.attempts[-1].last

    @property
    def used(self) -> Spent:
        return self.kept + self.repeated


def exists(run: Path) -> bool:
    return (run / FOLDER / "rank_0.jsonl").is_file()


def read(run: Path) -> Totals:
    """Add up the ledger of the run in `run`. LedgerError for one that is missing, damaged or was changed."""
    files = sorted((run / FOLDER).glob("rank_*.jsonl"), key=lambda path: int(path.stem.removeprefix("rank_")))
    if not exists(run):
        raise LedgerError(f"{run} has no ledger: there is no {FOLDER}/rank_0.jsonl")
    lines = [(path, list(_lines(path))) for path in files]
    starts = [line for line in lines[0][1] if line["kind"] == "start"]
    order = {line["attempt"]: number for number, line in enumerate(starts)}
    # The step from which each attempt's work was done again.
    until = [min([later["step"] for later in starts[n + 1 :]], default=sys.maxsize) for n in range(len(starts))]
    kept, repeated = Spent(), Spent()
    last = [min(line["step"], end) for line, end in zip(starts, until, strict=True)]
    ended, processes = [False] * len(starts), [0] * len(starts)
    stages: dict[str, list[tuple[int, Spent]]] = defaultdict(list)
    recorded, knows_skips = 0, True
    for path, each in lines:
        current, hardware, kinds = -1, Hardware("", 1, 0), {}
        for line in each:
            if line["kind"] == "start":
                current = order.get(line["attempt"], -1)
                hardware = _hardware(line)
                kinds = {part: MeterKind(part, **meter) for part, meter in line["meters"].items()}
                processes[current] += current >= 0
                continue
            spent = _spent(line, hardware, kinds)
            knows_skips &= line["kind"] != "step" or "skipped" in line
            # Ranks whose first one died before it wrote a line did nothing that stands.
            if current < 0 or line["step"] > until[current]:
                repeated += spent
                continue
            kept += spent
            if path is files[0]:
                last[current] = max(last[current], line["step"])
                ended[current] |= line["kind"] == "end"
                recorded += line["kind"] == "step"
            if line["kind"] == "step":
                stages[line["stage"]].append((line["step"], spent))
    attempts = tuple(
        Attempt(
            line["attempt"],
            line["time"],
            line["step"],
            last[number],
            processes[number],
            _hardware(line).text,
            line["code"],
            line["command"],
            ended[number],
        )
        for number, line in enumerate(starts)
    )
    return Totals(
        starts[-1]["name"],
        starts[-1]["recipe_sha256"],
        starts[-1]["model"],
        Parent(**starts[0]["parent"]) if starts[0]["parent"] else None,
        attempts,
        tuple(_stage(name, each) for name, each in stages.items()),
        kept,
        repeated,
        recorded,
        knows_skips,
    )


def _hardware(start: Mapping[str, Any]) -> Hardware:
    return Hardware(**{**start["hardware"], "gpus": tuple(start["hardware"]["gpus"])})


def _spent(line: Mapping[str, Any], hardware: Hardware, kinds: Mapping[str, MeterKind]) -> Spent:
    """What a step's or an end's line says, of the machine and with the meters that its start line names."""
    hours = line["seconds"] / 3600
    devices = {"gpu": len(hardware.gpus), "cpu": int(hardware.cores > 0)}
    return Spent(
        hours * hardware.devices,
        hours * hardware.cores,
        line.get("flops", 0),
        line.get("tokens", 0),
        line.get("trained_tokens", 0),
        int(bool(line.get("skipped"))),
        {kinds[part]: joules for part, joules in line["joules"].items()},
        {part: hours * count for part, count in devices.items() if count and part not in line["joules"]},
    )


def _stage(name: str, steps: list[tuple[int, Spent]]) -> StageTotal:
    numbers = [step for step, _ in steps]
    total = sum((spent for _, spent in steps), Spent())
    return StageTotal(name, min(numbers) - 1, max(numbers), total.tokens, total.trained_tokens, total.flops)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file, each checked; and that nothing before a start line has changed."""
    digest = hashlib.sha256()
    for number, raw in enumerate(whole_lines(path).splitlines(keepends=True), start=1):
        try:
            line = parse_object(raw)
        except ValueError as error:
            raise LedgerError(f"{path}, line {number}: {error}") from None
        if line.get("kind") not in ("start", "step", "end") or (number == 1 and line["kind"] != "start"):
            raise LedgerError(f"{path}, line {number}: {line.get('kind')!r:.50} is not what belongs here")
        if line.get("before", digest.hexdigest()) != digest.hexdigest():
            raise LedgerError(f"{path} was changed: line {number} holds another SHA-256 of the lines before it")
        digest.update(raw)
        yield line


def whole_lines(path: Path) -> bytes:
    """All bytes up to the last line end: a run may be writing, or was killed while it did."""
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]
