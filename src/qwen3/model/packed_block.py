"""A layer whose weights are packed: its dense part is one native call where the engine's pages allow it."""

from __future__ import annotations

from torch import Tensor, nn

from qwen3.config import ModelConfig
from qwen3.model.attention import Attend
from qwen3.model.layers import MLP
from qwen3.model.transformer import Block
from qwen3.ops.layer import PackedLayer
from qwen3.ops.paged import PagedStep


class PackedBlock(Block):
    """Takes the place and the modules of a `Block`, and gives the same bits."""

    def __init__(self, block: Block, config: ModelConfig) -> None:
        nn.Module.__init__(self)
        for name, module in block.named_children():
            self.add_module(name, module)
        attention, mlp = block.self_attn, block.mlp
        projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        if isinstance(mlp, MLP):
            projections += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        norms = (block.input_layernorm, attention.q_norm, attention.k_norm, block.post_attention_layernorm)
        self._is_whole = isinstance(mlp, MLP)
        self._layer = PackedLayer(
            attention.layer,
            config.head_dim,
            config.rms_norm_eps,
            [norm.weight for norm in norms],
            [projection.weight for projection in projections],
        )

    def forward(self, x_TD: Tensor, cos_Td: Tensor, sin_Td: Tensor, attend: Attend) -> Tensor:
        if not isinstance(attend, PagedStep):
            return super().forward(x_TD, cos_Td, sin_Td, attend)
        x_TD = self._layer(x_TD, cos_Td, sin_Td, attend)
        return x_TD if self._is_whole else self.mlp(x_TD, self.post_attention_layernorm)
