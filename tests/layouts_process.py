"""Places a model in several layouts, whose shards are of unequal size, and saves and reads it again in parts and whole.

    python layouts_process.py DIRECTORY    # ends with an error if a bit differs

Six processes that this one forks, because importing torch six times takes longer than all the rest.
"""

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from training import digest

from qwen3.config import ModelConfig
from qwen3.model import Qwen3
from qwen3.train import checkpoint, distribute, parallel
from qwen3.train.distribute import World
from qwen3.train.layout import Layout

PROCESSES = 6
DENSE = ModelConfig("qwen3", 2048, 32, 64, 2, 4, 2, head_dim=16)
SPARSE = replace(DENSE, model_type="qwen3_moe", num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32)
LAYOUTS = [(Layout(), DENSE), (Layout(tensor=2), SPARSE), (Layout(expert=2), SPARSE), (Layout(2, 3), SPARSE)]


def check(rank: int, directory: Path) -> None:
    torch.set_num_threads(1)
    os.environ["RANK"] = str(rank)
    for number, (layout, config) in enumerate(LAYOUTS):
        alone = Qwen3(config)
        alone.initialise(seed=0)
        expected = digest(named(alone))
        world = distribute.join(layout)
        model = parallel.place(config, world, False, alone.fresh_weights(seed=0))
        assert digest(parallel.whole_weights(model, world)) == expected, f"{layout}: other fresh weights"
        run = directory / str(number)
        run.mkdir(exist_ok=True)
        checkpoint.save(run, 1, dict(named(model)), {"recipe": ""}, world)
        for _, weight in named(model):
            parallel.local(weight).zero_()
        checkpoint.load(run, lambda _: "", dict(named(model)), world)
        assert digest(parallel.whole_weights(model, world)) == expected, f"{layout}: other weights read in parts"
        if rank == 0:
            for _, weight in named(alone):
                weight.zero_()
            checkpoint.load(run, lambda _: "", dict(named(alone)), World())
            assert digest(named(alone)) == expected, f"{layout}: other weights read by one process"
    dist.barrier()
    dist.destroy_process_group()


def named(model: Qwen3) -> list[tuple[str, torch.Tensor]]:
    return [(name, parameter.detach()) for name, parameter in model.named_parameters()]


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.multiprocessing.start_processes(check, (Path(sys.argv[1]),), PROCESSES, start_method="fork")
