"""Models with random weights made directly in their storage: to measure a shape without its checkpoint.

The model is built without memory and each weight then gets its own, so a model takes what its weights take: 30B-A3B in
4 bits fits in 24 GiB. The values have the spread of fresh weights (`initializer_range`), which keeps activations finite
and of ordinary size. They come from one block of noise, repeated, because drawing billions of numbers takes minutes:
good to measure speed and memory, useless to train from (`Qwen3.initialise` does that).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qwen3.config import ModelConfig
from qwen3.model.transformer import Qwen3
from qwen3.model.transforms import PACKINGS, Packing, packed_forms, replace_weights
from qwen3.ops import PackedWeight, Weight

RANDOM_WEIGHTS = (*PACKINGS, "bf16")
"""Storages that `random_model` makes."""

# No power of two, so that neither the rows of a matrix nor its neighbours begin at the same place of the block.
_BLOCK_BYTES = (4 << 20) - 94


def random_model(config: ModelConfig, weights: str = "int4", group: int = 32, seed: int = 0) -> Qwen3:
    """A model for inference on the CPU in the storage that `transforms.quantize_weights` gives, or all in bfloat16.

    Args:
        weights: 'int4' or 'int8' with a float16 scale for each `group` columns, or 'bf16'.
        seed: the same seed gives the same weights.

    Raises ValueError for other weights, or columns that do not divide into groups.
    """
    if weights not in RANDOM_WEIGHTS:
        raise ValueError(f"random weights come as {', '.join(RANDOM_WEIGHTS)}, not {weights!r}")
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(_BLOCK_BYTES // 4, generator=generator) * config.initializer_range
    values = {dtype: _Noise(draw.to(dtype)) for dtype in (torch.bfloat16, torch.float32)}
    # Without the lowest quant, so that the mean is zero: otherwise sums over many columns drown what differs.
    nibbles = torch.randint(1, 16, (2, _BLOCK_BYTES), dtype=torch.uint8, generator=generator)
    quants = {
        4: _Noise(nibbles[0] | nibbles[1] << 4),
        8: _Noise(torch.randint(1, 256, (_BLOCK_BYTES,), dtype=torch.uint8, generator=generator)),
        6: _Noise(torch.randint(0, 256, (_BLOCK_BYTES,), dtype=torch.uint8, generator=generator)),
    }
    with torch.device("meta"):
        model = Qwen3(config).eval()
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def plain(name: str, dtype: torch.dtype) -> Tensor:
        is_norm = len(shapes[name]) == 1
        return (
            torch.ones(shapes[name], dtype=dtype)
            if is_norm
            else values[dtype].fill(torch.empty(shapes[name], dtype=dtype))
        )

    def drawn(name: str, format: str | None) -> Weight:
        if format is None:
            return plain(name, torch.float32)
        packed = PackedWeight.empty(*shapes[name], format)
        bits = 6 if format == "q6_k" else int(format[3])
        quants[bits].fill(packed.quants)
        # Over the standard deviation of a uniform draw from all other quants.
        num_quants = 2**bits - (bits != 6)
        scale = config.initializer_range / math.sqrt((num_quants**2 - 1) / 12)
        if bits != 6:
            packed.scales.view(torch.float16).fill_(scale)
            return packed
        # Of each 288 bytes the first 32 are float16 scales, the others bytes by which they are multiplied.
        blocks = packed.scales.view(-1, 288)
        blocks[:, :32].view(torch.float16).fill_(scale / 64)
        blocks[:, 32:] = 64  # half of them minus 64, because the mean of the quants is not 0
        blocks[:, 33::2] = 256 - 64
        return packed

    if weights in PACKINGS:
        forms = packed_forms(model, Packing(PACKINGS[weights].bits, group))
        replace_weights(model, ((name, drawn(name, format)) for name, format in forms.items()))
    else:
        state = {name: plain(name, torch.bfloat16) for name in shapes}
        model.requires_grad_(False).load_state_dict(state, assign=True)
    return model


class _Noise:
    """A block of random values that is handed out again and again, each time from where the last one ended."""

    def __init__(self, block: Tensor) -> None:
        self._block, self._next = block, 0

    def fill(self, tensor: Tensor) -> Tensor:
        """Overwrites a contiguous tensor of the block's dtype, and returns it."""
        flat, begin = tensor.view(-1), 0
        while begin < len(flat):
            piece = self._block[self._next : self._next + len(flat) - begin]
            flat[begin : begin + len(piece)] = piece
            begin += len(piece)
            self._next = (self._next + len(piece)) % len(self._block)
        return tensor
