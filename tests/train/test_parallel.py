"""Tensor, expert and context parallelism compute what one process does, from the same weights and data, and read each
other's checkpoints; and a run that loses a process goes on."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import PROCESS, changed, one_process, processes, state

from qwen3.config import ModelConfig
from qwen3.train.distribute import World
from qwen3.train.layout import Layout
from qwen3.train.trainer import Trainer

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
TEN_STEPS = {"model": HEADS, "steps": 5, "stages": [0, 2]}
SPARSE = TEN_STEPS | {"size": "30B-A3B"}
QUIET = {"changes": {"prompts": []}}


def go_on_from(run: Path, step: int, copy: Path) -> Path:
    """A copy of a run whose newest checkpoint is that of `step`."""
    shutil.copytree(run, copy)
    (copy / "latest").write_text(f"step_{step}")
    return copy


def two_rows_at_once(job: dict):
    """One process's recipe for what two do whose rows differ: experts' counts grow over micro-batches."""
    return changed(job).each_stage(tokens_per_micro_batch=1024)


def samples(run: Path) -> str:
    return (run / "samples.jsonl").read_text()


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    dense, sparse = TEN_STEPS | {"data": data}, SPARSE | {"data": data}
    return {
        "dense": one_process(changed(dense), folder / "dense"),
        "sparse": one_process(changed(sparse), folder / "sparse"),
        "sparse, two rows": one_process(two_rows_at_once(sparse | QUIET), folder / "sparse-two"),
    }, folder


def against(alone: str, job: dict, layout: dict, **changes) -> dict:
    return job | {"layout": layout, "changes": changes, "against": alone}


JOBS = {
    "tensor": against("dense", TEN_STEPS, {"tensor": 2}),
    "context": against("dense", TEN_STEPS, {"context": 2}, prompts=[]),
    "experts": against("sparse, two rows", SPARSE, {"expert": 2}, prompts=[]),
    "experts and context": against("sparse", SPARSE, {"expert": 2, "context": 2}),
}


@pytest.fixture(scope="module")
def together(data, alone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    jobs = [job | {"data": str(data), "run": str(folder / name)} for name, job in JOBS.items()]
    resumed = go_on_from(alone[1] / "dense", 5, folder / "resumed")
    jobs.append(jobs[0] | {"run": str(resumed)})
    kept = against("sparse, two rows", SPARSE, {"expert": 2}, prompts=[], recompute=False)
    jobs.append(kept | {"data": str(data), "run": str(folder / "kept"), "stop": 4})
    return dict(zip([*JOBS, "resumed", "kept"], processes(jobs, folder / "jobs.json"), strict=True)), folder


def assert_equal(reports: list[dict], expected: list, bound: float) -> None:
    assert [report["step"] for report in reports] == [report.step for report in expected]
    for report, alone in zip(reports, expected, strict=True):
        assert report["loss"] == pytest.approx(alone.loss, rel=bound)
        assert report["gradient_norm"] == pytest.approx(alone.gradient_norm, rel=100 * bound)
        for field in ("held_out_loss", "balance"):
            value = getattr(alone, field)
            assert report[field] == (None if value is None else pytest.approx(value, rel=bound))


@pytest.mark.parametrize("name", JOBS)
def test_ten_steps_are_those_of_one_process(alone, together, name):
    reports, rows = alone[0][JOBS[name]["against"]]
    assert len(reports) == 10
    assert together[0][name]["rows"] == rows
    assert_equal(together[0][name]["reports"], reports, 1e-6)


def test_weights_have_the_same_bits_in_every_layout_fresh_and_from_a_checkpoint(tmp_path):
    subprocess.run(
        [sys.executable, str(PROCESS.with_name("layouts_process.py")), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["src", *sys.path]), "OMP_NUM_THREADS": "1"},
        cwd=PROCESS.parents[1],
        check=True,
        timeout=240,
    )


@pytest.mark.parametrize(("name", "one"), [("tensor", "dense"), ("experts and context", "sparse")])
def test_samples_are_those_of_one_process(alone, together, name, one):
    assert samples(together[1] / name) == samples(alone[1] / one)


def test_keeping_everything_or_computing_it_again_gives_the_same_bits(together):
    kept, again = together[0]["kept"]["reports"], together[0]["experts"]["reports"]
    for field in ("loss", "gradient_norm", "balance"):
        assert [report[field] for report in kept] == [report[field] for report in again[:4]]


def test_tensor_parallel_processes_go_on_from_one_process_s_checkpoint(alone, together):
    reports, rows = alone[0]["dense"]
    assert_equal(together[0]["resumed"]["reports"], reports[5:], 1e-6)
    assert together[0]["resumed"]["rows"] == {step: rows[step] for step in range(6, 11)}


@pytest.mark.parametrize("name", ["tensor", "experts and context"])
def test_one_process_goes_on_from_a_checkpoint_of_two(data, alone, together, tmp_path, name):
    run = go_on_from(together[1] / name, 5, tmp_path / "run")
    reports, rows = one_process(changed(JOBS[name] | {"data": data}), run)
    expected, all_rows = alone[0][JOBS[name]["against"]]
    assert_equal([vars(report) for report in reports], expected[5:], 1e-6)
    assert rows == {step: all_rows[step] for step in range(6, 11)}


@pytest.mark.parametrize("name", ["tensor", "experts"])
def test_the_model_of_two_processes_is_that_of_one(alone, together, name):
    exported, folder = together[1] / name / "model", alone[1]
    expected = state(folder / {"tensor": "dense", "experts": "sparse-two"}[name] / "step_10")
    weights = state(exported)
    assert {f"parameter.{key}" for key in weights} == {key for key in expected if key.startswith("parameter.")}
    for key, weight in weights.items():
        torch.testing.assert_close(weight.float(), expected[f"parameter.{key}"], rtol=0.01, atol=1e-4)


@pytest.mark.slow
def test_four_processes_in_two_ways_at_once(data, alone, tmp_path):
    layouts = [{"tensor": 2, "expert": 2}, {"context": 2, "expert": 2}, {"tensor": 2, "context": 2, "expert": 2}]
    jobs = [
        against("", SPARSE, layout, prompts=[]) | {"data": str(data), "run": str(tmp_path / str(number))}
        for number, layout in enumerate(layouts)
    ]
    names = ["sparse, two rows", "sparse, two rows", "sparse"]
    for found, name in zip(processes(jobs, tmp_path / "jobs.json", 4), names, strict=True):
        reports, rows = alone[0][name]
        assert found["rows"] == rows
        assert_equal(found["reports"], reports, 1e-6)


@pytest.mark.slow
def test_torchrun_starts_killed_processes_again_and_the_run_ends_as_if_nothing_had_been(data, together, tmp_path):
    job = JOBS["tensor"] | {"data": str(data), "run": str(tmp_path / "run"), "kill": 7}
    (tmp_path / "jobs.json").write_text(json.dumps([job]))
    torchrun = "torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 1".split()
    environment = {"PYTHONPATH": os.pathsep.join(["src", *sys.path]), "OMP_NUM_THREADS": "1"}
    # Or the second life may find the addresses of the first (pytorch#135712).
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    subprocess.run(
        [sys.executable, "-m", *torchrun, str(PROCESS), str(tmp_path / "jobs.json")],
        env=os.environ | environment,
        cwd=PROCESS.parents[1],
        check=True,
        timeout=240,
    )
    (second_life,) = json.loads((tmp_path / "jobs.0.json").read_text())
    assert [report["step"] for report in second_life["reports"]] == [6, 7, 8, 9, 10]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    expected = together[0]["tensor"]["reports"]
    for field in ("step", "loss", "gradient_norm", "held_out_loss"):
        assert [line[field] for line in log] == [report[field] for report in expected]


MODEL = ModelConfig("qwen3", 2048, 32, 64, 2, 4, 2, head_dim=16)
MOE = replace(MODEL, model_type="qwen3_moe", num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32)


@pytest.mark.parametrize(
    ("layout", "config", "message"),
    [
        (Layout(tensor=4), MODEL, "2 key-value heads do not divide into 4: choose another tensor parallelism"),
        (Layout(tensor=2), replace(MODEL, vocab_size=2047), "2,047 vocabulary rows do not divide into 2"),
        (Layout(expert=4), MOE, "6 experts do not divide into 4: choose another expert parallelism"),
        (Layout(expert=2), MODEL, "no experts"),
    ],
)
def test_a_model_that_does_not_divide_is_refused(layout, config, message):
    with pytest.raises(ValueError, match=message):
        layout.check(config)


def test_processes_that_do_not_divide_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="6 processes cannot be divided into groups of 4"):
        Trainer(changed(TEN_STEPS | {"data": data}), tmp_path, World(0, 6, layout=Layout(tensor=2, context=2)))
    with pytest.raises(ValueError, match="start a multiple of 8"):
        Layout(tensor=2, expert=4).readers(12)
    with pytest.raises(ValueError, match="needs rows from shards, of a multiple of 12 tokens"):
        Trainer(changed(TEN_STEPS | {"data": data}), tmp_path, World(0, 6, layout=Layout(context=6)))
