"""A stage's data as the trainer takes them: micro-batches of a step for one process, and counts of the whole step.

What a step sees is a function of its number, whatever the number of processes; they take turns at it. All processes
have the same number of micro-batches, because they compute each together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch

from qwen3.tokenizer import Tokenizer
from qwen3.train import loader
from qwen3.train.batch import Batch, pack
from qwen3.train.conversations import documents
from qwen3.train.data.dataset import Dataset
from qwen3.train.data.manifest import NAME as MANIFEST
from qwen3.train.data.stage import StageData
from qwen3.train.recipe import Curriculum, Recipe, Stage


@dataclass(frozen=True)
class Counts:
    """Of a step over all processes. `trained` are the tokens whose prediction counts."""

    tokens: int
    trained: int


class Feed(Protocol):
    """The data of one stage; steps count from the stage's start."""

    identity: str
    """Changes when the data do."""

    def batches(self, step: int, rank: int, world_size: int) -> Iterator[Batch]: ...

    def counts(self, step: int) -> Counts: ...

    def held_out(self, rank: int, world_size: int) -> Iterator[Batch]:
        """A process's share of the documents that no step sees."""
        ...


class ConversationFeed:
    """The procedural curriculum. A micro-batch is full of whole conversations; the last turn may be a spare one."""

    identity = "curriculum"

    def __init__(
        self, tokenizer: Tokenizer, seed: int, data: Curriculum, first_example: int, tokens_per_micro_batch: int
    ) -> None:
        def packed(step: int) -> list[Batch]:
            first = first_example + step * data.examples_per_step
            return list(pack(documents(tokenizer, seed, data, first), tokens_per_micro_batch))

        def held_out() -> list[Batch]:
            count = data.held_out_examples or data.examples_per_step
            chosen = documents(tokenizer, seed, replace(data, examples_per_step=count), 0, split="held_out")
            return list(pack(chosen, tokens_per_micro_batch))

        self._packed = lru_cache(maxsize=1)(packed)
        self._packed_held_out = held_out

    def batches(self, step: int, rank: int, world_size: int) -> Iterator[Batch]:
        return _turns(self._packed(step), rank, world_size)

    def counts(self, step: int) -> Counts:
        packed = self._packed(step)
        trained = sum(int(batch.loss_weight_T.sum().item()) for batch in packed)
        return Counts(sum(len(batch.tokens_T) for batch in packed), trained)

    def held_out(self, rank: int, world_size: int) -> Iterator[Batch]:
        return _turns(self._packed_held_out(), rank, world_size)


class ShardFeed:
    """A data set on disk."""

    def __init__(self, stage: Stage, seed: int, world_size: int) -> None:
        """DataError if the rows of a step, or of the evaluation, cannot be divided among the processes."""
        shards = stage.shards
        dataset = Dataset(Path(shards.directory))
        # Here and not in the middle of a run.
        stage.check_readers(world_size)
        self._rows = stage.rows_per_micro_batch(world_size)
        self._data = StageData(dataset, shards.stage, seed)
        self.identity = hashlib.sha256((dataset.directory / MANIFEST).read_bytes()).hexdigest()
        self._held_out = None
        if stage.evaluate_every:
            held_out = replace(shards.stage, tokens_per_step=stage.held_out_tokens)
            self._held_out = StageData(dataset, held_out, seed, held_out=True)

    def batches(self, step: int, rank: int, world_size: int) -> Iterator[Batch]:
        return loader.batches(self._data, step, rank, world_size, self._rows)

    def counts(self, step: int) -> Counts:
        return Counts(self._data.stage.tokens_per_step, loader.num_targets(self._data, step))

    def held_out(self, rank: int, world_size: int) -> Iterator[Batch]:
        if self._held_out is not None:
            yield from loader.batches(self._held_out, 0, rank, world_size, self._rows)


class MixedFeed:
    """Several feeds, all of them in every step."""

    def __init__(self, parts: Sequence[Feed]) -> None:
        self._parts = parts
        self.identity = " and ".join(part.identity for part in parts)

    def batches(self, step: int, rank: int, world_size: int) -> Iterator[Batch]:
        for part in self._parts:
            yield from part.batches(step, rank, world_size)

    def counts(self, step: int) -> Counts:
        counts = [part.counts(step) for part in self._parts]
        return Counts(sum(each.tokens for each in counts), sum(each.trained for each in counts))

    def held_out(self, rank: int, world_size: int) -> Iterator[Batch]:
        for part in self._parts:
            yield from part.held_out(rank, world_size)


def open_feed(recipe: Recipe, number: int, tokenizer: Tokenizer, world_size: int) -> Feed:
    """The data of stage `number`; DataError or ValueError for what does not fit."""
    stage = recipe.stages[number]
    parts: list[Feed] = []
    if stage.shards:
        parts.append(ShardFeed(stage, recipe.seed, world_size))
    if data := stage.conversations:
        first = recipe.first_example(number)
        parts.append(ConversationFeed(tokenizer, recipe.seed, data, first, stage.tokens_per_micro_batch))
    return parts[0] if len(parts) == 1 else MixedFeed(parts)


def _turns(packed: list[Batch], rank: int, world_size: int) -> Iterator[Batch]:
    """A process's share of the batches, equally many for each."""
    for turn in range(0, len(packed), world_size):
        yield packed[turn + rank] if turn + rank < len(packed) else _spare(packed[0])


def _spare(batch: Batch) -> Batch:
    """A batch of which nothing counts, for a process that has none while others have."""
    return replace(batch, loss_weight_T=torch.zeros_like(batch.loss_weight_T))
