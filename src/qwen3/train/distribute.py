"""Several processes as one trainer: who this process is, sums over all, and FSDP2.

Under `torchrun` every process holds its share of each weight, gradient and moment (ZeRO-3), gathers one block at a time
to compute, and takes its share of the step's rows. Gradients are summed, not averaged: losses are divided by counts of
the whole global batch. gloo on CPUs, NCCL on GPUs. Without `torchrun` there is one process, and nothing here does
anything. The model definition knows nothing of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from qwen3.model import Qwen3
from qwen3.model.moe import SparseMoE

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among `size`."""

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """Of a GPU its model, else "cpu"."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def sum(self, value: Tensor) -> Tensor:
        """The sum of all processes' values, the same bits on each; in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """Return when all processes have called it."""
        if self.size > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)).item())


def join() -> World:
    """The world that `torchrun` describes in the environment; a world of one without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = _CPU
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if size == 1:
        return World(device=device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size(), device)


def shard(model: Qwen3, world: World, bfloat16: bool) -> None:
    """Divide the model's weights among all processes, in place, a group for each block and one for the rest.

    With `bfloat16` blocks compute in it; shards, gradients and their sums stay float32.
    """
    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bfloat16 else MixedPrecisionPolicy()
    groups = [*model.model.layers, model]
    for module in groups:
        fully_shard(module, mesh=mesh, mp_policy=policy)
    for module in groups:
        module.set_gradient_divide_factor(1.0)
        # gloo cannot scale within a sum.
        module.set_force_sum_reduction_for_comms(True)


def give_every_expert_a_gradient(model: Qwen3) -> None:
    """Let experts that no token chose have a gradient of zero and not none.

    Processes that sum gradients must have the same ones, and moments must decay alike whether a run was resumed or not.
    """
    for module in model.modules():
        if isinstance(module, SparseMoE):
            module.register_forward_hook(_touch_experts)


def _touch_experts(
    module: SparseMoE, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, Tensor]
) -> Tensor | tuple[Tensor, Tensor]:
    nothing = torch.stack([weight[0, 0] for weights in module.experts.weights for weight in weights]).sum() * 0
    return (output[0] + nothing, *output[1:]) if isinstance(output, tuple) else output + nothing


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be in shards. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
