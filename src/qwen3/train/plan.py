"""What a recipe costs before it runs: tokens, steps, operations, memory on each device, days."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3.hardware import peak_flops
from qwen3.memory import Estimate, estimate_training, model_weights
from qwen3.train.flops import model_flops
from qwen3.train.recipe import Recipe, Stage


@dataclass(frozen=True)
class StagePlan:
    """One stage. `memory` is of each of the devices, `days` of all together."""

    stage: Stage
    tokens: int
    tokens_per_step: int
    sequence_length: int
    rope_theta: float
    flops: float
    memory: Estimate
    days: float

    @property
    def peak_rate(self) -> float:
        return max(rate for _, rate in self.stage.schedule)

    @property
    def rows(self) -> int:
        """Rows of a step: more devices than that have nothing to do."""
        return self.tokens_per_step // self.sequence_length


def plan(recipe: Recipe, devices: int, card: str, utilisation: float) -> list[StagePlan]:
    """The stages on `devices` of kind `card` that reach `utilisation` of their nominal speed.

    A step of conversations, whose lengths differ, is counted as one full micro-batch. ValueError for an unknown card.
    """
    speed = peak_flops(card)
    if speed is None:
        raise ValueError(f"the nominal speed of {card!r} is not known: see PEAK_FLOPS in qwen3/hardware.py")
    if devices < 1 or not 0 < utilisation <= 1:
        raise ValueError("choose at least one device, and a utilisation above 0 and up to 1")
    plans = []
    for number, stage in enumerate(recipe.stages):
        tokens_per_step = stage.tokens_per_step or stage.tokens_per_micro_batch
        length = stage.sequence_length or stage.tokens_per_micro_batch
        tokens = stage.steps * tokens_per_step
        flops = tokens * model_flops(recipe.model, [length]).total / length
        days = flops / (devices * speed * utilisation) / 86_400
        memory = _memory(recipe, stage, devices, length)
        theta = recipe.rope_theta(number)
        plans.append(StagePlan(stage, tokens, tokens_per_step, length, theta, flops, memory, days))
    return plans


def _memory(recipe: Recipe, stage: Stage, devices: int, length: int) -> Estimate:
    """On one of `devices`: its share of float32 weights, gradients and moments, and what it gathers to compute."""
    options = {
        "context": length,
        "batch": max(1, stage.tokens_per_micro_batch // length),
        "checkpointing": recipe.recompute,
    }
    whole = estimate_training(recipe.model, weights="fp32", optimizer=recipe.optimizer, **options)
    computing = estimate_training(recipe.model, weights="bf16", **options) if recipe.bfloat16 else whole
    gathered = 0
    if devices > 1:
        # The embedding and the head, and two blocks: the one at work and the next.
        sizes = [0] * (recipe.model.num_hidden_layers + 1)
        for weight in model_weights(recipe.model):
            sizes[weight.layer] += weight.num_parameters
        gathered = (sizes[-1] + 2 * max(sizes[:-1])) * (2 if recipe.bfloat16 else 4)
    elif recipe.bfloat16:
        gathered = computing.weights + computing.gradients
    return Estimate(
        weights=whole.weights // devices + gathered,
        gradients=whole.gradients // devices,
        optimizer=whole.optimizer // devices,
        activations=computing.activations,
        runtime=whole.runtime,
    )
