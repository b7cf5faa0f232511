"""Training speed and peak memory beside transformers' Qwen3, in one run, taking turns step by step.

    python benchmarks/train_speed.py [--hidden 512] [--tokens 4096] [--rounds 5] [--threads 2] [--out FILE.json]

Each contender is a process of its own that trains the same model from the same weights on the same documents: the
proportions of the 0.6B at a smaller width, with the whole vocabulary of 151,936, on documents of 30 to 1,500 tokens.

    qwen3                        this package's `Trainer`, as `qwen3 train` runs it, packed
    transformers, packed         one row, `position_ids` that begin anew: the documents do not see each other
    transformers, padded         a row a document, `attention_mask`
    transformers, cut            rows of 1,024 tokens as its run_clm.py makes them: documents see each other

transformers runs eagerly with sdpa, its own loss, AdamW (fused, as its `Trainer` chooses), the same clipping and rate.
In bfloat16 it runs under autocast, as its `Trainer` does with `bf16=True`; both keep float32 weights and moments.
Only true tokens count. On a machine with other work the ratio of processor times is the steadier one. The losses of all
but the last must agree at every step (float32: the first to 1e-5), or the run fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from qwen3.config import ModelConfig
from qwen3.train.data.stage import Stage as DataStage
from qwen3.train.recipe import Recipe, Shards, Stage
from qwen3.train.sweep import smaller

OURS = "qwen3"
THEIRS = ("transformers, packed", "transformers, padded", "transformers, cut")
RATE, BETAS, DECAY, CLIP = 3e-4, (0.9, 0.95), 0.1, 1.0
CUT = 1024


def make_recipe(data: Path, hidden: int, vocabulary: int, tokens: int, *, bfloat16: bool) -> Recipe:
    """`tokens` a step in one micro-batch, at a constant rate."""
    model = smaller(ModelConfig.preset("Qwen3-0.6B"), hidden, vocabulary)
    seen = DataStage("speed", sequence_length=tokens, tokens_per_step=tokens)
    stage = Stage("speed", Shards(str(data), seen), ((0, RATE), (1000, RATE)), tokens, checkpoint_every=1000)
    return Recipe("speed", model, (stage,), betas=BETAS, weight_decay=DECAY, max_gradient_norm=CLIP, bfloat16=bfloat16)


def build_data(directory: Path) -> Path:
    """Documents of random words whose lengths are log-normal with a median of 400 tokens."""
    from qwen3.checkpoint.hub import resolve
    from qwen3.tokenizer import Tokenizer
    from qwen3.train.data.build import Job, build
    from qwen3.train.data.sources import Source

    draw = random.Random(0)
    words = ["river", "stone", "cloud", "music", "garden", "winter", "letter", "silver", "window", "morning"]
    with (directory / "raw.jsonl").open("w") as file:
        for _ in range(400):
            count = min(400, max(8, int(draw.lognormvariate(4.6, 0.8))))
            file.write(json.dumps({"text": " ".join(draw.choices(words, k=count))}) + "\n")
    source = Source(str(directory / "raw.jsonl"), "synthetic", "CC0")
    build(Job((source,), near=0), Tokenizer.load(resolve("builtin")), directory / "set")
    return directory / "set"


class Ours:
    def __init__(self, recipe: Recipe, folder: Path) -> None:
        from qwen3.train.trainer import Trainer

        self._steps = Trainer(recipe, folder).run()

    def step(self) -> float:
        return next(self._steps).loss


class Theirs:
    def __init__(self, recipe: Recipe, folder: Path, form: str) -> None:
        from transformers import AutoModelForCausalLM, Qwen3Config

        from qwen3.train.trainer import Trainer

        trainer = Trainer(replace(recipe, bfloat16=False), folder)
        self._feed, self._form, self._step = trainer._feeds[0], form, 0
        self._autocast = torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16)
        config = Qwen3Config(**trainer.model.config.to_dict())
        self._model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        self._model.load_state_dict(trainer.model.state_dict(), strict=False)
        self._model.tie_weights()
        self._model.train()
        matrices = [p for p in self._model.parameters() if p.ndim > 1]
        scales = [p for p in self._model.parameters() if p.ndim == 1]
        groups = [{"params": matrices, "weight_decay": DECAY}, {"params": scales, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, fused=True)

    def _inputs(self) -> dict:
        (batch,) = self._feed.batches(self._step, 0, 1)
        # Shifted beforehand: the last token of a row may have its target in the next one.
        targets = batch.targets_T.where(batch.loss_weight_T > 0, -100)
        if self._form.endswith("packed"):
            labels, position_ids = targets[None], batch.positions_T[None]
            return {"input_ids": batch.tokens_T[None], "position_ids": position_ids, **_shifted(labels)}
        if self._form.endswith("cut"):
            return {"input_ids": batch.tokens_T.view(-1, CUT), "labels": batch.tokens_T.view(-1, CUT)}
        pad = torch.nn.utils.rnn.pad_sequence
        documents = batch.tokens_T.split(batch.lengths)
        mask = pad([torch.ones_like(each) for each in documents], True, 0)
        labels = pad(targets.split(batch.lengths), True, -100)
        return {"input_ids": pad(documents, True, 0), "attention_mask": mask, **_shifted(labels)}

    def step(self) -> float:
        inputs = self._inputs()
        with self._autocast:
            loss = self._model(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1
        return loss.item()


def _shifted(labels_BL: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"labels": labels_BL, "shift_labels": labels_BL}


def work(options: argparse.Namespace) -> None:
    """A contender's process: a step for each line that comes in; the answer is a line of JSON."""
    from qwen3.engine.bench import peak_memory

    torch.set_num_threads(options.threads)
    recipe = make_recipe(options.data, options.hidden, options.vocabulary, options.tokens, bfloat16=options.bf16)
    with tempfile.TemporaryDirectory() as folder:
        is_ours = options.contender == OURS
        contender = Ours(recipe, Path(folder)) if is_ours else Theirs(recipe, Path(folder), options.contender)
        for _ in sys.stdin:
            start, cpu = time.perf_counter(), time.process_time()
            loss = contender.step()
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            answer = {"seconds": seconds, "cpu": cpu, "loss": loss, "peak": peak_memory()}
            print(json.dumps(answer), flush=True)


class Process:
    def __init__(self, contender: str, data: Path, options: argparse.Namespace, *, bfloat16: bool) -> None:
        arguments = ["--contender", contender, "--data", str(data), *(["--bf16"] if bfloat16 else [])]
        for name in ("hidden", "vocabulary", "tokens", "threads"):
            arguments += [f"--{name}", str(getattr(options, name))]
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def step(self) -> dict[str, float]:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a contender ended; its error is above")
        return json.loads(line)

    def end(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def measure(data: Path, options: argparse.Namespace, *, bfloat16: bool) -> dict[str, dict[str, float]]:
    """Tokens a second, peak bytes, and our share of each; after one warm-up step."""
    contenders = [OURS, *(each for each in THEIRS if any(form in each for form in options.forms))]
    processes = {name: Process(name, data, options, bfloat16=bfloat16) for name in contenders}
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(options.rounds + 1):
        for name, process in processes.items():
            answers[name].append(process.step())
    for process in processes.values():
        process.end()
    # From the second step on AdamW has made differences in the last bits of small gradients larger.
    limits = [5e-3, *[2e-2] * options.rounds] if bfloat16 else [1e-5, *[1e-2] * options.rounds]
    found = {}
    for name, each in answers.items():
        apart = [abs(a["loss"] / b["loss"] - 1) for a, b in zip(each, answers[OURS], strict=True)]
        if not name.endswith("cut") and any(a > b for a, b in zip(apart, limits, strict=True)):
            raise RuntimeError(f"{name} does not do the same work: losses differ by {apart}")
        seconds = statistics.median(answer["seconds"] for answer in each[1:])
        pairs = list(zip(each[1:], answers[OURS][1:], strict=True))
        wall, cpu = (statistics.median(a[clock] / b[clock] for a, b in pairs) for clock in ("seconds", "cpu"))
        found[name] = {
            "tokens/s": options.tokens / seconds,
            "peak": each[-1]["peak"],
            "our speed": wall,
            "our speed by processor time": cpu,
            "our peak": answers[OURS][-1]["peak"] / each[-1]["peak"],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--tokens", type=int, default=2048, help="of a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--forms", nargs="*", default=["packed", "padded", "cut"], help="of transformers' batches")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--bf16", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        work(options)
        return
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        data = build_data(Path(folder))
        model = make_recipe(data, options.hidden, options.vocabulary, options.tokens, bfloat16=False).model
        print(f"{model.num_parameters:,} parameters, {options.tokens:,} tokens a step, {options.threads} threads")
        for dtype in options.dtypes:
            report[dtype] = measure(data, options, bfloat16=dtype == "bfloat16")
            for name, each in report[dtype].items():
                print(
                    f"{dtype:9} {name:22} {each['tokens/s']:8.1f} tokens/s, peak {each['peak'] / 1e9:5.2f} GB; "
                    f"ours {each['our speed']:.2f} times as fast (by processor time "
                    f"{each['our speed by processor time']:.2f}), in {each['our peak']:.2f} of the memory",
                    flush=True,
                )
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
