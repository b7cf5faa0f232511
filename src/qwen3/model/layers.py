"""Modules that only hold weights under their checkpoint names; the arithmetic is in `qwen3.ops`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qwen3 import ops


class Linear(nn.Module):
    """A projection without bias; `weight` is [out_features, in_features]."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x_TD: Tensor) -> Tensor:
        return ops.linear(x_TD, self.weight)


class Embedding(nn.Module):
    """Token vectors; `weight` is [vocab_size, hidden_size]."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(self, tokens_T: Tensor) -> Tensor:
        return ops.embedding(tokens_T, self.weight)


class RMSNorm(nn.Module):
    """A norm's scale; `weight` is [size]."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)


class MLP(nn.Module):
    """Feed-forward of one dense layer, which adds its result to the residual stream, or the weights of one expert."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size)
        self.up_proj = Linear(hidden_size, intermediate_size)
        self.down_proj = Linear(intermediate_size, hidden_size)

    def forward(self, x_TD: Tensor, norm: RMSNorm) -> Tensor:
        gate_TF, up_TF = ops.norm_linear(x_TD, norm.weight, norm.eps, [self.gate_proj.weight, self.up_proj.weight])
        return ops.swiglu_linear(gate_TF, up_TF, self.down_proj.weight, residual_TD=x_TD)
