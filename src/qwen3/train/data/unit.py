"""One unit of a build, on any worker: read, label, filter, tokenize and fingerprint its documents into its part.

A part is parts/N/ with the tokens of what is kept, its rows and fingerprints, and report.json on what is not.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from qwen3.tokenizer import Tokenizer
from qwen3.train.data import duplicates, labels, saved, sources
from qwen3.train.data.errors import DataError
from qwen3.train.data.manifest import Drop, Example
from qwen3.train.data.plan import ALWAYS, PLAN, Plan, part_of
from qwen3.train.data.rules import Rule
from qwen3.train.data.shards import ShardWriter, row_dtype, token_dtype
from qwen3.train.data.sources import Malformed, Record, Source, Unit

MALFORMED = "malformed"


@dataclass(frozen=True)
class Report:
    """What became of one unit. `labels` are the columns of its rows: words in the order of their codes, or None."""

    job_sha256: str
    """Of the plan that the worker read."""
    incoming: Drop
    dropped: dict[str, Drop]
    labels: dict[str, tuple[str, ...] | None]


def build_unit(directory: Path, index: int) -> int:
    """Read, label, filter and tokenize one unit into its part; returns `index`. Runs in any process."""
    plan, tokenizer = _opened(directory, (directory / PLAN).stat().st_mtime_ns)
    final = part_of(directory, index)
    temporary = final.with_name(f"{final.name}-{os.uname().nodename}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    _Unit(plan, tokenizer).run(plan.units[index], temporary)
    for file in (*temporary.iterdir(), temporary):
        saved.sync(file)
    temporary.rename(final)
    return index


@lru_cache(maxsize=1)
def _opened(directory: Path, written_ns: int) -> tuple[Plan, Tokenizer]:
    """What each unit of a build needs, read once by a process for the plan that was written then."""
    return saved.read(directory / PLAN, Plan), Tokenizer.load(directory / "tokenizer")


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
        report = Report(self.plan.job_sha256, self.incoming, dict(self.dropped), described)
        saved.write(directory / "report.json", report)

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
                value = known.get(label) or self._label(label, record, file)
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

    def _label(self, label: str, record: Record, file: int) -> str | float:
        """What the record says of itself, else what the labeller makes of its text; DataError for other types."""
        if label == "language":
            fields = record.fields
            declared = labels.declared_language(fields.get("language")) or labels.declared_language(fields.get("lang"))
        else:
            declared = record.fields.get(label)
        value = self.labellers[label](record.text) if declared is None else declared
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(f"{self._place(file, record)}: label {label} is {value!r:.80}, no word and no number")
        return value

    def _code(self, label: str, value: str | float, record: Record, file: int) -> int | float:
        """A number as it is, a word as its code; DataError if the label was of the other kind before."""
        is_word = isinstance(value, str)
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
