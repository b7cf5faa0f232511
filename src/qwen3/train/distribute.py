"""Several processes as one trainer: who this process is, and what all of them agree on.

Under `torchrun` every process runs the same loop; gloo connects CPUs, NCCL GPUs. Without `torchrun` there is one
process, and nothing here does anything. What each process holds of the model is `parallel`'s business.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from qwen3.train.layout import Layout

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among `size`."""

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU
    layout: Layout = field(default_factory=Layout)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """Of a GPU its model, else "cpu"."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    @property
    def readers(self) -> int:
        """How many groups of processes read rows of their own; ValueError if the processes do not divide so."""
        return self.layout.readers(self.size)

    @property
    def reader(self) -> int:
        """The group that this process belongs to."""
        return self.rank * self.readers // self.size

    def sum(self, value: Tensor) -> Tensor:
        """The sum of floats over all processes, those that have the same tokens counted once, the same bits on each;
        in place."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.layout.tensor
        return value

    def wait(self) -> None:
        """Return when all processes have called it."""
        if self.size > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)).item())

    def agreed(self, number: int) -> int:
        """The first process's number."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=self.device)
        dist.broadcast(value, 0)
        return int(value)


def join(layout: Layout | None = None) -> World:
    """The world that `torchrun` describes in the environment; a world of one without it."""
    layout = layout or Layout()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = _CPU
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if size == 1:
        return World(device=device, layout=layout)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size(), device, layout)
