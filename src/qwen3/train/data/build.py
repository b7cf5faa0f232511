"""From raw files to a data set: `build`. Phases, each resumable, in the directory of the result:

    plan.json        every raw file read once: SHA-256, and units of work that end between documents
    parts/N/         each unit by itself, on any worker: read, label, filter, tokenize, fingerprint
    shard-N.*        duplicates over all units are found, and what stays of each unit becomes a shard
    manifest.json    last; then plan.json and parts/ go

A part is written in a directory of its worker and renamed when it is on the disk, and so is every JSON file. So a build
that is stopped or killed goes on where it was, and ends in the same bytes as one that was not, whoever ran the units.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from qwen3.checkpoint.integrity import sha256
from qwen3.tokenizer import Tokenizer
from qwen3.train.data import manifest, saved
from qwen3.train.data.assemble import assemble
from qwen3.train.data.errors import DataError
from qwen3.train.data.manifest import Manifest
from qwen3.train.data.plan import PARTS, PLAN, Job, Plan, Progress, check_job, check_same, make_plan, part_of
from qwen3.train.data.unit import Report, build_unit

RunUnits = Callable[[Path, list[int]], Iterable[int]]
"""Runs `build_unit(directory, index)` for each index, anywhere that sees the directory; yields those that are done."""


def build(
    job: Job,
    tokenizer: Tokenizer,
    directory: Path,
    run_units: RunUnits | None = None,
    progress: Progress = lambda phase, done, total: None,
    software: str = "",
) -> Manifest:
    """Build the data set in `directory`, or go on with it; returns at once if it is complete. `software` is whatever
    the manifest is to say about who made it.

    Raises DataError for bad input, for a directory that holds another build or sources that have changed since, and if
    no document stays.
    """
    job = replace(job, near=float(job.near))
    check_job(job)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer_hash = _tokenizer_sha256(tokenizer)
    digest = job.digest(tokenizer_hash)
    path = directory / manifest.NAME
    if path.exists():
        made = saved.read(path, Manifest)
        check_same(made.job_sha256, digest, directory)
        _tidy(directory)
        return made
    plan = make_plan(job, digest, directory, progress)
    copy = directory / "tokenizer" / "tokenizer.json"
    is_new = not copy.parent.exists()
    if not copy.exists() or sha256(copy) != tokenizer_hash:
        tokenizer.save(copy.parent)
    waiting = [index for index in range(len(plan.units)) if not part_of(directory, index).exists()]
    done = len(plan.units) - len(waiting)
    progress("units", done, len(plan.units))
    try:
        for _ in (run_units or _run_here)(directory, waiting):
            done += 1
            progress("units", done, len(plan.units))
    except Exception:
        # As a mistake in the options ends: with nothing to go on with, other options may be tried in the same place.
        if not any(part_of(directory, index).exists() for index in range(len(plan.units))):
            (directory / PLAN).unlink(missing_ok=True)
        raise
    if nothing := _why_nothing_stays(plan, directory):
        # Neither a data set nor anything to go on with.
        if is_new:
            shutil.rmtree(copy.parent)
        _tidy(directory)
        raise DataError(nothing)
    made = assemble(plan, tokenizer, tokenizer_hash, directory, software, progress)
    saved.write(path, made)
    _tidy(directory)
    return made


def _tidy(directory: Path) -> None:
    """Remove what only a build in progress needs, and what killed ones left."""
    if (directory / PARTS).exists():
        shutil.rmtree(directory / PARTS)
    (directory / PLAN).unlink(missing_ok=True)
    for file in directory.glob("*.tmp"):
        file.unlink()


def _why_nothing_stays(plan: Plan, directory: Path) -> str:
    """What dropped how much, if the units kept no document; else empty. DataError for a unit of another job."""
    incoming, dropped = 0, Counter[str]()
    for index in range(len(plan.units)):
        report = saved.read(part_of(directory, index) / "report.json", Report)
        check_same(report.job_sha256, plan.job_sha256, directory)
        incoming += report.incoming.documents
        dropped.update({reason: drop.documents for reason, drop in report.dropped.items()})
    if not incoming:
        return "the sources hold no document"
    if incoming > dropped.total():
        return ""
    counts = ", ".join(f"{reason} drops {documents:,}" for reason, documents in dropped.most_common())
    return f"of {incoming:,} documents none stays: {counts}"


def _tokenizer_sha256(tokenizer: Tokenizer) -> str:
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save(directory)
        return sha256(Path(directory, "tokenizer.json"))


def _run_here(directory: Path, indices: list[int]) -> Iterator[int]:
    for index in indices:
        yield build_unit(directory, index)
