"""Training on one GPU: tokens a second and MFU beside transformers' Qwen3 compiled, in one run, taking turns.

    python benchmarks/train_mfu.py --sizes 0.6B 1.7B [--length 4096] [--rounds 8]
    python benchmarks/train_mfu.py --tiny                 # the same code on a CPU in seconds

Both train the same fresh weights in bfloat16 on the same random tokens, one sequence a row, with float32 weights,
moments and fused AdamW: this package as its `Trainer` computes (a bfloat16 copy, compiled blocks, the chunked loss),
transformers under autocast with sdpa and `torch.compile` of the whole model. MFU counts `flops.model_flops`, nothing
for what is computed again, against the nominal dense bfloat16 speed of the device. A contender that does not fit its
memory says so.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from qwen3 import ops
from qwen3.config import ModelConfig
from qwen3.hardware import peak_flops
from qwen3.model import CausalAttend, Qwen3
from qwen3.train.flops import model_flops
from qwen3.train.optimizer import Optimizer

RATE, BETAS, DECAY = 1e-4, (0.9, 0.95), 0.1
Step = Callable[[torch.Tensor], torch.Tensor]


def ours(config: ModelConfig, device: torch.device, recompute: bool) -> Step:
    model = Qwen3(config)
    model.initialise(0)
    model.to(device)
    copy = Qwen3(config).to(device).bfloat16()
    for block in copy.model.layers:
        block.compile(dynamic=False)
    parameters = dict(model.named_parameters())
    optimizer = Optimizer(parameters, "adamw", BETAS, DECAY)

    def step(tokens_BL: torch.Tensor) -> torch.Tensor:
        copy.load_state_dict(model.state_dict())
        B, L = tokens_BL.shape
        positions_T = torch.arange(L, device=device).repeat(B)
        hidden_TD = copy(tokens_BL.flatten(), positions_T, CausalAttend([L] * B), recompute=recompute)
        targets_T = tokens_BL.roll(-1, 1).flatten()
        weights_T = (positions_T < L - 1).float() / (B * (L - 1))
        loss = ops.weighted_loss(hidden_TD, copy.head_weight, targets_T, weights_T)
        loss.backward()
        for parameter, narrow in zip(model.parameters(), copy.parameters(), strict=True):
            parameter.grad, narrow.grad = narrow.grad.float(), None
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(RATE)
        optimizer.zero_grad()
        return loss.detach()

    return step


def theirs(config: ModelConfig, device: torch.device, recompute: bool) -> Step:
    from transformers import AutoModelForCausalLM, Qwen3Config

    start = Qwen3(config)
    start.initialise(0)
    model = AutoModelForCausalLM.from_config(
        Qwen3Config(**config.to_dict()), dtype=torch.float32, attn_implementation="sdpa"
    )
    model.load_state_dict(start.state_dict(), strict=False)
    model.tie_weights()
    model.to(device).train()
    if recompute:
        model.gradient_checkpointing_enable()
    matrices, scales = ([p for p in model.parameters() if (p.ndim > 1) == is_] for is_ in (True, False))
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": scales, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, fused=True)
    compiled = torch.compile(model)

    def step(tokens_BL: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            loss = compiled(input_ids=tokens_BL, labels=tokens_BL, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def measure(config: ModelConfig, device: torch.device, options: argparse.Namespace) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [
        torch.randint(0, config.vocab_size, (options.rows, options.length), generator=generator).to(device)
        for _ in range(options.rounds + 2)
    ]
    steps = {
        "qwen3": ours(config, device, options.recompute),
        "transformers": theirs(config, device, options.recompute),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for batch in batches:
        for name in list(steps):
            _wait(device)
            began = time.perf_counter()
            try:
                losses[name].append(steps[name](batch).item())
            except torch.OutOfMemoryError as error:
                print(f"  {name}: does not fit: {str(error)[:120]}")
                del steps[name]
                continue
            _wait(device)
            seconds[name].append(time.perf_counter() - began)
    tokens = options.rows * options.length
    flops = model_flops(config, [options.length] * options.rows).total
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    # The first two compile.
    medians = {name: statistics.median(seconds[name][2:]) for name in steps}
    for name, median in medians.items():
        mfu = "" if peak is None else f", MFU {flops / median / peak:.1%}"
        print(f"  {name:13} {tokens / median:10,.0f} tokens/s{mfu}, first loss {losses[name][0]:.4f}")
    if len(medians) == 2:
        ratios = [b / a for a, b in zip(seconds["qwen3"][2:], seconds["transformers"][2:], strict=True)]
        print(f"  qwen3 is {statistics.median(ratios):.2f} times as fast")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["0.6B", "1.7B"])
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing, of both")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape on the CPU")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --tiny tries the script on the CPU")
    torch.set_float32_matmul_precision("high")
    device = torch.device("cpu" if options.tiny else "cuda")
    for size in ["tiny"] if options.tiny else options.sizes:
        config = ModelConfig.preset("Qwen3-0.6B" if options.tiny else f"Qwen3-{size}")
        if options.tiny:
            options.length, options.rows = 64, 2
            config = replace(
                config, hidden_size=64, intermediate_size=128, num_hidden_layers=2, vocab_size=512, head_dim=32,
                num_attention_heads=2, num_key_value_heads=1, bos_token_id=None, eos_token_id=None,
            )  # fmt: skip
        print(f"{size}: {config.num_parameters:,} parameters, {options.rows} x {options.length:,} tokens a step")
        measure(config, device, options)


if __name__ == "__main__":
    main()
