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
