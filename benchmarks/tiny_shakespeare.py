"""Tiny Shakespeare from nothing: nats a character on its last tenth, after 1.54M characters of training.

    python benchmarks/tiny_shakespeare.py input.txt [--threads 1]

The text is karpathy's 1.1 MB file, or a .jsonl.gz of documents with `text`; the split (90% / 10%) and the number of
characters seen are those of nanoGPT's CPU example (batches of 12 x 64 characters, 2,000 steps: 1.54M characters, about
1.88 nats a character in about 3 minutes on a laptop, by its README). The whole path is this project's: a BPE tokenizer
learnt from the training text alone, `qwen3 data build`, and the trainer. A token holds several characters, so the loss
in nats a token is multiplied with tokens and divided by characters; the held-out text is read in windows of the
training length that do not overlap, and every token but a window's first counts at what it costs the model, the first
at a uniform guess.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import tempfile
import time
from pathlib import Path

import torch

from qwen3 import ops
from qwen3.config import ModelConfig, RopeParameters
from qwen3.model import CausalAttend, Qwen3
from qwen3.tokenizer import Tokenizer
from qwen3.train.bbpe import train_tokenizer
from qwen3.train.data.build import Job, build
from qwen3.train.data.sources import Source
from qwen3.train.data.stage import Stage as DataStage
from qwen3.train.recipe import Recipe, Shards, Stage
from qwen3.train.schedule import warm_up_and_decay
from qwen3.train.trainer import Trainer

CHARACTERS = 1_536_000
VOCABULARY, LENGTH, TOKENS_PER_STEP = 512, 256, 2048


def read(path: Path) -> str:
    if path.suffix != ".gz":
        return path.read_text(encoding="utf-8")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return "\n".join(json.loads(line)["text"] for line in file)


def documents(text: str, size: int = 4000) -> list[str]:
    """Whole speeches, about `size` characters together."""
    found, current = [], ""
    for speech in text.split("\n\n"):
        if current and len(current) + len(speech) > size:
            found.append(current)
            current = ""
        current += speech + "\n\n"
    return [*found, current]


def recipe(data: Path, steps: int, rate: float) -> Recipe:
    model = ModelConfig(
        model_type="qwen3",
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=LENGTH,
        rope_parameters=RopeParameters(10_000.0),
        tie_word_embeddings=True,
    )
    seen = DataStage("shakespeare", LENGTH, TOKENS_PER_STEP)
    schedule = warm_up_and_decay(steps, rate, 0.0, steps // 20)
    stage = Stage("shakespeare", Shards(str(data), seen), schedule, TOKENS_PER_STEP, checkpoint_every=10**6)
    return Recipe("shakespeare", model, (stage,), optimizer="muon", bfloat16=False)


@torch.no_grad()
def nats_a_character(model: Qwen3, tokenizer: Tokenizer, text: str) -> float:
    ids = torch.tensor(tokenizer.encode(text))
    nats = 0.0
    for window_T in ids.split(LENGTH):
        hidden_TD = model(window_T, torch.arange(len(window_T)), CausalAttend([len(window_T)]))
        nats += ops.token_losses(hidden_TD[:-1], model.head_weight, window_T[1:]).sum().item() + math.log(VOCABULARY)
    return nats / len(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    text = read(options.text)
    cut = len(text) * 9 // 10
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        raw, data = Path(folder) / "raw.jsonl", Path(folder) / "set"
        pieces = documents(text[:cut])
        raw.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces), encoding="utf-8")
        tokenizer = train_tokenizer(pieces, VOCABULARY)
        build(Job((Source(str(raw), "shakespeare", "public domain"),), near=0), tokenizer, data)
        characters_a_token = cut / len(tokenizer.encode(text[:cut]))
        steps = int(CHARACTERS / characters_a_token / TOKENS_PER_STEP)
        trainer = Trainer(recipe(data, steps, options.rate), Path(folder) / "run")
        for report in trainer.run():
            if report.step % 50 == 0 or report.step == steps:
                print(f"step {report.step} of {steps}: {report.loss / characters_a_token:.3f} nats a character")
        seconds = time.perf_counter() - began
        found = nats_a_character(trainer.model, tokenizer, text[cut:])
    tokens = steps * TOKENS_PER_STEP
    print(
        f"{found:.4f} nats a character on the last {len(text) - cut:,}; {trainer.model.config.num_parameters:,} "
        f"parameters, {tokens:,} tokens of {characters_a_token:.2f} characters: {tokens * characters_a_token:,.0f} "
        f"characters seen; {seconds:.0f} s in all on {options.threads} threads"
    )


if __name__ == "__main__":
    main()
