"""The training loss from hidden states, with its gradients made in the forward pass.

`reference.token_losses` makes every chunk's logits a second time for the backward. Where the weight of each token is
known beforehand, as in all training on given targets, the gradient of a chunk's logits can be had while they are there:
three products in place of four, and one buffer of logits that all chunks share. Several chunks' gradients of the head
are summed in float32, so that they lose no more than one.

Shapes: T tokens, n tokens of a chunk, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BUFFER_BYTES = 1 << 28
"""Of a chunk's float32 logits. Fewer tokens a chunk would add to the head's gradient, of [V, D], more often."""

ROW_BLOCK = 8192
"""Rows of the vocabulary whose 16-bit gradients are added at a time: torch makes a float32 copy of an addend."""


class WeightedLoss(torch.autograd.Function):
    """`reference.weighted_loss` of plain tensors."""

    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, head_weight_VD: Tensor, targets_T: Tensor, weights_T: Tensor) -> Tensor:
        total, grad_hidden_TD, grad_head_VD = _with_gradients(hidden_TD, head_weight_VD, targets_T, weights_T)
        # The buffers are gone by now: the sum in float32 and its 16-bit copy need not stand beside them.
        ctx.grads = grad_hidden_TD, grad_head_VD.to(head_weight_VD.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_TD, grad_head_VD = ctx.grads
        # Not kept for a second backward pass, so that the head's becomes the parameter's gradient without a copy.
        del ctx.grads
        return grad_hidden_TD.mul_(grad), grad_head_VD.mul_(grad), None, None


def _with_gradients(
    hidden_TD: Tensor, head_weight_VD: Tensor, targets_T: Tensor, weights_T: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and its gradients by the hidden states and by the head: of several chunks, in float32."""
    T, V = len(hidden_TD), len(head_weight_VD)
    chunk = max(1, min(T, BUFFER_BYTES // (4 * V)))
    buffer_nV = hidden_TD.new_empty(chunk, V)
    is_float32 = hidden_TD.dtype == torch.float32
    buffer32_nV = buffer_nV if is_float32 else hidden_TD.new_empty(chunk, V, dtype=torch.float32)
    grad_hidden_TD = torch.empty_like(hidden_TD)
    # The one product of one chunk is rounded once in any case.
    grad_head_VD = torch.zeros_like(head_weight_VD, dtype=torch.float32 if chunk < T else None)
    total = hidden_TD.new_zeros((), dtype=torch.float32)
    for start in range(0, T, chunk):
        part = slice(start, start + chunk)
        hidden_nD, targets_n1, weights_n1 = hidden_TD[part], targets_T[part, None], weights_T[part, None]
        narrow_nV, logits_nV = buffer_nV[: len(hidden_nD)], buffer32_nV[: len(hidden_nD)]
        torch.mm(hidden_nD, head_weight_VD.T, out=narrow_nV)
        if not is_float32:
            logits_nV.copy_(narrow_nV)
        # The softmax, in place: after it `logits` hold the probabilities' numerators.
        logits_nV.sub_(logits_nV.amax(-1, keepdim=True))
        target_logits_n1 = logits_nV.gather(-1, targets_n1)
        sums_n1 = logits_nV.exp_().sum(-1, keepdim=True)
        total += (weights_n1 * (sums_n1.log() - target_logits_n1)).sum()
        # The gradient of the logits: weight * (probability - [is the target]).
        logits_nV.mul_(weights_n1 / sums_n1).scatter_add_(-1, targets_n1, -weights_n1)
        if not is_float32:
            narrow_nV.copy_(logits_nV)
        torch.mm(narrow_nV, head_weight_VD, out=grad_hidden_TD[part])
        if grad_head_VD.dtype == narrow_nV.dtype:
            torch.addmm(grad_head_VD, narrow_nV.T, hidden_nD, out=grad_head_VD)
            continue
        for first in range(0, V, ROW_BLOCK):
            rows = slice(first, first + ROW_BLOCK)
            grad_head_VD[rows].add_(narrow_nV[:, rows].T @ hidden_nD)
    return total, grad_hidden_TD, grad_head_VD
