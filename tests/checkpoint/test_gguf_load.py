"""GGUF files that run at their own precision: the numbers of the file, for every block type and any mix of them."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf_files import FIELDS, TYPES, gguf_tensors, logits, metadata_of, random_blocks, saved, write
from transformers_models import reference_pair

from qwen3 import LLM
from qwen3.checkpoint.gguf import GGUFError, GGUFFile
from qwen3.checkpoint.gguf_load import load_gguf, loaded_bytes
from qwen3.engine import loading
from qwen3.engine.request import SamplingParams
from qwen3.model.layers import RMSNorm
from qwen3.model.transforms import storage_of
from qwen3.ops import PackedWeight
from qwen3.ops.packed import REPACKED, dequantize
from qwen3.tokenizer import Tokenizer
from qwen3.weight_choice import MemoryShortageError

MODELS = {
    "dense": {},
    "experts": {"moe": True, "tie_word_embeddings": False, "moe_intermediate_size": 64},
}
# Rows of 256 for the types that need them.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8}


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint) -> Tokenizer:
    return Tokenizer.load(tiny_checkpoint)


def packed_weights(model) -> dict[str, PackedWeight]:
    weights = {name: getattr(module, "weight", None) for name, module in model.named_modules()}
    return {f"{name}.weight": each for name, each in weights.items() if isinstance(each, PackedWeight)}


def mixed_file(path, tokenizer, *, moe: bool = False) -> GGUFFile:
    """Every matrix in another type than its neighbours; the scales small, so that values stay moderate."""
    shape = WIDE | ({"moe": True, "moe_intermediate_size": 256} if moe else {}) | {"tie_word_embeddings": False}
    _, model = reference_pair(**shape)
    tensors = gguf_tensors(model)
    matrices = [name for name, values in tensors.items() if values.ndim > 1 and "gate_inp" not in name]
    for number, name in enumerate(matrices):
        type, values = TYPES[number % len(TYPES)], tensors[name]
        rows = values.reshape(-1, values.shape[-1])
        if type in ("Q4_K", "Q5_K", "Q6_K"):  # the gguf package does not quantize to them
            blocks = random_blocks(type, *rows.shape, seed=number)
            num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type]][1]
            fields = blocks.reshape(-1, num_bytes)
            for position in FIELDS[type][0]:
                fields[:, position : position + 2] = np.array([1e-4], np.float16).view(np.uint8)
        else:
            blocks = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[type]).view(np.uint8)
        tensors[name] = (type, blocks.reshape(*values.shape[:-1], -1))
    return GGUFFile(
        write(path, metadata_of(model.config, tokenizer), tensors, architecture="qwen3moe" if moe else "qwen3")
    )


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("block_type", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_matrices_keep_the_numbers_of_the_file(tmp_path, tokenizer, kind, block_type):
    _, model = reference_pair(**MODELS[kind])
    file = saved(tmp_path / "x.gguf", model, tokenizer, block_type)
    loaded, plain = load_gguf(file), dict(load_gguf(file, dtype="float32").named_parameters())
    packed = packed_weights(loaded)
    for name, weight in packed.items():
        assert weight.format == REPACKED[block_type]
        assert torch.equal(dequantize(weight), plain[name])
    rest = dict(loaded.named_parameters())
    norms = {f"{name}.weight": module for name, module in loaded.named_modules() if isinstance(module, RMSNorm)}
    rest |= {name: torch.nn.Parameter(norm.weight.values, requires_grad=False) for name, norm in norms.items()}
    assert packed.keys() | rest.keys() == plain.keys()
    assert all("norm" in name or name.endswith("mlp.gate.weight") for name in rest)
    assert all(torch.equal(parameter, plain[name]) and not parameter.requires_grad for name, parameter in rest.items())
    assert (loaded.dtype, loaded.config.dtype) == (torch.float32, "float32")
    assert loaded.has_independent_rows


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("block_type", "most"), [("F16", 1e-5), ("BF16", 1e-5), ("Q8_0", 0.03), ("Q5_1", 0.03)])
def test_logits_are_off_by_the_activations_rounding_alone(tmp_path, tokenizer, kind, block_type, most):
    _, model = reference_pair(**MODELS[kind])
    file = saved(tmp_path / "x.gguf", model, tokenizer, block_type)
    exact, ours = logits(load_gguf(file, dtype="float32")), logits(load_gguf(file))
    noise = (ours - exact).norm(dim=1) / exact.norm(dim=1)
    # The median, because at some positions a router chooses another expert.
    assert noise.median() < most


@pytest.mark.parametrize("moe", [False, True])
def test_a_file_may_mix_all_types(tmp_path, tokenizer, moe):
    file = mixed_file(tmp_path / "x.gguf", tokenizer, moe=moe)
    loaded, plain = load_gguf(file), load_gguf(file, dtype="float32")
    packed, parameters = packed_weights(loaded), dict(plain.named_parameters())
    assert {weight.format for weight in packed.values()} == set(REPACKED.values())
    for name, weight in packed.items():
        assert torch.equal(dequantize(weight), parameters[name])
    noise = (logits(loaded) - logits(plain)).norm(dim=1) / logits(plain).norm(dim=1)
    assert noise.median() < 0.05


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("block_type", ["BF16", "Q8_0", "Q4_0", "F32"])
def test_the_size_in_memory_is_known_before_loading(tmp_path, tokenizer, kind, block_type):
    _, model = reference_pair(**MODELS[kind])
    file = saved(tmp_path / "x.gguf", model, tokenizer, block_type)
    loaded = load_gguf(file)
    held = {id(each): each.nbytes for each in [*loaded.parameters(), *packed_weights(loaded).values()]}
    held |= {id(each.weight): each.weight.nbytes for each in loaded.modules() if isinstance(each, RMSNorm)}
    assert loaded_bytes(file) == sum(held.values())
    assert loaded_bytes(file, dtype="float32") == sum(
        each.nbytes for each in load_gguf(file, dtype="float32").parameters()
    )


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"weights": "int4"}])
def test_a_file_that_cannot_fit_is_refused_before_anything_is_loaded(tmp_path, tokenizer, monkeypatch, options):
    _, model = reference_pair()
    file = saved(tmp_path / "x.gguf", model, tokenizer, "Q8_0")
    monkeypatch.setattr(loading, "available_bytes", lambda: 1_000_000)
    monkeypatch.setattr(loading, "load_gguf", lambda *_, **__: pytest.fail("it loads"))
    with pytest.raises(MemoryShortageError, match=r"need 0\.\d GB, but 0\.0 GB of memory are free"):
        LLM(file.path, **options)


def test_a_tied_head_shares_the_embeddings_storage(tmp_path, tokenizer):
    _, model = reference_pair()
    loaded = load_gguf(saved(tmp_path / "x.gguf", model, tokenizer, "Q4_0"))
    assert loaded.head_weight is loaded.model.embed_tokens.weight
    assert storage_of(loaded) == "int4-g32 weights in float32"


def test_a_file_all_in_f32_stays_plain(tmp_path, tokenizer):
    _, model = reference_pair()
    loaded = load_gguf(saved(tmp_path / "x.gguf", model, tokenizer))
    assert not packed_weights(loaded)
    assert not loaded.has_independent_rows
    assert storage_of(loaded) == "float32"


def test_a_damaged_scale_is_named(tmp_path, tokenizer):
    _, model = reference_pair()
    tensors = gguf_tensors(model)
    blocks = gguf.quants.quantize(tensors["blk.1.ffn_up.weight"], gguf.GGMLQuantizationType.Q8_0)
    blocks[95, 34:36] = np.array([np.inf], np.float16).view(np.uint8)
    tensors["blk.1.ffn_up.weight"] = ("Q8_0", blocks)
    file = GGUFFile(write(tmp_path / "x.gguf", metadata_of(model.config, tokenizer), tensors))
    with pytest.raises(GGUFError, match=r"x.gguf: tensor blk.1.ffn_up.weight: a scale .* infinite or NaN"):
        load_gguf(file)


def test_rows_that_fill_no_group_are_refused_with_the_way_out(tmp_path, tokenizer):
    _, model = reference_pair(intermediate_size=80)
    file = saved(tmp_path / "x.gguf", model, tokenizer, "F16")
    with pytest.raises(GGUFError, match=r"blk.0.ffn_down.weight: .*\[64, 80\] does not divide.*dtype dequantizes"):
        load_gguf(file)
    assert load_gguf(file, dtype="float32").dtype == torch.float32


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
def test_loading_leaves_no_page_of_the_tensors_mapped(tmp_path, tokenizer):
    _, model = reference_pair(vocab_size=20_000)
    file = saved(tmp_path / "x.gguf", model, tokenizer, "Q8_0")
    load_gguf(file)
    lines = Path("/proc/self/smaps").read_text().splitlines()
    begin = next(i for i, line in enumerate(lines) if line.endswith(str(file.path)))
    resident = next(int(line.split()[1]) for line in lines[begin:] if line.startswith("Rss:")) * 1024
    header = next(iter(file.tensors.values())).offset
    assert resident <= header + 64 * 1024 < file.num_bytes


def test_answers_are_the_same_alone_and_together(tmp_path, tokenizer):
    path = mixed_file(tmp_path / "x.gguf", tokenizer).path
    llm = LLM(path)
    prompts = [list(range(1, 3 + 5 * i)) for i in range(4)]
    params = SamplingParams(temperature=1.0, seed=7, max_tokens=8)
    together = [completion.token_ids for completion in llm.generate(prompts, params)]
    assert together == [llm.generate([prompt], params)[0].token_ids for prompt in prompts]
    assert "q6_k" in llm.storage


def test_packing_anew_starts_from_plain_weights(tmp_path, tokenizer):
    _, model = reference_pair()
    llm = LLM(saved(tmp_path / "x.gguf", model, tokenizer, "Q8_0").path, weights="int4")
    assert llm.storage == "int4-g32 + int8-g32 weights in float32"
