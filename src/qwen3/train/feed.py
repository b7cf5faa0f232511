"""A stage's data as the trainer takes them: micro-batches of a step for one process, and counts of the whole step.

What a step sees is a function of its number, whatever the number of processes; they take turns at it. All processes
have the same number of micro-batches, because they compute each together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch

from qwen3.model import CausalAttend
from qwen3.tokenizer import Tokenizer
from qwen3.train import loader
from qwen3.train.attend import ShortAttend
from qwen3.train.batch import Batch, pack
from qwen3.train.conversations import step_documents
from qwen3.train.data.dataset import Dataset
from qwen3.train.data.manifest import NAME as MANIFEST
from qwen3.train.data.stage import HELD_OUT, StageData
from qwen3.train.recipe import Shards, Stage

_SHORT = 256


@dataclass(frozen=True)
class Counts:
    """Of a step over all processes. `trained` are the tokens whose prediction counts."""

    tokens: int
    trained: int


class Feed(Protocol):
    """The data of one stage; steps count from the stage's start."""

    identity: str
    """Changes when the data do."""
    attend: type[CausalAttend]

    def batches(self, step: int, rank: int, world_size: int) -> Iterator[Batch]: ...

    def counts(self, step: int) -> Counts: ...

    def held_out(self, rank: int, world_size: int) -> Iterator[Batch]:
        """A process's share of the documents that no step sees."""
        ...


class ConversationFeed:
    """The procedural curriculum. A micro-batch is full of whole conversations; the last turn may be a spare one."""

    identity = "curriculum"
    attend = ShortAttend

    def __init__(self, tokenizer: Tokenizer, seed: int, examples_per_step: int, tokens_per_micro_batch: int) -> None:
        def packed(step: int) -> list[Batch]:
            return list(pack(step_documents(tokenizer, seed, step, examples_per_step), tokens_per_micro_batch))

        self._packed = lru_cache(maxsize=1)(packed)

    def batches(self, step: int, rank: int, world_size: int) -> Iterator[Batch]:
        packed = self._packed(step)
        for turn in range(0, len(packed), world_size):
            if turn + rank < len(packed):
                yield packed[turn + rank]
            else:
                yield _spare(packed[0])

    def counts(self, step: int) -> Counts:
        packed = self._packed(step)
        trained = sum(int(batch.loss_weight_T.sum().item()) for batch in packed)
        return Counts(sum(len(batch.tokens_T) for batch in packed), trained)

    def held_out(self, rank: int, world_size: int) -> Iterator[Batch]:
        return iter(())


class ShardFeed:
    """A data set on disk."""

    def __init__(self, dataset: Dataset, stage: Stage, seed: int, world_size: int) -> None:
        """DataError if the rows of a step, or of the evaluation, cannot be divided among the processes."""
        shards = stage.data
        self._rows = max(1, stage.tokens_per_micro_batch // shards.stage.row)
        self._data = StageData(dataset, shards.stage, seed)
        self.identity = hashlib.sha256((dataset.directory / MANIFEST).read_bytes()).hexdigest()
        self.attend = ShortAttend if shards.stage.sequence_length <= _SHORT else CausalAttend
        self._held_out = None
        if stage.evaluate_every:
            tokens = shards.held_out_tokens or shards.stage.tokens_per_step
            self._held_out = StageData(dataset, replace(shards.stage, where=(HELD_OUT,), tokens_per_step=tokens), seed)
        # Here and not in the middle of a run.
        for data in filter(None, (self._data, self._held_out)):
            loader.check_division(data, world_size, self._rows)

    def batches(self, step: int, rank: int, world_size: int) -> Iterator[Batch]:
        return loader.batches(self._data, step, rank, world_size, self._rows)

    def counts(self, step: int) -> Counts:
        return Counts(self._data.stage.tokens_per_step, loader.num_targets(self._data, step))

    def held_out(self, rank: int, world_size: int) -> Iterator[Batch]:
        if self._held_out is not None:
            yield from loader.batches(self._held_out, 0, rank, world_size, self._rows)


def open_feed(stage: Stage, tokenizer: Tokenizer, seed: int, world_size: int) -> Feed:
    """The data of `stage`; DataError or ValueError for what does not fit."""
    if isinstance(stage.data, Shards):
        return ShardFeed(Dataset(Path(stage.data.directory)), stage, seed, world_size)
    if stage.evaluate_every:
        raise ValueError(f"stage {stage.name}: conversations have no held-out documents; set evaluate_every to 0")
    return ConversationFeed(tokenizer, seed, stage.data.examples_per_step, stage.tokens_per_micro_batch)


def _spare(batch: Batch) -> Batch:
    """A batch of which nothing counts, for a process that has none while others have."""
    return replace(batch, loss_weight_T=torch.zeros_like(batch.loss_weight_T))
