"""Changes to a model after it is built: today, packing its matrices for the native kernels, into 4 or 8 bits or as is.

The model file knows nothing of them: a transform replaces weights, and the operations choose by the weights' type.
`packed_forms` says how each parameter is stored, so that loading can pack a file's tensors without ever holding the
model as it was (`checkpoint.load`), and `quantize_weights` packs a model that is in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qwen3.model.layers import Embedding, Linear, RMSNorm
from qwen3.model.moe import Experts
from qwen3.model.packed_block import PackedDecoder
from qwen3.model.transformer import Qwen3
from qwen3.ops import PackedExperts, PackedWeight, Weight
from qwen3.ops.packed import FORMATS, REPACKED, pack_into, repack
from qwen3.ops.paged import PackedVector


@dataclass(frozen=True)
class Packing:
    """Bits of each weight, 4 or 8, and how many columns share a float16 scale: 32, 64 or 128."""

    bits: int
    group: int = 32

    @property
    def format(self) -> str:
        """The name of a packed weight's format (`ops.packed.FORMATS`)."""
        return f"int{self.bits}-g{self.group}"

    def head_format(self, columns: int) -> str:
        """Of the head [V, columns], which suffers most from few bits: beside 4 it takes 6, or 8 where 6 do not fit."""
        if self.bits == 8:
            return self.format
        return "q6_k" if columns % FORMATS["q6_k"].block_columns == 0 else f"int8-g{self.group}"


PACKINGS = {"int8": Packing(8), "int4": Packing(4)}
"""By the names that users know."""


def packed_forms(model: Qwen3, packing: Packing) -> dict[str, str | None]:
    """The format of each parameter, by name, in a packed model; None stands for float32.

    Projections and experts follow `packing`, the head or a tied embedding its `head_format`; an embedding of its own
    takes 8 bits. Routers and norms become float32, as do the activations. The model may be on the meta device.

    Raises ValueError for a head_dim that the native kernels cannot take.
    """
    if model.config.head_dim % 16:
        raise ValueError(f"head_dim {model.config.head_dim} is not a multiple of 16, which the native kernels need")
    routers = {block.mlp.gate for block in model.model.layers if hasattr(block.mlp, "gate")}
    head = model.model.embed_tokens if model.config.tie_word_embeddings else model.lm_head
    forms: dict[str, str | None] = {}
    for owner, module in model.named_modules():
        if module is head:
            form = packing.head_format(model.config.hidden_size)
        elif isinstance(module, Linear) and module not in routers:
            form = packing.format
        elif isinstance(module, Embedding):
            form = Packing(8, packing.group).format
        else:
            form = None
        forms |= {f"{owner}.{name}": form for name, _ in module.named_parameters(recurse=False)}
    return forms


def replace_weights(model: Qwen3, weights: Iterable[tuple[str, Weight]]) -> None:
    """Put a packed model's weights, all of them, in the place of the parameters they are named after.

    Matrices but routers are packed, in formats that may differ; all else is float32. Norms go to the native kernels,
    and with them attention and its cache; so do sparse layers. The model can then be run but not trained, and its rows
    no longer depend on one another (`has_independent_rows`).
    """
    for name, weight in weights:
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(module, RMSNorm):
            weight = PackedVector(weight)
        elif isinstance(weight, Tensor):
            weight = nn.Parameter(weight, requires_grad=False)
        delattr(module, attribute)
        setattr(module, attribute, weight)
    for module in model.modules():
        if isinstance(module, Experts):
            module.joined = PackedExperts(module.weights)
    model.model = PackedDecoder(model.model, model.config)
    model.has_independent_rows = True


@torch.no_grad()
def quantize_weights(model: Qwen3, bits: int, group: int = 32) -> None:
    """Pack every matrix of a CPU model for the native kernels, in place, each freed as it is replaced.

    Raises ValueError for a matrix whose columns do not divide into groups.
    """

    def stored(name: str, format: str | None) -> Weight:
        weight = model.get_parameter(name).detach()
        if format is None:
            return weight.float()
        packed = PackedWeight.empty(*weight.shape, format)
        pack_into(packed, weight.contiguous())
        return packed

    forms = packed_forms(model, Packing(bits, group))
    replace_weights(model, ((name, stored(name, format)) for name, format in forms.items()))


@torch.no_grad()
def pack_as_stored(model: Qwen3) -> None:
    """Lay out every matrix of a CPU model for the native kernels, in place, without changing a weight.

    Activations become float32, as in any packed model. Raises ValueError for shapes that the kernels cannot take.
    """
    block_type = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}[model.dtype]

    def stored(name: str, is_matrix: bool) -> Weight:
        weight = model.get_parameter(name).detach()
        if not is_matrix:
            return weight.float()
        packed = PackedWeight.empty(*weight.shape, REPACKED[block_type])
        repack(block_type, weight.contiguous().view(torch.uint8).numpy(), packed)
        return packed

    forms = packed_forms(model, PACKINGS["int8"])
    replace_weights(model, ((name, stored(name, form is not None)) for name, form in forms.items()))


def stored_bytes(model: Qwen3) -> dict[str, int]:
    """Bytes of all weights by storage, the largest first: `int4-g32`, `float32`, ..."""
    sizes: Counter[str] = Counter()
    for _, weight in weights_of(model):
        sizes[weight.format if isinstance(weight, PackedWeight) else str(weight.dtype)[6:]] += weight.nbytes
    return dict(sizes.most_common())


def weights_of(model: Qwen3) -> Iterator[tuple[str, Weight]]:
    """Every weight with its module's name, packed ones included, which are no parameters."""
    for name, module in model.named_modules():
        if (weight := getattr(module, "weight", None)) is not None:
            yield name, weight


def storage_of(model: Qwen3) -> str:
    """What the model computes with, for people: 'bfloat16', or the formats of packed weights, the most bytes first."""
    sizes: Counter[str] = Counter()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, PackedWeight):
            sizes[weight.format] += weight.nbytes
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{' + '.join(format for format, _ in sizes.most_common())} weights in {dtype}" if sizes else dtype
