"""The training loop: stages one after another, batches in, checkpoints and a finished model out.

The loss of a step is the mean over all its trained tokens, however they are split into micro-batches and among
processes. The loop does not know what the batches teach. Under `torchrun` every process runs this same loop; what they
decide, they decide from numbers that are equal on all.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from qwen3 import ops
from qwen3.checkpoint.load import save_model
from qwen3.config import RopeParameters
from qwen3.model import Attend, Qwen3
from qwen3.tokenizer import Tokenizer
from qwen3.train import checkpoint, context, distribute, observe, parallel, start
from qwen3.train.attend import SHORT, TrainingAttend
from qwen3.train.balance import LoadBalance
from qwen3.train.batch import Batch
from qwen3.train.conversations import learn_tokenizer
from qwen3.train.data.dataset import Dataset
from qwen3.train.distribute import World
from qwen3.train.feed import Counts, open_feed
from qwen3.train.flops import model_flops, step_flops
from qwen3.train.ledger import Parent
from qwen3.train.optimizer import Optimizer
from qwen3.train.recipe import DIGEST_VERSION, Recipe
from qwen3.train.schedule import learning_rate
from qwen3.train.spikes import SpikeGuard


@dataclass(frozen=True)
class StepReport:
    """What one step did. `loss` is in nats per trained token, `seconds` is wall time; counts are of all processes."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    tokens: int
    trained_tokens: int
    flops: int
    """What the step ran, without the padding that a kernel may compute besides."""
    model_flops: int
    """What its documents need, each seeing itself alone and nothing computed twice: what MFU counts."""
    seconds: float
    stage: str = ""
    skipped: str = ""
    """Why the weights were left alone; empty if they were not."""
    balance: float | None = None
    """Of a sparse model: 1 when all experts are chosen equally often in the global batch."""
    held_out_loss: float | None = None
    """On the stage's held-out documents, after the steps that evaluate."""


class Ledger(Protocol):
    """Who keeps account of a run. What `state` returns goes into each checkpoint's manifest, and comes back."""

    def step(self, report: StepReport) -> None: ...

    def state(self) -> Mapping[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Trainer:
    """A run in `directory`, at the step of its newest checkpoint."""

    def __init__(
        self,
        recipe: Recipe,
        directory: Path,
        world: World | None = None,
        ledger: Ledger | None = None,
        parent: Parent | None = None,
    ) -> None:
        """Start, or go on where `directory` stopped. `parent` is what `start.parent` says, where it was asked already.
        ValueError if the directory holds another recipe's run, or for data or a number of processes that do not fit the
        recipe."""
        self._parent = parent or start.parent(recipe, directory)
        self.recipe, self.directory, self.ledger = recipe, directory, ledger
        self.world = world or distribute.join()
        directory.mkdir(parents=True, exist_ok=True)
        self.tokenizer = _tokenizer(recipe)
        stages = range(len(recipe.stages))
        self._feeds = [open_feed(recipe, number, self.tokenizer, self.world.readers) for number in stages]
        self._attend: Callable[[Sequence[int]], Attend] = TrainingAttend
        if self.world.layout.context > 1:
            self._feeds, self._attend = context.divided(recipe.stages, self._feeds, self.world)
        end_of_text = self.tokenizer.end_of_text_id
        config = replace(
            recipe.model,
            bos_token_id=end_of_text,
            eos_token_id=(self.tokenizer.eos_id, end_of_text),
            pad_token_id=end_of_text,
        )
        weights = () if checkpoint.newest(directory) else start.weights(config, recipe)
        self.model = parallel.place(config, self.world, recipe.bfloat16, weights)
        # What computes: the float32 model itself, its shards, or a bfloat16 copy that follows it.
        self._compute = self.model
        if self.world.size == 1 and recipe.bfloat16:
            self._compute = Qwen3(config).to(self.world.device).bfloat16()
        self._balance = LoadBalance(config, self.world) if config.is_moe else None
        if self._balance is not None:
            parallel.give_every_expert_a_gradient(self._compute)
        self._parameters = dict(self.model.named_parameters())
        self._optimizer = Optimizer(self._parameters, recipe.optimizer, recipe.betas, recipe.weight_decay)
        self._guard = SpikeGuard(recipe.spike_sigmas, recipe.spike_window, recipe.most_skips)
        self.step = self._load()
        self._forget_steps_after(self.step)
        if recipe.bfloat16:
            self._refresh_copy()
            # A layer's number is a constant of its graph, so each is compiled for itself; torch's limit is for all of
            # them together, and what exceeds it runs uncompiled.
            torch._dynamo.config.recompile_limit = 8 * config.num_hidden_layers
            for block in self._compute.model.layers:
                block.compile(dynamic=True)

    def run(self) -> Iterator[StepReport]:
        """Train to the recipe's last step, yielding after each; saves as the stages say and at the end of each.

        Between two steps the caller may stop, and `save`. DivergedError if the loss does not come back from a spike,
        CheckpointError if a checkpoint cannot be written; the one before stays.
        """
        while self.step < self.recipe.steps:
            number, _ = self.recipe.place(self.step)
            stage = self.recipe.stages[number]
            report = self._train_step()
            _, before = self.recipe.place(self.step - 1)
            done = before + 1
            if stage.evaluate_every and (done % stage.evaluate_every == 0 or done == stage.steps):
                report = replace(report, held_out_loss=self.evaluate(number))
            self._write("log.jsonl", asdict(report))
            if self.ledger is not None:
                self.ledger.step(report)
            if stage.sample_every and done % stage.sample_every == 0:
                self._write("samples.jsonl", {"step": self.step, "samples": self.samples()})
            if done % stage.checkpoint_every == 0 or done == stage.steps:
                if self._balance is not None:
                    # Before the save: a start from there keeps the lines of the steps up to it.
                    counts = self._balance.counts_LE.int().tolist()
                    self._write("experts.jsonl", {"step": self.step, "counts": counts})
                self.save()
            yield report

    def save(self) -> Path:
        """Write a checkpoint of the present step."""
        last = self.step - 1 if self.step else 0
        number, before = self.recipe.place(last)
        facts = {
            "digest_version": DIGEST_VERSION,
            "recipe": self.recipe.digest,
            "recipe_until_here": self.recipe.digest_until(self.step),
            "start": asdict(self._parent) if self._parent else None,
            "stage": self.recipe.stages[number].name,
            "data": {"stage": number, "steps": before + 1, "identity": [feed.identity for feed in self._feeds]},
            "world_size": self.world.size,
            "layout": asdict(self.world.layout),
            "updates": self._optimizer.updates,
            "spikes": self._guard.state(),
            "ledger": dict(self.ledger.state()) if self.ledger is not None else {},
        }
        return checkpoint.save(self.directory, self.step, self._optimizer.tensors(), facts, self.world)

    def evaluate(self, number: int) -> float:
        """The loss on the held-out documents of stage `number`, in nats per token."""
        self._enter(number)
        feed = self._feeds[number]
        batches = feed.held_out(self.world.reader, self.world.readers)
        loss = observe.loss(self._compute, batches, self._attend, self.world)
        self._reshard()
        return loss

    def samples(self) -> list[str]:
        """The recipe's prompts with the most likely continuation."""
        write = partial(observe.continuation, self._compute, self.tokenizer, self.world)
        texts = [write(prompt) for prompt in self.recipe.prompts]
        self._reshard()
        return texts

    def export(self, directory: Path) -> None:
        """Write the model as it is now, in bfloat16 with its tokenizer, as every loader of Qwen3 reads it.

        A model that is already in `directory` is replaced. All processes call it, the first writes.
        """
        if self.step:
            self._enter(self.recipe.place(self.step - 1)[0])
        config = self.model.config
        weights = {}
        for name, weight in parallel.whole_weights(self.model, self.world):
            if self.world.is_first:
                weights[name] = weight.bfloat16().cpu()
        special_ids = {
            "bos_token_id": config.bos_token_id,
            "eos_token_id": list(config.eos_token_ids),
            "pad_token_id": config.pad_token_id,
        }
        if self.world.is_first:
            with torch.device("meta"):
                model = Qwen3(config)
            model.load_state_dict(weights, assign=True)
            save_model(
                model,
                directory,
                dtype="bfloat16",
                tokenizer=self.tokenizer,
                generation_config=special_ids | dict(self.recipe.generation_config),
                overwrite=True,
            )
        self.world.wait()

    def _load(self) -> int:
        manifest = checkpoint.load(self.directory, self._refusal, self._optimizer.tensors(), self.world)
        if manifest is None:
            return 0
        if self._parent and self._parent.digest != manifest["start"]["digest"]:
            raise ValueError(
                f"start_from: {self.recipe.start_from} is not the model that {self.directory} began with: "
                "bring that back, or choose another directory"
            )
        seen = manifest["data"]["identity"][: manifest["data"]["stage"] + 1]
        for stage, feed, then in zip(self.recipe.stages, self._feeds, seen, strict=False):
            if feed.identity != then:
                raise ValueError(
                    f"stage {stage.name}: its data are not those that {self.directory} was trained on: "
                    "bring them back, or choose another directory"
                )
        self._optimizer.set_updates(manifest["updates"])
        self._guard.restore(manifest["spikes"])
        if self.ledger is not None:
            self.ledger.restore(manifest["ledger"])
        return manifest["step"]

    def _refusal(self, manifest: Mapping[str, Any]) -> str:
        """Why this recipe does not give the checkpoint's steps, whatever comes after them; empty if it does."""
        if manifest.get("digest_version") != DIGEST_VERSION:
            return "was written by another version of this program, which told recipes apart in another way"
        step = manifest["step"]
        if manifest["recipe"] == self.recipe.digest or (
            step <= self.recipe.steps and manifest["recipe_until_here"] == self.recipe.digest_until(step)
        ):
            return ""
        return f"belongs to another recipe, different before step {step:,}"

    def _forget_steps_after(self, step: int) -> None:
        """Drop from the logs what an interrupted run did after its last checkpoint; it will be done again."""
        if not self.world.is_first:
            return
        for path in (self.directory / f"{name}.jsonl" for name in ("log", "samples", "experts")):
            if path.exists():
                with path.open("rb") as file:
                    kept = 0
                    for line in file:
                        # The last line may be torn.
                        if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                            break
                        kept += len(line)
                os.truncate(path, kept)

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        """Append a line of JSON, which knows no infinities."""
        if self.world.is_first:
            finite = {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in record.items()
            }
            with (self.directory / name).open("a", encoding="utf-8") as log:
                log.write(json.dumps(finite, ensure_ascii=False) + "\n")

    def _train_step(self) -> StepReport:
        recipe, began = self.recipe, time.perf_counter()
        number, step = recipe.place(self.step)
        stage, feed = recipe.stages[number], self._feeds[number]
        self._enter(number)
        if step == 0 and self.step:
            self._guard.forget()
        counts = feed.counts(step)
        if self._balance is not None:
            self._balance.start_step()
        sums = torch.zeros(4, dtype=torch.float64, device=self.world.device)
        for batch in feed.batches(step, self.world.reader, self.world.readers):
            sums += self._backward(batch, counts)
        loss, balance, flops, needed = self.world.sum(sums).tolist()
        norm = parallel.clip_gradients(self._parameters.values(), recipe.max_gradient_norm, self.world)
        rate = learning_rate(stage.schedule, step)
        skipped = self._guard.reason_to_skip(self.step + 1, loss, norm)
        if not skipped:
            self._optimizer.step(rate)
            self._refresh_copy()
        self._optimizer.zero_grad()
        self.step += 1
        return StepReport(
            self.step,
            loss,
            norm,
            rate,
            counts.tokens,
            counts.trained,
            round(flops),
            round(needed),
            time.perf_counter() - began,
            stage.name,
            skipped,
            None if self._balance is None else balance,
        )

    def _backward(self, batch: Batch, counts: Counts) -> Tensor:
        """Add the gradients of this batch's share of the step's mean loss; returns [loss, balance, operations run,
        operations needed], the shares."""
        batch = batch.to(self.world.device)
        counted = batch.loss_weight_T.nonzero().squeeze(1)
        router_logits: list[Tensor] | None = None if self._balance is None else []
        hidden_TD = self._compute(
            batch.tokens_T,
            batch.positions_T,
            self._attend(batch.lengths),
            recompute=self.recipe.recompute,
            router_logits=router_logits,
        )
        loss = total = ops.weighted_loss(
            hidden_TD[counted],
            self._compute.head_weight,
            batch.targets_T[counted],
            batch.loss_weight_T[counted] / counts.trained,
        )
        balance = torch.zeros((), device=self.world.device)
        if self._balance is not None:
            # A spare batch has no tokens that count.
            is_counted_T = (batch.loss_weight_T.sum() > 0).expand(len(batch.tokens_T))
            balance, z = (each / counts.tokens for each in self._balance.losses(router_logits, is_counted_T))
            total = loss + self.recipe.balance * balance + self.recipe.z_loss * z
        total.backward()
        if self._compute is not self.model:
            self._move_gradients()
        # `lengths` are those of all processes that share the batch, each of which has as many of its tokens.
        sharing, recompute = self.world.layout.context, self.recipe.recompute
        predictions = sharing * len(counted)
        flops = step_flops(self.model.config, batch.lengths, predictions, recompute=recompute, fused_beyond=SHORT)
        # Nobody needs a spare batch.
        needed = model_flops(self.model.config, batch.lengths, predictions).total if len(counted) else 0
        operations = loss.new_tensor([flops.total / sharing, needed / sharing], dtype=torch.float64)
        return torch.cat([torch.stack([loss.detach(), balance.detach()]).double(), operations])

    def _enter(self, number: int) -> None:
        """Compute with the RoPE base of a stage."""
        theta = self.recipe.rope_theta(number)
        if theta != self.model.config.rope_parameters.rope_theta:
            config = replace(self.model.config, rope_parameters=RopeParameters(theta))
            self.model.config = self._compute.config = config

    def _reshard(self) -> None:
        """After a pass without a backward, let go of the weights that it gathered."""
        if self.world.size > 1:
            self.model.reshard()

    def _refresh_copy(self) -> None:
        if self._compute is not self.model:
            self._compute.load_state_dict(self.model.state_dict())

    def _move_gradients(self) -> None:
        """Accumulate the copy's gradients in float32."""
        for parameter, copy in zip(self.model.parameters(), self._compute.parameters(), strict=True):
            gradient = copy.grad.float()
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
            copy.grad = None


def _tokenizer(recipe: Recipe) -> Tokenizer:
    """The one that all data sets were made with, or one learnt from the conversations."""
    datasets = [Dataset(Path(stage.shards.directory)) for stage in recipe.stages if stage.shards]
    if not datasets:
        return learn_tokenizer(recipe.seed, recipe.tokenizer_examples, recipe.model.vocab_size)
    if len({dataset.manifest.tokenizer_sha256 for dataset in datasets}) > 1:
        raise ValueError(f"{recipe.name}: its data sets were made with different tokenizers; build them with one")
    if datasets[0].manifest.vocab_size > recipe.model.vocab_size:
        raise ValueError(
            f"{recipe.name}: the data have {datasets[0].manifest.vocab_size:,} tokens, the model only "
            f"{recipe.model.vocab_size:,}: raise its vocab_size"
        )
    return datasets[0].tokenizer
