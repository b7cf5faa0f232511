"""Who keeps a training run's ledger: takes the trainer's step reports, and knows the recipe's stages and data.

    book = Bookkeeper(recipe, run, world, software="qwen3 0.1.0")
    trainer = Trainer(recipe, run, world, ledger=book)
    ...                      # trainer.run()
    book.close()             # when it ended, or stopped after a save; not after a failure
    book.count_shares(trainer.tokenizer)    # when it ended

Made before the trainer, so that loading and compiling count as time and energy. The first process writes tokens and
operations, which reports give for all processes; every process writes its own time and energy. The ledger's files are
the state: nothing has to be restored from a checkpoint.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from qwen3.config import RopeParameters
from qwen3.tokenizer import Tokenizer
from qwen3.train import conversations, ledger, shares
from qwen3.train.data.dataset import Dataset
from qwen3.train.data.stage import StageData
from qwen3.train.distribute import World
from qwen3.train.energy import meters
from qwen3.train.ledger import Parent
from qwen3.train.ledger_writer import LedgerWriter, this_machine
from qwen3.train.recipe import Recipe
from qwen3.train.trainer import StepReport


class Bookkeeper:
    """The ledger of one process; see `trainer.Ledger`."""

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        world: World,
        *,
        software: str,
        parent: Parent | None = None,
        watts_per_core: float = 10.0,
    ) -> None:
        self._recipe, self._run, self._rank = recipe, run, world.rank
        is_gpu = world.device.type == "cuda"
        is_first_on_machine = int(os.environ.get("LOCAL_RANK", "0")) == 0
        gpus = [f"GPU-{torch.cuda.get_device_properties(world.device).uuid}"] if is_gpu else []
        self._options = {
            "name": recipe.name,
            "software": software,
            "recipe_sha256": recipe.digest,
            "config": replace(recipe.model, rope_parameters=RopeParameters(recipe.rope_theta(len(recipe.stages) - 1))),
            "meters": meters(gpus, watts_per_core=watts_per_core, reads_machine=is_first_on_machine),
            "hardware": this_machine((world.device_name,) if is_gpu else (), has_cores=is_first_on_machine),
            "parent": parent,
            "rank": world.rank,
            "attempt": _shared_name(world),
            "began": time.monotonic(),
        }
        self._ledger: LedgerWriter | None = None

    def step(self, report: StepReport) -> None:
        if self._ledger is None:
            self._ledger = LedgerWriter(self._run, report.step - 1, **self._options)
        if self._rank:
            self._ledger.record(report.step, stage=report.stage, tokens=0, trained_tokens=0, flops=0)
            return
        self._ledger.record(
            report.step,
            stage=report.stage,
            tokens=report.tokens,
            trained_tokens=0 if report.skipped else report.trained_tokens,
            flops=report.flops,
            skipped=report.skipped,
        )

    def state(self) -> Mapping[str, Any]:
        """For a checkpoint's manifest: which attempt wrote it."""
        return {"attempt": self._options["attempt"]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The run's checkpoint was accepted. The ledger's own files say what was done, those steps included that a kill
        took back."""
        self._options["is_continued"] = True

    def close(self) -> None:
        """The attempt ended, or was stopped after a save."""
        if self._ledger is not None:
            self._ledger.close()

    def count_shares(self, tokenizer: Tokenizer) -> None:
        """Of a run that ended: the first process counts the shares of its data, if the ledger holds every step.

        They are of what the steps saw, so of skipped ones too, like the ledger's tokens that they add up to.
        """
        if self._rank or not ledger.exists(self._run):
            return
        totals = ledger.read(self._run)
        if totals.recorded_steps < totals.steps:
            return
        seen = {}
        for number, stage in enumerate(self._recipe.stages):
            data = generated = None
            if shards := stage.shards:
                data = StageData(Dataset(Path(shards.directory)), shards.stage, self._recipe.seed)
            if curriculum := stage.conversations:
                first = self._recipe.first_example(number)
                generated = partial(conversations.counts, tokenizer, self._recipe.seed, curriculum, first)
            seen[stage.name] = shares.Seen(data, generated)
        shares.write(self._run, totals.stages, seen)


def _shared_name(world: World) -> str:
    """A random name for this attempt, the same on all processes."""
    return f"{world.agreed(uuid.uuid4().int >> 80):012x}"
