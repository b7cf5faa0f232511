"""Layers whose weights are packed: one native call where the engine's pages allow it.

A dense model's layers are one call all together; of a sparse one each layer's attention is one, before its experts.
"""

from __future__ import annotations

from torch import Tensor, nn

from qwen3.config import ModelConfig
from qwen3.model.attention import Attend
from qwen3.model.layers import MLP
from qwen3.model.transformer import Block, Decoder
from qwen3.ops.layer import PackedLayer, PackedLayers
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
        self.is_whole = isinstance(mlp, MLP)
        """Whether the native layer has the feed-forward too."""
        self.layer = PackedLayer(
            attention.layer,
            config.head_dim,
            config.rms_norm_eps,
            [norm.weight for norm in norms],
            [projection.weight for projection in projections],
        )
        self._run = PackedLayers([self.layer])

    def forward(self, x_TD: Tensor, cos_Td: Tensor, sin_Td: Tensor, attend: Attend) -> Tensor:
        if not isinstance(attend, PagedStep):
            return super().forward(x_TD, cos_Td, sin_Td, attend)
        x_TD = self._run(x_TD, cos_Td, sin_Td, attend)
        return x_TD if self.is_whole else self.mlp(x_TD, self.post_attention_layernorm)


class PackedDecoder(Decoder):
    """Takes the place and the modules of a `Decoder`, and gives the same bits."""

    def __init__(self, decoder: Decoder, config: ModelConfig) -> None:
        nn.Module.__init__(self)
        self.embed_tokens, self.norm = decoder.embed_tokens, decoder.norm
        self.layers = nn.ModuleList(PackedBlock(block, config) for block in decoder.layers)
        is_dense = all(block.is_whole for block in self.layers)
        self._run = PackedLayers([block.layer for block in self.layers]) if is_dense else None

    def forward(self, x_TD: Tensor, cos_Td: Tensor, sin_Td: Tensor, attend: Attend, *training: object) -> Tensor:
        if self._run is None or not isinstance(attend, PagedStep):
            return super().forward(x_TD, cos_Td, sin_Td, attend, *training)
        return self._run(x_TD, cos_Td, sin_Td, attend)
