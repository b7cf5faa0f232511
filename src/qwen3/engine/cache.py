"""Keys and values of one sequence, growing as it does."""

from __future__ import annotations

import torch
from torch import Tensor

from qwen3.config import ModelConfig

_FIRST_CAPACITY = 256


class KVCache:
    """Per layer two tensors [capacity, K, d] of which the first `length` rows are filled.

    Layers grow one at a time by half, so growing needs at most one layer's copy of extra memory.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.length = 0
        shape = (2, 0, config.num_key_value_heads, config.head_dim)
        self._layers = [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]

    def write(self, layer: int, k_TKd: Tensor, v_TKd: Tensor) -> tuple[Tensor, Tensor]:
        """Put T new rows behind the filled ones; return all keys and values of the layer, [length + T, K, d]."""
        end = self.length + len(k_TKd)
        stored = self._layers[layer]
        if end > stored.shape[1]:
            capacity = max(end, stored.shape[1] * 3 // 2, _FIRST_CAPACITY)
            grown = stored.new_empty(2, capacity, *stored.shape[2:])
            grown[:, : self.length] = stored[:, : self.length]
            self._layers[layer] = stored = grown
        stored[0, self.length : end] = k_TKd
        stored[1, self.length : end] = v_TKd
        return stored[0, :end], stored[1, :end]

    def advance(self, num_tokens: int) -> None:
        """Count the rows that every layer has now written as filled."""
        self.length += num_tokens
