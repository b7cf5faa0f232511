"""A whole layer with packed weights as one native call.

Its result equals the layer's operations one by one, to the bit; it exists because a token of a small model takes no
longer in the kernels than Python takes to call them.

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
    """Attention, and of a dense layer the feed-forward, each behind its norm and added to the residual stream."""

    def __init__(
        self,
        index: int,
        head_dim: int,
        eps: float,
        norms: Sequence[PackedVector],
        matrices: Sequence[PackedWeight],
    ) -> None:
        """Hold the weights of layer `index`.

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
        self._held = (tuple(norms), tuple(matrices))
        self._shape, self._head_dim, self._kv_size = (q_size, D), head_dim, kv_size
        self._layer = _native.layer(
            index,
            q_size // head_dim,
            eps,
            [matrix._matrix for matrix in matrices],
            [norm.values.data_ptr() for norm in norms],
        )
        self._index = index

    def __call__(
        self, x_TD: Tensor, cos_Td: Tensor, sin_Td: Tensor, step: PagedStep, *, instruction_set: str = FASTEST
    ) -> Tensor:
        """float32 [T, D] of all the step's tokens -> [T, D]; writes their keys and values. cos and sin: [T, d]."""
        (q_size, D), d = self._shape, self._head_dim
        step.check_layer(self._index, q_size // d, self._kv_size // d, d)
        check("activations", x_TD, (torch.float32,), (step.num_tokens, D))
        check("cosines", cos_Td, (torch.float32,), (step.num_tokens, d))
        check("sines", sin_Td, (torch.float32,), cos_Td.shape)
        y_TD = torch.empty_like(x_TD)
        _native.run_layer(
            place_of(instruction_set),
            self._layer,
            step.native,
            x_TD.data_ptr(),
            cos_Td.data_ptr(),
            sin_Td.data_ptr(),
            y_TD.data_ptr(),
        )
        return y_TD
