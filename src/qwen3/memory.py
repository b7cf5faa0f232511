"""Memory calculator: the bytes that a Qwen3 model needs, to run and to train, before anything is loaded.

Weights, gradients, optimizer state and cache are counted exactly from the shapes; activations follow the tensors
that this package's plain torch operations hold at once; the runtime line is a measured constant. Everything is
per rank: with tensor parallelism each rank holds its share of the heads, feed-forward columns and vocabulary rows,
and whole experts; key-value heads are repeated where there are fewer of them than ranks.

Units are bytes and tokens. The module knows no tensors and reads no files; `hardware` knows what machines offer.
`benchmarks/memory.py` compares it with the measured peak of a process.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from qwen3.config import ModelConfig
from qwen3.hardware import MACHINES, MIB, Machine
from qwen3.quant.formats import FORMATS, KV_FORMATS, Format, ceil_div, choose, find_format

MAX_CONTEXT = 262_144
# Tokens of one step by device: the engine's prefill chunks.
CHUNKS = {"cpu": 512, "cuda": 2048}
# Of float32 logits at once in the trainer's loss, and rows whose 16-bit gradients it adds at a time.
HEAD_BUFFER_BYTES, HEAD_ROW_BLOCK = 1 << 28, 8192
# What a process holds besides the model. cpu: Python with torch and this package imported (220 MiB) and what the
# kernels set up on first use (30 MiB), Linux x86-64, torch 2.13. cuda: an allowance for driver context, kernels
# and cuBLAS workspaces.
RUNTIME_BYTES = {"cpu": 250 * MIB, "cuda": 768 * MIB}


# Bytes a parameter of the moments, for the layers' matrices and for the rest; and whether 16-bit weights get a
# float32 master copy and a float32 sum of gradients over micro-batches, as the trainer's do.
OPTIMIZERS: dict[str, tuple[int, int, bool]] = {
    "adamw": (8, 8, True),
    "adamw-bf16": (4, 4, False),
    "muon": (4, 8, True),
}


# ---- The tensors of a model -----------------------------------------------------------------------------------


class Weight(NamedTuple):
    """`count` matrices [rows, columns] of one role in one layer (-1 outside the layers); a norm is one row."""

    role: str
    layer: int
    rows: int
    columns: int
    count: int = 1

    @property
    def num_parameters(self) -> int:
        return self.rows * self.columns * self.count


def model_weights(config: ModelConfig) -> Iterator[Weight]:
    """Every parameter of the model once, by shape."""
    D, d = config.hidden_size, config.head_dim
    q_size, kv_size = config.num_attention_heads * d, config.num_key_value_heads * d
    yield Weight("head" if config.tie_word_embeddings else "embedding", -1, config.vocab_size, D)
    if not config.tie_word_embeddings:
        yield Weight("head", -1, config.vocab_size, D)
    yield Weight("norm", -1, 1, D)
    for layer in range(config.num_hidden_layers):
        yield Weight("norm", layer, 1, D, count=2)
        yield Weight("norm", layer, 1, d, count=2)
        yield Weight("query", layer, q_size, D)
        yield Weight("key", layer, kv_size, D)
        yield Weight("value", layer, kv_size, D)
        yield Weight("output", layer, D, q_size)
        F, experts = config.intermediate_size, 1
        if config.is_sparse_layer(layer):
            F, experts = config.moe_intermediate_size, config.num_experts
            yield Weight("router", layer, config.num_experts, D)
        yield Weight("gate", layer, F, D, experts)
        yield Weight("up", layer, F, D, experts)
        yield Weight("down", layer, D, F, experts)


def _shard(config: ModelConfig, ranks: int) -> ModelConfig:
    """The part of the model that one of `ranks` tensor-parallel ranks holds, as a smaller model."""
    H, K = config.num_attention_heads, config.num_key_value_heads
    possible = [n for n in range(1, H + 1) if H % n == 0 and (K % n == 0 or n % K == 0)]
    if config.is_moe:
        possible = [n for n in possible if config.num_experts % n == 0]
    if ranks not in possible:
        choices = ", ".join(map(str, possible))
        raise ValueError(f"tensor_parallel {ranks!r} does not divide this model evenly: choose one of {choices}")
    return replace(
        config,
        num_attention_heads=H // ranks,
        num_key_value_heads=max(1, K // ranks),
        intermediate_size=ceil_div(config.intermediate_size, ranks),
        num_experts=config.num_experts // ranks,
        num_experts_per_tok=min(config.num_experts_per_tok, config.num_experts // ranks),
        vocab_size=ceil_div(config.vocab_size, ranks),
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def _shares(config: ModelConfig, ranks: int) -> Iterator[tuple[Weight, Weight]]:
    """Every weight of the model beside the part of it on one rank; routers are whole on each."""
    for whole, part in zip(model_weights(config), model_weights(_shard(config, ranks)), strict=True):
        yield whole, whole if whole.role == "router" else part


# ---- Estimates ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """Bytes on one rank, part by part."""

    weights: int
    kv_cache: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    runtime: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.gradients + self.optimizer + self.activations + self.runtime


def estimate(
    config: ModelConfig,
    *,
    weights: str | Format = "bf16",
    kv: str = "bf16",
    context: int,
    batch: int = 1,
    chunk: int | None = None,
    all_logits: bool = False,
    tensor_parallel: int = 1,
    device: str = "cpu",
) -> Estimate:
    """Peak bytes of inference: `batch` sequences of `context` tokens, computed at most `chunk` tokens a step, by
    default as many as the engine's on that device.

    `all_logits` keeps the logits of every token of a step, not of each sequence's last one alone. Raises ValueError
    that names the choices for an unknown format, device or number of ranks.
    """
    chunk = choose("device", CHUNKS, device) if chunk is None else chunk
    _require_positive(context=context, batch=batch, chunk=chunk)
    shard = _shard(config, tensor_parallel)
    return Estimate(
        weights=weight_bytes(config, weights, tensor_parallel),
        kv_cache=_cache_bytes(shard, kv, context * batch),
        activations=_step_bytes(shard, _activation_size(weights), context, batch, chunk, all_logits),
        runtime=choose("device", RUNTIME_BYTES, device),
    )


def weight_bytes(config: ModelConfig, weights: str | Format = "bf16", tensor_parallel: int = 1) -> int:
    """Bytes of all weights on one rank, stored as `weights`: a name in FORMATS, or a Format of your own."""
    layout = find_format(weights)
    total = 0
    for whole, part in _shares(config, tensor_parallel):
        storage = layout.storage(whole.role, whole.columns, whole.layer, config.num_hidden_layers)
        total += part.count * storage.num_bytes(part.rows, part.columns)
    return total


def _cache_bytes(shard: ModelConfig, kv: str, tokens: int) -> int:
    rows = tokens * shard.num_kv_elements_per_token // shard.head_dim
    return choose("kv", KV_FORMATS, kv).num_bytes(rows, shard.head_dim)


def _step_bytes(shard: ModelConfig, size: int, context: int, batch: int, chunk: int, all_logits: bool) -> int:
    """The most that one step's tensors hold at once; `size` bytes a value."""
    D, V, E = shard.hidden_size, shard.vocab_size, shard.num_experts
    H, K, d = shard.num_attention_heads, shard.num_key_value_heads, shard.head_dim
    tokens = min(chunk, context * batch)
    # Projections, and of the queries either float32 copies (QK-Norm) or the rotation's products.
    attention = size * (H + 2 * K) * d + max(4 * 2, 5 * size) * H * d
    # gate, up, silu(gate) and their product; all tokens may meet in one expert.
    dense = size * 4 * shard.intermediate_size
    sparse = size * (3 * D + 4 * shard.moe_intermediate_size) + 2 * 4 * E
    feed_forward = max(
        sparse if shard.num_sparse_layers else 0,
        dense if shard.num_sparse_layers < shard.num_hidden_layers else 0,
    )
    residual = size * 2 * D
    # A chunk behind cached tokens is masked by a [tokens, context] matrix, boolean and as an addend.
    mask = (1 + size) * tokens * context if tokens < context else 0
    # Logits as computed, in float32, and two adjusted copies of the sampler.
    logits = (size + 3 * 4) * V * (tokens if all_logits else batch)
    return tokens * (residual + max(attention, feed_forward)) + mask + logits


def longest_context(
    config: ModelConfig,
    budget_bytes: int,
    *,
    weights: str | Format = "bf16",
    kv: str = "bf16",
    batch: int = 1,
    chunk: int | None = None,
    tensor_parallel: int = 1,
    device: str = "cpu",
) -> int:
    """The most tokens a sequence, up to MAX_CONTEXT, that `budget_bytes` a rank hold; 0 if the weights do not fit."""
    chunk = choose("device", CHUNKS, device) if chunk is None else chunk
    _require_positive(batch=batch, chunk=chunk)
    shard, size = _shard(config, tensor_parallel), _activation_size(weights)

    def growing_bytes(context: int) -> int:
        return _cache_bytes(shard, kv, context * batch) + _step_bytes(shard, size, context, batch, chunk, False)

    fixed_bytes = weight_bytes(config, weights, tensor_parallel) + choose("device", RUNTIME_BYTES, device)
    return bisect.bisect_right(range(1, MAX_CONTEXT + 1), budget_bytes - fixed_bytes, key=growing_bytes)


def what_fits(config: ModelConfig, **options: Any) -> dict[Machine, int]:
    """The longest context on every machine of `hardware`; `options` as for `longest_context`, without the device."""
    return {
        machine: longest_context(config, machine.usable_bytes, device=machine.device, **options) for machine in MACHINES
    }


def estimate_training(
    config: ModelConfig,
    *,
    weights: str = "bf16",
    optimizer: str = "adamw",
    context: int = 4096,
    batch: int = 1,
    checkpointing: bool = True,
    chunked_head: bool = True,
    tensor_parallel: int = 1,
    device: str = "cuda",
) -> Estimate:
    """Peak bytes of one training step on `batch` sequences of `context` tokens, in `weights` fp32, bf16 or fp16.

    Gradients have the weights' dtype; 16-bit ones are summed in float32 where there is a master copy. `checkpointing`
    keeps each layer's input only. `chunked_head` is the trainer's loss (`ops.weighted_loss`); without it all logits
    exist at once. Attention keeps no [T, T] matrix.
    The optimizer's own passing copies are not counted: activations are gone by then.
    """
    _require_positive(context=context, batch=batch)
    size = choose("training weights", {"fp32": 4, "bf16": 2, "fp16": 2}, weights)
    matrix_moments, other_moments, has_master = choose("optimizer", OPTIMIZERS, optimizer)
    master = 4 if has_master and size < 4 else 0
    shard = _shard(config, tensor_parallel)
    held = [part for _, part in _shares(config, tensor_parallel)]
    matrices = sum(weight.num_parameters for weight in held if weight.layer >= 0 and weight.role != "norm")
    others = sum(weight.num_parameters for weight in held) - matrices
    tokens = context * batch
    layers = [_saved_per_token(shard, layer, size) for layer in range(config.num_hidden_layers)]
    kept = tokens * (size * shard.hidden_size * len(layers) if checkpointing else sum(layers))
    # A layer's backward holds three gradients of the feed-forward's width, and what checkpointing computed again.
    width = max(shard.hidden_size, shard.moe_intermediate_size if shard.is_moe else shard.intermediate_size)
    layer = tokens * (3 * size * width + (max(layers) if checkpointing else 0))
    head = _head_bytes(shard, size, tokens, chunked_head)
    return Estimate(
        weights=weight_bytes(config, weights, tensor_parallel),
        gradients=(matrices + others) * (size + master),
        optimizer=matrices * (matrix_moments + master) + others * (other_moments + master),
        activations=kept + max(head, layer),
        runtime=choose("device", RUNTIME_BYTES, device),
    )


def _saved_per_token(shard: ModelConfig, layer: int, size: int) -> int:
    """Bytes a token that one layer's plain torch operations keep for the backward pass."""
    D, F, E = shard.hidden_size, shard.intermediate_size, shard.num_experts
    H, K, d = shard.num_attention_heads, shard.num_key_value_heads, shard.head_dim
    # A norm keeps its input in float32 and the normalised values; what it feeds keeps its output.
    norm = 4 + size
    attention = D * (norm + size) + H * d * (norm + 3 * size) + K * d * (norm + 2 * size) + 8 * H + 4 * K
    if not shard.is_sparse_layer(layer):
        return attention + D * (norm + size) + size * 4 * F
    # Each chosen expert keeps its input, output and weighted output beside the four feed-forward values.
    expert = size * (3 * D + 4 * shard.moe_intermediate_size)
    return attention + D * (norm + size) + 4 * E + shard.num_experts_per_tok * expert


def _head_bytes(shard: ModelConfig, size: int, tokens: int, is_chunked: bool) -> int:
    """The most that the loss holds at once beside its matrix's sum of gradients so far: the addend, and logits."""
    matrix, logits = shard.vocab_size * shard.hidden_size, tokens * shard.vocab_size
    if not is_chunked:
        # float32 logits, their softmax and gradient.
        return size * matrix + 12 * logits
    # Narrow logits stand beside float32 ones.
    buffers = min(HEAD_BUFFER_BYTES, 4 * logits) * (4 + size % 4) // 4
    if size == 4 or 4 * logits <= HEAD_BUFFER_BYTES:
        return size * matrix + buffers
    # Several chunks' sum is float32: each adds a block of rows, narrow and as float32; a narrow copy comes in the end.
    block = min(HEAD_ROW_BLOCK, shard.vocab_size) * shard.hidden_size
    return 4 * matrix + max(buffers + (size + 4) * block, size * matrix)


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} {number!r} is not a positive whole number")


def _activation_size(weights: str | Format) -> int:
    """Bytes of one activation: float32 and packed weights compute in float32, all others in 16 bits."""
    return 4 if find_format(weights) in (FORMATS["fp32"], FORMATS["int8"], FORMATS["int4"]) else 2
