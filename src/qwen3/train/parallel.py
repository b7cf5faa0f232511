"""What each process holds of a model in training: transforms of a model that has been built and has no memory yet.

Three ways, in any combination; `Layout` says how many ranks each takes.

- FSDP2: weights, gradients and moments in shards over the ranks that differ in tokens; a block is gathered to compute.
- Tensor parallelism: besides, every matrix is divided over neighbouring ranks, which compute its parts (`ops.sharded`).
- Expert parallelism: the ranks of a group have different experts, and tokens come to them (`ops.exchange`). Ranks of
  different groups that have the same experts keep them in shards, and gather a layer's to compute.

Gradients are summed, not averaged: losses are divided by counts of the whole global batch. A weight's place is its
DTensor's; the model definition knows nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

from qwen3.config import ModelConfig
from qwen3.model import Qwen3
from qwen3.model.layers import MLP
from qwen3.model.moe import Experts, SparseMoE
from qwen3.ops import DividedExperts
from qwen3.train.distribute import World

# The axis that tensor parallelism divides, by module; what is not here is whole on every rank.
_DIVIDED = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head"), Shard(0)),
    **dict.fromkeys(("o_proj", "down_proj"), Shard(1)),
}


def place(config: ModelConfig, world: World, bfloat16: bool, weights: Iterable[tuple[str, Tensor]]) -> Qwen3:
    """This process's part of a float32 model, on its device; `weights` are all parameters, whole, one by one.

    No process needs to hold more than its part and one parameter. With `bfloat16` several processes compute in it;
    shards, gradients and their sums stay float32. ValueError if the model cannot be divided as `world.layout` says.
    """
    world.layout.check(config)
    with torch.device("meta"):
        model = Qwen3(config)
    if world.size > 1:
        _divide(model, world, bfloat16)
    model.to_empty(device=world.device)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights:
            if name in own:
                local(own[name]).copy_(_part(value, own[name]))
    return model


def _divide(model: Qwen3, world: World, bfloat16: bool) -> None:
    tensor, expert = world.layout.tensor, world.layout.expert
    kind = world.device.type
    mesh = init_device_mesh(kind, (world.size // tensor, tensor), mesh_dim_names=("shard", "tensor"))
    elsewhere: set[nn.Parameter] = set()
    if expert > 1:
        shape = (world.size // tensor // expert, expert, tensor)
        expert_mesh = init_device_mesh(kind, shape, mesh_dim_names=("replica", "expert", "tensor"))
        for module in model.modules():
            if isinstance(module, Experts):
                elsewhere |= _divide_experts(module, expert_mesh)
    if tensor > 1:
        for name, module in model.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight not in elsewhere:
                placement = _DIVIDED.get(name.rpartition(".")[2], Replicate())
                module.weight = _placed(weight, mesh["tensor"], [placement])
    # Nothing that goes into the model has to be cast, and casting would copy the list that takes the routers' logits.
    dtypes = (torch.bfloat16, torch.float32) if bfloat16 else (None, None)
    policy = MixedPrecisionPolicy(*dtypes, cast_forward_inputs=False)
    # A group for each block and one for the rest.
    groups = [*model.model.layers, model]
    for module in groups:
        fully_shard(module, mesh=mesh["shard"], mp_policy=policy, ignored_params=elsewhere)
    for module in groups:
        module.set_gradient_divide_factor(1.0)
        # gloo cannot scale within a sum.
        module.set_force_sum_reduction_for_comms(True)


def _divide_experts(experts: Experts, mesh: DeviceMesh) -> set[nn.Parameter]:
    """Keep this rank's experts, forget the others' weights; returns the weights kept."""
    each = len(experts) // mesh["expert"].size()
    first = mesh["expert"].get_local_rank() * each
    own, home = list(experts)[first : first + each], mesh["replica", "tensor"]
    kept = set()
    for expert in experts:
        for name, linear in expert.named_children():
            if expert in own:
                # Tensor parallelism divides one axis, and the groups that have the same experts the other.
                divided = _DIVIDED[name]
                linear.weight = _placed(linear.weight, home, [Shard(1 - divided.dim), divided])
                kept.add(linear.weight)
            else:
                linear.weight = None
    experts.joined = DividedExperts(partial(_gathered, own), len(experts), mesh.get_group("expert"))
    return kept


def _gathered(experts: Sequence[MLP], dtype: torch.dtype) -> list[tuple[Tensor, ...]]:
    """The weights of experts that lie in shards, to compute with; their gradients go back into shards as sums."""
    found = []
    for expert in experts:
        weights = (expert.gate_proj.weight, expert.up_proj.weight, expert.down_proj.weight)
        found.append(
            tuple(
                weight.redistribute(placements=[Replicate(), weight.placements[1]])
                .to_local(grad_placements=[Partial(), weight.placements[1]])
                .to(dtype)
                for weight in weights
            )
        )
    return found


def _placed(weight: nn.Parameter, mesh: DeviceMesh, placements: list[Placement]) -> nn.Parameter:
    return nn.Parameter(distribute_tensor(weight.detach(), mesh, placements, src_data_rank=None))


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be in shards: the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _part(whole: Tensor, like: Tensor) -> Tensor:
    """Of a whole parameter the part that `like` holds here."""
    if not isinstance(like, DTensor):
        return whole
    mesh = like.device_mesh
    axes = list(zip(mesh.shape, mesh.get_coordinate(), like.placements, strict=True))
    # FSDP2 divides what tensor parallelism, the last axis, has left.
    for size, coordinate, placement in reversed(axes):
        if not placement.is_replicate():
            chunks = whole.chunk(size, placement.dim)
            whole = chunks[coordinate] if coordinate < len(chunks) else whole.narrow(placement.dim, 0, 0)
    return whole


def whole_weights(model: Qwen3, world: World) -> Iterator[tuple[str, Tensor]]:
    """Every weight by name, one after another, in full on each process; all must iterate over all."""
    own = dict(model.named_parameters())
    if world.size == 1:
        yield from ((name, parameter.detach()) for name, parameter in own.items())
        return
    with torch.device("meta"):
        everything = Qwen3(model.config)
    for name, parameter in everything.named_parameters():
        if name in own:
            # One axis after the other: both at once would make torch warn of two collectives.
            value = own[name].detach()
            value = value.redistribute(placements=[Replicate(), *value.placements[1:]]).full_tensor()
            value = value.contiguous()  # columns that were divided may come back in another order (torch 2.11)
        else:
            value = torch.empty(parameter.shape, device=world.device)
        expert = re.search(r"\.experts\.(\d+)\.", name)
        if expert and world.layout.expert > 1:
            owner = int(expert[1]) // (model.config.num_experts // world.layout.expert)
            dist.broadcast(value, owner * world.layout.tensor)
        yield name, value


def clip_gradients(parameters: Iterable[nn.Parameter], most: float, world: World) -> float:
    """Scale all gradients down together if their norm exceeds `most`; returns the norm, the same on all processes."""
    by_copies: dict[int, list[Tensor]] = {}
    for parameter in parameters:
        if (gradient := parameter.grad) is not None:
            by_copies.setdefault(_copies(gradient), []).append(local(gradient))
    square = torch.zeros((), dtype=torch.float64, device=world.device)
    for copies, parts in by_copies.items():
        square += torch.nn.utils.get_total_norm(parts).double() ** 2 / copies
    if world.size > 1:
        dist.all_reduce(square)
    norm = square.sqrt().item()
    # A norm that is not finite leaves the step to the spike guard.
    scale = min(1.0, most / (norm + 1e-6))
    for parts in by_copies.values():
        torch._foreach_mul_(parts, scale)
    return norm


def _copies(tensor: Tensor) -> int:
    """How many processes hold the same part."""
    copies = 1
    if isinstance(tensor, DTensor):
        for size, placement in zip(tensor.device_mesh.shape, tensor.placements, strict=True):
            copies *= size if placement.is_replicate() else 1
    return copies


def give_every_expert_a_gradient(model: Qwen3) -> None:
    """Let experts that no token chose have a gradient of zero and not none.

    Processes that sum gradients must have the same ones, and moments must decay alike whether a run was resumed or not.
    `DividedExperts` see to it themselves.
    """
    for module in model.modules():
        if isinstance(module, SparseMoE) and module.experts.joined is None:
            module.register_forward_hook(_touch_experts)


def _touch_experts(
    module: SparseMoE, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, Tensor]
) -> Tensor | tuple[Tensor, Tensor]:
    every = [local(weight)[0, 0] for weights in module.experts.weights for weight in weights]
    nothing = torch.stack(every).sum() * 0
    return (output[0] + nothing, *output[1:]) if isinstance(output, tuple) else output + nothing
