"""Recipes that no run could have are refused when they are made, by the name of the field."""

from dataclasses import replace

import pytest

from qwen3.presets import PRESETS
from qwen3.train.data.stage import general
from qwen3.train.recipe import Curriculum, Mix, Recipe, Shards, Stage

CONVERSATIONS = Curriculum(examples_per_step=8)
SHARDS = Shards("data", general(128, 1024))
STAGE = Stage("one", SHARDS, ((0, 0.0), (2, 1e-3), (9, 1e-4)), tokens_per_micro_batch=256)
RECIPE = Recipe("named", PRESETS["Qwen3-0.6B"], (STAGE, replace(STAGE, name="two", data=CONVERSATIONS)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data": Shards("data", general(300, 1000))}, "tokens_per_step is 1,000, no whole .* a multiple of 300"),
        ({"data": Shards("data", general(128, 1024), 200)}, "held_out_tokens is 200, no whole .* a multiple of 128"),
        ({"checkpoint_every": 0}, "stage one: checkpoint_every is 0: .* 1 or more"),
        ({"evaluate_every": -1}, "stage one: evaluate_every is -1: .* 0 or more"),
        ({"sample_every": -5}, "stage one: sample_every is -5"),
        ({"tokens_per_micro_batch": 32}, "stage one: tokens_per_micro_batch is 32, less than a row: choose 128"),
        ({"data": Mix(SHARDS, CONVERSATIONS), "tokens_per_micro_batch": 32}, "tokens_per_micro_batch is 32"),
        ({"data": CONVERSATIONS, "tokens_per_micro_batch": 0}, "tokens_per_micro_batch is 0"),
        ({"schedule": ()}, "stage one: schedule has points at the steps"),
        ({"schedule": ((0, 1e-3),)}, r"steps \[0\]"),
        ({"schedule": ((1, 0.0), (9, 1e-3))}, r"steps \[1, 9\]: begin at 0"),
        ({"schedule": ((0, 0.0), (9, 1e-3), (5, 0.0))}, r"steps \[0, 9, 5\]"),
        ({"schedule": ((0, 0.0), (9, float("nan")))}, "finite"),
        ({"schedule": ((0, 0.0), (9, -1e-3))}, "0 or more"),
    ],
)
def test_a_stage_that_no_run_could_have_is_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        replace(STAGE, **changes)


@pytest.mark.parametrize("stages", [(), (STAGE, STAGE)])
def test_stages_need_names_of_their_own(stages):
    with pytest.raises(ValueError, match=r"named: stages are called .* a name of its own"):
        replace(RECIPE, stages=stages)


def test_a_tiny_micro_batch_holds_a_row_of_the_longest_stage():
    long = replace(STAGE, name="long", data=Shards("data", general(4096, 8192)), tokens_per_micro_batch=4096)
    assert [stage.tokens_per_micro_batch for stage in replace(RECIPE, stages=(STAGE, long)).tiny().stages] == [
        512,
        2048,
    ]


def test_an_evaluation_that_cannot_be_divided_is_named_as_such():
    stage = replace(STAGE, data=replace(SHARDS, held_out_tokens=384), evaluate_every=1)
    with pytest.raises(ValueError, match=r"^3 rows an evaluation cannot be divided .*: change held_out_tokens"):
        stage.check_readers(1)
    replace(stage, evaluate_every=0).check_readers(1)
    with pytest.raises(ValueError, match=r"^8 rows a step cannot be divided .*: change tokens_per_step"):
        stage.check_readers(3)


def test_two_ways_to_write_one_choice_have_one_digest():
    own = RECIPE.model.rope_parameters.rope_theta
    same = (
        replace(RECIPE, tokenizer_examples=7),
        replace(RECIPE, model=replace(RECIPE.model, pad_token_id=3, bos_token_id=None)),
        RECIPE.each_stage(rope_theta=own),
        replace(
            RECIPE,
            stages=(replace(STAGE, data=Shards("data", replace(SHARDS.stage, row_tokens=128))), *RECIPE.stages[1:]),
        ),
    )
    assert all(other.digest == RECIPE.digest for other in same)
    assert all(other.digest_until(3) == RECIPE.digest_until(3) for other in same)
    assert RECIPE.each_stage(rope_theta=2 * own).digest != RECIPE.digest
    learnt = replace(RECIPE, stages=RECIPE.stages[1:])
    assert replace(learnt, tokenizer_examples=7).digest != learnt.digest


def test_a_tokenizer_from_data_that_come_later_is_not_the_learnt_one():
    conversations = replace(STAGE, name="two", data=CONVERSATIONS)
    learnt, brought = (replace(RECIPE, stages=stages) for stages in ((conversations,), (conversations, STAGE)))
    assert learnt.digest_until(9) != brought.digest_until(9)
