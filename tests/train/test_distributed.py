"""Two processes compute what one does, on the same data, and read each other's checkpoints."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from training import one_process, processes, short, state, three_stages

from qwen3.checkpoint.integrity import sha256
from qwen3.train.data.errors import DataError
from qwen3.train.distribute import World
from qwen3.train.trainer import Trainer


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """The same runs on one process and on two, and one that changes: 2 processes, 1, and 2 again."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "elastic").mkdir()

    def job(**job):
        return {"data": str(data), **job}

    jobs = [
        job(run=str(folder / "two")),
        job(run=str(folder / "two-muon"), changes={"optimizer": "muon"}),
        job(run=str(folder / "two-moe"), size="30B-A3B"),
        job(run=str(folder / "two-bfloat16"), changes={"bfloat16": True}),
        job(run=str(folder / "two-moe-bfloat16"), size="30B-A3B", changes={"bfloat16": True}),
        job(run=str(folder / "elastic"), stop=3),
    ]
    two = processes(jobs, folder / "first.json")
    dense = short(three_stages(data))
    # The count of the experts' choices grows over micro-batches: one of both processes' rows is the same.
    moe = short(three_stages(data, "30B-A3B")).each_stage(tokens_per_micro_batch=1024)
    one = [
        one_process(dense, folder / "one"),
        one_process(replace(dense, optimizer="muon"), folder / "one-muon"),
        one_process(moe, folder / "one-moe"),
    ]
    with torch.compiler.set_stance("force_eager"):
        one.append(one_process(replace(dense, bfloat16=True), folder / "one-bfloat16"))
        one.append(one_process(replace(moe, bfloat16=True), folder / "one-moe-bfloat16"))
    elastic = [two[-1], None, None]
    reports, rows = one_process(dense, folder / "elastic", stop=6)
    elastic[1] = {"reports": [vars(report) for report in reports], "rows": rows}
    elastic[2] = processes([job(run=str(folder / "elastic"))], folder / "second.json")[0]
    return folder, one, two, elastic


@pytest.mark.parametrize(
    ("number", "bound"),
    [(0, 1e-6), (1, 1e-4), (2, 1e-6), (3, 1e-4), (4, 1e-3)],
    ids=["adamw", "muon", "experts", "bfloat16", "experts in bfloat16"],
)
def test_two_processes_train_as_one_does(runs, number, bound):
    _, one, two, _ = runs
    reports, rows = one[number]
    assert len(reports) == 9
    assert two[number]["rows"] == rows
    for alone, together in zip(reports, two[number]["reports"], strict=True):
        assert together["loss"] == pytest.approx(alone.loss, rel=bound)
        assert together["gradient_norm"] == pytest.approx(alone.gradient_norm, rel=100 * bound)
        for field in ("held_out_loss", "balance"):
            assert (together[field] is None) == (getattr(alone, field) is None)
            assert together[field] is None or together[field] == pytest.approx(getattr(alone, field), rel=bound)


def test_the_number_of_processes_may_change_and_the_data_do_not(runs):
    folder, one, _, elastic = runs
    reports, rows = one[0]
    assert {step: each for part in elastic for step, each in part["rows"].items()} == rows
    losses = [report["loss"] for part in elastic for report in part["reports"]]
    assert losses == pytest.approx([report.loss for report in reports], rel=1e-5)
    sizes = [
        json.loads((folder / "elastic" / f"step_{n}" / "manifest.json").read_text())["world_size"] for n in (3, 6, 9)
    ]
    assert sizes == [2, 1, 2]


def test_the_exported_model_of_two_processes_is_that_of_one(runs):
    folder, *_ = runs
    weights = load_file(folder / "two" / "model" / "model.safetensors")
    alone = state(folder / "one" / "step_9")
    for name, weight in weights.items():
        torch.testing.assert_close(weight.float(), alone[f"parameter.{name}"], rtol=0.01, atol=1e-4)


def test_each_checkpoint_names_its_parent(runs):
    folder, *_ = runs
    steps = [folder / "elastic" / f"step_{n}" for n in (3, 6, 9)]
    parents = [json.loads((step / "manifest.json").read_text())["parent"] for step in steps]
    assert parents == [None, *(sha256(step / "manifest.json") for step in steps[:-1])]


def test_a_number_of_processes_that_cannot_divide_a_step_is_refused(data, tmp_path):
    with pytest.raises(DataError, match="cannot be divided among 3 processes"):
        Trainer(three_stages(data), tmp_path, world=World(0, 3))
