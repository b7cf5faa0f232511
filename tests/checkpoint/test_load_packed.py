"""Directories packed while they are read: the bits of packing in memory, in little more memory than the result."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from packed_models import KINDS, assert_equal, stored
from safetensors.torch import load_file, save_file
from transformers_models import reference_pair

from qwen3.checkpoint import load as load_module
from qwen3.checkpoint.load import load_model, save_model
from qwen3.checkpoint.names import expected_tensors
from qwen3.checkpoint.safetensors import CheckpointError
from qwen3.config import ModelConfig
from qwen3.model.transforms import PACKINGS, Packing, quantize_weights

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def models():
    return {kind: reference_pair(**keys)[1] for kind, keys in KINDS.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("weights", PACKINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_packing_while_reading_gives_the_bits_of_packing_in_memory(tmp_path, models, monkeypatch, kind, weights, dtype):
    monkeypatch.setattr(load_module, "_CHUNK_BYTES", 10_000)  # several pieces a matrix
    save_model(models[kind], tmp_path, dtype=dtype, max_shard_bytes=200_000)
    expected = load_model(tmp_path)
    quantize_weights(expected, PACKINGS[weights].bits)
    actual = load_model(tmp_path, packing=PACKINGS[weights])
    assert actual.config.dtype == "float32"
    assert_equal(actual, expected)


@pytest.mark.parametrize("padding", [1, 2])
def test_tensors_at_odd_places_are_packed_all_the_same(tmp_path, models, padding):
    save_model(models["tied"], tmp_path)
    expected = load_model(tmp_path, packing=Packing(4))
    file = tmp_path / "model.safetensors"
    raw = file.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    file.write_bytes((end - 8 + padding).to_bytes(8, "little") + raw[8:end] + b" " * padding + raw[end:])
    assert_equal(load_model(tmp_path, packing=Packing(4)), expected)


def test_what_the_file_holds_is_packed_not_what_the_config_says(tmp_path, models):
    save_model(models["tied"], tmp_path, dtype="float32")
    expected = load_model(tmp_path, packing=Packing(8))
    replace(models["tied"].config, dtype="bfloat16").save(tmp_path)
    assert_equal(load_model(tmp_path, packing=Packing(8)), expected)


@pytest.mark.parametrize("value", [math.inf, math.nan, 3e9])
def test_a_value_without_a_scale_is_refused_with_its_tensors_name(tmp_path, models, value):
    save_model(models["tied"], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[UP][-1, -1] = value
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"model.safetensors: tensor {UP}: .* infinite, NaN, or too large"):
        load_model(tmp_path, packing=Packing(4))


def test_columns_that_do_not_divide_into_groups_are_refused_with_their_tensors_name(tmp_path):
    _, model = reference_pair(intermediate_size=80)
    save_model(model, tmp_path)
    with pytest.raises(CheckpointError, match=r"tensor model.layers.0.mlp.down_proj.weight: .* blocks of 32"):
        load_model(tmp_path, packing=Packing(4))


def test_a_stored_head_that_differs_from_its_tied_embedding_is_refused(tmp_path, models):
    save_model(models["tied"], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    load_model(tmp_path, packing=Packing(4))
    tensors["lm_head.weight"][3, 3] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs"):
        load_model(tmp_path, packing=Packing(4))


def test_a_dtype_beside_a_packing_is_refused(tmp_path, models):
    save_model(models["tied"], tmp_path)
    for options in ({"dtype": "bfloat16"}, {"device": "cuda"}):
        with pytest.raises(CheckpointError, match="packed weights are for the CPU"):
            load_model(tmp_path, packing=Packing(4), **options)


def test_progress_counts_the_files_bytes(tmp_path, models):
    save_model(models["untied"], tmp_path)
    calls = []
    load_model(tmp_path, packing=Packing(4), progress=lambda done, total: calls.append((done, total)))
    num_bytes = 4 * models["untied"].config.num_parameters
    assert calls[-1] == (num_bytes, num_bytes)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_the_packed_model_needs_nothing_of_its_files(tmp_path, models):
    save_model(models["tied"], tmp_path)
    loaded = load_model(tmp_path, packing=Packing(4))
    expected = load_model(tmp_path, packing=Packing(4))
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    assert_equal(loaded, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from Linux' /proc")
def test_the_peak_of_memory_is_the_packed_model_and_a_few_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(load_module, "_CHUNK_BYTES", 1 << 20)
    config = ModelConfig.from_dict(
        {"model_type": "qwen3", "vocab_size": 40_000, "hidden_size": 1024, "intermediate_size": 2048}
        | {"num_hidden_layers": 12, "num_attention_heads": 8, "tie_word_embeddings": True}
    )
    config.save(tmp_path)
    header, end = {}, 0
    for name, shape in expected_tensors(config).items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(file.tell() + end)

    def memory(field: str) -> int:
        lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines[field].split()[0]) * 1024

    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    model = load_model(tmp_path, packing=Packing(4))
    peak = memory("VmHWM") - before
    result = sum(weight.nbytes for weight in stored(model).values())
    assert result < 0.35 * end  # 4.5 bits of 16, the head in 6.6
    # Besides chunks: modules that loading imports, the rest of the last huge pages.
    assert peak < result + 32_000_000
