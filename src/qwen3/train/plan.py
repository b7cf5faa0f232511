"""What a recipe costs before it runs: tokens, steps, operations, memory on each device, days."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qwen3.config import ModelConfig
from qwen3.hardware import peak_flops
from qwen3.memory import Estimate, estimate_training, model_weights
from qwen3.train.flops import model_flops
from qwen3.train.layout import Layout
from qwen3.train.recipe import Recipe, Stage


@dataclass(frozen=True)
class StagePlan:
    """One stage. `memory` is of each of the devices, `days` of all together. Counts of conversations are
    estimates."""

    stage: Stage
    tokens: int
    tokens_per_step: int
    sequence_length: int
    """Most tokens that see each other."""
    rope_theta: float
    flops: float
    memory: Estimate
    days: float
    readers: int
    """Groups of devices that read rows of their own."""
    batches: int
    """Full micro-batches of a step's conversations: more readers than that have nothing to do. With shards, which all
    readers share evenly or not at all, as many as readers."""
    refusal: str
    """Why a run on these devices would not start; empty if it would."""

    @property
    def peak_rate(self) -> float:
        return max(rate for _, rate in self.stage.schedule)


def plan(
    recipe: Recipe,
    devices: int,
    card: str,
    utilisation: float,
    layout: Layout | None = None,
    conversations: Mapping[str, Sequence[int]] | None = None,
) -> list[StagePlan]:
    """The stages on `devices` of kind `card` that reach `utilisation` of their nominal speed.

    `conversations` are by stage the lengths of some of those that it sees, which stand for all (`conversations.
    sample_lengths`). ValueError for an unknown card, for a layout that does not divide the devices or the model, and
    for a stage of conversations without lengths.
    """
    layout, conversations = layout or Layout(), conversations or {}
    speed = peak_flops(card)
    if speed is None:
        raise ValueError(f"the nominal speed of {card!r} is not known: see PEAK_FLOPS in qwen3/hardware.py")
    if devices < 1 or not 0 < utilisation <= 1:
        raise ValueError("choose at least one device, and a utilisation above 0 and up to 1")
    readers = layout.readers(devices)
    layout.check(recipe.model)
    plans = []
    for number, stage in enumerate(recipe.stages):
        tokens_per_step, length, flops = 0.0, 0, 0.0
        if shards := stage.shards:
            tokens_per_step, length = shards.stage.tokens_per_step, shards.stage.sequence_length
            flops = tokens_per_step * model_flops(recipe.model, [length]).total / length
        if stage.conversations:
            if not (lengths := conversations.get(stage.name)):
                raise ValueError(f"stage {stage.name}: a plan needs the lengths of some of its conversations")
            share = stage.conversations.examples_per_step / len(lengths)
            tokens_per_step += share * sum(lengths)
            flops += share * model_flops(recipe.model, lengths).total
            length = max(length, *lengths)
        plans.append(
            StagePlan(
                stage=stage,
                tokens=round(stage.steps * tokens_per_step),
                tokens_per_step=round(tokens_per_step),
                sequence_length=length,
                rope_theta=recipe.rope_theta(number),
                flops=stage.steps * flops,
                memory=_memory(recipe, stage, devices, layout),
                days=stage.steps * flops / (devices * speed * utilisation) / 86_400,
                readers=readers,
                batches=readers if shards else math.ceil(tokens_per_step / stage.tokens_per_micro_batch),
                refusal=_refusal(stage, readers, layout),
            )
        )
    return plans


def _refusal(stage: Stage, readers: int, layout: Layout) -> str:
    try:
        stage.check_readers(readers)
        stage.check_context(layout.context)
    except ValueError as error:
        return str(error)
    return ""


def _memory(recipe: Recipe, stage: Stage, devices: int, layout: Layout) -> Estimate:
    """On one of `devices`: its share of float32 weights, gradients and moments, and what it gathers to compute.

    Activations are those of its part of each matrix and of each row. Experts are taken to be chosen equally often.
    """
    tokens, options = stage.tokens_per_micro_batch, {"checkpointing": recipe.recompute}
    if stage.shards and not stage.conversations:
        tokens = stage.rows_per_micro_batch(layout.readers(devices)) * stage.shards.stage.row
    whole = estimate_training(recipe.model, weights="fp32", optimizer=recipe.optimizer, context=tokens, **options)
    dtype = "bf16" if recipe.bfloat16 else "fp32"
    part = _part(recipe.model, layout.tensor)
    computing = estimate_training(part, weights=dtype, context=max(1, tokens // layout.context), **options)
    size, gathered, gradients = (2 if recipe.bfloat16 else 4), 0, 0
    if devices > 1:
        # The embedding and the head, and two blocks: the one at work and the next. Of a block the own experts only.
        sizes = [0] * (part.num_hidden_layers + 1)
        for weight in model_weights(part):
            sizes[weight.layer] += weight.num_parameters // (layout.expert if weight.count == part.num_experts else 1)
        gathered = (sizes[-1] + 2 * max(sizes[:-1])) * size
    elif recipe.bfloat16:
        # The copy that computes, and its gradients.
        gathered = gradients = computing.weights
    return Estimate(
        weights=whole.weights // devices + gathered,
        gradients=whole.gradients // devices + gradients,
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
