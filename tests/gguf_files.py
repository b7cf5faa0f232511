"""GGUF files of tiny models, written by the gguf package, and random blocks of every type."""

from __future__ import annotations

import json

import gguf
import numpy as np
import torch

from qwen3.checkpoint.gguf import GGUFFile
from qwen3.config import ModelConfig
from qwen3.model import CausalAttend, Qwen3
from qwen3.tokenizer import Tokenizer

# Where a block has float16 numbers, and where its quants begin and end. Written out rather than taken from the package.
FIELDS = {
    "Q4_0": ([0], slice(2, 18)),
    "Q4_1": ([0, 2], slice(4, 20)),
    "Q5_0": ([0], slice(2, 22)),
    "Q5_1": ([0, 2], slice(4, 24)),
    "Q8_0": ([0], slice(2, 34)),
    "Q4_K": ([0, 2], slice(16, 144)),
    "Q5_K": ([0, 2], slice(16, 176)),
    "Q6_K": ([208], slice(0, 192)),
}
FLOATS = {"F16": np.float16, "BF16": None, "F32": np.float32}
TYPES = [*FIELDS, *FLOATS]


def random_blocks(type: str, num_rows: int, num_columns: int, seed: int = 0) -> np.ndarray:
    """uint8 [rows, bytes]: any bytes, but for finite scales of either sign; floats from a normal distribution."""
    generator = np.random.default_rng(seed)
    if type in FLOATS:
        values = generator.standard_normal((num_rows, num_columns), np.float32)
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[type]).view(np.uint8)
    num_values, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type]]
    blocks = generator.integers(0, 256, (num_rows, num_columns // num_values, num_bytes), np.uint8)
    for position in FIELDS[type][0]:
        scales = generator.standard_normal(blocks.shape[:2]).astype(np.float16)
        blocks[..., position : position + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(num_rows, -1)


# Written out rather than taken from the module under test. "E" stands for all experts, stacked.
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.experts.E.gate_proj": "ffn_gate_exps",
    "mlp.experts.E.up_proj": "ffn_up_exps",
    "mlp.experts.E.down_proj": "ffn_down_exps",
}


def gguf_tensors(model: Qwen3) -> dict[str, np.ndarray]:
    state = {name: parameter.detach().float().numpy() for name, parameter in model.named_parameters()}
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"],
        "output_norm.weight": state["model.norm.weight"],
    }
    if "lm_head.weight" in state:
        tensors["output.weight"] = state["lm_head.weight"]
    for layer in range(model.config.num_hidden_layers):
        for ours, theirs in LAYER_NAMES.items():
            full = f"model.layers.{layer}.{ours}.weight"
            parts = [
                state.get(full.replace(".E.", f".{expert}.")) for expert in range(max(1, model.config.num_experts))
            ]
            if parts[0] is not None:
                tensors[f"blk.{layer}.{theirs}.weight"] = np.stack(parts) if ".E." in full else parts[0]
    return tensors


def metadata_of(config: ModelConfig, tokenizer: Tokenizer) -> dict:
    """Key to value, or to (value, type)."""
    prefix = "qwen3moe" if config.is_moe else "qwen3"
    u32, f32 = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32
    keys = {
        "block_count": (config.num_hidden_layers, u32),
        "context_length": (config.max_position_embeddings, u32),
        "embedding_length": (config.hidden_size, u32),
        "feed_forward_length": (config.intermediate_size, u32),
        "attention.head_count": (config.num_attention_heads, u32),
        "attention.head_count_kv": (config.num_key_value_heads, u32),
        "attention.key_length": (config.head_dim, u32),
        "attention.value_length": (config.head_dim, u32),
        "attention.layer_norm_rms_epsilon": (config.rms_norm_eps, f32),
        "rope.freq_base": (config.rope_parameters.rope_theta, f32),
    }
    if config.is_moe:
        keys |= {
            "expert_count": (config.num_experts, u32),
            "expert_used_count": (config.num_experts_per_tok, u32),
            "expert_feed_forward_length": (config.moe_intermediate_size, u32),
        }
    raw = json.loads(tokenizer._full.to_str())
    vocab = raw["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    types = [1] * len(tokens)
    for added in raw["added_tokens"]:
        tokens.append(added["content"])
        # As converters do it: what looks like a control token counts as one.
        types.append(3 if added["special"] or added["content"].startswith("<|") else 4)
    while len(tokens) < config.vocab_size:
        tokens.append(f"[PAD{len(tokens)}]")
        types.append(5)
    return {f"{prefix}.{key}": value for key, value in keys.items()} | {
        "general.type": "model",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in raw["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": (tokenizer.eos_id, u32),
        "tokenizer.ggml.padding_token_id": (tokenizer.end_of_text_id, u32),
    }


def write(path, metadata, tensors, block_type="F32", architecture="qwen3"):
    """Matrices in `block_type`, norms and routers in F32, as converters do it. None leaves an entry out.

    A tensor may also be blocks, as (type, uint8 [..., bytes of a row]).
    """
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if value is None:
            continue
        value, kind = value if isinstance(value, tuple) else (value, gguf.GGUFValueType.get_type(value))
        writer.add_key_value(key, value, kind, gguf.GGUFValueType.get_type(value[0]) if kind == 9 else None)
    for name, values in tensors.items():
        if isinstance(values, tuple):
            writer.add_tensor(name, values[1], raw_dtype=gguf.GGMLQuantizationType[values[0]])
            continue
        kind = gguf.GGMLQuantizationType[block_type if values.ndim > 1 and "gate_inp" not in name else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def saved(path, model, tokenizer, block_type="F32", **metadata):
    keys = metadata_of(model.config, tokenizer) | metadata
    architecture = "qwen3moe" if model.config.is_moe else "qwen3"
    return GGUFFile(write(path, keys, gguf_tensors(model), block_type, architecture))


@torch.no_grad()
def logits(model: Qwen3) -> torch.Tensor:
    tokens = torch.arange(3, 63)
    return model.logits(model(tokens, torch.arange(60), CausalAttend([60]))).float()
