"""The plan of a run: the public laws, memory and days, the recipes of every size."""

import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from training import build_data

from qwen3.cli.train import _sampled_conversations, print_plan
from qwen3.hardware import peak_flops
from qwen3.memory import estimate_training
from qwen3.train import step_law
from qwen3.train.feed import open_feed
from qwen3.train.flops import model_flops
from qwen3.train.layout import Layout
from qwen3.train.plan import plan
from qwen3.train.trainer import _tokenizer

PRETRAIN, BUILTIN = (
    runpy.run_path(str(Path(__file__).parents[2] / "recipes" / name)) for name in ("pretrain.py", "builtin.py")
)
STAGES = ("general", "reasoning", "long-context")


@pytest.mark.parametrize("size", PRETRAIN["SIZES"])
def test_every_size_has_the_three_stages(size):
    recipe = PRETRAIN["recipe"](size)
    general, reasoning, long_context = recipe.stages
    plans = plan(recipe, 64, "H100", 0.4)
    assert [each.tokens for each in plans] == pytest.approx([30.5e12, 5e12, 0.5e12], rel=1e-4)
    assert [each.sequence_length for each in plans] == [4096, 4096, 32_768]
    assert [each.rope_theta for each in plans] == [1e4, 1e4, 1e6]
    assert [pool.share for pool in long_context.data.stage.pools] == [0.75, 0.25]
    for stage, following in ((general, reasoning), (reasoning, long_context)):
        assert stage.schedule[-1][1] == following.schedule[0][1]
    assert recipe.tiny().steps == 18
    assert recipe.digest == PRETRAIN["recipe"](size, "elsewhere").digest


def test_step_law_gives_the_one_published_batch_and_nearly_its_rate():
    assert step_law.batch_tokens(3.5e12) == 2048 * 4096
    assert step_law.learning_rate(1_409_410_048, 3.5e12) == pytest.approx(4.5e-3, rel=0.2)


def test_memory_falls_with_devices_and_days_with_their_number():
    recipe = PRETRAIN["recipe"]("4B")
    one, many = plan(recipe, 1, "H100", 0.4)[0], plan(recipe, 64, "H100", 0.4)[0]
    assert one.days == pytest.approx(64 * many.days)
    assert one.memory.optimizer == pytest.approx(64 * many.memory.optimizer, rel=1e-6)
    assert one.memory.total > 70 * 2**30 > many.memory.total
    whole = plan(replace(recipe, recompute=False), 64, "H100", 0.4)[0]
    assert whole.memory.activations > 3 * many.memory.activations


def test_devices_that_share_matrices_rows_and_experts_need_less_memory():
    recipe = PRETRAIN["recipe"]("30B-A3B")
    alone = plan(recipe, 64, "H100", 0.4)[2]
    shared = plan(recipe, 64, "H100", 0.4, Layout(tensor=4, context=2))[2]
    experts = plan(recipe, 64, "H100", 0.4, Layout(expert=8))[2]
    assert (alone.readers, shared.readers, experts.readers) == (64, 8, 64)
    assert shared.memory.optimizer == experts.memory.optimizer == alone.memory.optimizer
    assert shared.memory.activations < alone.memory.activations / 2
    assert experts.memory.activations == alone.memory.activations
    assert experts.memory.weights < alone.memory.weights < 2 * experts.memory.weights
    with pytest.raises(ValueError, match="4 key-value heads do not divide into 8"):
        plan(recipe, 64, "H100", 0.4, Layout(tensor=8))


def test_what_a_run_would_refuse_the_plan_says():
    recipe = PRETRAIN["recipe"]("4B")
    assert not any(each.refusal for each in plan(recipe, 64, "H100", 0.4))
    for each in plan(recipe, 100, "H100", 0.4):
        assert "cannot be divided among 100 processes" in each.refusal
        assert "tokens_per_micro_batch" in each.refusal
    context = plan(BUILTIN["recipe"]("data"), 2, "H100", 0.4, Layout(context=2), {name: [90] for name in STAGES})
    assert all("context parallelism of 2 needs rows from shards" in each.refusal for each in context)


@pytest.mark.parametrize("has_text", [True, False])
def test_tokens_of_conversations_are_planned_as_they_come(has_text, tmp_path):
    recipe = BUILTIN["recipe"](str(build_data(tmp_path)) if has_text else "").tiny()
    recipe = recipe.each_stage(tokens_per_micro_batch=8192)
    plans = plan(recipe, 1, "H100", 0.4, None, _sampled_conversations(recipe))
    tokenizer = _tokenizer(recipe)
    for number, each in enumerate(plans):
        feed = open_feed(recipe, number, tokenizer, 1)
        ran = sum(feed.counts(step).tokens for step in range(each.stage.steps))
        assert each.tokens == pytest.approx(ran, rel=0.25)
        needed = sum(
            model_flops(recipe.model, batch.lengths).total for step in range(6) for batch in feed.batches(step, 0, 1)
        )
        assert each.flops == pytest.approx(needed, rel=0.3)
    with pytest.raises(ValueError, match="stage general: a plan needs the lengths"):
        plan(recipe, 1, "H100", 0.4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_on_one_device_the_memory_is_the_calculators(optimizer):
    recipe = replace(PRETRAIN["recipe"]("4B"), optimizer=optimizer)
    (first, *_) = plan(recipe, 1, "H100", 0.4)
    calculated = estimate_training(recipe.model, optimizer=optimizer, context=4096)
    assert first.memory.total == calculated.total
    assert first.memory.gradients == calculated.gradients == 6 * recipe.model.num_parameters
    # The calculator counts the float32 weights as optimizer.
    assert first.memory.weights == 6 * recipe.model.num_parameters
    assert first.memory.optimizer == calculated.optimizer - 4 * recipe.model.num_parameters
    assert first.memory.total > (20 if optimizer == "adamw" else 16) * recipe.model.num_parameters


def test_the_printed_plan_has_every_stage_and_says_when_rows_are_too_few(capsys):
    print_plan(PRETRAIN["recipe"]("235B-A22B"), 1024, "H100", 0.4)
    printed = capsys.readouterr().out
    assert "235,093,634,560 parameters, 22,190,763,520 of them for a token" in printed
    assert all(stage in printed for stage in ("general\n", "reasoning\n", "long-context\n"))
    assert "64 rows a step cannot be divided among 1,024 processes" in printed


def test_cards_are_known_by_the_names_that_drivers_give():
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("H100") == 989e12
    assert peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("NVIDIA GeForce RTX 4090") == 165e12
    assert peak_flops("cpu") is None
    with pytest.raises(ValueError, match="nominal speed of 'abacus'"):
        plan(PRETRAIN["recipe"](), 1, "abacus", 0.4)
    assert math.isfinite(plan(PRETRAIN["recipe"](), 1, "a100", 1.0)[0].days)
