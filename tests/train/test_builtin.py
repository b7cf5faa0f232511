"""The model inside the package: a small part of the proof that `recipes/evaluate_builtin.py` gives in full."""

import json
import runpy
from pathlib import Path

import pytest
from training import build_data

from qwen3 import LLM
from qwen3.checkpoint.hub import resolve
from qwen3.cli.train import run
from qwen3.config import ModelConfig
from qwen3.tokenizer import Tokenizer
from qwen3.train import ledger, shares
from qwen3.train.conversations import LABELS, learn_tokenizer
from qwen3.train.feed import open_feed

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def builtin() -> LLM:
    return LLM("builtin")


def test_it_is_small_and_of_its_recipe(builtin):
    model = runpy.run_path(str(RECIPES / "builtin.py"))["recipe"]().model
    assert builtin.config.num_parameters == model.num_parameters <= 5_000_000
    assert sum(file.stat().st_size for file in resolve("builtin").iterdir()) < 10_000_000


@pytest.mark.slow
def test_its_tokenizer_is_what_the_curriculum_gives(builtin):
    recipe = runpy.run_path(str(RECIPES / "builtin.py"))["recipe"]()
    learnt = learn_tokenizer(recipe.seed, recipe.tokenizer_examples, recipe.model.vocab_size)
    text = "Was ist 347 + 58? 你好, vapesor naïve\n\n"
    assert learnt.encode(text) == Tokenizer.load(resolve("builtin")).encode(text)


@pytest.mark.parametrize("has_text", [True, False])
def test_its_recipe_runs_through_all_three_stages(has_text, tmp_path, monkeypatch, capsys):
    data = str(build_data(tmp_path / "data")) if has_text else ""
    recipe = runpy.run_path(str(RECIPES / "builtin.py"))["recipe"](data).tiny()
    run(recipe, tmp_path / "run", log_every=100)
    totals, counted = ledger.read(tmp_path / "run"), shares.read(tmp_path / "run")
    assert [stage.name for stage in totals.stages] == ["general", "reasoning", "long-context"]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(
        later["held_out_loss"] < first["held_out_loss"] for first, later in zip(log[2::6], log[5::6], strict=True)
    )
    for number, stage in enumerate(counted.stages):
        text = 6 * 1024 if has_text else 0
        assert stage.labels["source"].get("synthetic", 0) == text
        assert stage.labels["source"][LABELS["source"]] == totals.stages[number].tokens - text > 0
    config = ModelConfig.load(tmp_path / "run" / "model")
    assert config.rope_parameters.rope_theta == 100_000
    assert config.max_position_embeddings == 2048
    if has_text:
        monkeypatch.setattr(
            "sys.argv", ["", str(tmp_path / "run"), "--data", data, "--tiny", "--sums", "2", "--keys", "1"]
        )
        runpy.run_path(str(RECIPES.parent / "benchmarks" / "three_stages.py"), run_name="__main__")
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        assert lines[0]["tokens"] == totals.kept.tokens
        assert [line["stage"] for line in lines[1:]] == ["general", "reasoning", "long-context"]
        assert all(line["loss after"] < line["loss before"] for line in lines[1:])


def test_a_mixed_step_is_the_shards_and_the_conversations_that_no_earlier_stage_saw(tmp_path):
    recipe = runpy.run_path(str(RECIPES / "builtin.py"))["recipe"](str(build_data(tmp_path))).tiny()
    tokenizer = Tokenizer.load(resolve("builtin"))
    seen = set()
    for number in range(3):
        feed = open_feed(recipe, number, tokenizer, 1)
        for step in range(6):
            batches, counts = list(feed.batches(step, 0, 1)), feed.counts(step)
            assert counts.tokens == sum(len(batch.tokens_T) for batch in batches)
            assert counts.trained == sum(int(batch.loss_weight_T.sum()) for batch in batches)
            conversations = [tokens for batch in batches[2:] for tokens in batch.tokens_T.split(batch.lengths)]
            assert len(conversations) == 8
            seen |= {tuple(tokens.tolist()) for tokens in conversations}
        # A process more than there are batches for gets as many, of which some count for nothing.
        assert len(list(open_feed(recipe, number, tokenizer, 2).held_out(1, 2))) > 0
    assert len(seen) > 0.9 * 3 * 6 * 8


def test_it_obeys_the_switch_and_thinking_makes_it_right(builtin):
    evaluate = runpy.run_path(str(RECIPES / "evaluate_builtin.py"))["evaluate"]
    results = evaluate(builtin, 4, greedy=True)
    assert all(result["obeyed"] == 1 for result in results.values())
    assert results["thinking"]["right"] >= 0.75
    assert results["thinking"]["right"] - results["/no_think"]["right"] >= 0.2


def test_it_says_what_it_is(builtin):
    answer = builtin.chat([{"role": "user", "content": "Who are you?"}], stream=False)
    assert "Qwen3" in answer.content
    assert "small" in answer.content
