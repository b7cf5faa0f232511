"""A real run's ledger: killed, resumed, finished; its card, its checkpoints' integrity, drift and lineage."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training import state

from qwen3.checkpoint import drift, integrity
from qwen3.checkpoint.hub import resolve
from qwen3.tokenizer import Tokenizer
from qwen3.train import bookkeeping, card, card_text, ledger, shares
from qwen3.train.attend import SHORT
from qwen3.train.bookkeeping import Bookkeeper
from qwen3.train.conversations import LABELS
from qwen3.train.data.build import Job, build
from qwen3.train.data.sources import Source
from qwen3.train.data.stage import general, reasoning
from qwen3.train.distribute import World
from qwen3.train.flops import model_flops, step_flops
from qwen3.train.recipe import Shards
from qwen3.train.spikes import SpikeGuard
from qwen3.train.trainer import Trainer

WHOLE = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "builtin.py"))["recipe"]().tiny()
# One stage of conversations.
TINY = replace(WHOLE, stages=WHOLE.stages[:1])


@pytest.fixture(scope="module")
def on_shards(tmp_path_factory):
    """The tiny recipe on a data set of two sources, in two stages of six steps."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    with (folder / "texts.jsonl").open("w") as file:
        for number in range(150):
            text = " ".join(random.choice(["stone", "river", "seven", "bread", "equation", "proof"], 40))
            source = "tales" if number % 3 else "notes"
            file.write(json.dumps({"text": text, "source": source, "license": "MIT", "lang": "en"}) + "\n")
    build(Job((Source(str(folder / "texts.jsonl")),), near=0), Tokenizer.load(resolve("builtin")), folder / "set")
    stages = tuple(
        replace(TINY.stages[0], name=made.name, data=Shards(str(folder / "set"), made), tokens_per_micro_batch=256)
        for made in (general(64, 512), reasoning(128, 256))
    )
    return replace(TINY, model=replace(TINY.model, vocab_size=2048), stages=stages)


def train(recipe, run, until=None):
    """Runs to the end, or is "killed" after step `until`."""
    book = Bookkeeper(recipe, run, World(), software="qwen3 0.1.0")
    trainer = Trainer(recipe, run, World(), book)
    for report in trainer.run():
        if report.step == until:
            return
    book.close()
    book.count_shares(trainer.tokenizer)


@pytest.mark.parametrize("kind", ["curriculum", "shards"])
def test_a_killed_and_resumed_run_has_a_card_whose_shares_are_its_tokens(kind, on_shards, tmp_path):
    recipe = on_shards if kind == "shards" else TINY
    train(recipe, tmp_path, until=5)
    train(recipe, tmp_path)
    totals = ledger.read(tmp_path)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert totals.kept.tokens == sum(line["tokens"] for line in log)
    assert totals.kept.trained_tokens == sum(line["trained_tokens"] for line in log)
    # Steps 4 and 5 came after the checkpoint of step 3, and were done twice.
    assert totals.repeated.tokens == sum(line["tokens"] for line in log[3:5])
    assert [(each.first, each.last) for each in totals.attempts] == [(0, 3), (3, recipe.steps)]
    counted = shares.read(tmp_path)
    assert counted.tokens == totals.kept.tokens
    sources = counted.total("source")
    assert set(sources) == ({"tales", "notes"} if kind == "shards" else {LABELS["source"]})
    assert sum(sources.values()) == totals.kept.tokens
    # The same command on a finished run counts again.
    (tmp_path / shares.NAME).unlink()
    train(recipe, tmp_path)
    assert shares.read(tmp_path) == counted
    assert ledger.read(tmp_path) == totals
    text = card_text.markdown(card.of(tmp_path, "tiny"))
    assert f"exactly {totals.kept.tokens:,} tokens" in text
    assert recipe.digest in text


def test_a_run_goes_on_with_another_end_as_if_it_had_always_had_it(tmp_path):
    (*start, _) = TINY.stages[0].schedule
    longer = replace(TINY, stages=(replace(TINY.stages[0], schedule=(*start, (9, 1e-3))), WHOLE.stages[1]))
    train(TINY, tmp_path / "run", until=4)
    train(longer, tmp_path / "run")
    train(longer, tmp_path / "whole")
    a, b = (state(tmp_path / run / "step_15") for run in ("run", "whole"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    totals, whole = ledger.read(tmp_path / "run"), ledger.read(tmp_path / "whole")
    assert totals.recipe_sha256 == longer.digest
    assert [(each.first, each.last) for each in totals.attempts] == [(0, 3), (3, 15)]
    assert totals.kept.tokens == whole.kept.tokens
    assert shares.read(tmp_path / "run") == shares.read(tmp_path / "whole")
    # What its done steps depended on may not change.
    for other in (replace(longer, seed=1), longer.each_stage(schedule=((0, 0.0), (2, 1e-3), (9, 0.0)))):
        with pytest.raises(ValueError, match="another recipe, different before step 15"):
            train(other, tmp_path / "run")


def test_a_skipped_step_trains_on_no_token_and_its_documents_still_have_shares(tmp_path, monkeypatch):
    judge = SpikeGuard.reason_to_skip
    monkeypatch.setattr(SpikeGuard, "reason_to_skip", lambda *step: "made up" if step[1] in (2, 5) else judge(*step))
    train(TINY, tmp_path)
    totals, (stage,) = ledger.read(tmp_path), ledger.read(tmp_path).stages
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if line["skipped"]] == [2, 5]
    assert totals.kept.skipped_steps == 2
    assert stage.trained_tokens == sum(line["trained_tokens"] for line in log if not line["skipped"])
    assert shares.read(tmp_path).tokens == totals.kept.tokens == sum(line["tokens"] for line in log)
    text = card_text.markdown(card.of(tmp_path, "tiny"))
    assert "| steps skipped | 2, " in text
    assert "Steps that were skipped saw theirs too." in text


def test_the_meter_is_of_the_gpu_that_cuda_means(tmp_path, monkeypatch):
    """CUDA_VISIBLE_DEVICES renumbers the GPUs for CUDA and not for NVML."""
    asked = []
    monkeypatch.setattr(bookkeeping, "meters", lambda gpus, **options: asked.extend(gpus) or {})
    properties = {torch.device("cuda", 1): SimpleNamespace(uuid="1234-abcd")}
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    Bookkeeper(TINY, tmp_path, World(device=torch.device("cuda", 1)), software="qwen3 0.1.0")
    assert asked == ["GPU-1234-abcd"]


def test_operations_are_those_of_the_documents(on_shards, tmp_path):
    train(on_shards, tmp_path)
    (first, *_) = [line for line in ledger._lines(tmp_path / "ledger" / "rank_0.jsonl") if line["kind"] == "step"]
    from qwen3.train.data.dataset import Dataset
    from qwen3.train.data.stage import StageData

    data = on_shards.stages[0].data
    arrays = StageData(Dataset(Path(data.directory)), data.stage, on_shards.seed).arrays(0, np.arange(8))
    trained = int(arrays.loss_weight_T.sum())
    expected = step_flops(on_shards.model, arrays.lengths, trained, fused_beyond=SHORT).total
    assert first["flops"] == expected
    log = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert log["model_flops"] == model_flops(on_shards.model, arrays.lengths, trained).total


def test_checkpoints_verify_drift_and_form_a_chain(tmp_path):
    train(TINY, tmp_path)
    steps = integrity.checkpoints(tmp_path)
    assert [integrity.step_of(each) for each in steps] == [3, 6]
    assert not any(each.fault for step in steps for each in integrity.verify(step))
    first, second = integrity.lineage(tmp_path)
    assert integrity.is_child(second, first)
    found = drift.compare(*steps)
    assert 0 < found.total < 1
    assert len(found.drifts) == 1 + 2 * 11 + 1
    (file,) = steps[1].glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert [each.file for each in integrity.verify(steps[1]) if each.fault] == [file.name]
