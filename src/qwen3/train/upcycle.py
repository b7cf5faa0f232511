"""A dense checkpoint becomes a sparse one that computes the same function: sparse upcycling (arXiv 2212.05055).

Each feed-forward is cut into `pieces` of its width (fine-grained experts), and every piece is copied into
`num_experts / pieces` experts. The experts of one copy stand side by side and share one router row (virtual groups,
arXiv 2410.07524), so their logits are equal: a token that takes `top_k` experts, a multiple of `pieces`, takes whole
copies. The chosen weights are normalised to one (norm_topk_prob), a copy of weight w gives each of its pieces
w / pieces, and the pieces' down projections are multiplied by `pieces`: so any choice of copies sums to the dense
feed-forward, whatever the router says. Training then pulls router rows and copies apart, because they see other tokens.

With one piece the experts are plain copies. Nothing but rounding distinguishes the results: factors of `pieces` are
exact in any floating-point format where `pieces` is a power of two.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from qwen3.config import ModelConfig
from qwen3.model import Qwen3


def sparse_config(dense: ModelConfig, num_experts: int, top_k: int, pieces: int = 1) -> ModelConfig:
    """The config of the upcycled model. ValueError for numbers that do not give the dense function."""
    if dense.is_moe:
        raise ValueError("the model is sparse already: upcycle a dense one")
    if pieces < 1 or dense.intermediate_size % pieces:
        raise ValueError(f"pieces {pieces} does not divide the feed-forward's width {dense.intermediate_size:,}")
    for name, value in (("num_experts", num_experts), ("top_k", top_k)):
        if value < 1 or value % pieces:
            raise ValueError(
                f"{name} {value} is not a positive multiple of {pieces} pieces: a token takes whole copies"
            )
    if top_k > num_experts:
        raise ValueError(f"a token cannot take {top_k} of {num_experts} experts: lower top_k")
    return replace(
        dense,
        model_type="qwen3_moe",
        num_experts=num_experts,
        num_experts_per_tok=top_k,
        moe_intermediate_size=dense.intermediate_size // pieces,
        norm_topk_prob=True,
    )


@torch.no_grad()
def upcycle(dense: Qwen3, num_experts: int, top_k: int, pieces: int = 1, seed: int = 0) -> Qwen3:
    """A new sparse model in the dense one's dtype, with routers drawn by `seed` as fresh weights are.

    What is no feed-forward is the dense model's own, not a copy.
    """
    config = sparse_config(dense.config, num_experts, top_k, pieces)
    with torch.device("meta"):
        sparse = Qwen3(config)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, weight in dense.named_parameters():
        prefix, is_feed_forward, matrix = name.partition(".mlp.")
        if not is_feed_forward:
            weights[name] = weight
            continue
        if matrix == "down_proj.weight":
            parts = (weight * pieces).chunk(pieces, dim=1)
            router = torch.randn(num_experts // pieces, config.hidden_size, generator=generator)
            router = (router * config.initializer_range).repeat_interleave(pieces, dim=0)
            weights[f"{prefix}.mlp.gate.weight"] = router.to(weight)
        else:
            parts = weight.chunk(pieces, dim=0)
        for expert in range(num_experts):
            weights[f"{prefix}.mlp.experts.{expert}.{matrix}"] = parts[expert % pieces].clone()
    sparse.load_state_dict(weights, assign=True)
    return sparse
