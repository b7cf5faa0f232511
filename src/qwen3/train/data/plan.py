"""What a build is to do: the job, and the plan, plan.json, that cuts its sources into units of work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from qwen3.train.data import hub, labels, saved, sources
from qwen3.train.data.errors import DataError
from qwen3.train.data.rules import Rule
from qwen3.train.data.sources import RawFile, Source, Span, Unit

PLAN = "plan.json"
PARTS = "parts"
ALWAYS = ("source", "license")
"""Labels that every document has besides those of the labellers."""
VIRTUAL = ("tokens", "bucket")
"""Labels that rules may name although no column holds them: the length, and the text's hash modulo 1,000."""
Progress = Callable[[str, int, int], None]
"""Called with a phase's name, how much of it is done, and how much there is (0: unknown)."""


@dataclass(frozen=True)
class Job:
    """All choices of a build. `keep` are rules that a document must pass; see `rules` and `labels`."""

    sources: tuple[Source, ...]
    keep: tuple[str, ...] = ()
    labellers: tuple[str, ...] = labels.DEFAULT
    exact: bool = True
    """Whether a text that has occurred before is dropped."""
    near: float = 0.8
    """Least similarity of a near duplicate; 0 keeps them all."""
    skip_malformed: bool = False
    """Count and skip records that cannot be read, in place of stopping at the first."""
    unit_bytes: int = 0
    """Raw bytes of a unit of work, and so of a shard; 0: between 1 and 64 MiB, so that there are some sixty."""

    def digest(self, tokenizer_sha256: str) -> str:
        """SHA-256 of every choice, the tokenizer included."""
        return hashlib.sha256(json.dumps([asdict(self), tokenizer_sha256], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """A job with its sources on this disk, and their files as they were, cut into units."""

    job_sha256: str
    job: Job
    files: tuple[RawFile, ...]
    units: tuple[Unit, ...]


def check_job(job: Job) -> None:
    known = {labels.find_labeller(name)[0] for name in job.labellers} | {*ALWAYS, *VIRTUAL}
    for text in job.keep:
        if (rule := Rule.parse(text)).label not in known:
            raise DataError(f"{text}: no label {rule.label!r}; there are {', '.join(sorted(known))}")
    if not 0 <= job.near <= 1:
        raise DataError(f"near must be a similarity of 0 to 1, not {job.near}")


def check_same(found: str, expected: str, directory: Path) -> None:
    if found != expected:
        raise DataError(
            f"{directory} holds a build with another tokenizer, other sources or options: name another, or delete it"
        )


def make_plan(job: Job, digest: str, directory: Path, progress: Progress) -> Plan:
    """The plan in `directory`, or a new one. DataError if it is of another job, which may be running, or if its files
    have changed."""
    path = directory / PLAN
    if not path.exists():
        plan = _cut(job, digest, directory, progress)
        # Files take long to read: another build may have begun meanwhile.
        if not path.exists():
            saved.write(path, plan)
            return plan
    plan = saved.read(path, Plan)
    check_same(plan.job_sha256, digest, directory)
    _check_unchanged(plan.files)
    return plan


def _cut(job: Job, digest: str, directory: Path, progress: Progress) -> Plan:
    """A new plan: every source on this disk, read once."""
    (directory / PARTS).mkdir(exist_ok=True)
    local = hub.local_sources(job.sources, directory / "raw", lambda count: progress("download", count, 0))
    found = [(file, number) for number, source in enumerate(local) for file in sources.find_files(source)]
    total = sum(sources.unpacked_bytes(file) for file, _ in found)
    unit_bytes = job.unit_bytes or min(max(total // 64, 1 << 20), 64 << 20)
    files: list[RawFile] = []
    spans: list[tuple[Span, int]] = []
    for index, (file, number) in enumerate(found):
        progress("reading", index, len(found))
        raw, parts = sources.scan(file, number, index, unit_bytes)
        files.append(raw)
        spans += [(span, sources.unpacked_bytes(file) // len(parts)) for span in parts]
    return Plan(digest, replace(job, sources=tuple(local)), tuple(files), tuple(_units(spans, unit_bytes)))


def _units(spans: Iterable[tuple[Span, int]], unit_bytes: int) -> Iterator[Unit]:
    """Spans, given with their sizes, gathered into units of at least `unit_bytes`."""
    unit, size = [], 0
    for span, span_bytes in spans:
        unit.append(span)
        size += span_bytes
        if size >= unit_bytes:
            yield tuple(unit)
            unit, size = [], 0
    if unit:
        yield tuple(unit)


def _check_unchanged(files: Iterable[RawFile]) -> None:
    for file in files:
        status = Path(file.path).stat()
        if (status.st_size, status.st_mtime_ns) != (file.bytes, file.modified_ns):
            raise DataError(f"{file.path} has changed since the build began: delete the build and begin anew")


def part_of(directory: Path, index: int) -> Path:
    """Where what a unit gave lies."""
    return directory / PARTS / f"{index:06d}"
