"""Drift between versions against torch's own arithmetic, over formats of storage, and what else changed."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen3.checkpoint import drift
from qwen3.checkpoint.safetensors import CheckpointError


@pytest.fixture
def changed(tiny_checkpoint, tmp_path):
    """The tiny model with noise on two tensors."""
    directory = tmp_path / "after"
    shutil.copytree(tiny_checkpoint, directory)
    tensors = load_file(directory / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, size in (("model.layers.1.mlp.up_proj.weight", 0.5), ("model.norm.weight", 0.01)):
        tensors[name] = tensors[name] + size * torch.randn(tensors[name].shape, generator=generator)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


def test_figures_are_torchs_and_the_most_changed_comes_first(tiny_checkpoint, changed, monkeypatch):
    monkeypatch.setattr(drift, "PIECE", 100)
    found = drift.compare(tiny_checkpoint, changed)
    before, after = load_file(tiny_checkpoint / "model.safetensors"), load_file(changed / "model.safetensors")
    assert {each.name for each in found.drifts} == before.keys()
    assert [each.name for each in found.drifts[:2]] == ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    assert sum(each.largest > 0 for each in found.drifts) == 2
    for each in found.drifts:
        a, b = before[each.name].double().flatten(), after[each.name].double().flatten()
        assert each.relative == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-9)
        assert each.largest == pytest.approx(float((b - a).abs().max()), rel=1e-9)
        assert each.cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(a, b, dim=0)), abs=1e-9)
    a, b = (torch.cat([tensors[name].double().flatten() for name in before]) for tensors in (before, after))
    assert found.total == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-9)
    assert not found.is_same
    assert drift.compare(changed, changed).is_same


def test_a_training_checkpoint_in_shards_equals_the_model_whole(tiny_checkpoint, tmp_path):
    tensors = load_file(tiny_checkpoint / "model.safetensors")
    for rank, part in enumerate((slice(0, 3), slice(3, None))):
        shard = {f"parameter.{name}": value[part].clone() for name, value in tensors.items()}
        shard |= {f"exp_avg.{name}": value[part].clone() for name, value in tensors.items()}
        places = {name: {"saved_offsets": [part.start] + [0] * (value.ndim - 1)} for name, value in shard.items()}
        save_file(shard, tmp_path / f"shard-{rank}.safetensors", {"DCP_SHARDING_INFO": json.dumps(places)})
    found = drift.compare(tiny_checkpoint, tmp_path)
    assert not any(each.largest for each in found.drifts)
    assert (found.only_before, found.only_after, found.reshaped) == ((), (), ())
    (tmp_path / "shard-0.safetensors").unlink()
    with pytest.raises(CheckpointError, match="rows from 3 here, but 0 come before"):
        drift.compare(tiny_checkpoint, tmp_path)


def test_bfloat16_is_read_exactly(tiny_checkpoint, tmp_path):
    tensors = {name: value.bfloat16() for name, value in load_file(tiny_checkpoint / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (wide := tmp_path / "wide").mkdir()
    save_file({name: value.float() for name, value in tensors.items()}, wide / "model.safetensors")
    assert not any(each.largest for each in drift.compare(tmp_path, wide).drifts)
    rounded = drift.compare(tiny_checkpoint, tmp_path)
    assert 0 < rounded.total < 2**-8


def test_what_is_not_a_tensor(tiny_checkpoint, changed):
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "rope_theta": 5e6, "transformers_version": "9"}))
    tokenizer = json.loads((changed / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 320, "content": "<|new|>"})
    (changed / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((changed / "tokenizer_config.json").read_text())
    (changed / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": "{{ messages }}"}))
    found = {what: (old, new) for what, old, new in drift.compare(tiny_checkpoint, changed).files}
    assert found["config.json: rope_theta"][1] == "5000000.0"
    old, new = (int(text.split()[-2]) for text in found["tokenizer.json"])
    assert new == old + 1
    assert "chat template" in found
    assert not any("transformers_version" in what for what in found)


def test_other_tensors_and_shapes_are_named(tiny_checkpoint, changed):
    tensors = load_file(changed / "model.safetensors")
    tensors["extra"] = torch.zeros(2)
    tensors["model.norm.weight"] = torch.zeros(7)
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, changed / "model.safetensors")
    found = drift.compare(tiny_checkpoint, changed)
    assert found.only_after == ("extra",)
    assert found.only_before == ("model.embed_tokens.weight",)
    assert found.reshaped == ("model.norm.weight",)
