"""From raw files to a data set: `build`. Phases, each resumable, in the directory of the result:

    plan.json        every raw file read once: SHA-256, and units of work that end between documents
    parts/N/         each unit by itself, on any worker: read, label, filter, tokenize, fingerprint
    shard-N.*        duplicates over all units are found, and what stays of each unit becomes a shard
    manifest.json    last; then plan.json and parts/ go

A part is written in a directory of its worker and renamed when it is on the disk, and so is every JSON file. So a build
that is stopped or killed goes on where it was, and ends in the same bytes as one that was not, whoever ran the units.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise, starmap
from pathlib import Path

import numpy as np

from qwen3.tokenizer import Tokenizer
from qwen3.train.data import duplicates, hub, labels, manifest, saved, sources
from qwen3.train.data.errors import DataError
from qwen3.train.data.manifest import Count, Drop, Example, Manifest, ShardEntry
from qwen3.train.data.rules import Rule
from qwen3.train.data.shards import Shard, ShardWriter, read_rows, row_dtype, token_dtype
from qwen3.train.data.sources import Malformed, RawFile, Record, Source, Span, Unit

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, how much of it is done, and how much there is (0: unknown)."""
RunUnits = Callable[[Path, list[int]], Iterable[int]]
"""Runs `build_unit(directory, index)` for each index, anywhere that sees the directory; yields those that are done."""

MALFORMED, EXACT, NEAR = "malformed", "exact duplicate", "near duplicate"
ALWAYS = ("source", "license")
"""Labels that every document has besides those of the labellers."""
VIRTUAL = ("tokens", "bucket")
"""Labels that rules may name although no column holds them: the length, and the text's hash modulo 1,000."""


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


@dataclass(frozen=True)
class Report:
    """What became of one unit. `labels` are the columns of its rows: words in the order of their codes, or None."""

    incoming: Drop
    dropped: dict[str, Drop]
    labels: dict[str, tuple[str, ...] | None]


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

    Raises DataError for bad input, and for a directory that holds another build, or sources that have changed since.
    """
    job = replace(job, near=float(job.near))
    _check(job)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer_hash = _tokenizer_sha256(tokenizer)
    digest = job.digest(tokenizer_hash)
    path = directory / manifest.NAME
    if path.exists():
        made = saved.read(path, Manifest)
        _check_same(made.job_sha256, digest, directory)
        _tidy(directory)
        return made
    plan = _plan(job, digest, directory, progress)
    copy = directory / "tokenizer" / "tokenizer.json"
    if not copy.exists() or manifest.sha256(copy) != tokenizer_hash:
        tokenizer.save(copy.parent)
    waiting = [index for index in range(len(plan.units)) if not _part(directory, index).exists()]
    done = len(plan.units) - len(waiting)
    progress("units", done, len(plan.units))
    for _ in (run_units or _run_here)(directory, waiting):
        done += 1
        progress("units", done, len(plan.units))
    made = replace(_assemble(plan, tokenizer, directory, progress), software=software)
    saved.write(path, made)
    _tidy(directory)
    return made


def _tidy(directory: Path) -> None:
    """Remove what only a build in progress needs, and what killed ones left."""
    if (directory / "parts").exists():
        shutil.rmtree(directory / "parts")
    (directory / "plan.json").unlink(missing_ok=True)
    for file in directory.glob("*.tmp"):
        file.unlink()


def _tokenizer_sha256(tokenizer: Tokenizer) -> str:
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save(directory)
        return manifest.sha256(Path(directory, "tokenizer.json"))


# The plan


def _check(job: Job) -> None:
    known = {labels.find_labeller(name)[0] for name in job.labellers} | {*ALWAYS, *VIRTUAL}
    for text in job.keep:
        if (rule := Rule.parse(text)).label not in known:
            raise DataError(f"{text}: no label {rule.label!r}; there are {', '.join(sorted(known))}")
    if not 0 <= job.near <= 1:
        raise DataError(f"near must be a similarity of 0 to 1, not {job.near}")


def _check_same(found: str, expected: str, directory: Path) -> None:
    if found != expected:
        raise DataError(
            f"{directory} holds a build with another tokenizer, other sources or options: name another, or delete it"
        )


def _plan(job: Job, digest: str, directory: Path, progress: Progress) -> Plan:
    path = directory / "plan.json"
    if path.exists():
        plan = saved.read(path, Plan)
        _check_same(plan.job_sha256, digest, directory)
        _check_unchanged(plan.files)
        return plan
    (directory / "parts").mkdir(exist_ok=True)
    local = []
    for source in (each for given in job.sources for each in sources.expand(given)):
        if source.location.startswith(hub.PREFIX):
            source = hub.download(source, directory / "raw", lambda count: progress("download", count, 0))
        local.append(source)
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
    plan = Plan(digest, replace(job, sources=tuple(local)), tuple(files), tuple(_units(spans, unit_bytes)))
    saved.write(path, plan)
    return plan


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


# Units


def build_unit(directory: Path, index: int) -> int:
    """Read, label, filter and tokenize one unit into its part; returns `index`. Runs in any process."""
    plan, tokenizer = _opened(str(directory))
    final = _part(directory, index)
    temporary = final.with_name(f"{final.name}-{os.uname().nodename}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    _Unit(plan, tokenizer).run(plan.units[index], temporary)
    for file in (*temporary.iterdir(), temporary):
        _sync(file)
    temporary.rename(final)
    return index


def _run_here(directory: Path, indices: list[int]) -> Iterator[int]:
    for index in indices:
        yield build_unit(directory, index)


@lru_cache(maxsize=1)
def _opened(directory: str) -> tuple[Plan, Tokenizer]:
    """What each unit of a build needs, read once by a process."""
    return saved.read(Path(directory, "plan.json"), Plan), Tokenizer.load(Path(directory, "tokenizer"))


def _part(directory: Path, index: int) -> Path:
    return directory / "parts" / f"{index:06d}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Unit:
    """Collects what is kept of one unit, and counts what is not."""

    def __init__(self, plan: Plan, tokenizer: Tokenizer) -> None:
        self.plan, self.job, self.tokenizer = plan, plan.job, tokenizer
        self.labellers = dict(labels.find_labeller(name) for name in plan.job.labellers)
        self.rules: defaultdict[str, list[Rule]] = defaultdict(list)
        for text in plan.job.keep:
            rule = Rule.parse(text)
            self.rules[rule.label].append(rule)
        self.incoming = Drop()
        self.dropped: defaultdict[str, Drop] = defaultdict(Drop)
        self.rows: list[tuple] = []
        self.fingerprints: list[tuple] = []
        # Of each label that is a word, the code of each; of one that is a number, None.
        self.codes: dict[str, dict[str, int] | None] = {}

    def run(self, unit: Unit, directory: Path) -> None:
        with ShardWriter(directory / "shard", token_dtype(self.tokenizer.vocab_size)) as writer:
            for span in unit:
                file = self.plan.files[span.file]
                source = self.job.sources[file.source]
                for record in sources.read(Path(file.path), span, source.text):
                    if (kept := self._judge(record, span.file, source)) is not None:
                        ids, row, text_hash = kept
                        writer.add(ids)
                        self.rows.append(row)
                        self.fingerprints.append((text_hash, self._minima(ids)))
        described = {label: codes and tuple(codes) for label, codes in self.codes.items()}
        np.save(directory / "shard.npy", np.array(self.rows, row_dtype(described)))
        np.save(directory / "fingerprints.npy", np.array(self.fingerprints, duplicates.FINGERPRINT))
        saved.write(directory / "report.json", Report(self.incoming, dict(self.dropped), described))

    def _judge(self, record: Record | Malformed, file: int, source: Source) -> tuple | None:
        """Ids, row and hash of a document; None if it is dropped."""
        if isinstance(record, Malformed):
            self._refuse_malformed(record, file)
            return None
        text = record.text
        self.incoming += Drop(1, len(text))
        text_hash = duplicates.text_hash(text)
        known = {
            "source": source.name or _word(record, "source") or Path(self.plan.files[file].name).name.split(".")[0],
            "license": _word(record, "license") or source.license or "unknown",
        }
        values: list[int | float] = []
        for label in (*ALWAYS, "bucket", *self.labellers):
            if label == "bucket":
                value: str | float = text_hash[0] % 1000
            else:
                value = known.get(label) or self._label(label, record)
            if any(not rule.holds(value) for rule in self.rules[label]):
                failed = next(rule for rule in self.rules[label] if not rule.holds(value))
                return self._drop(str(failed), file, record.number, len(text), text)
            if label != "bucket":
                values.append(self._code(label, value, record, file))
        ids = np.array([*self.tokenizer.encode(text, control=False), self.tokenizer.end_of_text_id])
        for rule in self.rules["tokens"]:
            if not rule.holds(len(ids)):
                return self._drop(str(rule), file, record.number, len(text), text)
        return ids, (file, record.number, text_hash[0], *values), text_hash

    def _label(self, label: str, record: Record) -> str | float:
        """What the record says of itself, else what the labeller makes of its text."""
        if label == "language":
            fields = record.fields
            declared = labels.declared_language(fields.get("language")) or labels.declared_language(fields.get("lang"))
        else:
            declared = record.fields.get(label)
        return self.labellers[label](record.text) if declared is None else declared

    def _code(self, label: str, value: object, record: Record, file: int) -> int | float:
        """A number as it is, a word as its code; DataError if the label was of the other kind before."""
        is_word = isinstance(value, str)
        if not is_word and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DataError(f"{self._place(file, record)}: label {label} is {value!r:.80}, no word and no number")
        codes = self.codes.setdefault(label, {} if is_word else None)
        if is_word != (codes is not None):
            raise DataError(
                f"{self._place(file, record)}: label {label} is {value!r:.80}, but was of another kind before"
            )
        return codes.setdefault(value, len(codes)) if codes is not None else float(value)

    def _minima(self, ids: np.ndarray) -> np.ndarray:
        return duplicates.minima(ids) if self.job.near else np.zeros(duplicates.NUM_MINIMA, np.uint32)

    def _refuse_malformed(self, record: Malformed, file: int) -> None:
        if not self.job.skip_malformed:
            raise DataError(f"{self._place(file, record)}: {record.reason} (--skip-malformed counts and skips such)")
        self.incoming += Drop(1)
        self._drop(MALFORMED, file, record.number, 0, record.reason)

    def _drop(self, reason: str, file: int, number: int, characters: int, text: str) -> None:
        self.dropped[reason] += Drop(1, characters, (Example(file, number, text[:200]),))

    def _place(self, file: int, record: Record | Malformed) -> str:
        return f"{self.plan.files[file].name}, record {record.number:,}"


def _word(record: Record, name: str) -> str:
    value = record.fields.get(name)
    return value if isinstance(value, str) else ""


# Shards


def _assemble(plan: Plan, tokenizer: Tokenizer, directory: Path, progress: Progress) -> Manifest:
    """Drop duplicates, write shards, count."""
    parts = [_part(directory, index) for index in range(len(plan.units))]
    reports = [saved.read(part / "report.json", Report) for part in parts]
    rows = [read_rows(part / "shard.npy") for part in parts]
    progress("duplicates", 0, 1)
    fingerprints = [read_rows(part / "fingerprints.npy") for part in parts]
    equal, similar = duplicates.find_duplicates(fingerprints, plan.job.exact, plan.job.near)
    bounds = np.cumsum([0, *map(len, rows)])
    slices = list(starmap(slice, pairwise(bounds)))
    kept = [~(equal | similar)[each] for each in slices]
    words = _words([(report.labels, table[keep]) for report, table, keep in zip(reports, rows, kept, strict=True)])
    counts = {label: np.zeros((2, len(each)), np.int64) for label, each in words.items() if each is not None}
    dropped: defaultdict[str, Drop] = defaultdict(Drop)
    shards: list[ShardEntry] = []
    for index, (part, report, table, keep) in enumerate(zip(parts, reports, rows, kept, strict=True)):
        progress("shards", index, len(parts))
        shard = Shard(part / "shard")
        for reason, drop in report.dropped.items():
            dropped[reason] += drop
        for reason, mask in ((EXACT, equal), (NEAR, similar)):
            for at in np.flatnonzero(mask[slices[index]]):
                text = tokenizer.decode(shard.document(at)[:-1].tolist())
                example = Example(int(table["file"][at]), int(table["record"][at]), text[:200])
                dropped[reason] += Drop(1, len(text), (example,))
        if not keep.any():
            continue
        table = _recoded(table[keep], report, words)
        for label, totals in counts.items():
            np.add.at(totals, (slice(None), table[label]), np.stack([np.ones(len(table), int), shard.lengths[keep]]))
        shards.append(_write_shard(directory / f"shard-{index:06d}", shard, keep, table))
    tokens = sum(shard.tokens for shard in shards)
    return Manifest(
        format=manifest.FORMAT,
        software="",
        job_sha256=plan.job_sha256,
        tokenizer_sha256=_tokenizer_sha256(tokenizer),
        vocab_size=tokenizer.vocab_size,
        end_of_text=tokenizer.end_of_text_id,
        labellers=plan.job.labellers,
        keep=plan.job.keep,
        exact=plan.job.exact,
        near=plan.job.near,
        sources=tuple(
            manifest.Origin(each.name, each.location, each.license, each.url, each.commit, each.text)
            for each in plan.job.sources
        ),
        files=tuple(manifest.File(file.name, file.source, file.bytes, file.sha256) for file in plan.files),
        incoming=sum((report.incoming for report in reports), Drop()),
        dropped=dict(dropped),
        documents=sum(shard.documents for shard in shards),
        tokens=tokens,
        tokens_sha256=manifest.tokens_digest(shards),
        labels=words,
        counts={
            label: {word: Count(*totals[:, code].tolist()) for code, word in enumerate(words[label] or ())}
            for label, totals in counts.items()
        },
        shards=tuple(shards),
    )


def _words(parts: Sequence[tuple[dict[str, tuple[str, ...] | None], np.ndarray]]) -> dict[str, tuple[str, ...] | None]:
    """Of each label the words that occur in any part's rows, sorted; None for numbers."""
    used: dict[str, set[str] | None] = {}
    for labels_of_part, table in parts:
        for label, words in labels_of_part.items():
            found = used.setdefault(label, None if words is None else set())
            if (words is None) != (found is None):
                raise DataError(f"the label {label} is a word in some documents and a number in others")
            if found is not None and words is not None:
                found |= {words[code] for code in np.unique(table[label])}
    return {label: None if words is None else tuple(sorted(words)) for label, words in used.items()}


def _recoded(table: np.ndarray, report: Report, words: dict[str, tuple[str, ...] | None]) -> np.ndarray:
    """A part's rows with codes into the words of all parts."""
    out = np.empty(len(table), row_dtype(words))
    for name in ("file", "record", "hash"):
        out[name] = table[name]
    for label, all_words in words.items():
        own = report.labels[label]
        if own is None or all_words is None:
            out[label] = table[label]
        else:
            code_of = {word: code for code, word in enumerate(all_words)}
            out[label] = np.array([code_of.get(word, 0) for word in own], np.int64)[table[label]]
    return out


def _write_shard(prefix: Path, shard: Shard, keep: np.ndarray, table: np.ndarray) -> ShardEntry:
    with ShardWriter(prefix, shard.dtype) as writer:
        for at in np.flatnonzero(keep):
            writer.add(shard.document(at))
    np.save(prefix.with_suffix(".npy"), table)
    for kind in (".bin", ".idx", ".npy"):
        _sync(prefix.with_suffix(kind))
    return manifest.describe_shard(prefix, len(table), sum(writer.lengths))
