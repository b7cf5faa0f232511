"""The memory calculator against published figures, real allocations and its own promises."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3.config import ModelConfig
from qwen3.engine.engine import GPU_CHUNK, TORCH_CHUNK
from qwen3.memory import (
    CHUNKS,
    FORMATS,
    HEAD_BUFFER_BYTES,
    HEAD_ROW_BLOCK,
    KV_FORMATS,
    MAX_CONTEXT,
    OPTIMIZERS,
    estimate,
    estimate_training,
    longest_context,
    model_weights,
    weight_bytes,
    what_fits,
)
from qwen3.model import CausalAttend, Qwen3
from qwen3.model.transforms import PACKINGS, quantize_weights
from qwen3.ops import PackedVector
from qwen3.ops.cross_entropy import BUFFER_BYTES, ROW_BLOCK
from qwen3.presets import PRESETS

GIB = 2**30
QWEN3_4B = PRESETS["Qwen3-4B"]
TINY = {
    "dense": ModelConfig("qwen3", 500, 64, 160, 3, 4, 2, head_dim=32, tie_word_embeddings=True),
    "untied": ModelConfig("qwen3", 500, 64, 160, 2, 4, 4, head_dim=16),
    "sparse": ModelConfig(
        "qwen3_moe", 500, 64, 160, 3, 4, 2, head_dim=32, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=48
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_weights_add_up_to_the_models_parameters(name):
    config = PRESETS[name]
    assert sum(weight.num_parameters for weight in model_weights(config)) == config.num_parameters
    assert weight_bytes(config, "fp32") == 4 * config.num_parameters


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("weights", PACKINGS)
def test_packed_weights_have_the_bytes_that_packing_gives(name, weights):
    config = TINY[name]
    model = Qwen3(replace(config, vocab_size=512, moe_intermediate_size=64 if config.is_moe else 0))
    model.initialise(seed=0)
    quantize_weights(model, PACKINGS[weights].bits)
    held = [module.weight for module in model.modules() if hasattr(module, "weight")]
    sizes = [weight.values.nbytes if isinstance(weight, PackedVector) else weight.nbytes for weight in held]
    assert weight_bytes(model.config, weights) == sum(sizes)


@pytest.mark.parametrize("name", TINY)
def test_weights_are_the_shapes_of_the_models_tensors(name):
    tensors = Qwen3(TINY[name]).parameters()
    counted = [(w.rows, w.columns) for w in model_weights(TINY[name]) for _ in range(w.count)]
    assert sorted(counted) == sorted((1, *p.shape) if p.ndim == 1 else tuple(p.shape) for p in tensors)


def test_published_sizes_in_bf16():
    figures = estimate(QWEN3_4B, weights="bf16", kv="bf16", context=131_072)
    assert figures.weights / GIB == pytest.approx(7.49, abs=0.005)
    assert figures.kv_cache == 18 * GIB


@pytest.mark.parametrize(
    ("model", "weights", "gigabytes"),
    [
        ("Qwen3-4B", "gguf-bf16", 8.05),
        ("Qwen3-4B", "q8_0", 4.28),
        ("Qwen3-4B", "q6_k", 3.31),
        ("Qwen3-4B", "q5_k_m", 2.89),
        ("Qwen3-4B", "q5_0", 2.82),
        ("Qwen3-4B", "q4_k_m", 2.50),
        ("Qwen3-4B", "q4_0", 2.38),
        ("Qwen3-8B", "q4_k_m", 5.03),
        ("Qwen3-30B-A3B", "q4_k_m", 18.56),
        ("Qwen3-4B", "awq", 2.67),
    ],
)
def test_published_file_sizes(model, weights, gigabytes):
    """Files also hold the tokenizer, 6 MB in a GGUF."""
    assert weight_bytes(PRESETS[model], weights) / 1e9 == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q4_K", "Q5_K", "Q6_K"])
def test_block_sizes_are_those_of_the_gguf_package(name):
    gguf = pytest.importorskip("gguf")
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    stored_as = f"gguf-{name.lower()}" if name.endswith("F16") else name.lower()
    rows, columns = 7, 512
    assert FORMATS[stored_as].matrices.num_bytes(rows, columns) == rows * columns // values * size


def test_rows_that_do_not_fill_blocks_fall_back_to_smaller_ones():
    config = replace(QWEN3_4B, hidden_size=2560 + 32)
    down, gate = config.intermediate_size * config.hidden_size, config.intermediate_size * config.hidden_size
    without = replace(config, num_hidden_layers=35)
    layer = weight_bytes(config, "q6_k") - weight_bytes(without, "q6_k")
    attention_in, attention_out = config.hidden_size * (4096 + 2 * 1024), 4096 * config.hidden_size
    q8, q6 = 34 / 32, 210 / 256
    norms = 4 * (2 * config.hidden_size + 2 * 128)
    assert layer == (2 * gate + attention_in) * q8 + (down + attention_out) * q6 + norms


def test_fp8_keeps_embedding_norms_and_router_in_16_bits():
    config = PRESETS["Qwen3-30B-A3B"]
    kept = sum(w.num_parameters for w in model_weights(config) if w.role in ("embedding", "head", "norm", "router"))
    packed = config.num_parameters - kept
    assert weight_bytes(config, "fp8") == 2 * kept + packed + 2 * packed // 128**2


def test_untied_embedding_is_quantized_on_request():
    config = PRESETS["Qwen3-8B"]
    int4 = FORMATS["int4-g128"]
    saved = weight_bytes(config, int4) - weight_bytes(config, replace(int4, embedding=int4.head))
    assert saved == config.vocab_size * config.hidden_size * (2 - 66 / 128)


@pytest.mark.parametrize(
    ("kv", "bytes_of_one_head"), [("fp32", 512), ("bf16", 256), ("fp8", 128), ("int8", 132), ("int4", 68)]
)
def test_cache_bytes(kv, bytes_of_one_head):
    figures = estimate(QWEN3_4B, kv=kv, context=1000, batch=3)
    assert figures.kv_cache == 3 * 1000 * 36 * 2 * 8 * bytes_of_one_head


@pytest.mark.parametrize("name", ["Qwen3-4B", "Qwen3-30B-A3B"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_everything_but_norms_and_routers(name, ranks):
    config = PRESETS[name]
    replicated = sum(2 * w.num_parameters for w in model_weights(config) if w.role in ("norm", "router"))
    whole, one = (weight_bytes(config, "bf16", tensor_parallel=n) for n in (1, ranks))
    assert ranks * one == whole + (ranks - 1) * replicated


def test_key_value_heads_are_repeated_on_more_ranks_than_heads():
    caches = [estimate(QWEN3_4B, context=4096, tensor_parallel=ranks).kv_cache for ranks in (1, 8, 16, 32)]
    assert caches == [caches[0], caches[0] // 8, caches[0] // 8, caches[0] // 8]


@settings(max_examples=60)
@given(
    name=st.sampled_from(list(PRESETS)),
    weights=st.sampled_from(list(FORMATS)),
    kv=st.sampled_from(list(KV_FORMATS)),
    batch=st.integers(1, 64),
    chunk=st.integers(1, 8192),
    ranks=st.sampled_from([1, 2, 4, 8, 16]),
    device=st.sampled_from(["cpu", "cuda"]),
    budget=st.integers(0, 200 * GIB),
)
def test_longest_context_is_the_last_that_fits(name, weights, kv, batch, chunk, ranks, device, budget):
    options = {
        "weights": weights,
        "kv": kv,
        "batch": batch,
        "chunk": chunk,
        "tensor_parallel": ranks,
        "device": device,
    }
    longest = longest_context(PRESETS[name], budget, **options)
    assert 0 <= longest <= MAX_CONTEXT
    if longest > 0:
        assert estimate(PRESETS[name], context=longest, **options).total <= budget
    if longest < MAX_CONTEXT:
        assert estimate(PRESETS[name], context=longest + 1, **options).total > budget


def test_what_fits_asks_every_machine_for_its_own_memory():
    fitting = what_fits(QWEN3_4B, weights="q4_k_m")
    by_name = {machine.name: (machine, longest) for machine, longest in fitting.items()}
    card, longest = by_name["RTX 4090 24 GB"]
    assert longest == longest_context(QWEN3_4B, card.usable_bytes, weights="q4_k_m", device="cuda") > 131_072
    assert by_name["laptop 8 GB"][1] > 0
    assert what_fits(QWEN3_4B, weights="fp32")[by_name["RTX 3060 12 GB"][0]] == 0


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"weights": "q9"}, "q4_k_m"),
        ({"kv": "q9"}, "int8"),
        ({"device": "tpu"}, "cuda"),
        ({"tensor_parallel": 3}, "1, 2, 4, 8, 16, 32"),
        ({"tensor_parallel": 0}, "1, 2, 4"),
        ({"context": 0}, "context"),
        ({"batch": 1.5}, "batch"),
        ({"chunk": -1}, "chunk"),
    ],
)
def test_bad_arguments_name_the_choices(wrong, named):
    with pytest.raises(ValueError, match=named):
        estimate(QWEN3_4B, **{"context": 1024} | wrong)


@pytest.mark.parametrize(("wrong", "named"), [({"weights": "q8_0"}, "bf16"), ({"optimizer": "sgd"}, "muon")])
def test_bad_training_arguments_name_the_choices(wrong, named):
    with pytest.raises(ValueError, match=named):
        estimate_training(QWEN3_4B, **wrong)


def test_default_chunks_are_the_engines():
    assert {"cpu": TORCH_CHUNK, "cuda": GPU_CHUNK} == CHUNKS


def test_the_heads_buffer_and_block_are_the_trainers():
    assert (HEAD_BUFFER_BYTES, HEAD_ROW_BLOCK) == (BUFFER_BYTES, ROW_BLOCK)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", TINY)
def test_training_counts_what_autograd_keeps(name, dtype, recompute):
    """Between two depths, so that what does not belong to a layer drops out."""
    tokens = 96

    def kept(num_layers: int) -> tuple[int, int]:
        config = replace(TINY[name], num_hidden_layers=num_layers)
        saved = saved_for_backward(config, dtype, tokens, recompute)
        options = {"weights": dtype, "context": tokens, "checkpointing": recompute}
        return saved, estimate_training(config, **options).activations

    (saved_3, estimated_3), (saved_9, estimated_9) = kept(3), kept(9)
    assert estimated_9 - estimated_3 == pytest.approx(saved_9 - saved_3, rel=0.02)


def saved_for_backward(config: ModelConfig, dtype: str, tokens: int, recompute: bool) -> int:
    """Bytes of the storages that a forward pass keeps, parameters left out."""
    model = Qwen3(config)
    model.initialise(0)
    model.to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    own = {parameter.data_ptr() for parameter in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        positions = torch.arange(tokens)
        model(positions % config.vocab_size, positions, CausalAttend([tokens]), recompute=recompute)
    return sum(storage.nbytes() for storage in storages.values())


def test_optimizers_moments_and_master_copies():
    def per_parameter(optimizer: str, weights: str) -> float:
        return estimate_training(QWEN3_4B, optimizer=optimizer, weights=weights).optimizer / QWEN3_4B.num_parameters

    assert per_parameter("adamw", "fp32") == 8
    assert per_parameter("adamw", "bf16") == 12
    assert per_parameter("adamw-bf16", "bf16") == 4
    assert 4 < per_parameter("muon", "fp32") < 5
    assert set(OPTIMIZERS) == {"adamw", "adamw-bf16", "muon"}


def test_naive_head_costs_its_logits():
    chunked, naive = (estimate_training(QWEN3_4B, context=32_768, chunked_head=is_) for is_ in (True, False))
    assert naive.activations - chunked.activations > 30_000 * QWEN3_4B.vocab_size * 12 - 4 * GIB


@pytest.mark.skipif(sys.platform == "win32", reason="no resident-memory peak to read")
def test_estimate_is_within_five_percent_of_a_process_peak():
    """A model of 300 MB in a fresh process; the process's own part is measured there, not taken from the table."""
    file = Path(__file__).parents[1] / "benchmarks" / "memory.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_memory", file)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    figures, measured = benchmark.compare(benchmark.SMALL, "bf16", 32, 2)
    own = figures.total - figures.runtime
    assert own > 300e6
    # What kernels set up on first use is the rest of the runtime line.
    first_use = figures.runtime - 220 * 2**20
    assert own + measured["baseline"] + first_use == pytest.approx(measured["peak"], rel=0.05)
