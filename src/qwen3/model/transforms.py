"""Changes to a model after it is built or loaded: today, matrices in packed storage.

The model file knows nothing of them: a transform replaces weights, and the operations choose by the weights' type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch

from qwen3.model.layers import Embedding, Linear, RMSNorm
from qwen3.model.transformer import Qwen3
from qwen3.ops.packed import PackedWeight, pack
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
    routers = {block.mlp.gate for block in model.model.layers if hasattr(block.mlp, "gate")}
    for module in model.modules():
        if module in routers:
            module.weight.data = module.weight.data.float()
        elif isinstance(module, Linear | Embedding):
            is_lookup = isinstance(module, Embedding) and not model.config.tie_word_embeddings
            packed = pack(module.weight.detach().contiguous(), 8 if is_lookup else bits, group)
            del module.weight
            module.weight = packed
    pack_norms(model)


def replace_weights(model: Qwen3, weights: Mapping[str, PackedWeight]) -> None:
    """Put packed weights in the place of the parameters of the same names, in place; the formats may differ.

    All matrices but the routers should be among them, and `pack_norms` should follow.
    """
    for name, packed in weights.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        del module.weight
        module.weight = packed


def pack_norms(model: Qwen3) -> None:
    """Move norms, and with them attention and its cache, to the native kernels, as the matrices already are.

    A dense model's rows then no longer depend on one another.
    """
    if model.config.head_dim % 16:
        raise ValueError(f"head_dim {model.config.head_dim} is not a multiple of 16, which the native kernels need")
    for module in model.modules():
        if isinstance(module, RMSNorm):
            scale = PackedVector(module.weight.detach().float())
            del module.weight
            module.weight = scale
    model.has_independent_rows = not model.config.is_moe


def storage_of(model: Qwen3) -> str:
    """What the model computes with, for people: 'bfloat16', or the formats of packed weights, the most bytes first."""
    sizes: Counter[str] = Counter()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, PackedWeight):
            sizes[weight.format] += weight.nbytes
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{' + '.join(format for format, _ in sizes.most_common())} weights in {dtype}" if sizes else dtype
