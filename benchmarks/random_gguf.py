"""Writes a GGUF file of an official shape with random weights: to measure speed without a checkpoint.

    python benchmarks/random_gguf.py 0.6b q4_0 /tmp/0.6b.gguf

Which tensor has which type is `qwen3.quant.formats`' table, so `q4_0` is the mix that llama-quantize writes, with the
head in Q6_K; `q4_0-pure` has every matrix in Q4_0. Blocks come from a pool of random ones, whose values spread as fresh
weights do. The vocabulary is complete, in placeholders: any engine loads the file, and its text means nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from tokenizers.pre_tokenizers import ByteLevel

from qwen3.config import ModelConfig
from qwen3.memory import Weight, model_weights
from qwen3.quant.formats import Format, find_format
from qwen3.tokenizer import CONTROL_TOKENS

MIXES: dict[str, Format] = {name: find_format(name) for name in ("q4_0", "q4_k_m", "q8_0", "gguf-bf16")}
FILE_TYPES = {"q4_0": 2, "q4_0-pure": 2, "q4_k_m": 15, "q8_0": 7, "gguf-bf16": 32}
MIXES["q4_0-pure"] = replace(MIXES["q4_0"], head=MIXES["q4_0"].matrices)

# Types by the bits of a value and of a block.
TYPES = {(32, 0): Type.F32, (16, 0): Type.BF16, (4, 16): Type.Q4_0, (8, 16): Type.Q8_0}
TYPES |= {(4, 128): Type.Q4_K, (6, 144): Type.Q6_K}
# Where a block has its float16 scales, and their values for weights with a standard deviation of 0.02 around 0. Q4_K's
# second one weighs its minima.
SCALES = {
    Type.Q4_0: {0: 0.02 / 4.3},
    Type.Q8_0: {0: 0.02 / 74},
    Type.Q4_K: {0: 8e-5, 2: 7.5 * 8e-5},
    Type.Q6_K: {208: 0.02 / (74 * 18.5)},
}
LAYER_NAMES = {
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "router": "ffn_gate_inp",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
PLACEHOLDER_MERGE = ("x", "0")
POOL_BLOCKS = 65_521  # a prime, so that rows do not begin with the same blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", help="a preset such as 0.6b, 4b, 30b-a3b")
    parser.add_argument("mix", choices=MIXES)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    write_random_gguf(ModelConfig.preset(options.size), options.mix, options.file)


def write_random_gguf(config: ModelConfig, mix: str, file: Path) -> None:
    """One tensor at a time, so that memory holds the largest of them only."""
    noise = {type: Noise(type) for type in TYPES.values()}
    writer = gguf.GGUFWriter(file, "qwen3moe" if config.is_moe else "qwen3")
    add_metadata(writer, config)
    writer.add_file_type(FILE_TYPES[mix])
    tensors = list(_tensors(config, MIXES[mix]))
    for name, shape, type in tensors:
        stored = shape if type is Type.F32 else gguf.quant_shape_to_byte_shape(shape, type)
        values = np.empty(0, np.float32 if type is Type.F32 else np.uint8)
        num_bytes = gguf.GGML_QUANT_SIZES[type][1] * int(np.prod(shape)) // gguf.GGML_QUANT_SIZES[type][0]
        writer.add_tensor_info(name, stored, values.dtype, num_bytes, raw_dtype=type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape, type in tensors:
        is_norm = name.endswith("norm.weight")
        writer.write_tensor_data(np.ones(shape, np.float32) if is_norm else noise[type].draw(int(np.prod(shape))))
    writer.close()


class Noise:
    """Blocks of one type, each time from where the last ones ended."""

    def __init__(self, type: Type) -> None:
        random = np.random.default_rng(0)
        self._block_values, block_bytes = gguf.GGML_QUANT_SIZES[type]
        if type in SCALES:
            self._pool = random.integers(0, 256, (POOL_BLOCKS, block_bytes), dtype=np.uint8)
            if type is Type.Q4_0:
                # Without the lowest quant: then the mean is zero.
                low, high = random.integers(1, 16, (2, POOL_BLOCKS, 16), dtype=np.uint8)
                self._pool[:, 2:] = low | high << 4
            for place, scale in SCALES[type].items():
                self._pool[:, place : place + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
        else:
            values = random.normal(0, 0.02, (POOL_BLOCKS, 1)).astype(np.float32)
            self._pool = values if type is Type.F32 else (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        self._next = 0

    def draw(self, num_values: int) -> np.ndarray:
        count = num_values // self._block_values
        blocks = np.take(self._pool, np.arange(self._next, self._next + count), axis=0, mode="wrap")
        self._next = (self._next + count) % len(self._pool)
        return blocks.reshape(-1)


def _tensors(config: ModelConfig, mix: Format) -> Iterator[tuple[str, tuple[int, ...], Type]]:
    norms = {"output_norm": config.hidden_size}
    for layer in range(config.num_hidden_layers):
        norms |= dict.fromkeys((f"blk.{layer}.attn_norm", f"blk.{layer}.ffn_norm"), config.hidden_size)
        norms |= dict.fromkeys((f"blk.{layer}.attn_q_norm", f"blk.{layer}.attn_k_norm"), config.head_dim)
    for name, size in norms.items():
        yield f"{name}.weight", (size,), Type.F32
    for weight in model_weights(config):
        if weight.role != "norm":
            storage = mix.storage(weight.role, weight.columns, weight.layer, config.num_hidden_layers)
            shape = (weight.rows, weight.columns)
            if weight.count > 1:
                shape = (weight.count, *shape)
            yield _name(weight, config), shape, TYPES[storage.bits, storage.block_bits]


def _name(weight: Weight, config: ModelConfig) -> str:
    if weight.layer < 0:
        is_embedding = weight.role == "embedding" or config.tie_word_embeddings
        return "token_embd.weight" if is_embedding else "output.weight"
    experts = "_exps" if weight.count > 1 else ""
    return f"blk.{weight.layer}.{LAYER_NAMES[weight.role]}{experts}.weight"


def placeholder_words(config: ModelConfig) -> list[str]:
    """As many tokens as stand before the first control token: the letters of bytes, and words that no text has."""
    letters = sorted(ByteLevel.alphabet())
    return [*letters, *(f"x{i}" for i in range(config.bos_token_id - len(letters)))]


def add_metadata(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_name("random weights")
    writer.add_context_length(config.max_context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters.rope_theta)
    if config.is_moe:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    words = placeholder_words(config)
    num_unused = config.vocab_size - len(words) - len(CONTROL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*words, *CONTROL_TOKENS, *(f"[PAD{i}]" for i in range(num_unused))])
    writer.add_token_types([1] * len(words) + [3] * len(CONTROL_TOKENS) + [5] * num_unused)
    writer.add_token_merges([" ".join(PLACEHOLDER_MERGE)])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_ids[0])
    writer.add_pad_token_id(config.bos_token_id)
    writer.add_add_bos_token(False)


if __name__ == "__main__":
    main()
