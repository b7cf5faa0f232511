"""Greedy tokens of a full-size random checkpoint: transformers against this package, in the same dtype on the CPU.

    python benchmarks/full_size_parity.py --size 0.6b
    python benchmarks/full_size_parity.py --size 4b        # writes 8 GB, needs 16 GB of memory

transformers draws the weights and writes the directory; both load it and decode the same prompts. Where tokens
differ, the script prints how far apart the two logits were in transformers. The weights are random: this says
nothing about quality, only that both compute the same.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from qwen3.checkpoint.load import load_model
from qwen3.config import ModelConfig
from qwen3.engine.engine import Engine
from qwen3.engine.request import Request, SamplingParams

PROMPT_LENGTHS = (1, 37, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.6b", help="a preset: 0.6b, 1.7b, 4b, ...")
    parser.add_argument("--steps", type=int, default=64, help="tokens to decode after each prompt")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    args = parser.parse_args()

    config = ModelConfig.preset(args.size)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 151_643, (1, length), generator=generator) for length in PROMPT_LENGTHS]
    with tempfile.TemporaryDirectory() as name:
        write_random(config, Path(name), args.dtype)
        expected = decode_with_transformers(Path(name), prompts, args.steps)
        gc.collect()
        started = time.perf_counter()
        model = load_model(Path(name), dtype=args.dtype)
        print(f"loaded in {time.perf_counter() - started:.1f} s")
        differences = sum(
            compare(decode(model, prompt, args.steps), tokens, gaps)
            for prompt, (tokens, gaps) in zip(prompts, expected, strict=True)
        )
    total = len(prompts) * args.steps
    print(f"{args.size} {args.dtype}: {differences} unexplained differences in {total} greedy tokens")
    raise SystemExit(differences > 0)


def write_random(config: ModelConfig, directory: Path, dtype: str) -> None:
    torch.manual_seed(0)
    reference = Qwen3Config(**{k: v for k, v in config.to_dict().items() if k != "architectures"})
    model = AutoModelForCausalLM.from_config(reference, dtype=getattr(torch, dtype))
    # Fresh weights give nearly flat logits; three times larger ones give choices worth comparing.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(3)
    model.save_pretrained(directory, max_shard_size="2GB")


def decode_with_transformers(directory: Path, prompts: list[torch.Tensor], steps: int):
    """(tokens, gap between the two best logits) of each prompt."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    out = []
    for prompt in prompts:
        generated = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=steps,
            do_sample=False,
            eos_token_id=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
        best = [logits[0].float().topk(2).values for logits in generated.logits]
        tokens = generated.sequences[0, prompt.shape[1] :].tolist()
        out.append((tokens, [float(first - second) for first, second in best]))
    return out


def decode(model, prompt: torch.Tensor, steps: int) -> list[int]:
    params = SamplingParams(temperature=0, max_tokens=steps)
    request = Request(prompt[0].tolist(), params, 0, frozenset(), model.config.max_context)
    engine = Engine(model)
    engine.add(request)
    while engine.has_work:
        engine.step()
    return request.generated_ids


def compare(actual: list[int], expected: list[int], gaps: list[float]) -> int:
    """1 if the sequences part at a token that was not a tie within 1e-3, else 0."""
    for step, (ours, theirs, gap) in enumerate(zip(actual, expected, gaps, strict=True)):
        if ours != theirs:
            print(f"  step {step}: {ours} instead of {theirs}, whose lead was {gap:.2g}")
            return int(gap > 1e-3)
    print(f"  {len(actual)} tokens equal, {len(set(actual))} distinct, smallest lead {min(gaps):.2g}")
    return 0


if __name__ == "__main__":
    main()
