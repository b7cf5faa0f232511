"""Changes to a model after it is built or loaded: today, packing its matrices into 4 or 8 bits.

The model file knows nothing of them: a transform replaces weights, and the operations choose by the weights' type.
"""

from __future__ import annotations

import torch

from qwen3.model.layers import Embedding, Linear, RMSNorm
from qwen3.model.transformer import Qwen3
from qwen3.ops.packed import pack
from qwen3.ops.paged import PackedVector


@torch.no_grad()
def quantize_weights(model: Qwen3, bits: int, group: int = 32) -> None:
    """Pack every matrix of a CPU model for the native kernels, in place, each freed as it is replaced.

    Projections, experts and the head take `bits` (4 or 8) with a float16 scale for each `group` columns, a tied
    embedding with them; an embedding of its own takes 8. Routers and norms become float32, as do the activations.
    The model can then be run but not trained. A dense model's rows no longer depend on one another
    (`has_independent_rows`); a sparse one's still do, because its routers are torch's products.

    Raises ValueError for a matrix whose columns do not divide into groups.
    """
    if model.config.head_dim % 16:
        raise ValueError(f"head_dim {model.config.head_dim} is not a multiple of 16, which the native kernels need")
    routers = {block.mlp.gate for block in model.model.layers if hasattr(block.mlp, "gate")}
    for module in model.modules():
        if isinstance(module, RMSNorm):
            scale = PackedVector(module.weight.detach().float())
            del module.weight
            module.weight = scale
        elif module in routers:
            module.weight.data = module.weight.data.float()
        elif isinstance(module, Linear | Embedding):
            is_lookup = isinstance(module, Embedding) and not model.config.tie_word_embeddings
            packed = pack(module.weight.detach().contiguous(), 8 if is_lookup else bits, group)
            del module.weight
            module.weight = packed
    model.has_independent_rows = not model.config.is_moe
