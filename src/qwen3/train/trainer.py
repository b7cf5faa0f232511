"""The training loop: one model, AdamW, batches in, checkpoints and a finished model out.

The loss of a step is the mean over all its trained tokens, however they are split into micro-batches. The loop does
not know what the batches teach.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from qwen3 import ops
from qwen3.checkpoint.load import save_model
from qwen3.model import Qwen3
from qwen3.train import checkpoint
from qwen3.train.attend import ShortAttend
from qwen3.train.batch import Batch, pack
from qwen3.train.conversations import learn_tokenizer, step_documents
from qwen3.train.recipe import Recipe
from qwen3.train.schedule import learning_rate


@dataclass(frozen=True)
class StepReport:
    """What one step did. `loss` is in nats per trained token, `seconds` is wall time."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    tokens: int
    trained_tokens: int
    seconds: float


class Trainer:
    """A run in `directory`, at the step of its newest checkpoint."""

    def __init__(self, recipe: Recipe, directory: Path) -> None:
        """Start, or go on where `directory` stopped. ValueError if it holds another recipe's run."""
        self.recipe, self.directory = recipe, directory
        directory.mkdir(parents=True, exist_ok=True)
        self.tokenizer = learn_tokenizer(recipe.seed, recipe.tokenizer_examples, recipe.model.vocab_size)
        end_of_text = self.tokenizer.end_of_text_id
        config = replace(
            recipe.model,
            bos_token_id=end_of_text,
            eos_token_id=(self.tokenizer.eos_id, end_of_text),
            pad_token_id=end_of_text,
        )
        self.model = Qwen3(config)
        self.model.initialise(recipe.seed)
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=recipe.betas, fused=True)
        self.step = checkpoint.load(directory, recipe.digest, self.model, self.optimizer)
        self._forget_steps_after(self.step)
        # What computes: the float32 model itself, or a bfloat16 copy that follows it.
        self._compute = self.model
        if recipe.bfloat16:
            self._compute = Qwen3(config).bfloat16()
            self._compute.load_state_dict(self.model.state_dict())
            for block in self._compute.model.layers:
                block.compile(dynamic=True)

    def run(self) -> Iterator[StepReport]:
        """Train to the recipe's last step, yielding after each; saves every `checkpoint_every` steps and at the end.

        Between two steps the caller may stop, and `save`.
        """
        with self._log.open("a", encoding="utf-8") as log:
            while self.step < self.recipe.steps:
                report = self._train_step()
                log.write(json.dumps(asdict(report)) + "\n")
                log.flush()
                if self.step % self.recipe.checkpoint_every == 0 or self.step == self.recipe.steps:
                    self.save()
                yield report

    def save(self) -> Path:
        """Write a checkpoint of the present step."""
        return checkpoint.save(self.directory, self.step, self.recipe.digest, self.model, self.optimizer)

    def export(self, directory: Path) -> None:
        """Write the model as it is now, in bfloat16 with its tokenizer, as every loader of Qwen3 reads it.

        A model that is already in `directory` is replaced.
        """
        config = self.model.config
        special_ids = {
            "bos_token_id": config.bos_token_id,
            "eos_token_id": list(config.eos_token_ids),
            "pad_token_id": config.pad_token_id,
        }
        save_model(
            self.model,
            directory,
            dtype="bfloat16",
            tokenizer=self.tokenizer,
            generation_config=special_ids | dict(self.recipe.generation_config),
            overwrite=True,
        )

    @property
    def _log(self) -> Path:
        return self.directory / "log.jsonl"

    def _forget_steps_after(self, step: int) -> None:
        """Drop from the log what an interrupted run did after its last checkpoint; it will be done again."""
        if self._log.exists():
            lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
            self._log.write_text("".join(lines[:step]), encoding="utf-8")

    def _train_step(self) -> StepReport:
        recipe, start = self.recipe, time.perf_counter()
        documents = step_documents(self.tokenizer, recipe.seed, self.step, recipe.examples_per_step)
        batches = list(pack(documents, recipe.tokens_per_micro_batch))
        trained_tokens = int(sum(batch.loss_weight_T.sum().item() for batch in batches))
        loss = sum(self._backward(batch, trained_tokens) for batch in batches)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.max_gradient_norm).item()
        rate = learning_rate(recipe.schedule, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self._compute is not self.model:
            self._compute.load_state_dict(self.model.state_dict())
        self.step += 1
        tokens = sum(len(batch.tokens_T) for batch in batches)
        return StepReport(self.step, loss, norm, rate, tokens, trained_tokens, time.perf_counter() - start)

    def _backward(self, batch: Batch, trained_tokens: int) -> float:
        """Add the gradients of this batch's share of the step's mean loss; returns the share."""
        counted = batch.loss_weight_T.nonzero().squeeze(1)
        hidden_TD = self._compute(batch.tokens_T, batch.positions_T, ShortAttend(batch.lengths))
        losses = ops.token_losses(hidden_TD[counted], self._compute.head_weight, batch.targets_T[counted])
        loss = (losses * batch.loss_weight_T[counted]).sum() / trained_tokens
        loss.backward()
        if self._compute is not self.model:
            self._move_gradients()
        return loss.item()

    def _move_gradients(self) -> None:
        """Accumulate the copy's gradients in float32."""
        for parameter, copy in zip(self.model.parameters(), self._compute.parameters(), strict=True):
            gradient = copy.grad.float()
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
            copy.grad = None
