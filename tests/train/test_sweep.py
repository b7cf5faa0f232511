"""Sweeps: what is planned, what it costs, and files that are read back."""

import json
import math
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from qwen3.cli import scaling
from qwen3.cli.app import app
from qwen3.config import ModelConfig
from qwen3.presets import PRESETS
from qwen3.train import sweep
from qwen3.train.data.stage import STAGES
from qwen3.train.flops import model_flops
from qwen3.train.scaling import ScalingError, fit
from qwen3.train.spikes import DivergedError


@pytest.mark.parametrize("name", ["Qwen3-4B", "Qwen3-30B-A3B"])
def test_a_plan_is_a_star_around_each_model_and_length_with_its_cost(name):
    target = PRESETS[name]
    runs = list(sweep.plan(target, [128, 256], [10, 20], [0.5, 1, 2], [0.5, 1, 2], sequence_length=128))
    assert len(runs) == 2 * 2 * 5
    assert [run.flops for run in runs] == sorted(run.flops for run in runs)
    assert len({run.name for run in runs}) == len(runs)
    for run in runs:
        model = ModelConfig.from_dict(run.model)
        assert run.kind == ("moe" if target.is_moe else "dense")
        assert model.num_experts == target.num_experts
        spread = model.initializer_range * math.sqrt(model.hidden_size)
        assert spread == pytest.approx(target.initializer_range * math.sqrt(target.hidden_size))
        (stage,) = sweep.recipe(run, "data").stages
        assert stage.schedule[1] == (max(1, int(0.15 * run.steps)), run.learning_rate)
        assert run.parameters == sweep.size_of(model)
        assert run.tokens == run.steps * run.batch
        assert run.flops == model_flops(model, [128] * (run.tokens // 128)).total
    sizes = sorted({run.parameters for run in runs})
    assert sizes[1] > 3 * sizes[0]


def test_a_width_that_is_none_is_refused():
    for width in (100, 10_240):
        with pytest.raises(ScalingError, match="multiple of 16"):
            sweep.smaller(PRESETS["Qwen3-4B"], width)


def test_a_run_draws_its_data_as_the_stage_of_its_plan_does():
    for name, make in STAGES.items():
        run, *_ = sweep.plan(PRESETS["Qwen3-0.6B"], [128], [10], [1], [1], stage=name, sequence_length=256)
        (stage,) = sweep.recipe(run, "data").stages
        assert stage.shards.stage == make(256, run.batch)
    with pytest.raises(ScalingError, match="no stage 'science': there are general, reasoning, long-context"):
        sweep.plan(PRESETS["Qwen3-0.6B"], [128], [10], [1], [1], stage="science")
    with pytest.raises(ScalingError, match="no stage 'science'"):
        sweep.recipe(replace(run, stage="science"), "data")


def test_only_runs_with_a_loss_are_read_and_laws_come_back(tmp_path):
    runs = list(sweep.plan(PRESETS["Qwen3-0.6B"], [128, 192, 256], [10, 20, 40], [0.5, 1, 2], [0.5, 1, 2]))
    path = tmp_path / "plan.jsonl"
    sweep.write_plan(path, runs)
    with pytest.raises(ScalingError, match="no run with a loss"):
        sweep.read_runs(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["loss"] = 1.7 + 400 / line["parameters"] ** 0.34 + 400 / line["tokens"] ** 0.28 if number else None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = sweep.read_runs(path)
    assert len(read) == len(runs) - 1
    laws = {("dense", "general"): fit(read)}
    sweep.write_laws(tmp_path / "laws.json", laws)
    (back,) = sweep.read_laws(tmp_path / "laws.json").values()
    assert back.loss(1e9, 1e11) == laws["dense", "general"].loss(1e9, 1e11)


@pytest.mark.parametrize(
    ("line", "named"),
    [('{"loss": 1}', "parameters is None"), ("{", "line 1"), ('{"loss": -1, "parameters": 1}', "tokens")],
)
def test_a_line_that_is_no_run_is_named(tmp_path, line, named):
    (tmp_path / "runs.jsonl").write_text(line + "\n")
    with pytest.raises(ScalingError, match=named):
        sweep.read_runs(tmp_path / "runs.jsonl")
    (tmp_path / "laws.json").write_text('{"laws": [{"kind": "dense", "stage": "general", "loss": {}}]}')
    with pytest.raises(ScalingError, match="no laws"):
        sweep.read_laws(tmp_path / "laws.json")


def test_the_command_trains_what_has_no_loss_yet_and_goes_on_where_it_was(data, tmp_path):
    path = tmp_path / "plan.jsonl"
    sizes = {"sequence_length": 64, "vocab_size": 2048}
    sweep.write_plan(path, list(sweep.plan(PRESETS["Qwen3-0.6B"], [16], [2], [0.5, 1], [1], **sizes)))
    first, second = path.read_text().splitlines()
    # As after an interruption: the first run has its loss already.
    path.write_text(json.dumps(json.loads(first) | {"loss": 5.0}) + f"\n{second}\n")
    words = ["scaling", "run", str(path), "--data", str(data), "--held-out", "1024"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "(2 of 2)" in result.stdout
    assert "(1 of 2)" not in result.stdout
    losses = [run.loss for run in sweep.read_runs(path)]
    assert losses[0] == 5.0
    assert 1 < losses[1] < 7.7
    with pytest.raises(ScalingError, match="line 1: not a run"):
        sweep.read_plan(data / "manifest.json")


@pytest.fixture
def wild_plan(tmp_path):
    """Three runs of 12 steps, the first at a rate that makes the loss infinite."""
    path = tmp_path / "plan.jsonl"
    run, *_ = sweep.plan(PRESETS["Qwen3-0.6B"], [16], [2], [1], [1], sequence_length=64, vocab_size=2048)
    run = replace(run, batch=128, steps=12, tokens=12 * 128)
    runs = [replace(run, name="wild", learning_rate=1e30), replace(run, name="calm"), replace(run, name="quiet")]
    sweep.write_plan(path, runs)
    return path


def test_a_run_that_diverges_is_noted_and_the_sweep_goes_on(data, wild_plan):
    words = ["scaling", "run", str(wild_plan), "--data", str(data), "--held-out", "1024"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "wild: failed, " in result.stdout
    assert "left out of a fit: wild" in result.stderr
    wild, *others = sweep.read_plan(wild_plan)
    assert (wild.loss, bool(wild.failed)) == (None, True)
    assert all(1 < each.loss < 9 and not each.failed for each in others)
    again = CliRunner().invoke(app, words)
    assert "of 3)" not in again.stdout
    assert len(sweep.read_runs(wild_plan)) == 2
    fitted = CliRunner().invoke(app, ["scaling", "fit", str(wild_plan)])
    assert "left out of a fit: wild" in fitted.stderr


def test_a_loss_that_is_not_finite_is_a_failure(data, wild_plan, monkeypatch):
    run, *_ = sweep.read_plan(wild_plan)
    monkeypatch.setattr("qwen3.train.trainer.Trainer.evaluate", lambda trainer, number: math.nan)
    with pytest.raises(DivergedError, match="the held-out loss is nan"):
        scaling.held_out_loss(sweep.recipe(replace(run, learning_rate=1e-3), str(data), held_out_tokens=1024))


def test_a_run_too_short_to_diverge_of_which_no_step_counts_is_a_failure(data, wild_plan, monkeypatch):
    run, *_ = sweep.read_plan(wild_plan)
    monkeypatch.setattr("qwen3.train.spikes.SpikeGuard.reason_to_skip", lambda *_: "loss is nan")
    with pytest.raises(DivergedError, match="all 12 steps had to be skipped: loss is nan"):
        scaling.held_out_loss(sweep.recipe(run, str(data), held_out_tokens=1024))
