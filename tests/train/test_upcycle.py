"""An upcycled model computes what the dense one did, here and in transformers, and can be trained from."""

from dataclasses import replace

import pytest
import torch
from training import three_stages
from transformers import AutoModelForCausalLM
from transformers_models import reference_pair
from typer.testing import CliRunner

from qwen3.checkpoint import integrity
from qwen3.checkpoint.load import load_model, save_model
from qwen3.cli.app import app
from qwen3.config import ModelConfig
from qwen3.model import CausalAttend, Qwen3
from qwen3.tokenizer import Tokenizer
from qwen3.train import start
from qwen3.train.trainer import Trainer
from qwen3.train.upcycle import sparse_config, upcycle

TOKENS = torch.randint(0, 320, (60,), generator=torch.Generator().manual_seed(1))


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model.logits(model(tokens, torch.arange(len(tokens)), CausalAttend([len(tokens)])))


@pytest.mark.parametrize(("experts", "top_k", "pieces"), [(4, 1, 1), (8, 2, 1), (8, 2, 2), (16, 8, 4)])
def test_its_logits_are_the_dense_models_here_and_in_transformers(experts, top_k, pieces, tmp_path):
    _, dense = reference_pair()
    save_model(upcycle(dense, experts, top_k, pieces), tmp_path / "sparse")
    expected = logits(dense)
    loaded = load_model(tmp_path / "sparse")
    assert loaded.config.num_experts == experts
    assert (logits(loaded) - expected).abs().max() <= 5e-5
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse", dtype=torch.float32)
    assert type(theirs).__name__ == "Qwen3MoeForCausalLM"
    with torch.no_grad():
        assert (theirs(TOKENS[None]).logits[0] - expected).abs().max() <= 5e-5


@pytest.mark.parametrize(
    ("numbers", "named"),
    [((8, 3, 2), "top_k 3"), ((9, 2, 2), "num_experts 9"), ((2, 4, 1), "4 of 2"), ((8, 2, 5), "pieces 5")],
)
def test_numbers_that_change_the_function_are_refused(numbers, named):
    _, dense = reference_pair()
    with pytest.raises(ValueError, match=named):
        sparse_config(dense.config, *numbers)


def test_a_sparse_model_is_not_upcycled_again():
    _, sparse = reference_pair(moe=True)
    with pytest.raises(ValueError, match="sparse already"):
        upcycle(sparse, 8, 2)


def test_the_command_writes_a_model_that_a_run_starts_from_and_names_as_its_parent(tiny_checkpoint, data, tmp_path):
    out = tmp_path / "sparse"
    result = CliRunner().invoke(app, ["ckpt", "upcycle", str(tiny_checkpoint), str(out), "--experts", "4"])
    assert result.exit_code == 0, result.stderr
    assert "4 experts" in result.stdout
    text = "The quick brown fox"
    assert Tokenizer.load(out).encode(text) == Tokenizer.load(tiny_checkpoint).encode(text)
    recipe = three_stages(data)
    with pytest.raises(ValueError, match=r"has vocab_size 320, the recipe's model 2048"):
        Trainer(replace(recipe, start_from=str(tiny_checkpoint)), tmp_path / "other")

    dense = Qwen3(recipe.model)
    dense.initialise(5)
    save_model(upcycle(dense, 4, 2), tmp_path / "start")
    recipe = replace(recipe, model=ModelConfig.load(tmp_path / "start"), start_from=str(tmp_path / "start"))
    trainer = Trainer(recipe, tmp_path / "run")
    assert torch.equal(
        trainer.model.model.layers[1].mlp.experts[3].up_proj.weight, dense.model.layers[1].mlp.up_proj.weight
    )
    first, *_, last = trainer.run()
    assert last.loss < first.loss
    first_weights = start.parent(recipe, tmp_path / "run")
    assert first_weights.digest == integrity.sha256(tmp_path / "start" / "model.safetensors")
    assert start.parent(three_stages(data), tmp_path / "run") is None
    assert replace(recipe, start_from="").digest != recipe.digest

    # Once there is a checkpoint the model may move or go, but not become another.
    (tmp_path / "start").rename(tmp_path / "moved")
    assert Trainer(recipe, tmp_path / "run").step == 18
    assert start.parent(recipe, tmp_path / "run") == first_weights
    with pytest.raises(ValueError, match=r"start_from: .*start holds no safetensors"):
        Trainer(recipe, tmp_path / "new")
    assert Trainer(replace(recipe, start_from=str(tmp_path / "moved")), tmp_path / "run").step == 18
    dense.initialise(6)
    save_model(upcycle(dense, 4, 2), tmp_path / "moved", overwrite=True)
    with pytest.raises(ValueError, match=r"moved is not the model that .*run began with"):
        Trainer(replace(recipe, start_from=str(tmp_path / "moved")), tmp_path / "run")
