"""Greedy tokens of a full-size random checkpoint: transformers against this package, in the same dtype on the CPU.

    python benchmarks/full_size_parity.py --size 0.6b
    python benchmarks/full_size_parity.py --size 4b        # writes 8 GB, needs 16 GB of memory

transformers draws the weights and writes the directory; both load it. transformers decodes greedily, and this package
says at each step which token it would have taken after the same ones. Where they differ, the script prints how far
apart transformers' two best logits were: bfloat16 often makes them equal. The weights are random: this says nothing
about quality, only that both compute the same.
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
from qwen3.engine.attend import cached_attend
from qwen3.engine.cache import KVCache, PagePool
from qwen3.model import Qwen3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.6b", help="a preset: 0.6b, 1.7b, 4b, ...")
    parser.add_argument("--steps", type=int, default=64, help="tokens to decode after each prompt")
    parser.add_argument(
        "--prompts", type=int, nargs="+", default=[1, 37, 200], metavar="T", help="their lengths in tokens"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    args = parser.parse_args()

    config = ModelConfig.preset(args.size)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 151_643, (1, length), generator=generator) for length in args.prompts]
    with tempfile.TemporaryDirectory() as name:
        write_random(config, Path(name), args.dtype)
        expected = decode_with_transformers(Path(name), prompts, args.steps)
        gc.collect()
        started = time.perf_counter()
        model = load_model(Path(name), dtype=args.dtype)
        print(f"loaded in {time.perf_counter() - started:.1f} s")
        differences = sum(
            unexplained(greedy_choices(model, prompt, tokens), tokens, leads)
            for prompt, (tokens, leads) in zip(prompts, expected, strict=True)
        )
    total = len(prompts) * args.steps
    print(f"{args.size} {args.dtype}: {differences} unexplained differences in {total} greedy tokens")
    raise SystemExit(differences > 0)


def write_random(config: ModelConfig, directory: Path, dtype: str) -> None:
    torch.manual_seed(0)
    reference = Qwen3Config(**{k: v for k, v in config.to_dict().items() if k != "architectures"})
    model = AutoModelForCausalLM.from_config(reference, dtype=getattr(torch, dtype))
    model.save_pretrained(directory, max_shard_size="2GB")


def decode_with_transformers(directory: Path, prompts: list[torch.Tensor], steps: int):
    """(tokens, lead of the best logit over the second) of each prompt."""
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


@torch.inference_mode()
def greedy_choices(model: Qwen3, prompt: torch.Tensor, tokens: list[int]) -> list[int]:
    """The most likely token at each step, when the steps before it went as in `tokens`."""
    cache = KVCache(PagePool(model.config, model.dtype, torch.device("cpu"), None))
    choices = []
    for chunk in (prompt[0], *torch.tensor(tokens[:-1]).split(1)):
        positions = torch.arange(cache.length, cache.length + len(chunk))
        hidden = model(chunk, positions, cached_attend([cache], [len(chunk)]))
        cache.advance(len(chunk))
        choices.append(int(model.logits(hidden[-1:]).argmax()))
    return choices


def unexplained(actual: list[int], expected: list[int], leads: list[float]) -> int:
    """How many choices differ where the two best logits were more than 1e-3 apart."""
    count = 0
    for step, (ours, theirs, lead) in enumerate(zip(actual, expected, leads, strict=True)):
        if ours != theirs:
            print(f"  step {step}: {ours} instead of {theirs}, whose lead was {lead:.2g}")
            count += lead > 1e-3
    print(f"  {len(set(expected))} distinct tokens, {sum(lead == 0 for lead in leads)} exact ties")
    return count


if __name__ == "__main__":
    main()
