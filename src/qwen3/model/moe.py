"""The sparse feed-forward of the mixture-of-experts models: a router and its experts."""

from __future__ import annotations

from torch import Tensor, nn

from qwen3 import ops
from qwen3.config import ModelConfig
from qwen3.model.layers import MLP, Linear, RMSNorm


class SparseMoE(nn.Module):
    """`num_experts` feed-forwards of which each token uses `num_experts_per_tok`; no shared expert."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Linear(config.hidden_size, config.num_experts)
        self.experts = nn.ModuleList(
            MLP(config.hidden_size, config.moe_intermediate_size) for _ in range(config.num_experts)
        )
        self.num_experts_per_tok = config.num_experts_per_tok
        self.norm_topk_prob = config.norm_topk_prob

    def forward(self, x_TD: Tensor, norm: RMSNorm) -> Tensor:
        experts = [(e.gate_proj.weight, e.up_proj.weight, e.down_proj.weight) for e in self.experts]
        return x_TD + ops.moe(norm(x_TD), self.gate.weight, experts, self.num_experts_per_tok, self.norm_topk_prob)
