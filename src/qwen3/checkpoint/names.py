"""Which tensors a config implies, by their Hugging Face names: the table that loading checks files against.

Shapes are [out_features, in_features] for projections. It knows neither files nor torch; that the model's own
parameters carry these names is a test.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwen3.config import ModelConfig

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, in the model's order. A tied head has no tensor of its own."""
    D, d = config.hidden_size, config.head_dim
    q_size, kv_size = config.num_attention_heads * d, config.num_key_value_heads * d
    tensors: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, D)}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = (D,)
        tensors[prefix + "self_attn.q_proj.weight"] = (q_size, D)
        tensors[prefix + "self_attn.k_proj.weight"] = (kv_size, D)
        tensors[prefix + "self_attn.v_proj.weight"] = (kv_size, D)
        tensors[prefix + "self_attn.o_proj.weight"] = (D, q_size)
        tensors[prefix + "self_attn.q_norm.weight"] = (d,)
        tensors[prefix + "self_attn.k_norm.weight"] = (d,)
        tensors[prefix + "post_attention_layernorm.weight"] = (D,)
        if config.is_sparse_layer(layer):
            tensors[prefix + "mlp.gate.weight"] = (config.num_experts, D)
            for expert in range(config.num_experts):
                tensors |= _feed_forward(f"{prefix}mlp.experts.{expert}.", D, config.moe_intermediate_size)
        else:
            tensors |= _feed_forward(prefix + "mlp.", D, config.intermediate_size)
    tensors["model.norm.weight"] = (D,)
    if not config.tie_word_embeddings:
        tensors[HEAD] = (config.vocab_size, D)
    return tensors


def _feed_forward(prefix: str, D: int, F: int) -> dict[str, tuple[int, ...]]:
    return {
        prefix + "gate_proj.weight": (F, D),
        prefix + "up_proj.weight": (F, D),
        prefix + "down_proj.weight": (D, F),
    }


@dataclass(frozen=True)
class FusedTensor:
    """A stored tensor that is several parameters one after another; `parts` are in the order of their elements."""

    shape: tuple[int, ...]
    parts: tuple[str, ...]


def fused_experts(config: ModelConfig) -> dict[str, FusedTensor]:
    """The other spelling of sparse layers, which transformers 5 keeps in memory and can write: stacked experts.

    `gate_up_proj` is [experts, 2F, D] with the gate's rows before the up projection's, `down_proj` [experts, D, F].
    """
    D, E, F = config.hidden_size, config.num_experts, config.moe_intermediate_size
    fused = {}
    for layer in filter(config.is_sparse_layer, range(config.num_hidden_layers)):
        prefix = f"model.layers.{layer}.mlp.experts."
        gate_up = [f"{prefix}{e}.{kind}_proj.weight" for e in range(E) for kind in ("gate", "up")]
        fused[prefix + "gate_up_proj"] = FusedTensor((E, 2 * F, D), tuple(gate_up))
        fused[prefix + "down_proj"] = FusedTensor((E, D, F), tuple(f"{prefix}{e}.down_proj.weight" for e in range(E)))
    return fused
