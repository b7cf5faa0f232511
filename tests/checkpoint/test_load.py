"""Directories between this package and transformers, in every form; and what loading costs."""

import json
import logging
import math
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers_models import YARN, reference_pair

from qwen3.checkpoint.generation_config import load_generation_config
from qwen3.checkpoint.load import load_model, save_model
from qwen3.checkpoint.names import expected_tensors
from qwen3.checkpoint.safetensors import CheckpointError
from qwen3.config import ModelConfig
from qwen3.model import CausalAttend, Qwen3

TOKENS = torch.arange(24) * 7 % 320
KINDS = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "yarn": {"rope_parameters": YARN},
    "moe": {"moe": True, "tie_word_embeddings": False},
    "moe in part": {"moe": True, "mlp_only_layers": [1], "eos_token_id": [7, 9]},
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@torch.no_grad()
def logits(model) -> torch.Tensor:
    if isinstance(model, Qwen3):
        return model.logits(model(TOKENS, torch.arange(len(TOKENS)), CausalAttend([len(TOKENS)])))
    return model(TOKENS[None]).logits[0]


def max_difference(ours: Qwen3, theirs) -> float:
    return (logits(ours) - logits(theirs)).abs().max().item()


@contextmanager
def silence():
    """Fail on any warning, issued or logged by transformers."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in records] == []


def transformers_load(directory: Path, **options):
    """transformers' model of a directory, which must leave it nothing to remark on."""
    with silence():
        model, remarks = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, **options)
    assert not any(remarks.values()), remarks
    return model.eval()


@pytest.fixture(scope="module")
def pairs():
    return {kind: reference_pair(**keys) for kind, keys in KINDS.items()}


# ---- Theirs to ours -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_size", ["5GB", "60KB"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_that_transformers_saved_gives_its_logits(tmp_path, pairs, kind, shard_size):
    theirs, _ = pairs[kind]
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "60KB")
    ours = load_model(tmp_path)
    assert max_difference(ours, theirs) <= 5e-5


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("wanted", DTYPES)
def test_every_stored_dtype_becomes_every_wanted_one(tmp_path, pairs, stored, wanted):
    _, ours = pairs["untied"]
    parameters = {name: tensor.detach().to(DTYPES[stored]) for name, tensor in ours.named_parameters()}
    save_file(parameters, tmp_path / "model.safetensors")
    replace(ours.config, dtype=stored).save(tmp_path)
    loaded = load_model(tmp_path, dtype=wanted)
    assert loaded.config.dtype == wanted
    for name, tensor in loaded.named_parameters():
        assert torch.equal(tensor, parameters[name].to(DTYPES[wanted])), name
    assert load_model(tmp_path).head_weight.dtype == load_model(tmp_path, dtype=DTYPES[stored]).head_weight.dtype


def test_stacked_experts_are_taken_apart(tmp_path, pairs):
    theirs, _ = pairs["moe in part"]
    theirs.save_pretrained(tmp_path, save_original_format=False)
    assert "model.layers.0.mlp.experts.gate_up_proj" in load_file(tmp_path / "model.safetensors")
    assert max_difference(load_model(tmp_path), theirs) <= 5e-5


def test_experts_stored_both_ways_are_refused(tmp_path, pairs):
    theirs, _ = pairs["moe"]
    theirs.save_pretrained(tmp_path, save_original_format=False)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.experts.3.down_proj.weight"
    tensors[name] = tensors["model.layers.0.mlp.experts.down_proj"][3].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"'{name}' is stored twice"):
        load_model(tmp_path)


def test_a_stack_of_the_wrong_number_of_experts_is_named(tmp_path, pairs):
    theirs, _ = pairs["moe"]
    theirs.save_pretrained(tmp_path, save_original_format=False)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_local_experts": 4}))
    with pytest.raises(
        CheckpointError, match=r"36 missing .*experts.0.gate_proj.* 6 unexpected .*experts.gate_up_proj"
    ):
        load_model(tmp_path)


def test_a_loaded_model_is_for_inference(tmp_path, pairs):
    save_model(pairs["tied"][1], tmp_path)
    loaded = load_model(tmp_path)
    assert not loaded.training
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in loaded.parameters())


def test_a_loaded_model_outlives_its_files(tmp_path, pairs):
    save_model(pairs["tied"][1], tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    before = logits(loaded)
    save_model(pairs["untied"][1], tmp_path / "model", overwrite=True)
    (tmp_path / "model" / "model.safetensors").unlink()
    assert torch.equal(logits(loaded), before)


def test_training_a_loaded_model_never_writes_to_its_files(tmp_path, pairs):
    save_model(pairs["tied"][1], tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    for parameter in load_model(tmp_path).parameters():
        parameter.zero_()
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("padding", range(4))
def test_tensors_at_odd_places_are_read_all_the_same(tmp_path, pairs, padding):
    """The format does not promise that data begins at a multiple of its element's size."""
    _, ours = pairs["tied"]
    save_model(ours, tmp_path)
    file = tmp_path / "model.safetensors"
    raw = file.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    file.write_bytes((end - 8 + padding).to_bytes(8, "little") + raw[8:end] + b" " * padding + raw[end:])
    assert torch.equal(logits(load_model(tmp_path)), logits(ours))


def test_values_beyond_float16_are_refused_by_name(tmp_path, pairs):
    _, ours = pairs["tied"]
    parameters = {name: tensor.detach().clone() for name, tensor in ours.named_parameters()}
    parameters["model.layers.1.mlp.up_proj.weight"][3, 4] = 70_000.0
    save_file(parameters, tmp_path / "model.safetensors")
    ours.config.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"model.layers.1.mlp.up_proj.weight holds values beyond float16"):
        load_model(tmp_path, dtype="float16")
    load_model(tmp_path, dtype="bfloat16")


def test_an_unknown_dtype_is_refused(tmp_path, pairs):
    save_model(pairs["tied"][1], tmp_path)
    with pytest.raises(CheckpointError, match="dtype 'int8' is not supported: use float32"):
        load_model(tmp_path, dtype="int8")


def test_progress_counts_every_byte_once(tmp_path, pairs):
    _, ours = pairs["untied"]
    save_model(ours, tmp_path)
    calls = []
    load_model(tmp_path, progress=lambda done, total: calls.append((done, total)))
    num_bytes = 4 * ours.config.num_parameters
    assert calls[-1] == (num_bytes, num_bytes)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from Linux' /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_peak_of_memory_is_the_model_and_a_few_chunks(tmp_path, dtype):
    config = ModelConfig.from_dict(
        {"model_type": "qwen3", "vocab_size": 20_000, "hidden_size": 512, "intermediate_size": 1024}
        | {"num_hidden_layers": 12, "num_attention_heads": 4, "tie_word_embeddings": True}
    )
    config.save(tmp_path)
    header, end = {}, 0
    for name, shape in expected_tensors(config).items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(file.tell() + end)

    def memory(field: str) -> int:
        lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines[field].split()[0]) * 1024

    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    model = load_model(tmp_path, dtype=dtype)
    peak = memory("VmHWM") - before
    size = DTYPES[dtype].itemsize
    num_bytes = size * model.config.num_parameters
    # No lower bound: what earlier tests freed may be used again.
    assert peak < num_bytes + size * config.num_embedding_parameters


# ---- Ours to theirs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_directory_loads_in_transformers_without_a_remark(tmp_path, pairs, kind, dtype):
    theirs, ours = pairs[kind]
    save_model(ours, tmp_path / "model", dtype=dtype, generation_config={"temperature": 0.6, "do_sample": True})
    loaded = transformers_load(tmp_path / "model", dtype="auto")
    assert loaded.dtype == DTYPES[dtype]
    if dtype == "float32":
        assert torch.equal(logits(loaded), logits(theirs))
        assert max_difference(load_model(tmp_path / "model"), theirs) <= 5e-5


@pytest.mark.parametrize("kind", ["tied", "moe"])
def test_shards_load_in_transformers_and_here(tmp_path, pairs, kind):
    theirs, ours = pairs[kind]
    save_model(ours, tmp_path / "model", max_shard_bytes=100_000)
    shards = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(shards) > 2
    # A header is small beside the bound; only a tensor that is itself larger may exceed it.
    assert all(len(load_file(shard)) == 1 or shard.stat().st_size < 105_000 for shard in shards)
    # Where the weights lie in a mapped file they may be aligned otherwise, for which libraries can take other paths.
    for loaded, saved in ((transformers_load(tmp_path / "model"), theirs), (load_model(tmp_path / "model"), ours)):
        assert_same_weights(loaded, saved)
        torch.testing.assert_close(logits(loaded), logits(saved), rtol=0, atol=1e-5)


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    ours, theirs = dict(first.named_parameters()), dict(second.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 100_000])
def test_a_loaded_model_is_saved_again_byte_for_byte(tmp_path, pairs, max_shard_bytes):
    save_model(pairs["moe"][1], tmp_path / "first", max_shard_bytes=max_shard_bytes)
    save_model(load_model(tmp_path / "first"), tmp_path / "second", max_shard_bytes=max_shard_bytes)
    first, second = ({f.name: f.read_bytes() for f in (tmp_path / d).iterdir()} for d in ("first", "second"))
    assert first == second


def test_a_tied_head_is_written_once(tmp_path, pairs):
    save_model(pairs["tied"][1], tmp_path / "tied")
    save_model(pairs["untied"][1], tmp_path / "untied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    assert "lm_head.weight" in load_file(tmp_path / "untied" / "model.safetensors")


def test_what_is_given_beside_the_model_is_saved_with_it(tmp_path, pairs):
    class Tokenizer:
        def save(self, directory):
            (directory / "tokenizer.json").write_text("{}")

    sampling = {"temperature": 0.6, "top_k": 20, "eos_token_id": [1, 2]}
    save_model(pairs["tied"][1], tmp_path / "model", tokenizer=Tokenizer(), generation_config=sampling)
    assert load_generation_config(tmp_path / "model") == sampling
    assert (tmp_path / "model" / "tokenizer.json").read_text() == "{}"
    modes = {file.stat().st_mode for file in (tmp_path / "model").iterdir()}
    assert len(modes) == 1


def test_saving_that_fails_leaves_nothing_behind(tmp_path, pairs):
    class Broken:
        def save(self, directory):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_model(pairs["tied"][1], tmp_path / "model", tokenizer=Broken())
    with pytest.raises(CheckpointError, match="temperature -1"):
        save_model(pairs["tied"][1], tmp_path / "model", generation_config={"temperature": -1})
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_use_is_replaced_only_on_request_and_only_if_it_is_a_checkpoint(tmp_path, pairs):
    _, tied = pairs["tied"]
    _, untied = pairs["untied"]
    save_model(tied, tmp_path / "model")
    with pytest.raises(CheckpointError, match="is not empty"):
        save_model(untied, tmp_path / "model")
    assert load_model(tmp_path / "model").config.tie_word_embeddings
    save_model(untied, tmp_path / "model", overwrite=True, max_shard_bytes=100_000)
    assert not load_model(tmp_path / "model").config.tie_word_embeddings
    assert not (tmp_path / "model" / "model.safetensors").exists()

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="is not a checkpoint, so it is not overwritten"):
        save_model(tied, tmp_path / "home", overwrite=True)
    with pytest.raises(CheckpointError, match="is a file"):
        save_model(tied, tmp_path / "home" / "thesis.txt", overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["home", "model"]


def test_a_model_that_was_transformed_is_not_saved_as_if_it_were_not(tmp_path, pairs):
    _, ours = pairs["tied"]
    other = Qwen3(replace(ours.config, num_hidden_layers=2))
    other.config = ours.config
    with pytest.raises(CheckpointError, match="are not its config's"):
        save_model(other, tmp_path / "model")
