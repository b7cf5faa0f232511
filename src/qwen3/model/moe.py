"""The sparse feed-forward of the mixture-of-experts models: a router and its experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from qwen3 import ops
from qwen3.config import ModelConfig
from qwen3.model.layers import MLP, Linear, RMSNorm

T = TypeVar("T")


class Experts(nn.ModuleList):
    """The experts of one layer, under their checkpoint names."""

    joined: ops.Experts | None = None
    """Their weights as one object, where a transform has made one."""

    @property
    def weights(self) -> ops.Experts:
        if self.joined is not None:
            return self.joined
        return [(e.gate_proj.weight, e.up_proj.weight, e.down_proj.weight) for e in self]


class SparseMoE(nn.Module):
    """`num_experts` feed-forwards of which each token uses `num_experts_per_tok`; the sum joins the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Linear(config.hidden_size, config.num_experts)
        self.experts = Experts(MLP(config.hidden_size, config.moe_intermediate_size) for _ in range(config.num_experts))
        self.num_experts_per_tok = config.num_experts_per_tok
        self.norm_topk_prob = config.norm_topk_prob

    def forward(self, x_TD: Tensor, norm: RMSNorm, op: Callable[..., T] = ops.moe) -> T:
        """What `op` gives: `ops.moe` the new x [T, D], `ops.moe_and_router` also the router's logits [T, E]."""
        return op(
            x_TD,
            norm.weight,
            norm.eps,
            self.gate.weight,
            self.experts.weights,
            self.num_experts_per_tok,
            self.norm_topk_prob,
        )
