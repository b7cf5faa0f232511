"""What a recipe costs before it runs: tokens, steps, operations, memory on each device, days."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwen3.config import ModelConfig
from qwen3.hardware import peak_flops
from qwen3.memory import Estimate, estimate_training, model_weights
from qwen3.train.flops import model_flops
from qwen3.train.layout import Layout
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
    readers: int
    """Groups of devices that read rows of their own."""

    @property
    def peak_rate(self) -> float:
        return max(rate for _, rate in self.stage.schedule)

    @property
    def rows(self) -> int:
        """Rows of a step: more readers than that have nothing to do."""
        return self.tokens_per_step // self.sequence_length


def plan(recipe: Recipe, devices: int, card: str, utilisation: float, layout: Layout | None = None) -> list[StagePlan]:
    """The stages on `devices` of kind `card` that reach `utilisation` of their nominal speed.

    A step of conversations, whose lengths differ, is counted as one full micro-batch. ValueError for an unknown card,
    and for a layout that does not divide the devices or the model.
    """
    layout = layout or Layout()
    speed = peak_flops(card)
    if speed is None:
        raise ValueError(f"the nominal speed of {card!r} is not known: see PEAK_FLOPS in qwen3/hardware.py")
    if devices < 1 or not 0 < utilisation <= 1:
        raise ValueError("choose at least one device, and a utilisation above 0 and up to 1")
    readers = layout.readers(devices)
    layout.check(recipe.model)
    plans = []
    for number, stage in enumerate(recipe.stages):
        tokens_per_step = stage.tokens_per_step or stage.tokens_per_micro_batch
        length = stage.sequence_length or stage.tokens_per_micro_batch
        tokens = stage.steps * tokens_per_step
        flops = tokens * model_flops(recipe.model, [length]).total / length
        days = flops / (devices * speed * utilisation) / 86_400
        memory = _memory(recipe, stage, devices, length, layout)
        theta = recipe.rope_theta(number)
        plans.append(StagePlan(stage, tokens, tokens_per_step, length, theta, flops, memory, days, readers))
    return plans


def _memory(recipe: Recipe, stage: Stage, devices: int, length: int, layout: Layout) -> Estimate:
    """On one of `devices`: its share of float32 weights, gradients and moments, and what it gathers to compute.

    Activations are those of its part of each matrix and of each row. Experts are taken to be chosen equally often.
    """
    options = {"batch": max(1, stage.tokens_per_micro_batch // length), "checkpointing": recipe.recompute}
    whole = estimate_training(recipe.model, weights="fp32", optimizer=recipe.optimizer, context=length, **options)
    dtype = "bf16" if recipe.bfloat16 else "fp32"
    part = _part(recipe.model, layout.tensor)
    computing = estimate_training(part, weights=dtype, context=length // layout.context, **options)
    size, gathered = (2 if recipe.bfloat16 else 4), 0
    if devices > 1:
        # The embedding and the head, and two blocks: the one at work and the next. Of a block the own experts only.
        sizes = [0] * (part.num_hidden_layers + 1)
        for weight in model_weights(part):
            sizes[weight.layer] += weight.num_parameters // (layout.expert if weight.count == part.num_experts else 1)
        gathered = (sizes[-1] + 2 * max(sizes[:-1])) * size
    elif recipe.bfloat16:
        gathered = computing.weights + computing.gradients
    return Estimate(
        weights=whole.weights // devices + gathered,
        gradients=whole.gradients // devices,
        optimizer=whole.optimizer // devices,
        activations=computing.activations,
        runtime=whole.runtime,
    )


def _part(config: ModelConfig, ranks: int) -> ModelConfig:
    """What one of `ranks` that share every matrix computes, as a smaller model."""
    return replace(
        config,
        num_attention_heads=config.num_attention_heads // ranks,
        num_key_value_heads=config.num_key_value_heads // ranks,
        intermediate_size=config.intermediate_size // ranks,
        moe_intermediate_size=config.moe_intermediate_size // ranks,
        vocab_size=config.vocab_size // ranks,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
