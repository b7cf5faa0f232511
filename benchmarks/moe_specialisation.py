"""Experts under the global-batch balance and under the usual local one: do they specialise on domains?

    python benchmarks/moe_specialisation.py peps.jsonl.gz python.jsonl.gz ... [--steps 150] [--seeds 0 1 2]

A sparse model of 16 experts of which a token takes 4 is trained twice from the same weights on the same batches: raw
files are domains, each with half the share of the one before, and a micro-batch is one row of one domain's text, as
long documents make it. Once the shares f of the balance loss are counted over the whole global batch (the trainer's
`LoadBalance`, arXiv 2501.11873), once over each micro-batch alone, which asks every domain to use all experts alike.
On held-out documents: specialisation (mutual information of expert and domain over the domain's entropy), balance over
all domains, and loss.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from qwen3.checkpoint.hub import resolve
from qwen3.config import ModelConfig, RopeParameters
from qwen3.model import CausalAttend
from qwen3.tokenizer import Tokenizer
from qwen3.train import observe
from qwen3.train.balance import LoadBalance
from qwen3.train.data.build import Job, build
from qwen3.train.data.dataset import Dataset
from qwen3.train.data.sources import Source
from qwen3.train.data.stage import Pool, StageData
from qwen3.train.data.stage import Stage as DataStage
from qwen3.train.distribute import World
from qwen3.train.loader import batches
from qwen3.train.recipe import Recipe, Shards, Stage
from qwen3.train.schedule import warm_up_and_decay
from qwen3.train.specialisation import choices
from qwen3.train.trainer import Trainer

ROW, ROWS = 256, 8
# A tenth of the texts: the hundredth that no stage trains on would leave some domains without any.
TRAINED, HELD_OUT = ("bucket>=100",), ("bucket>=10", "bucket<100")


class LocalBalance(LoadBalance):
    """The control: counts of one micro-batch only."""

    def losses(self, *arguments):
        self.start_step()
        return super().losses(*arguments)


def recipe(data: Path, domains: list[str], steps: int, seed: int, coefficient: float) -> Recipe:
    model = ModelConfig(
        model_type="qwen3_moe",
        vocab_size=2048,
        hidden_size=128,
        intermediate_size=384,
        moe_intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=16,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        max_position_embeddings=ROW,
        rope_parameters=RopeParameters(10_000.0),
        tie_word_embeddings=True,
    )
    pools = tuple(Pool(0.5**number, (f"source={domain}",)) for number, domain in enumerate(domains))
    seen = DataStage("domains", ROW, ROW * ROWS, pools, where=TRAINED)
    schedule = warm_up_and_decay(steps, 3e-3, 3e-4, steps // 20)
    stage = Stage("domains", Shards(str(data), seen), schedule, ROW, checkpoint_every=10**6)
    return Recipe("domains", model, (stage,), balance=coefficient, bfloat16=False, seed=seed)


def beginning(path: Path, most: int = 2_000_000) -> Iterator[str]:
    """The first documents of a file, of `most` characters together."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield line
            most -= len(line)
            if most < 0:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", help=".jsonl.gz files, one a domain, the most frequent first")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--balance", type=float, default=0.02, help="coefficient of the loss, of both")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    domains = [path.name.split(".")[0] for path in options.files]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "set"
        sources = []
        for path, name in zip(options.files, domains, strict=True):
            shorter = Path(folder) / f"{name}.jsonl"
            shorter.write_text("".join(beginning(path)), encoding="utf-8")
            sources.append(Source(str(shorter), name))
        build(Job(tuple(sources), keep=(f"tokens>={ROW}",), near=0), Tokenizer.load(resolve("builtin")), data)
        dataset = Dataset(data)
        for seed in options.seeds:
            chosen = recipe(data, domains, options.steps, seed, options.balance)
            seen = replace(chosen.stages[0].data.stage, where=HELD_OUT, tokens_per_step=64 * ROW)
            held_out = StageData(dataset, seen)
            for name, kind in (("global", LoadBalance), ("local", LocalBalance)):
                began = time.perf_counter()
                trainer = Trainer(chosen, Path(folder) / f"{name}-{seed}")
                trainer._balance = kind(trainer.model.config)
                for _ in trainer.run():
                    pass
                loss = observe.loss(trainer.model, batches(held_out, 0), CausalAttend, World())
                found = choices(trainer.model, dataset, "source", HELD_OUT, tokens=8000)
                layers = " ".join(f"{each:.3f}" for each in found.specialisation)
                print(
                    f"seed {seed}, {name:6}: specialisation {found.specialisation.mean():.4f} ({layers} by layer), "
                    f"balance {found.balance.mean():.3f}, held-out loss {loss:.4f}, "
                    f"{time.perf_counter() - began:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
