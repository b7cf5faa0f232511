"""Floating-point operations of a model's forward pass and training step, counted from shapes.

Counted are the matrix products, two operations for each multiply-add, as `torch.utils.flop_counter` counts them and
papers report them: attention as the whole square of each document (the causal half that a kernel may skip is not
subtracted), nothing for norms, activations, the embedding and the optimizer. The two counts of a training step differ
by what is computed again: `model_flops` is what the mathematics needs, `step_flops` is what runs. The module knows no
tensors.

Shapes: T tokens, D hidden, F feed-forward, H query heads, K key-value heads, d head_dim, E experts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from qwen3.config import ModelConfig


@dataclass(frozen=True)
class Flops:
    """Operations by part of the model, of any number of tokens."""

    projections: int = 0
    """Queries, keys, values and attention's output."""
    attention: int = 0
    feed_forward: int = 0
    """Dense feed-forwards, or the chosen experts."""
    router: int = 0
    head: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, each.name) for each in fields(self))

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __mul__(self, factor: int) -> Flops:
        return Flops(*(getattr(self, each.name) * factor for each in fields(self)))


def forward_flops(config: ModelConfig, lengths: Sequence[int], predictions: int | None = None) -> Flops:
    """One forward pass over documents of `lengths` tokens, none of which sees another, with the head computed for
    `predictions` tokens (default: all)."""
    tokens = sum(lengths)
    return _forward(config, tokens, sum(n * n for n in lengths), tokens if predictions is None else predictions)


def decode_flops(config: ModelConfig, context: int, tokens: int = 1) -> Flops:
    """`tokens` new tokens of one sequence behind `context` cached ones, all logits computed."""
    return _forward(config, tokens, tokens * (context + tokens), tokens)


def model_flops(config: ModelConfig, lengths: Sequence[int], predictions: int | None = None) -> Flops:
    """Forward and backward without anything computed twice: a product's backward is two products."""
    return forward_flops(config, lengths, predictions) * 3


def step_flops(
    config: ModelConfig,
    lengths: Sequence[int],
    predictions: int | None = None,
    *,
    recompute: bool = False,
    fused_beyond: int = 0,
) -> Flops:
    """What one forward and backward pass runs.

    Fused attention computes its scores again in the backward: five products for the forward's two; plain products take
    four, which documents of up to `fused_beyond` tokens use (`attend.TrainingAttend`). `recompute` runs each layer's
    forward twice, up to the last value that the backward needs: a dense layer's projection down is not needed.
    """
    forward = forward_flops(config, lengths, predictions)
    again = Flops()
    if recompute:
        dense_layers = config.num_hidden_layers - config.num_sparse_layers
        down = 2 * sum(lengths) * dense_layers * config.hidden_size * config.intermediate_size
        again = Flops(forward.projections, forward.attention, forward.feed_forward - down, forward.router)
    fused = forward_flops(config, [length for length in lengths if length > fused_beyond], 0).attention // 2
    return forward * 3 + Flops(attention=fused) + again


def _forward(config: ModelConfig, tokens: int, pairs: int, predictions: int) -> Flops:
    """`pairs` are the (query, key) pairs in the square of each document."""
    D, d = config.hidden_size, config.head_dim
    H, K = config.num_attention_heads, config.num_key_value_heads
    layers, sparse = config.num_hidden_layers, config.num_sparse_layers
    dense = 3 * D * config.intermediate_size * (layers - sparse)
    experts = 3 * D * config.moe_intermediate_size * config.num_experts_per_tok * sparse
    return Flops(
        projections=2 * tokens * layers * D * d * (2 * H + 2 * K),
        attention=4 * pairs * layers * H * d,
        feed_forward=2 * tokens * (dense + experts),
        router=2 * tokens * sparse * D * config.num_experts,
        head=2 * predictions * D * config.vocab_size,
    )
