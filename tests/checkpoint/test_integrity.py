"""Integrity: one flipped byte is found and named; digests are those of sha256sum; the lineage is a chain."""

import hashlib
import json
import shutil
import subprocess

import numpy as np
import pytest
from safetensors.numpy import save_file

from qwen3.checkpoint import integrity
from qwen3.checkpoint.safetensors import CheckpointError


def checkpoint(run, step, parent=None):
    """A training checkpoint in two files, as the trainer writes it."""
    directory = run / f"step_{step}"
    directory.mkdir(parents=True)
    rng = np.random.default_rng(step)
    for number in (1, 2):
        save_file({f"parameter.{number}": rng.random((4, 5), np.float32)}, directory / f"shard-{number}.safetensors")
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.glob("*.safetensors")}
    manifest = {"step": step, "recipe": "r" * 64, "commit": "c" * 40, "parent": parent, "files": files}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return hashlib.sha256((directory / "manifest.json").read_bytes()).hexdigest()


def flip(path, at=-1):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.fixture
def run(tmp_path):
    digest = checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 10, digest)
    return tmp_path


def faults(directory):
    return {each.file: each.fault for each in integrity.verify(directory) if each.fault}


@pytest.mark.parametrize("at", [0, 20, 150, -1])
def test_one_flipped_byte_anywhere_is_found_and_named(run, at):
    assert [directory.name for directory in integrity.checkpoints(run)] == ["step_2", "step_10"]
    assert faults(run / "step_10") == {}
    flip(run / "step_10" / "shard-2.safetensors", at)
    assert list(faults(run / "step_10")) == ["shard-2.safetensors"]
    assert faults(run / "step_2") == {}


def test_a_missing_file_is_named(run):
    (run / "step_2" / "shard-1.safetensors").unlink()
    assert "missing" in faults(run / "step_2")["shard-1.safetensors"]


def test_a_model_without_digests_is_unknown_until_they_are_recorded(tiny_checkpoint, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    assert [(each.file, each.source) for each in integrity.verify(model)] == [("model.safetensors", "")]
    integrity.record(model)
    assert {each.source for each in integrity.verify(model)} == {"SHA256SUMS"}
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=model, check=False).returncode == 0
    flip(model / "tokenizer.json")
    assert list(faults(model)) == ["tokenizer.json"]
    assert subprocess.run(check, cwd=model, check=False, capture_output=True).returncode == 1


def test_a_damaged_file_is_not_certified_by_recording_again(run, tiny_checkpoint, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    integrity.record(model)
    flip(model / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"SHA256SUMS is there already: .* or delete it to record anew"):
        integrity.record(model)
    assert list(faults(model)) == ["model.safetensors"]
    (model / "SHA256SUMS").unlink()
    integrity.record(model)
    assert faults(model) == {}
    flip(run / "step_2" / "shard-1.safetensors")
    with pytest.raises(CheckpointError, match=r"has digests, in manifest\.json"):
        integrity.record(run / "step_2")
    assert list(faults(run / "step_2")) == ["shard-1.safetensors"]


def test_the_hub_caches_names_are_digests(tmp_path):
    save_file({"x": np.ones(3, np.float32)}, tmp_path / "x")
    digest = hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()
    (tmp_path / "x").rename(tmp_path / digest)
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / digest)
    assert faults(tmp_path / "snapshot") == {}
    flip(tmp_path / digest)
    assert list(faults(tmp_path / "snapshot")) == ["model.safetensors"]
    with pytest.raises(CheckpointError, match="the hub's names"):
        integrity.record(tmp_path / "snapshot")


def test_the_lineage_is_a_chain_of_manifests(run):
    first, second = integrity.lineage(run)
    assert (first.step, second.step) == (2, 10)
    assert integrity.is_child(second, first)
    flip(run / "step_2" / "manifest.json", 12)
    with pytest.raises(CheckpointError):
        integrity.lineage(run)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"step": 1, "files": {"../x": "%s"}}' % ("a" * 64), r"files\.\.\./x"),
        ('{"step": 1, "files": {"x": "short"}}', r"files\.x"),
        ('{"files": {}}', "no step"),
        ("[]", "manifest.json"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path, text, named):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=named):
        integrity.verify(tmp_path)
