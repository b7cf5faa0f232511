"""Floating-point operations of training, from shapes alone.

A multiply-add is two operations. Each token meets every weight of the matrices on its way once forward and twice
backward: 6 N, where N are the parameters that one token uses, the head's included and the embedding's not. Attention
multiplies queries with keys and weights with values: 12 * layers * heads * head_dim * (visible tokens) with backward.
What activation checkpointing computes again is not counted, nor are norms, softmax and the optimizer.
"""

from __future__ import annotations

from qwen3.config import ModelConfig


def matrix_parameters(config: ModelConfig) -> int:
    """Parameters that one token is multiplied with."""
    head = config.vocab_size * config.hidden_size
    norms = config.hidden_size + 2 * config.num_hidden_layers * (config.hidden_size + config.head_dim)
    return config.num_active_parameters - config.num_embedding_parameters - norms + head


def training_flops_per_token(config: ModelConfig, length: int) -> float:
    """Mean over the tokens of a document of `length` tokens, each of which sees itself and those before it."""
    visible = (length + 1) / 2
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * visible
    return 6 * matrix_parameters(config) + attention
