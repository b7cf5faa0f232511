"""Attention over a paged cache, norms and rotation, on the native CPU kernels.

A page holds 32 positions of one sequence in all layers. A query's result has the same bits whatever else is in its
step, however its context is cut into steps and wherever the pages lie: `docs/kernels.md` gives the order of the
arithmetic. This module checks what the native code trusts, and decides nothing about who gets which page.

Shapes: T tokens of the step, H query heads, K key-value heads, d head_dim, N features. All float32, on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3.ops.huge_pages import Supply
from qwen3.ops.native import FASTEST, _native, check, place_of

PAGE_TOKENS = 32
KV_FORMATS = {"fp32": 0, "bf16": 1, "fp16": 2, "int8": 3}
"""How keys and values are kept, by the kernels' number; int8 has a float32 scale for each head and token."""

_MAX_HEAD_DIM, _MAX_GROUP = 256, 64


@dataclass(frozen=True)
class PackedVector:
    """A norm's scale, float32 [N]: its type says that the native kernels compute the norm."""

    values: Tensor

    def __post_init__(self) -> None:
        check("norm weight", self.values, (torch.float32,), (self.values.numel(),))

    dtype = torch.float32
    device = torch.device("cpu")

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


def rms_norm(x: Tensor, weight_N: PackedVector, eps: float, *, instruction_set: str = FASTEST) -> Tensor:
    """Root-mean-square norm over the last axis, N a multiple of 16: [..., N] -> [..., N]."""
    num_columns = weight_N.values.numel()
    if num_columns % 16 or x.shape[-1:] != (num_columns,):
        raise ValueError(f"need activations [..., {num_columns}], a multiple of 16, got {list(x.shape)}")
    check("activations", x, (torch.float32,), x.shape)
    out = torch.empty_like(x)
    place = place_of(instruction_set)
    num_rows = x.numel() // num_columns
    _native.rms_norm(place, x.data_ptr(), num_rows, num_columns, weight_N.values.data_ptr(), eps, out.data_ptr())
    return out


def qk_norm_rope(
    q_THd: Tensor,
    k_TKd: Tensor,
    q_weight_d: PackedVector,
    k_weight_d: PackedVector,
    eps: float,
    cos_Td: Tensor,
    sin_Td: Tensor,
    *,
    instruction_set: str = FASTEST,
) -> tuple[Tensor, Tensor]:
    """QK-Norm over each head, then the rotation; d a multiple of 16, at most 256."""
    (T, H, d), K = q_THd.shape, k_TKd.shape[1]
    _check_head_dim(d)
    check("queries", q_THd, _FLOAT32, (T, H, d))
    check("keys", k_TKd, _FLOAT32, (T, K, d))
    check("query norm", q_weight_d.values, _FLOAT32, (d,))
    check("key norm", k_weight_d.values, _FLOAT32, (d,))
    check("cosines", cos_Td, _FLOAT32, (T, d))
    check("sines", sin_Td, _FLOAT32, (T, d))
    q_out, k_out = torch.empty_like(q_THd), torch.empty_like(k_TKd)
    _native.qk_norm_rope(
        place_of(instruction_set), q_THd.data_ptr(), k_TKd.data_ptr(), T, H, K, d,
        q_weight_d.values.data_ptr(), k_weight_d.values.data_ptr(), eps, cos_Td.data_ptr(), sin_Td.data_ptr(),
        q_out.data_ptr(), k_out.data_ptr(),
    )  # fmt: skip
    return q_out, k_out


class PageLayout:
    """The size of a page and what lies where in it."""

    def __init__(self, format: str, num_layers: int, num_kv_heads: int, head_dim: int) -> None:
        """`format` is one of KV_FORMATS; raises ValueError for another one and for heads that the kernels cannot do."""
        if format not in KV_FORMATS:
            raise ValueError(f"keys and values cannot be kept in {format!r}: choose one of {', '.join(KV_FORMATS)}")
        _check_head_dim(head_dim)
        if num_layers < 1 or num_kv_heads < 1:
            raise ValueError(f"a cache of {num_layers} layers with {num_kv_heads} key-value heads holds nothing")
        self.format, self.num_layers, self.num_kv_heads, self.head_dim = format, num_layers, num_kv_heads, head_dim
        self.native = _native.cache_shape(KV_FORMATS[format], num_layers, num_kv_heads, head_dim)
        self.page_bytes: int = self.native.page_bytes()
        self._supply = Supply()

    def new_page(self) -> Tensor:
        """Memory of one page, uint8 [page_bytes], with nothing written in it.

        Pages lie side by side; what holds some of them is given back when the last one of these is.
        """
        return self._supply.take(self.page_bytes)


class PagedStep:
    """One step over cached sequences: its tokens are `counts[i]` of sequence i, one sequence after another."""

    def __init__(
        self,
        layout: PageLayout,
        pages: Sequence[Sequence[Tensor]],
        starts: Sequence[int],
        counts: Sequence[int],
        *,
        instruction_set: str = FASTEST,
    ) -> None:
        """`pages[i]` has room for the `starts[i]` positions that are cached and the new ones behind them."""
        for sequence, start, count in zip(pages, starts, counts, strict=True):
            if count < 1 or start < 0 or len(sequence) * PAGE_TOKENS < start + count:
                raise ValueError(f"{len(sequence)} pages do not hold positions {start} to {start + count - 1}")
            if any(page.nbytes != layout.page_bytes for page in sequence):
                raise ValueError(f"a page has not the layout's {layout.page_bytes:,} bytes")
        self._layout, self._pages, self.num_tokens = layout, pages, sum(counts)
        addresses = [[page.data_ptr() for page in sequence] for sequence in pages]
        self.native = _native.attention_step(
            place_of(instruction_set), layout.native, addresses, list(starts), list(counts)
        )

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        """Write the tokens' keys and values, then attend: each token over its sequence up to itself -> [T, H, d]."""
        layout, T, H = self._layout, self.num_tokens, q_THd.shape[1]
        self.check_layer(layer, H, layout.num_kv_heads, layout.head_dim)
        check("queries", q_THd, _FLOAT32, (T, H, layout.head_dim))
        check("keys", k_TKd, _FLOAT32, (T, layout.num_kv_heads, layout.head_dim))
        check("values", v_TKd, _FLOAT32, k_TKd.shape)
        out_THd = torch.empty_like(q_THd)
        _native.attend(self.native, layer, H, q_THd.data_ptr(), k_TKd.data_ptr(), v_TKd.data_ptr(), out_THd.data_ptr())
        return out_THd

    def write(self, layer: int, k_TKd: Tensor, v_TKd: Tensor) -> None:
        """Only put keys and values [T, K, d] into their slots."""
        layout = self._layout
        self.check_layer(layer, layout.num_kv_heads, layout.num_kv_heads, layout.head_dim)
        check("keys", k_TKd, _FLOAT32, (self.num_tokens, layout.num_kv_heads, layout.head_dim))
        check("values", v_TKd, _FLOAT32, k_TKd.shape)
        _native.write_kv(self.native, layer, k_TKd.data_ptr(), v_TKd.data_ptr())

    def check_layer(self, layer: int, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        """Refuse a layer that the cache does not have."""
        layout = self._layout
        if not 0 <= layer < layout.num_layers:
            raise ValueError(f"the cache has no layer {layer}")
        if (num_kv_heads, head_dim) != (layout.num_kv_heads, layout.head_dim):
            raise ValueError(
                f"the cache has {layout.num_kv_heads} heads of {layout.head_dim}, not {num_kv_heads} of {head_dim}"
            )
        if num_heads % num_kv_heads or not 0 < num_heads <= _MAX_GROUP * num_kv_heads:
            raise ValueError(f"{num_heads} query heads do not fit {num_kv_heads} key-value heads")


_FLOAT32 = (torch.float32,)


def _check_head_dim(head_dim: int) -> None:
    if head_dim % 16 or not 0 < head_dim <= _MAX_HEAD_DIM:
        raise ValueError(f"head_dim {head_dim}: the native kernels need a multiple of 16, at most {_MAX_HEAD_DIM}")
