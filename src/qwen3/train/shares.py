"""Exact data shares of a run: how many tokens of each source, language and other label its steps saw.

They are counted from the documents of every step, which `StageData` gives for any step number, and compared with the
tokens in the ledger before they are written: shares that do not add up to them are refused. So a share is never
declared. Where a stage also generates conversations, theirs are the tokens that its documents leave.

    data_shares.json    beside the ledger: for each stage the tokens of every value of every label that is a word
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qwen3.train.data import saved
from qwen3.train.data.errors import DataError
from qwen3.train.data.manifest import Origin
from qwen3.train.data.stage import StageData
from qwen3.train.ledger import StageTotal

NAME = "data_shares.json"
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class StageShares:
    """Tokens that steps `first` + 1 to `last` of the run saw; each label's counts add up to `tokens`."""

    stage: str
    first: int
    last: int
    tokens: int
    labels: dict[str, dict[str, int]]
    dataset_sha256: str
    """Of all token ids of the data set; empty where there is none on disk."""
    sources: tuple[Origin, ...] = ()

    def check(self) -> None:
        """DataError naming the label whose counts do not add up."""
        for label, counts in self.labels.items():
            if (found := sum(counts.values())) != self.tokens:
                raise DataError(
                    f"stage {self.stage}: the tokens by {label} add up to {found:,}, but the steps saw {self.tokens:,}"
                )


@dataclass(frozen=True)
class DataShares:
    stages: tuple[StageShares, ...]

    @property
    def tokens(self) -> int:
        return sum(stage.tokens for stage in self.stages)

    def total(self, label: str) -> dict[str, int]:
        """Tokens by value over all stages, most first; stages whose data lack the label count as "unlabelled"."""
        totals: dict[str, int] = {}
        for stage in self.stages:
            for value, tokens in stage.labels.get(label, {UNLABELLED: stage.tokens}).items():
                totals[value] = totals.get(value, 0) + tokens
        return dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))

    @property
    def labels(self) -> list[str]:
        """In the order in which a reader wants them."""
        found = {label for stage in self.stages for label in stage.labels}
        first = [label for label in ("source", "language", "domain", "education", "safety") if label in found]
        return first + sorted(found - set(first))


@dataclass(frozen=True)
class Seen:
    """What a stage sees, from its step 0 on: documents, or what `generator` makes, whose tokens have no other label, or
    both."""

    data: StageData | None
    generator: str = ""


def count(seen: Seen, total: StageTotal) -> StageShares:
    """The shares of a stage as the ledger has it. DataError unless they add up to the ledger's tokens."""
    labels: dict[str, Counter[str]] = {"source": Counter()}
    digest, sources, generated = "", (), total.tokens
    if data := seen.data:
        steps = total.last - total.first
        made = data.dataset.manifest
        words = [label for label, values in made.labels.items() if values is not None]
        labels = {label: data.counts(label, 0, steps) for label in words}
        digest, sources = made.tokens_sha256, tuple(made.sources)
        generated -= steps * data.stage.tokens_per_step
    if seen.generator and generated > 0:
        for label, counts in labels.items():
            counts[seen.generator if label == "source" else UNLABELLED] += generated
    ordered = {label: dict(sorted(counts.items())) for label, counts in labels.items()}
    shares = StageShares(total.name, total.first, total.last, total.tokens, ordered, digest, sources)
    shares.check()
    return shares


def write(run: Path, totals: tuple[StageTotal, ...], data: Mapping[str, Seen]) -> DataShares:
    """Count and write the shares of a run whose stages, by name, saw `data`."""
    shares = DataShares(tuple(count(data[total.name], total) for total in totals))
    saved.write(run / NAME, shares)
    return shares


def read(directory: Path) -> DataShares | None:
    """What was written; None where there is nothing. DataError if it does not add up."""
    if not (directory / NAME).is_file():
        return None
    shares = saved.read(directory / NAME, DataShares)
    for stage in shares.stages:
        stage.check()
    return shares
