"""Context parallelism: the tokens of a micro-batch divided over a group of ranks, for rows too long for one.

Rank r of C has the r-th and the r-th but last of 2C equal chunks, so that all have the same work under a causal mask. A
token attends within its document: where the document began in an earlier chunk, to keys that another rank has. So every
layer gathers the keys and values of the whole micro-batch, and their gradients go back as sums. All but attention is a
token's own business.

Shapes: T tokens of the micro-batch, t of this rank, H query heads, K key-value heads, d head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from qwen3 import ops
from qwen3.train.attend import TrainingAttend
from qwen3.train.batch import Batch
from qwen3.train.distribute import World
from qwen3.train.feed import Counts, Feed
from qwen3.train.recipe import Stage


class ContextFeed:
    """A feed of which this rank takes its part of each micro-batch; `lengths` stay those of the whole."""

    def __init__(self, feed: Feed, mesh: DeviceMesh) -> None:
        self.whole, self._mesh, self.identity = feed, mesh, feed.identity

    def batches(self, step: int, rank: int, world_size: int) -> Iterator[Batch]:
        return map(self._part, self.whole.batches(step, rank, world_size))

    def counts(self, step: int) -> Counts:
        return self.whole.counts(step)

    def held_out(self, rank: int, world_size: int) -> Iterator[Batch]:
        return map(self._part, self.whole.held_out(rank, world_size))

    def _part(self, batch: Batch) -> Batch:
        chunks = torch.arange(len(batch.tokens_T)).chunk(2 * self._mesh.size())
        own = torch.cat([chunks[chunk] for chunk in _chunks_of(self._mesh.get_local_rank(), self._mesh.size())])
        return replace(
            batch,
            tokens_T=batch.tokens_T[own],
            positions_T=batch.positions_T[own],
            targets_T=batch.targets_T[own],
            loss_weight_T=batch.loss_weight_T[own],
        )


class ContextAttend:
    """Attention of this rank's tokens within documents of which it may have only parts."""

    def __init__(self, mesh: DeviceMesh, lengths: Sequence[int]) -> None:
        """`lengths` are of all documents of the micro-batch."""
        self._mesh, ranks = mesh, mesh.size()
        self._size = sum(lengths) // (2 * ranks)
        gathered = [chunk for rank in range(ranks) for chunk in _chunks_of(rank, ranks)]
        self._chunks = [gathered.index(chunk) for chunk in range(2 * ranks)]
        self._begun: list[tuple[Tensor, slice]] = []
        """Of each document that began in an earlier chunk: this rank's rows and the keys that the last of them sees."""
        own: list[Tensor] = []
        row = 0
        for chunk in _chunks_of(mesh.get_local_rank(), ranks):
            first, last = chunk * self._size, (chunk + 1) * self._size
            for start, end in pairwise([0, *accumulate(lengths)]):
                tokens = min(end, last) - max(start, first)
                if tokens > 0:
                    rows = torch.arange(row, row + tokens)
                    row += tokens
                    if start < first:
                        self._begun.append((rows, slice(start, first + tokens)))
                    else:
                        own.append(rows)
        self._attend = TrainingAttend([len(rows) for rows in own])
        self._own = torch.cat(own) if own else torch.arange(0)
        self._order = torch.cat([self._own, *(rows for rows, _ in self._begun)]).argsort()

    @torch.compiler.disable
    def __call__(self, layer: int, q_tHd: Tensor, k_tKd: Tensor, v_tKd: Tensor) -> Tensor:
        every = self._gather(torch.cat([k_tKd, v_tKd], dim=1))
        k_TKd, v_TKd = every.chunk(2, dim=1)
        parts = [self._attend(layer, q_tHd[self._own], k_tKd[self._own], v_tKd[self._own])]
        parts += [ops.attention(q_tHd[rows], k_TKd[seen], v_TKd[seen]) for rows, seen in self._begun]
        # A rank that needs none of the others' keys must join in the sum of their gradients too.
        return torch.cat(parts)[self._order] + 0 * every[0, 0, 0]

    def _gather(self, x_tKd: Tensor) -> Tensor:
        """All ranks' [t, K, d] as [T, K, d], in the order of the tokens."""
        divided = DTensor.from_local(x_tKd, self._mesh, [Shard(0)], run_check=False)
        every_TKd = divided.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
        chunks = every_TKd.split(self._size)
        return torch.cat([chunks[place] for place in self._chunks])


def divided(
    stages: Sequence[Stage], feeds: Sequence[Feed], world: World
) -> tuple[list[Feed], Callable[[Sequence[int]], ContextAttend]]:
    """The stages' feeds, each of whose micro-batches the ranks that share rows divide, and attention for these.
    ValueError if they cannot."""
    layout = world.layout
    for stage in stages:
        stage.check_context(layout.context)
    shape = (world.readers, layout.context, layout.tensor)
    mesh = init_device_mesh(world.device.type, shape, mesh_dim_names=("reader", "context", "tensor"))
    return [ContextFeed(feed, mesh["context"]) for feed in feeds], partial(ContextAttend, mesh["context"])


def _chunks_of(rank: int, ranks: int) -> tuple[int, int]:
    return rank, 2 * ranks - 1 - rank
