"""The model inside the package: a small part of the proof that `recipes/evaluate_builtin.py` gives in full."""

import runpy
from pathlib import Path

import pytest

from qwen3 import LLM
from qwen3.checkpoint.hub import resolve
from qwen3.tokenizer import Tokenizer
from qwen3.train.conversations import learn_tokenizer

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
