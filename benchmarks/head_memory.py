"""Extra memory of the loss at 2,048 tokens x 1,024 x 151,936: the trainer's, and all logits at once.

    python benchmarks/head_memory.py                     both in float32, and how far their gradients differ at most
    python benchmarks/head_memory.py qwen3 bfloat16      one alone: GB at its peak beyond the inputs and their gradients

Each is measured in a process of its own.
"""

import subprocess
import sys

import torch
import torch.nn.functional as F

from qwen3 import ops
from qwen3.engine.bench import peak_memory

T, D, V = 2048, 1024, 151_936


def naive(hidden_TD: torch.Tensor, head_VD: torch.Tensor, targets_T: torch.Tensor, weights_T: torch.Tensor):
    return (F.cross_entropy(F.linear(hidden_TD, head_VD).float(), targets_T, reduction="none") * weights_T).sum()


LOSSES = {"qwen3": ops.weighted_loss, "naive": naive}


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden_TD, head_VD = torch.randn(T, D, dtype=dtype), torch.empty(V, D, dtype=dtype).normal_(0, 0.02)
    return hidden_TD.requires_grad_(), head_VD.requires_grad_(), torch.randint(0, V, (T,)), torch.full((T,), 1 / T)


def extra_gigabytes(name: str, dtype: torch.dtype) -> float:
    hidden_TD, head_VD, *rest = inputs(dtype)
    # One small product first, which sets up the library; and the gradients' own room.
    LOSSES[name](hidden_TD[:1], head_VD, *(each[:1] for each in rest)).backward()
    before = peak_memory()
    hidden_TD.grad = head_VD.grad = None
    LOSSES[name](hidden_TD, head_VD, *rest).backward()
    return (peak_memory() - before) / 1e9


def main() -> None:
    if len(sys.argv) > 1:
        name, dtype = (*sys.argv[1:], "float32")[:2]
        print(f"{extra_gigabytes(name, getattr(torch, dtype)):.3f}")
        return
    for name in LOSSES:
        done = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True)
        print(f"{name:6} {done.stdout.strip()} GB")
    arguments = inputs(torch.float32)
    both = [torch.autograd.grad(loss(*arguments), arguments[:2]) for loss in LOSSES.values()]
    print(f"gradients differ by {max(float((a - b).abs().max()) for a, b in zip(*both, strict=True)):.1e}")


if __name__ == "__main__":
    main()
