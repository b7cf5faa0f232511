"""Experts that are divided over a group of ranks: each token travels to its experts and back (arXiv 2006.16668).

Two all-to-alls a layer and pass, of one row for each token and chosen expert; every rank computes all experts it has,
also those that nobody chose, so that all ranks do the same in the same order. Sums are made in the order of the
experts' numbers, as in `reference.mix`.

Shapes as in `reference`; R ranks of the group, E all experts, n rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from qwen3.ops import reference


class DividedExperts:
    """The experts of one layer, of which rank r of `group` has the r-th of equal parts."""

    def __init__(
        self,
        weights: Callable[[torch.dtype], Sequence[tuple[Tensor, Tensor, Tensor]]],
        num_experts: int,
        group: dist.ProcessGroup,
    ) -> None:
        """`weights` gives (gate, up, down) of this rank's experts in a dtype; it is called in each pass."""
        self._weights, self._num_experts, self._group = weights, num_experts, group
        # What travels depends on the data, so it cannot be compiled. As a decorator this would import the compiler.
        self.mix = torch.compiler.disable(self._mix)

    def _mix(self, normed_TD: Tensor, weights_Tk: Tensor, chosen_Tk: Tensor) -> Tensor:
        """The weighted sum [T, D] of the chosen experts' results: `mix`, as `reference.mix`."""
        top_k = chosen_Tk.shape[1]
        order = chosen_Tk.flatten().argsort(stable=True)
        token = order // top_k
        counts_RE = chosen_Tk.flatten().bincount(minlength=self._num_experts).view(self._group.size(), -1)
        arriving_RE = torch.empty_like(counts_RE)
        dist.all_to_all_single(arriving_RE, counts_RE, group=self._group)
        leaving, arriving = counts_RE.sum(1).tolist(), arriving_RE.sum(1).tolist()

        x_nD = _Exchange.apply(normed_TD[token], leaving, arriving, self._group)
        # Rows come by sender and then by expert; an expert takes its rows of all senders at once.
        numbers_RE = torch.arange(arriving_RE.shape[1], device=x_nD.device).expand_as(arriving_RE)
        by_expert = numbers_RE.flatten().repeat_interleave(arriving_RE.flatten()).argsort(stable=True)
        parts = x_nD[by_expert].split(arriving_RE.sum(0).tolist())
        weights = self._weights(normed_TD.dtype)
        y_nD = torch.cat([reference.feed_forward(part, expert) for part, expert in zip(parts, weights, strict=True)])
        y_nD = _Exchange.apply(y_nD[by_expert.argsort()], arriving, leaving, self._group)

        y_nD = y_nD * weights_Tk.flatten()[order, None]
        return torch.zeros_like(normed_TD).index_add(0, token, y_nD)


class _Exchange(torch.autograd.Function):
    """Rows to the ranks in turn, `leaving` so many to each, and `arriving` so many from each; gradients go back."""

    @staticmethod
    def forward(
        context: Any, x_nD: Tensor, leaving: list[int], arriving: list[int], group: dist.ProcessGroup
    ) -> Tensor:
        context.leaving, context.arriving, context.group = leaving, arriving, group
        y_nD = x_nD.new_empty(sum(arriving), x_nD.shape[1])
        dist.all_to_all_single(y_nD, x_nD.contiguous(), arriving, leaving, group)
        return y_nD

    @staticmethod
    def backward(context: Any, gradient_nD: Tensor) -> tuple[Tensor, None, None, None]:
        return _Exchange.apply(gradient_nD, context.arriving, context.leaving, context.group), None, None, None
