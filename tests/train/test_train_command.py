"""`qwen3 train`: to the end, stopped and resumed, and what it refuses."""

import json
import re
import signal
from pathlib import Path

import pytest
import torch
from training import state

from qwen3.checkpoint.load import load_model
from qwen3.cli.recipe_file import load_recipe
from qwen3.cli.train import run_recipe as train
from qwen3.config import ModelConfig
from qwen3.tokenizer import Tokenizer
from qwen3.train import ledger
from qwen3.train.bookkeeping import Bookkeeper
from qwen3.train.data.errors import DataError
from qwen3.train.trainer import Trainer

RECIPE = Path(__file__).parents[2] / "recipes" / "builtin.py"


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    train_step = Trainer._train_step

    def interrupted(self):
        report = train_step(self)
        if report.step == 2:
            signal.raise_signal(signal.SIGINT)
        return report

    monkeypatch.setattr(Trainer, "_train_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stopped:
        train(RECIPE, out=tmp_path / "run", tiny=True)
    assert stopped.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopped at step 2" in capsys.readouterr().out
    monkeypatch.undo()
    train(RECIPE, out=tmp_path / "run", tiny=True)
    assert "step 2 of 18" in capsys.readouterr().out
    train(RECIPE, out=tmp_path / "whole", tiny=True)
    a, b = (state(tmp_path / run / "step_18") for run in ("run", "whole"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    kept = ledger.read(tmp_path / "run")
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert (kept.steps, kept.recorded_steps, len(kept.attempts)) == (18, 18, 2)
    assert sum(stage.tokens for stage in kept.stages) == sum(json.loads(line)["tokens"] for line in lines)


def test_the_speed_shown_is_that_of_the_documents_operations(tmp_path, capsys):
    train(RECIPE, out=tmp_path, tiny=True, log_every=1)
    shown = re.findall(r"([\d,.]+) GFLOP/s", capsys.readouterr().out)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(shown) == len(log) == 18
    for text, line in zip(shown, log, strict=True):
        assert float(text.replace(",", "")) == pytest.approx(line["model_flops"] / line["seconds"] / 1e9, abs=0.051)


def test_data_shares_that_cannot_be_counted_do_not_cost_the_model(tmp_path, monkeypatch):
    def broken(*_):
        raise DataError("the tokens do not add up")

    monkeypatch.setattr(Bookkeeper, "count_shares", broken)
    with pytest.raises(DataError, match="do not add up"):
        train(RECIPE, out=tmp_path, tiny=True)
    assert load_model(tmp_path / "model").config.num_hidden_layers == 2


def test_processes_that_are_not_there_cannot_share_the_work(tmp_path):
    with pytest.raises(ValueError, match="start a multiple of 2 with torchrun"):
        train(RECIPE, out=tmp_path / "run", tiny=True, tensor_parallel=2)


def test_the_exported_model_loads_here_and_in_transformers(tmp_path, capfd):
    transformers = pytest.importorskip("transformers")
    model_dir = tmp_path / "model"
    train(RECIPE, out=tmp_path / "run", export=model_dir, tiny=True)
    model, tokenizer = load_model(model_dir, dtype="float32"), Tokenizer.load(model_dir)
    assert ModelConfig.load(model_dir).eos_token_ids == (tokenizer.id("<|im_end|>"), tokenizer.id("<|endoftext|>"))
    assert json.loads((model_dir / "generation_config.json").read_text())["eos_token_id"] == [
        tokenizer.id("<|im_end|>"),
        tokenizer.id("<|endoftext|>"),
    ]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    ids = tokenizer.encode("<|im_start|>user\n12+30<|im_end|>\n")
    assert transformers.AutoTokenizer.from_pretrained(model_dir).encode("<|im_start|>user\n12+30<|im_end|>\n") == ids
    from qwen3.model import CausalAttend

    with torch.no_grad():
        ours = model.logits(model(torch.tensor(ids), torch.arange(len(ids)), CausalAttend([len(ids)])))
        torch.testing.assert_close(ours, theirs(torch.tensor([ids])).logits[0], rtol=0, atol=5e-5)


def test_a_file_without_a_recipe_is_refused(tmp_path):
    file = tmp_path / "none.py"
    with pytest.raises(ValueError, match="no recipe at"):
        load_recipe(file)
    file.write_text("def recipe(): return 1\n")
    with pytest.raises(ValueError, match="has no function recipe"):
        load_recipe(file)
