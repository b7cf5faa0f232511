"""Three stages on a data set: the loss falls in each, resumed runs are bit-equal, spikes and damage are met."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from training import gradients, relative_difference, short, state, three_stages

from qwen3.checkpoint.safetensors import CheckpointError
from qwen3.train import checkpoint, curves
from qwen3.train.feed import open_feed
from qwen3.train.spikes import DivergedError, SpikeGuard
from qwen3.train.trainer import Trainer

KILLS = Path(__file__).parents[2] / "benchmarks" / "kill_safety.py"


@pytest.fixture(scope="module")
def recipe(data):
    return three_stages(data)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole")
    return run, list(Trainer(short(recipe), run).run())


def test_the_held_out_loss_falls_in_each_stage_on_its_own_data(recipe, tmp_path):
    schedule = ((0, 0.0), (2, 1e-2), (12, 1e-3))
    trainer = Trainer(recipe.each_stage(schedule=schedule, evaluate_every=12, checkpoint_every=12), tmp_path)
    run = trainer.run()
    for number, stage in enumerate(trainer.recipe.stages):
        before = trainer.evaluate(number)
        reports = [next(run) for _ in range(12)]
        assert {report.stage for report in reports} == {stage.name}
        assert reports[-1].held_out_loss < before - 0.02
        assert trainer.model.config.rope_parameters.rope_theta == (1e6 if stage.name == "long-context" else 1e4)


def test_an_evaluation_reads_only_documents_that_no_step_sees(recipe, tmp_path):
    trainer = Trainer(recipe, tmp_path)
    for feed in trainer._feeds:
        seen = {int(each) for step in range(6) for each in feed._data.rows(step).documents}
        held_out = {int(each) for each in feed._held_out.rows(0).documents}
        assert held_out
        assert not seen & held_out


def test_a_stages_own_rule_holds_for_its_steps_and_its_evaluation_and_trains_on_nothing_held_out(recipe):
    first = recipe.stages[0]
    seen = replace(first.shards.stage, where=("tokens>=200",))
    own = replace(first, data=replace(first.shards, stage=seen))
    feed = open_feed(replace(recipe, stages=(own,)), 0, None, 1)
    dataset = feed._data.dataset
    for data, split in ((feed._data, "bucket>=10"), (feed._held_out, "bucket<10")):
        allowed = dataset.where(("tokens>=200", split))
        assert all(allowed[data.rows(step).documents].all() for step in range(20))


@pytest.mark.parametrize(("size", "optimizer"), [("0.6B", "adamw"), ("30B-A3B", "muon")])
def test_stopped_and_resumed_across_stages_it_is_bit_equal(data, size, optimizer, tmp_path):
    recipe = short(replace(three_stages(data, size), optimizer=optimizer)).each_stage(evaluate_every=0)
    whole = list(Trainer(recipe, tmp_path / "whole").run())
    losses = []
    for stop in (2, 5, 9):  # Before a checkpoint, two steps past one in the second stage, and the end.
        for report in Trainer(recipe, tmp_path / "broken").run():
            del losses[report.step - 1 :]
            losses.append(report.loss)
            if report.step == stop:
                break
    assert losses == [report.loss for report in whole]
    a, b = (state(tmp_path / run / "step_9") for run in ("whole", "broken"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_any_division_into_micro_batches_gives_the_same_gradients(recipe, tmp_path):
    recipe = replace(recipe, stages=recipe.stages[:1])
    found = {
        tokens: gradients(Trainer(recipe.each_stage(tokens_per_micro_batch=tokens), tmp_path / str(tokens)))
        for tokens in (1024, 512, 128)
    }
    assert relative_difference(found[512], found[1024]) <= 1e-6
    assert relative_difference(found[128], found[1024]) <= 1e-6


def test_recomputed_activations_give_the_same_bits(recipe, tmp_path):
    plain = gradients(Trainer(replace(recipe, recompute=False), tmp_path / "plain"))
    again = gradients(Trainer(replace(recipe, recompute=True), tmp_path / "again"))
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_the_balance_loss_reaches_the_routers(data, tmp_path):
    recipe = three_stages(data, "30B-A3B")
    off, on = (
        gradients(Trainer(replace(recipe, balance=weight, z_loss=weight), tmp_path / str(weight)))
        for weight in (0.0, 0.1)
    )
    changed = {name for name in on if not torch.equal(on[name], off[name])}
    assert "model.layers.1.mlp.gate.weight" in changed


def test_nan_gradients_leave_the_weights_alone_and_the_run_goes_on(recipe, tmp_path, monkeypatch):
    trainer = Trainer(recipe, tmp_path)
    run = trainer.run()
    next(run)
    before = {name: tensor.clone() for name, tensor in trainer._optimizer.tensors().items()}
    backward = Trainer._backward

    def poisoned(self, *arguments):
        sums = backward(self, *arguments)
        next(iter(self._parameters.values())).grad[0, 0] = math.nan
        return sums * torch.tensor([math.nan, math.nan, 1, 1])

    monkeypatch.setattr(Trainer, "_backward", poisoned)
    report = next(run)
    assert report.skipped == "loss is nan"
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer._optimizer.tensors().items())
    monkeypatch.undo()
    assert next(run).skipped == ""
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] is None for line in log] == [False, True, False]
    assert Trainer(recipe, tmp_path)._guard.skipped == 1


def test_a_loss_that_stays_nan_stops_the_run_and_says_what_to_do(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_backward", lambda *_: torch.tensor([math.nan, math.nan, 0, 0], dtype=torch.float64))
    trainer = Trainer(replace(recipe, most_skips=3).each_stage(checkpoint_every=100), tmp_path)
    with pytest.raises(DivergedError, match=r"loss is nan, the 3\. step in a row.*lower learning rate"):
        list(trainer.run())


def test_a_spike_is_a_value_far_above_a_full_window():
    guard = SpikeGuard(sigmas=6, window=8, most_skips=3)
    # Until the window is full nothing can be said.
    assert not any(guard.reason_to_skip(step, 50.0 if step == 3 else 2 + step % 2, 1 + step % 2) for step in range(8))
    assert not any(guard.reason_to_skip(step, 2 + step % 2, 1 + step % 2) for step in range(8, 16))
    assert "loss 9" in guard.reason_to_skip(16, 9.0, 1.0)
    assert "norm 40" in guard.reason_to_skip(17, 2.0, 40.0)
    assert not guard.reason_to_skip(18, 0.1, 0.1)
    assert guard.skipped == 2
    again = SpikeGuard(sigmas=6, window=8, most_skips=3)
    again.restore(json.loads(json.dumps(guard.state())))
    assert again.state() == guard.state()
    assert again.reason_to_skip(19, 12.0, 1.0)


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(recipe, tmp_path, monkeypatch):
    run = Trainer(recipe, tmp_path).run()
    for _ in range(5):
        next(run)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*step_3: make room"):
        next(run)
    monkeypatch.undo()
    assert Trainer(recipe, tmp_path).step == 3
    assert len(list(Trainer(recipe, tmp_path).run())) == 15
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\x01"), "does not have the SHA-256"),
        (lambda file: file.write_bytes(file.read_bytes()[:100]), "does not have the SHA-256"),
        (lambda file: file.unlink(), "is missing"),
        (lambda file: (file.parent / "manifest.json").write_text("{"), "manifest.json"),
        (lambda file: (file.parent / "manifest.json").unlink(), "manifest.json"),
    ],
    ids=["flipped", "cut", "missing", "torn manifest", "no manifest"],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_named(recipe, tmp_path, damage, reason):
    run = Trainer(recipe, tmp_path).run()
    for _ in range(6):
        next(run)
    (file,) = (tmp_path / "step_6").glob("*.safetensors")
    damage(file)
    with pytest.raises(CheckpointError, match=f"step_6 is damaged: .*{reason}.*; write step_3 into"):
        Trainer(recipe, tmp_path)
    (tmp_path / "latest").write_text("step_3\n")
    assert Trainer(recipe, tmp_path).step == 3
    (file,) = (tmp_path / "step_3").glob("*.safetensors")
    file.unlink()
    (tmp_path / "step_6" / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"step_3 is damaged: .*; delete"):
        Trainer(recipe, tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("step3", "step3 is damaged: manifest.json"),
        ("step_3.bak", "step_3.bak is damaged"),
        ("\n", "latest is damaged"),
    ],
)
def test_a_pointer_to_no_checkpoint_is_refused_and_the_newest_named(recipe, tmp_path, name, reason):
    run = Trainer(recipe, tmp_path).run()
    for _ in range(6):
        next(run)
    (tmp_path / "latest").write_text(name)
    with pytest.raises(CheckpointError, match=f"{reason}.*; write step_6 into"):
        Trainer(recipe, tmp_path)


def test_a_checkpoint_whose_recipe_was_told_in_another_way_is_refused_as_such(recipe, tmp_path):
    run = Trainer(recipe, tmp_path).run()
    for _ in range(3):
        next(run)
    manifest = tmp_path / "step_3" / "manifest.json"
    facts = json.loads(manifest.read_text())
    del facts["digest_version"]
    manifest.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="step_3 was written by another version of this program"):
        Trainer(recipe, tmp_path)


def test_a_save_that_was_cut_off_leaves_the_one_before(recipe, tmp_path, monkeypatch):
    trainer = Trainer(recipe, tmp_path)
    run = trainer.run()
    next(run), next(run)

    def cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_complete", cut)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    monkeypatch.undo()
    assert (tmp_path / "step_3.tmp").is_dir()
    assert Trainer(recipe, tmp_path).step == 0


def test_other_data_than_a_run_began_with_are_refused(recipe, whole, tmp_path):
    run, _ = whole
    manifest = run / "step_9" / "manifest.json"
    text = manifest.read_text()
    identity = json.loads(text)["data"]["identity"][0]
    manifest.write_text(text.replace(identity, "0" * 64))
    with pytest.raises(ValueError, match="its data are not those"):
        Trainer(short(recipe), run)
    manifest.write_text(text)


def test_killed_at_random_moments_it_goes_on_bit_equal(data):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["src", *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(KILLS), str(data), "--kills", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=KILLS.parents[1])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    del found["while saving"]  # Left to chance.
    assert found == {"kills": 2, "failed starts": 0, "each step once": True, "bit-equal": True}


def test_the_log_becomes_a_chart(whole):
    run, reports = whole
    records = curves.read_log(run)
    assert [record["loss"] for record in records] == [report.loss for report in reports]
    chart = curves.svg(records, "a run")
    assert chart.count("<polyline") == 3
    assert all(stage in chart for stage in ("general", "reasoning", "long-context"))


def test_samples_are_written_while_it_trains(data, tmp_path):
    trainer = Trainer(three_stages(data).each_stage(sample_every=2), tmp_path)
    run = trainer.run()
    next(run), next(run)
    (line,) = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert json.loads(line)["samples"][0].startswith("The capital of France is")
