"""What tests of the trainer share: a small data set, its three stages, a step's gradients, a checkpoint's tensors."""

import hashlib
import json
import os
import random
import runpy
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

import qwen3
from qwen3.tokenizer import Tokenizer
from qwen3.train.data.build import Job, build
from qwen3.train.data.sources import Source
from qwen3.train.recipe import Recipe
from qwen3.train.trainer import StepReport, Trainer

RECIPES = Path(__file__).parents[1] / "recipes"
PROCESS = Path(__file__).with_name("training_process.py")
WORDS = "river stone cloud music garden winter letter silver window morning forest candle bridge market".split()


def build_data(directory: Path) -> Path:
    """A data set of sums and sentences: 600 documents of 60 to 800 tokens, with the built-in tokenizer."""
    draw = random.Random(0)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "raw.jsonl").open("w") as file:
        for index in range(600):
            if index % 2:
                pairs = [(draw.randrange(100), draw.randrange(100)) for _ in range(draw.randrange(5, 60))]
                text = " ".join(f"{a} + {b} = {a + b}." for a, b in pairs)
            else:
                lines = [draw.choices(WORDS, k=3) for _ in range(draw.randrange(5, 60))]
                text = " ".join(f"The {a} of the {b} was near the {c}." for a, b, c in lines)
            file.write(json.dumps({"text": text}) + "\n")
    tokenizer = Tokenizer.load(Path(qwen3.__file__).parent / "builtin")
    build(Job((Source(str(directory / "raw.jsonl"), "synthetic", "CC0"),), near=0), tokenizer, directory / "set")
    return directory / "set"


def three_stages(data: Path, size: str = "0.6B") -> Recipe:
    """The pre-training recipe's tiny variant: six steps in each of its stages."""
    return runpy.run_path(str(RECIPES / "pretrain.py"))["recipe"](size, str(data)).tiny()


def short(recipe: Recipe, steps: int = 3) -> Recipe:
    """The same with so many steps a stage."""
    return recipe.each_stage(schedule=((0, 0.0), (1, 2e-3), (steps, 1e-3)))


def changed(job: dict) -> Recipe:
    """What a process trains on its own or with others: the size, and changes to the recipe and to its model."""
    recipe = short(three_stages(Path(job["data"]), job.get("size", "0.6B")), job.get("steps", 3))
    recipe = replace(recipe, model=replace(recipe.model, **job.get("model", {})), **job.get("changes", {}))
    return replace(recipe, stages=tuple(recipe.stages[number] for number in job.get("stages", (0, 1, 2))))


def record_rows(trainer: Trainer) -> dict[int, list[str]]:
    """From now on: the hashes of the rows that this process gets, by step of the run."""
    rows: dict[int, list[str]] = {}

    def recorded(feed, length):
        batches = feed.batches

        def wrapped(*arguments):
            for batch in batches(*arguments):
                for row in batch.tokens_T.view(-1, length):
                    digest = hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16]
                    rows.setdefault(trainer.step + 1, []).append(digest)
                yield batch

        feed.batches = wrapped

    for feed, stage in zip(trainer._feeds, trainer.recipe.stages, strict=True):
        recorded(getattr(feed, "whole", feed), stage.data.stage.row)
    return rows


def processes(jobs: list[dict], file: Path, size: int = 2) -> list[dict]:
    """What the reports of the jobs were on `size` processes, equal on all, and the rows of all of them together."""
    file.write_text(json.dumps(jobs))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"PYTHONPATH": os.pathsep.join(["src", *sys.path]), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(PROCESS), str(file)],
            env=common | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
            cwd=PROCESS.parents[1],
        )
        for rank in range(size)
    ]
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    first, *others = [json.loads(file.with_suffix(f".{rank}.json").read_text()) for rank in range(size)]
    for number, job in enumerate(first):
        rows = {int(step): each for step, each in job["rows"].items()}
        for other in others:
            assert [r["loss"] for r in job["reports"]] == [r["loss"] for r in other[number]["reports"]]
            for step, each in other[number]["rows"].items():
                rows[int(step)] += each
        job["rows"] = {step: sorted(each) for step, each in rows.items()}
    return first


def one_process(recipe: Recipe, run: Path, stop: int | None = None) -> tuple[list[StepReport], dict[int, list[str]]]:
    """The reports and rows of a run on this process, up to step `stop`."""
    trainer = Trainer(recipe, run)
    rows = record_rows(trainer)
    reports = []
    for report in trainer.run():
        reports.append(report)
        if report.step == stop:
            break
    return reports, {step: sorted(each) for step, each in rows.items()}


def gradients(trainer: Trainer, step: int = 0) -> dict[str, torch.Tensor]:
    """The gradients of a step of the first stage, before the optimizer sees them."""
    feed = trainer._feeds[0]
    if trainer._balance is not None:
        trainer._balance.start_step()
    for batch in feed.batches(step, 0, 1):
        trainer._backward(batch, feed.counts(step))
    return {name: parameter.grad for name, parameter in trainer.model.named_parameters()}


def relative_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).norm() / b[name].norm()) for name in b)


def digest(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """A hash of every bit of weights and of their names."""
    found = hashlib.sha256()
    for name, weight in weights:
        found.update(name.encode() + weight.contiguous().numpy().tobytes())
    return found.hexdigest()


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint that one process wrote."""
    (file,) = checkpoint.glob("*.safetensors")
    return load_file(file)
