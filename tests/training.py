"""What tests of the trainer share: a small data set, its three stages, a step's gradients, a checkpoint's tensors."""

import hashlib
import json
import random
import runpy
from pathlib import Path

import torch
from safetensors.torch import load_file

import qwen3
from qwen3.tokenizer import Tokenizer
from qwen3.train.data.build import Job, build
from qwen3.train.data.sources import Source
from qwen3.train.recipe import Recipe
from qwen3.train.trainer import Trainer

RECIPES = Path(__file__).parents[1] / "recipes"
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


def short(recipe: Recipe) -> Recipe:
    """The same with three steps a stage."""
    return recipe.each_stage(schedule=((0, 0.0), (1, 2e-3), (3, 1e-3)))


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
        recorded(feed, stage.data.stage.row)
    return rows


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


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint that one process wrote."""
    (file,) = checkpoint.glob("*.safetensors")
    return load_file(file)
