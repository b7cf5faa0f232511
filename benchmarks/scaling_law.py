"""A scaling law that was fitted to small models, against the largest one, which it did not see.

    python benchmarks/scaling_law.py texts.jsonl.gz [--out DIR]

`qwen3 scaling plan` and `run` for real: models of the 0.6B's proportions at small widths, each on several numbers of
tokens with five learning rates; laws fitted to all but the largest width (`scaling.fit`); then what they predict for
the largest, its best learning rate and loss, beside what its own five runs say. DIR keeps the plan with its losses, so
that an interrupted run goes on, the laws, and their chart with Step Law's and DeepSeek's.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from pathlib import Path

import torch

from qwen3.cli import scaling as command
from qwen3.config import ModelConfig
from qwen3.train import scaling, sweep
from qwen3.train.bbpe import train_tokenizer
from qwen3.train.data.build import Job, build
from qwen3.train.data.sources import Source

VOCABULARY, LENGTH, HELD_OUT = 512, 128, 1 << 16
# Tokens by width, as multiples of the parameters; the last width is the one that the laws do not see.
SWEEP = {16: (10.0, 20.0, 40.0), 32: (10.0, 20.0, 40.0), 48: (10.0, 20.0, 40.0), 64: (20.0,)}
# Step Law was fitted from 60 million parameters up; to models so small it gives too high rates.
RATES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)


def plan() -> list[sweep.PlannedRun]:
    target = ModelConfig.preset("Qwen3-0.6B")
    options = {"sequence_length": LENGTH, "vocab_size": VOCABULARY}
    return [
        run for width, tokens in SWEEP.items() for run in sweep.plan(target, [width], tokens, RATES, [1], **options)
    ]


def build_data(texts: Path, directory: Path) -> None:
    """A data set with a small tokenizer of its own, so that the embedding does not dwarf such models."""
    with gzip.open(texts, "rt", encoding="utf-8") as file:
        sample = [json.loads(line)["text"] for _, line in zip(range(100), file, strict=False)]
    tokenizer = train_tokenizer(sample, VOCABULARY)
    build(Job((Source(str(texts)),), near=0), tokenizer, directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        data, path, laws_path = out / "data", out / "plan.jsonl", out / "laws.json"
        if not (data / "manifest.json").is_file():
            build_data(options.texts, data)
        if not path.is_file():
            sweep.write_plan(path, plan())
        command.run(path, data, HELD_OUT)
        runs = sweep.read_runs(path)
        size = max(run.parameters for run in runs)
        largest = [run for run in runs if run.parameters == size]
        laws = scaling.fit([run for run in runs if run.parameters < size])
        sweep.write_laws(laws_path, {("dense", "general"): laws})
        tokens = largest[0].tokens
        (out / "laws.svg").write_text(command.laws_chart({"general": laws}, int(size), tokens), encoding="utf-8")
    seconds = time.perf_counter() - began
    best = min(largest, key=lambda run: run.loss)
    optimum = scaling.optima(largest, "learning_rate")
    rate, loss = laws.learning_rate(size, tokens), laws.loss(size, tokens)
    step_law, deepseek = scaling.step_law(size, tokens), scaling.deepseek(size, tokens)
    print(f"{len(runs)} runs, {seconds:.0f} s; the largest: {size:,.0f} parameters, {tokens:,.0f} tokens")
    for run in sorted(largest, key=lambda run: run.learning_rate):
        print(f"  rate {run.learning_rate:.3e}: {run.loss:.4f} nats")
    measured = optimum[0][2] if optimum else best.learning_rate
    print(
        f"best rate {measured:.3e}, predicted {rate.value:.3e} ({rate.low:.3e} to {rate.high:.3e}): factor "
        f"{max(measured / rate.value, rate.value / measured):.2f}; Step Law {step_law[0]:.3e}, "
        f"DeepSeek {deepseek[0]:.3e}"
    )
    print(
        f"loss {best.loss:.4f}, predicted {loss.value:.4f} ({loss.low:.4f} to {loss.high:.4f}): "
        f"{loss.value / best.loss - 1:+.2%}"
    )


if __name__ == "__main__":
    main()
