"""Whole layers with packed weights as one native call.

The result equals the layers' operations one by one, to the bit; it exists because a token of a small model takes no
longer in the kernels than Python takes to call them, the more so as the weights that pass drive Python's own data and
code out of the caches.

Shapes: T tokens, D hidden, H query heads, K key-value heads, d head_dim, F feed-forward.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwen3.ops.native import FASTEST, _native, check, place_of
from qwen3.ops.packed import PackedWeight
from qwen3.ops.paged import PackedVector, PagedStep


class PackedLayer:
    """Attention, and of a dense layer the feed-forward, each behind its norm and added to the residual stream.

    `PackedLayers` runs it.
    """

    def __init__(
        self,
        index: int,
        head_dim: int,
        eps: float,
        norms: Sequence[PackedVector],
        matrices: Sequence[PackedWeight],
    ) -> None:
        """Hold the weights of layer `index`. Raises ValueError for shapes that do not fit together.

        Args:
            norms: of the input [D], of queries and keys [d], and of the feed-forward's input [D].
            matrices: q [H * d, D], k and v [K * d, D], o [D, H * d]; and of a dense layer gate and up [F, D] and down
                [D, F].
        """
        (q_size, D), kv_size = matrices[0].shape, matrices[1].shape[0]
        mlp = matrices[4:]
        expected = [(q_size, D), (kv_size, D), (kv_size, D), (D, q_size)]
        if mlp:
            F = mlp[0].shape[0]
            expected += [(F, D), (F, D), (D, F)]
        if q_size % head_dim or kv_size % head_dim or [tuple(each.shape) for each in matrices] != expected:
            raise ValueError(f"the layer's matrices are {[each.shape for each in matrices]}, not {expected}")
        for norm, size in zip(norms, (D, head_dim, head_dim, D), strict=True):
            check("norm weight", norm.values, (torch.float32,), (size,))
        self.held = (tuple(norms), tuple(matrices))
        """What the native layer only points to."""
        self.index, self.num_heads, self.num_kv_heads = index, q_size // head_dim, kv_size // head_dim
        self.hidden_size, self.head_dim = D, head_dim
        self.native = _native.layer(
            index,
            self.num_heads,
            eps,
            [matrix._matrix for matrix in matrices],
            [norm.values.data_ptr() for norm in norms],
        )


class PackedLayers:
    """Layers of one shape that follow each other."""

    def __init__(self, layers: Sequence[PackedLayer]) -> None:
        """Raises ValueError unless the layers have one shape and rising indices: then first and last stand for all."""
        shapes = {(each.num_heads, each.num_kv_heads, each.head_dim, each.hidden_size) for each in layers}
        indices = [each.index for each in layers]
        if len(shapes) != 1 or indices != sorted(set(indices)):
            raise ValueError(
                "layers need one shape (heads, key-value heads, head_dim, hidden) and rising indices, "
                f"not {sorted(shapes)} and {indices}"
            )
        self._layers = tuple(layers)
        self._native = _native.layers([layer.native for layer in layers])

    def __call__(
        self, x_TD: Tensor, cos_Td: Tensor, sin_Td: Tensor, step: PagedStep, *, instruction_set: str = FASTEST
    ) -> Tensor:
        """float32 [T, D] of all the step's tokens -> [T, D]; writes their keys and values. cos and sin: [T, d]."""
        first, last = self._layers[0], self._layers[-1]
        for layer in (first, last):
            step.check_layer(layer.index, layer.num_heads, layer.num_kv_heads, layer.head_dim)
        check("activations", x_TD, (torch.float32,), (step.num_tokens, first.hidden_size))
        check("cosines", cos_Td, (torch.float32,), (step.num_tokens, first.head_dim))
        check("sines", sin_Td, (torch.float32,), cos_Td.shape)
        y_TD = torch.empty_like(x_TD)
        _native.run_layers(
            place_of(instruction_set),
            self._native,
            step.native,
            x_TD.data_ptr(),
            cos_Td.data_ptr(),
            sin_Td.data_ptr(),
            y_TD.data_ptr(),
        )
        return y_TD
