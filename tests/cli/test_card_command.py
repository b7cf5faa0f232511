"""`qwen3 card` and `qwen3 ckpt`: what they print, and the code that they end with."""

import json
import shutil

import pytest
from ledgers import begin, work
from safetensors.numpy import load_file, save_file

from qwen3.checkpoint import hub
from qwen3.checkpoint.safetensors import CheckpointError


@pytest.fixture
def model(tiny_checkpoint, tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, directory)
    return directory


def test_card_in_all_forms(qwen3, tmp_path):
    book = begin(tmp_path, 0)
    work(book, 0, 2)
    book.close()
    assert qwen3("card", tmp_path).stdout.startswith("# Model card: tiny\n")
    assert qwen3("card", tmp_path, "--html").stdout.startswith("<!doctype html>")
    assert json.loads(qwen3("card", tmp_path, "--json").stdout)["sections"][1]["title"] == "Compute"
    assert "## Training curve" not in qwen3("card", tmp_path).stdout
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    assert qwen3("card", tmp_path, "--out", tmp_path / "card.md").exit_code == 0
    assert "(card-loss.svg)" in (tmp_path / "card.md").read_text()
    assert (tmp_path / "card-loss.svg").read_text().startswith("<svg")
    result = qwen3("card", tmp_path, "--grid", "50")
    assert result.exit_code == 1
    assert "--grid-source" in result.stderr


def test_a_record_goes_into_a_model_and_nowhere_else(qwen3, model, tmp_path):
    book = begin(tmp_path, 0)
    work(book, 0, 2)
    book.close()
    (model / "training.json").write_text('{"Compute": {"energy": null}, "Limits": ["It is small."]}')
    assert qwen3("card", tmp_path, "--record", model).exit_code == 0
    shown = qwen3("card", model).stdout
    assert "| floating-point operations | 2000, from the shapes" in shown
    assert "It is small." in shown
    assert "| command |" in shown
    result = qwen3("card", tmp_path, "--record", tmp_path)
    assert result.exit_code == 1
    assert "no model" in result.stderr


def test_the_built_in_card(qwen3):
    result = qwen3("card", "builtin")
    assert result.exit_code == 0
    assert "| stage: long-context |" in result.stdout
    assert "unknown: not recorded" not in result.stdout


def test_verify_fails_on_one_flipped_byte_and_names_the_file(qwen3, model):
    assert "unknown: no digest" in qwen3("ckpt", "verify", model).stdout
    assert qwen3("ckpt", "verify", model, "--record").exit_code == 0
    assert qwen3("ckpt", "verify", model).exit_code == 0
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)
    result = qwen3("ckpt", "verify", model)
    assert result.exit_code == 1
    assert "model.safetensors" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "model.safetensors" in json.loads(qwen3("ckpt", "verify", model, "--json").stdout)["faults"][0]
    result = qwen3("ckpt", "verify", model, "--record")
    assert result.exit_code == 1
    assert "delete it to record anew" in result.stderr


def test_diff_shows_the_tensor_that_changed(qwen3, model, tiny_checkpoint):
    assert qwen3("ckpt", "diff", tiny_checkpoint, model).stdout == "nothing changed\n"
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
    save_file(tensors, model / "model.safetensors")
    result = qwen3("ckpt", "diff", tiny_checkpoint, model, "--top", "1")
    assert "model.norm.weight" in result.stdout
    assert "1.000e+00" in result.stdout
    assert "1 of " in result.stdout
    (first, *_) = json.loads(qwen3("ckpt", "diff", tiny_checkpoint, model, "--json").stdout)["drifts"]
    assert first["name"] == "model.norm.weight"
    assert first["relative"] == pytest.approx(1)


def test_log_shows_the_chain_of_a_run(qwen3, tmp_path):
    from qwen3.checkpoint import integrity

    parent = None
    for step in (1, 2):
        directory = tmp_path / f"step_{step}"
        directory.mkdir()
        commit = "c" * 40 + " with changes"
        manifest = {"step": step, "recipe": "r" * 64, "commit": commit, "files": {}, "parent": parent}
        (directory / "manifest.json").write_text(json.dumps(manifest))
        parent = integrity.sha256(directory / "manifest.json")
    text = qwen3("ckpt", "log", tmp_path).stdout
    assert text.index("step 2") < text.index("from: step 1")
    assert f"code {'c' * 16} with changes" in text
    assert "no ledger" in text
    work(begin(tmp_path, 0), 0, 2)
    assert "first weights: drawn at random" in qwen3("ckpt", "log", tmp_path).stdout
    (tmp_path / "step_1" / "manifest.json").write_text('{"step": 1, "files": {}}')
    result = qwen3("ckpt", "verify", tmp_path)
    assert result.exit_code == 1
    assert "step_1" in result.stderr or "step 1" in result.stderr


@pytest.mark.parametrize("words", [["ckpt", "log"], ["ckpt", "verify"], ["card"]])
def test_what_is_not_there_is_one_line(qwen3, tmp_path, words):
    result = qwen3(*words, tmp_path)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


@pytest.fixture
def asked_of_the_hub(tmp_path, monkeypatch):
    """The names that are; within a directory that holds `runs` and `Qwen`."""
    names = []

    def download(name, *options):
        names.append(name)
        raise CheckpointError("the hub could not be reached")

    for directory in ("runs", "Qwen"):
        (tmp_path / directory).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_download", download)
    return names


@pytest.mark.parametrize("words", [["ckpt", "log"], ["ckpt", "verify"], ["card"], ["ckpt", "diff", "runs"]])
@pytest.mark.parametrize("path", ["runs/typo", "./typo", "../typo", "/typo", "runs/a/typo"])
def test_a_mistyped_path_is_not_asked_of_the_hub(qwen3, asked_of_the_hub, words, path):
    result = qwen3(*words, path)
    assert result.exit_code == 1
    assert f"{path} does not exist" in result.stderr or f"{path.removeprefix('./')} does not exist" in result.stderr
    assert asked_of_the_hub == []


@pytest.mark.parametrize("words", [["ckpt", "verify"], ["card"], ["ckpt", "diff", "runs"]])
@pytest.mark.parametrize("name", ["someone/a-model", "Qwen/Qwen3-0.6B"])
def test_a_name_on_the_hub_is_asked_of_it(qwen3, asked_of_the_hub, words, name):
    assert qwen3(*words, name).exit_code == 1
    assert asked_of_the_hub == [name]


@pytest.mark.parametrize("name", ["typo", "someone/a-model", "Qwen/Qwen3-0.6B"])
def test_the_lineage_is_of_a_run_on_this_machine(qwen3, asked_of_the_hub, name):
    result = qwen3("ckpt", "log", name)
    assert result.exit_code == 1
    assert f"{name} does not exist: name a run" in result.stderr
    assert asked_of_the_hub == []
