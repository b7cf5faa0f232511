"""Exact data shares of a run: how many tokens of each source, language and other label its steps saw.

They are counted from the documents and conversations of every step, which can be had again for any step number, and
compared with the tokens in the ledger before they are written: shares that do not add up to them are refused. So a
share is never declared.

    data_shares.json    beside the ledger: for each stage the tokens of every value of every label that is a word
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
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
    """What a stage sees, from its step 0 on: documents, conversations, or both."""

    data: StageData | None
    conversations: Callable[[int], Mapping[str, Mapping[str, int]]] | None = None
    """From a number of steps to their tokens by the values of each label."""


def count(seen: Seen, total: StageTotal) -> StageShares:
    """The shares of a stage as the ledger has it. DataError unless they add up to the ledger's tokens."""
    steps = total.last - total.first
    digest, sources = "", ()
    parts: list[Mapping[str, Mapping[str, int]]] = []
    if data := seen.data:
        made = data.dataset.manifest
        words = [label for label, values in made.labels.items() if values is not None]
        parts.append({label: data.counts(label, 0, steps) for label in words})
        digest, sources = made.tokens_sha256, tuple(made.sources)
    if seen.conversations:
        parts.append(seen.conversations(steps))
    labels = {label: _added(parts, label) for label in dict.fromkeys(label for part in parts for label in part)}
    ordered = {label: dict(sorted(counts.items())) for label, counts in labels.items()}
    shares = StageShares(total.name, total.first, total.last, total.tokens, ordered, digest, sources)
    shares.check()
    return shares


def _added(parts: list[Mapping[str, Mapping[str, int]]], label: str) -> Counter[str]:
    """The parts' tokens by `label`; a part that lacks it is unlabelled."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part.get(label) or {UNLABELLED: sum(part["source"].values())})
    return total


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
