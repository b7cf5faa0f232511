"""What tests of the trainer share: a step's gradients, a checkpoint's tensors, a small data set."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from qwen3.train.trainer import Trainer


def gradients(trainer: Trainer, step: int = 0) -> dict[str, torch.Tensor]:
    """The gradients of a step of the first stage, before the optimizer sees them."""
    feed = trainer._feeds[0]
    if trainer._balance is not None:
        trainer._balance.start_step()
    for batch in feed.batches(step, 0, 1):
        trainer._backward(batch, feed, feed.counts(step))
    return {name: parameter.grad for name, parameter in trainer.model.named_parameters()}


def relative_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).norm() / b[name].norm()) for name in b)


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint that one process wrote."""
    (file,) = checkpoint.glob("*.safetensors")
    return load_file(file)
