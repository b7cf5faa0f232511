"""Compares the memory calculator with the peak that a process really reaches.

    python benchmarks/memory.py             # a small model, 0.6B, and a training step of the small one
    python benchmarks/memory.py Qwen3-4B    # needs 9 GB

Each case is a fresh process that builds the model with random weights, runs one prompt and a few generated tokens
through the engine, or two training steps of which the second has two micro-batches, and reports the most resident
memory that the system saw. The estimate's runtime line is the constant of `qwen3.memory`, not this process's own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace

from qwen3.config import ModelConfig
from qwen3.memory import MIB, Estimate, estimate, estimate_training

# The layers of the 0.6B, fewer of them, and a smaller vocabulary: 159M parameters.
SMALL = replace(
    ModelConfig.preset("Qwen3-0.6B"), num_hidden_layers=8, vocab_size=32_000, bos_token_id=None, eos_token_id=None
)
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def measure(config: ModelConfig, weights: str, prompt: int, generated: int, *, train: bool) -> dict[str, int]:
    """Run one case in this process, which should do nothing else; bytes before the model and at the peak."""
    import torch

    from qwen3.engine.bench import peak_memory
    from qwen3.model import Qwen3

    baseline = peak_memory()
    torch.set_default_dtype(getattr(torch, DTYPES[weights]))
    model = Qwen3(config)
    pattern = torch.randn(1 << 16) * config.initializer_range
    with torch.no_grad():
        for parameter in model.parameters():
            # Every page must be touched, but drawing billions of numbers would take minutes.
            for piece in parameter.view(-1).split(len(pattern)):
                piece.copy_(pattern[: len(piece)] if parameter.ndim > 1 else torch.ones(len(piece)))
    tokens = [(7 * i) % config.vocab_size for i in range(prompt)]
    (_train if train else _generate)(model, tokens, generated)
    return {"baseline": baseline, "peak": peak_memory()}


def _generate(model, tokens: list[int], generated: int) -> None:
    from qwen3.engine.engine import Engine
    from qwen3.engine.request import Request, SamplingParams

    engine = Engine(model.requires_grad_(False))
    params = SamplingParams(temperature=0.6, top_k=20, max_tokens=generated)
    engine.add(Request(tokens, params, seed=0, stop_ids=frozenset(), max_length=len(tokens) + generated))
    while engine.has_work:
        engine.step()


def _train(model, tokens: list[int], micro_batches: int) -> None:
    import torch

    from qwen3 import ops
    from qwen3.model import CausalAttend

    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def backward(tokens_T: torch.Tensor) -> None:
        hidden_TD = model(tokens_T, torch.arange(len(tokens_T)), CausalAttend([len(tokens_T)]))
        weights_T = torch.full((len(tokens_T),), 1 / len(tokens_T))
        ops.weighted_loss(hidden_TD, model.head_weight, tokens_T, weights_T).backward()

    # The moments exist from the first step on, the gradients of a step from its first micro-batch on.
    backward(torch.tensor(tokens[:2]))
    optimizer.step()
    optimizer.zero_grad()
    for _ in range(micro_batches):
        backward(torch.tensor(tokens))
    optimizer.step()


def compare(
    config: ModelConfig, weights: str, prompt: int, generated: int, *, train: bool = False
) -> tuple[Estimate, dict[str, int]]:
    """The calculator's figures, and those measured in a fresh process."""
    case = [json.dumps(config.to_dict()), weights, prompt, generated, train]
    command = [sys.executable, __file__, "--measure", json.dumps(case)]
    # In training glibc's heap would keep freed tensors in its gaps, up to a tenth of the whole: give them back.
    environment = os.environ | ({"MALLOC_MMAP_THRESHOLD_": "1000000"} if train else {})
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    measured = json.loads(result.stdout)
    if train:
        figures = estimate_training(config, weights=weights, context=prompt, checkpointing=False, device="cpu")
    else:
        figures = estimate(config, weights=weights, kv=weights, context=prompt + generated, device="cpu")
    return figures, measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", default=["small", "Qwen3-0.6B"])
    parser.add_argument("--weights", choices=DTYPES, default="bf16")
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--generated", type=int, default=8, help="tokens")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        config, weights, prompt, generated, train = json.loads(arguments.measure)
        config = ModelConfig.from_dict(json.loads(config))
        print(json.dumps(measure(config, weights, prompt, generated, train=train)))
        return
    print(f"{'MiB':24}{'weights':>9}{'KV':>7}{'train':>8}{'activ.':>8}{'runtime':>9}{'total':>9}{'measured':>10}")
    cases = [(name, arguments.weights, arguments.generated, False) for name in arguments.models]
    for name, weights, repeats, train in [*cases, ("small", "fp32", 2, True)]:
        config = SMALL if name == "small" else ModelConfig.preset(name)
        figures, measured = compare(config, weights, arguments.prompt, repeats, train=train)
        parts = (
            figures.weights,
            figures.kv_cache,
            figures.gradients + figures.optimizer,
            figures.activations,
            figures.runtime,
            figures.total,
            measured["peak"],
        )
        widths = (9, 7, 8, 8, 9, 9, 10)
        row = "".join(f"{part / MIB:{width},.0f}" for part, width in zip(parts, widths, strict=True))
        label = f"{name} {weights}{' training' if train else ''}"
        print(f"{label:24}{row}  {figures.total / measured['peak'] - 1:+.1%}", flush=True)


if __name__ == "__main__":
    main()
