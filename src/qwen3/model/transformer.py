"""Qwen3: the whole model on one page, dense and mixture-of-experts, for training and serving.

Shape suffixes: T tokens, D hidden_size, H query heads, K key-value heads, d head_dim, V vocab_size.

Tokens are flat: a training step packs documents into T, a serving step packs requests; who sees whom is decided
by `attend` alone. Module and parameter names are those of the Hugging Face checkpoints. The model does not know
caches, quantization, adapters or devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from qwen3 import ops
from qwen3.config import ModelConfig
from qwen3.model.attention import Attend, Attention
from qwen3.model.layers import MLP, Embedding, Linear, RMSNorm
from qwen3.model.moe import SparseMoE
from qwen3.model.rope import cos_sin

# What `recompute` does not compute again: the experts chosen, so that both passes take the same ones.
_kept = partial(create_selective_checkpoint_contexts, [torch.ops.aten.topk.default])


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        sparse = config.is_sparse_layer(layer)
        self.mlp = SparseMoE(config) if sparse else MLP(config.hidden_size, config.intermediate_size)

    def forward(
        self, x_TD: Tensor, cos_Td: Tensor, sin_Td: Tensor, attend: Attend, with_router: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The new x [T, D], and if asked for the logits [T, E] of a sparse layer's router."""
        x_TD = self.self_attn(x_TD, self.input_layernorm, cos_Td, sin_Td, attend)
        if with_router:
            return self.mlp(x_TD, self.post_attention_layernorm, ops.moe_and_router)
        return self.mlp(x_TD, self.post_attention_layernorm)


class Decoder(nn.Module):
    """Everything below the head; the `model.` prefix of the checkpoint names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x_TD: Tensor,
        cos_Td: Tensor,
        sin_Td: Tensor,
        attend: Attend,
        recompute: bool = False,
        router_logits: list[Tensor] | None = None,
    ) -> Tensor:
        """x [T, D] behind all layers; the arguments are those of `Qwen3.forward`."""
        for block in self.layers:
            arguments = (x_TD, cos_Td, sin_Td, attend)
            if router_logits is not None and isinstance(block.mlp, SparseMoE):
                arguments += (True,)
            if recompute:
                x_TD = checkpoint(block, *arguments, use_reentrant=False, context_fn=_kept)
            else:
                x_TD = block(*arguments)
            if isinstance(x_TD, tuple):
                x_TD, router_TE = x_TD
                router_logits.append(router_TE)
        return x_TD


class Qwen3(nn.Module):
    """The language model. Parameters are uninitialised until loaded, or until `initialise` is called."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.has_independent_rows = False
        """Whether a token's values have the same bits whatever other tokens share the pass."""
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)

    def forward(
        self,
        tokens_T: Tensor,
        positions_T: Tensor,
        attend: Attend,
        *,
        recompute: bool = False,
        router_logits: list[Tensor] | None = None,
    ) -> Tensor:
        """Hidden states [T, D] after the final norm, of integer tokens [T] at integer positions [T].

        `recompute` keeps only each layer's input for the backward pass and computes the rest again.
        `router_logits` takes the logits [T, E] of each sparse layer's router, for losses on them.
        """
        config = self.config
        x_TD = self.model.embed_tokens(tokens_T)
        cos_Td, sin_Td = cos_sin(config.rope_parameters, config.head_dim, positions_T, x_TD.dtype)
        x_TD = self.model(x_TD, cos_Td, sin_Td, attend, recompute, router_logits)
        return self.model.norm(x_TD)

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Next-token logits [T, V] of hidden states [T, D], in their dtype."""
        return ops.linear(hidden_TD, self.head_weight)

    @property
    def is_packed(self) -> bool:
        """Whether the native CPU kernels run it."""
        return isinstance(self.model.norm.weight, ops.PackedVector)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of activations and cached keys and values."""
        return self.model.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.model.norm.weight.device

    @property
    def head_weight(self) -> ops.Weight:
        """The head's matrix [V, D]; the embedding itself where the model ties them."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw fresh weights: matrices from N(0, initializer_range), norm scales one. Reproducible by `seed`."""
        for parameter, (_, value) in zip(self.parameters(), self.fresh_weights(seed), strict=True):
            parameter.copy_(value)

    def fresh_weights(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        """What `initialise` sets, one parameter after another, float32. The model may be on the meta device."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                yield name, torch.ones(parameter.shape)
            else:
                yield name, torch.randn(parameter.shape, generator=generator).mul_(self.config.initializer_range)
