"""A stage of pre-training as data: `Stage` says which documents and how often, `StageData` what each step sees.

A step has a fixed number of tokens, of which each pool gives a fixed share: step s takes the tokens s * t to
(s + 1) * t of a pool's stream (`order`), and the pieces of all pools are packed into full rows (`packing`). So what a
step sees is a pure function of the data set, the stage, the seed and s; the shares of the pools are exact in each; and
the state of the data is one integer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from qwen3.train.data.dataset import Dataset
from qwen3.train.data.errors import DataError
from qwen3.train.data.order import Stream
from qwen3.train.data.packing import Rows, pack, split
from qwen3.train.data.rules import Rule

HELD_OUT, TRAINED = "bucket<10", "bucket>=10"
"""1% of texts, chosen by their hash, are held out. Whatever else a stage asks for, its training leaves them out, and
its evaluation reads nothing else."""


@dataclass(frozen=True)
class Pool:
    """Documents that pass all rules `where` make up `share` of every step's tokens; shares are relative."""

    share: float = 1.0
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """`weights` are (rule, factor): a document's weight is the product of the factors of the rules that it passes, and
    says how often it comes up in its pool, relative to the others. Factor 0 excludes."""

    name: str
    sequence_length: int
    """Most tokens that see each other: longer documents are divided."""
    tokens_per_step: int
    pools: tuple[Pool, ...] = (Pool(),)
    weights: tuple[tuple[str, float], ...] = ()
    where: tuple[str, ...] = ()
    """Rules for all pools, of training and evaluation alike."""
    row_tokens: int = 0
    """Tokens of a packed row, the unit that ranks and micro-batches divide a step by; default: sequence_length."""

    @property
    def row(self) -> int:
        return self.row_tokens or self.sequence_length


def general(sequence_length: int = 4096, tokens_per_step: int = 1 << 22) -> Stage:
    """Stage 1: everything, what teaches more a little more often."""
    return Stage("general", sequence_length, tokens_per_step, weights=(("education>=3", 1.5), ("education<1", 0.5)))


def reasoning(sequence_length: int = 4096, tokens_per_step: int = 1 << 22) -> Stage:
    """Stage 2: more of science, technology, engineering, mathematics and code."""
    weights = (
        ("domain=mathematics", 4.0),
        ("domain=code,science,technology", 3.0),
        ("education>=4", 1.5),
        ("education<2", 0.5),
    )
    return Stage("reasoning", sequence_length, tokens_per_step, weights=weights)


def long_context(sequence_length: int = 32_768, tokens_per_step: int = 1 << 22) -> Stage:
    """Stage 3: 75% of the tokens from documents of more than half the sequence length (16,384 to 32,768; longer ones
    are divided), 25% from those of an eighth to a half (4,096 to 16,384). Qwen3 Technical Report, section 3.2."""
    half, eighth = sequence_length // 2, sequence_length // 8
    pools = (Pool(0.75, (f"tokens>{half}",)), Pool(0.25, (f"tokens>={eighth}", f"tokens<={half}")))
    return Stage("long-context", sequence_length, tokens_per_step, pools)


STAGES = {"general": general, "reasoning": reasoning, "long-context": long_context}


class StageData:
    """What every step of a stage sees; with `held_out`, of the texts that no stage trains on."""

    def __init__(self, dataset: Dataset, stage: Stage, seed: int = 0, *, held_out: bool = False) -> None:
        """DataError if the step is no whole number of rows, or a pool is empty."""
        if stage.tokens_per_step % stage.row or stage.row < stage.sequence_length:
            raise DataError(
                f"stage {stage.name}: {stage.tokens_per_step:,} tokens a step are no whole number of rows of "
                f"{stage.row:,} that hold sequences of {stage.sequence_length:,}"
            )
        self.dataset, self.stage, self.seed = dataset, stage, seed
        self._shares = _divide(stage.tokens_per_step, [pool.share for pool in stage.pools])
        weights = self._weights()
        split = HELD_OUT if held_out else TRAINED
        everything = dataset.where((*stage.where, split))
        self._pools: list[tuple[np.ndarray, Stream]] = []
        for number, pool in enumerate(stage.pools):
            documents = np.flatnonzero(everything & dataset.where(pool.where) & (weights > 0))
            if not len(documents):
                rules = ", ".join((*stage.where, *pool.where, split))
                raise DataError(f"stage {stage.name}: no document of {dataset.directory} passes the rules {rules}")
            key = hashlib.sha256(f"{seed}/{stage.name}/{number}".encode()).digest()[:8]
            stream = Stream(dataset.lengths[documents], weights[documents], int.from_bytes(key, "little"))
            self._pools.append((documents, stream))
        # Bound to the object, so that the cache goes with it.
        self.rows = lru_cache(maxsize=2)(self._rows)

    @property
    def num_rows(self) -> int:
        """Rows of a step."""
        return self.stage.tokens_per_step // self.stage.row

    def _rows(self, step: int) -> Rows:
        """The pieces of documents that a step sees, packed. Called as `rows`, which remembers the last two steps."""
        return pack(*split(*self._pieces(step, step + 1), self.stage.sequence_length), self.stage.row)

    def _pieces(self, start: int, stop: int) -> list[np.ndarray]:
        """The unpacked pieces of the steps `start` to `stop`: documents, first and last tokens."""
        found = []
        for share, (documents, stream) in zip(self._shares, self._pools, strict=True):
            if share:
                chosen, first, last = stream.pieces(start * share, stop * share)
                found.append((documents[chosen], first, last))
        return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]

    def counts(self, label: str, start: int, stop: int) -> Counter[str]:
        """Exactly how many tokens of each value of `label` the steps `start` to `stop` see; numbers by their floor."""
        column, words = self.dataset.column(label), self.dataset.manifest.labels.get(label)
        totals: Counter[str] = Counter()
        for first in range(start, stop, 64):
            documents, begins, ends = self._pieces(first, min(first + 64, stop))
            values, owner = np.unique(np.floor(column[documents]).astype(np.int64), return_inverse=True)
            tokens = np.zeros(len(values), np.int64)
            np.add.at(tokens, owner, ends - begins)
            names = [str(value) if words is None else words[value] for value in values.tolist()]
            totals.update(dict(zip(names, tokens.tolist(), strict=True)))
        return totals

    def epochs(self, label: str, start: int, stop: int) -> dict[str, float]:
        """By value of a label that is a word: tokens seen over tokens there are in the data set."""
        there = self.dataset.manifest.counts[label]
        return {value: tokens / there[value].tokens for value, tokens in self.counts(label, start, stop).items()}

    def digest(self, step: int) -> str:
        """SHA-256 of all token ids and piece lengths of a step: what two runs compare."""
        arrays = self.arrays(step, np.arange(self.num_rows))
        return hashlib.sha256(arrays.tokens_T.tobytes() + np.array(arrays.lengths, np.int64).tobytes()).hexdigest()

    def arrays(self, step: int, rows: np.ndarray) -> Arrays:
        """Some rows of a step, with what is to be predicted."""
        packed = self.rows(step)
        pieces = packed.pieces_of(rows)
        documents, first, last = packed.documents[pieces], packed.first[pieces], packed.last[pieces]
        return gather(self.dataset, documents, first, last)

    def _weights(self) -> np.ndarray:
        weights = np.ones(len(self.dataset))
        for rule, factor in self.stage.weights:
            if not 0 <= factor < float("inf"):
                raise DataError(f"stage {self.stage.name}: the factor {factor} of {Rule.parse(rule)} is no weight")
            weights[self.dataset.where((rule,))] *= factor
        return weights


@dataclass(frozen=True)
class Arrays:
    """The fields of `train.batch.Batch` in NumPy: int64, the weights float32."""

    tokens_T: np.ndarray
    positions_T: np.ndarray
    lengths: list[int]
    targets_T: np.ndarray
    loss_weight_T: np.ndarray


def gather(dataset: Dataset, documents: np.ndarray, first: np.ndarray, last: np.ndarray) -> Arrays:
    """The tokens of pieces one after another.

    The last token of a piece predicts what follows it in its document, although that is in another piece: no prediction
    is lost by cutting. Only the last token of a document, its end, predicts nothing.
    """
    lengths = last - first
    ends = np.cumsum(lengths)
    tokens_T = np.empty(int(ends[-1]) + 1, np.int64)
    number = np.searchsorted(dataset.starts, documents, "right") - 1
    follows = last < dataset.lengths[documents]
    shards, at = dataset.shards, 0
    after = np.zeros(len(documents), np.int64)
    places = zip(
        number.tolist(), (documents - dataset.starts[number]).tolist(), first.tolist(), last.tolist(), strict=True
    )
    for piece, (shard_number, index, start, stop) in enumerate(places):
        shard = shards[shard_number]
        begin = int(shard.starts[index])
        tokens_T[at : at + stop - start] = shard.tokens[begin + start : begin + stop]
        if follows[piece]:
            after[piece] = shard.tokens[begin + stop]
        at += stop - start
    targets_T = tokens_T[1:].copy()
    targets_T[ends - 1] = after
    loss_weight_T = np.ones(at, np.float32)
    loss_weight_T[ends - 1] = follows
    positions_T = np.arange(at) - np.repeat(ends - lengths, lengths)
    return Arrays(tokens_T[:-1], positions_T, lengths.tolist(), targets_T, loss_weight_T)


def _divide(total: int, shares: list[float]) -> list[int]:
    """Whole numbers in proportion to `shares` that add up to `total`."""
    bounds = np.rint(np.cumsum([0.0, *shares]) / sum(shares) * total).astype(int)
    return np.diff(bounds).tolist()
