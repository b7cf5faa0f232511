"""How values lie in memory, as bits a value and bits a block: the formats of weights and of the key-value cache.

Sizes only: which bits mean what is the business of the code that reads a format. The module knows no tensors and no
files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Storage:
    """`bits` a value, and `block_bits` (scales, minima, zero points) for each block of `rows` x `columns` values."""

    bits: int
    block_bits: int = 0
    columns: int = 1
    rows: int = 1
    column_bits: int = 0  # for each input column of the matrix, once

    def num_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix [rows, columns]; its input dimension is the columns."""
        blocks = ceil_div(rows, self.rows) * ceil_div(columns, self.columns)
        bits = rows * columns * self.bits + blocks * self.block_bits + columns * self.column_bits
        return ceil_div(bits, 8)


@dataclass(frozen=True)
class Format:
    """How each kind of tensor is stored.

    `matrices` are the projections of the layers, experts included; `head` is the output matrix, and the embedding
    where the model ties them; `embedding` the untied embedding; `rest` norms and routers. `sensitive` replaces
    `matrices` for the value and down projections of some layers, as llama.cpp's mixes do.
    """

    matrices: Storage
    head: Storage
    embedding: Storage
    rest: Storage
    sensitive: Storage | None = None

    def storage(self, role: str, columns: int, layer: int, num_layers: int) -> Storage:
        """Where a tensor of this `role` and layer goes; `columns` is its input dimension."""
        if role in ("norm", "router"):
            return self.rest
        if role in ("head", "embedding"):
            storage = self.head if role == "head" else self.embedding
        elif self.sensitive and role in ("value", "down") and _gets_more_bits(layer, num_layers):
            storage = self.sensitive
        else:
            storage = self.matrices
        while columns % storage.columns and storage in _FALLBACK:
            storage = _FALLBACK[storage]
        return storage


_F32, _F16 = Storage(32), Storage(16)
_Q4_0, _Q5_0, _Q8_0 = (Storage(bits, 16, columns=32) for bits in (4, 5, 8))
_Q5_1 = Storage(5, 32, columns=32)
_Q4_K, _Q5_K = (Storage(bits, 128, columns=256) for bits in (4, 5))
_Q6_K = Storage(6, 144, columns=256)
# What llama.cpp stores instead where a row does not fill whole blocks.
_FALLBACK = {_Q4_K: _Q5_0, _Q5_K: _Q5_1, _Q6_K: _Q8_0, _Q4_0: _F16, _Q5_0: _F16, _Q5_1: _F16, _Q8_0: _F16}


def _uniform(storage: Storage) -> Format:
    return Format(storage, storage, storage, storage)


def _gguf(storage: Storage, head: Storage | None = None, sensitive: Storage | None = None) -> Format:
    """GGUF keeps norms and routers in F32."""
    return Format(storage, head or storage, storage, _F32, sensitive)


def _layers_only(storage: Storage) -> Format:
    """The official FP8, AWQ and GPTQ checkpoints: embedding, head, norms and routers stay 16-bit."""
    return Format(storage, _F16, _F16, _F16)


def _grouped(bits: int, group: int, zero_point: bool = False) -> Format:
    """Groups along the input dimension, each with an fp16 scale and, if asymmetric, a zero point of `bits` bits."""
    storage = Storage(bits, 16 + bits * zero_point, columns=group)
    return Format(storage, storage, _F16, _F16)


def _packed(storage: Storage, head: Storage) -> Format:
    """What this package's CPU kernels run: an embedding of its own in 8 bits, norms and routers in float32."""
    return Format(storage, head, _Q8_0, _F32)


FORMATS: dict[str, Format] = {
    "fp32": _uniform(_F32),
    "bf16": _uniform(_F16),
    "fp16": _uniform(_F16),
    "int8": _packed(_Q8_0, head=_Q8_0),
    "int4": _packed(_Q4_0, head=_Q6_K),
    "fp8": _layers_only(Storage(8, 16, columns=128, rows=128)),
    **{f"int8-g{group}": _grouped(8, group) for group in (32, 64, 128)},
    **{f"int4-g{group}": _grouped(4, group) for group in (32, 64, 128)},
    **{f"int4-g{group}-zero": _grouped(4, group, zero_point=True) for group in (32, 64, 128)},
    "awq": _layers_only(Storage(4, 16 + 4, columns=128)),
    # GPTQ also stores the group of each input column as int32.
    "gptq-int4": _layers_only(Storage(4, 16 + 4, columns=128, column_bits=32)),
    "gptq-int8": _layers_only(Storage(8, 16 + 8, columns=128, column_bits=32)),
    "gguf-f16": _gguf(_F16),
    "gguf-bf16": _gguf(_F16),
    "q8_0": _gguf(_Q8_0),
    "q4_0": _gguf(_Q4_0, head=_Q6_K),
    "q5_0": _gguf(_Q5_0, head=_Q6_K),
    "q4_k": _gguf(_Q4_K),
    "q5_k": _gguf(_Q5_K),
    "q6_k": _gguf(_Q6_K),
    "q4_k_m": _gguf(_Q4_K, head=_Q6_K, sensitive=_Q6_K),
    "q5_k_m": _gguf(_Q5_K, head=_Q6_K, sensitive=_Q6_K),
}

_WHOLE_ROW = 2**31
# A cache row is one head of one token. int8 adds a float32 scale to each, int4 an fp16 scale and a minimum; e4m3 has
# the range to go without.
KV_FORMATS: dict[str, Storage] = {
    "fp32": _F32,
    "bf16": _F16,
    "fp16": _F16,
    "fp8": Storage(8),
    "int8": Storage(8, 32, columns=_WHOLE_ROW),
    "int4": Storage(4, 32, columns=_WHOLE_ROW),
}


def find_format(weights: str | Format) -> Format:
    """The Format of a name in FORMATS; a Format is itself. Raises ValueError with the names."""
    return weights if isinstance(weights, Format) else choose("weights", FORMATS, weights)


def choose(kind: str, known: Any, name: str) -> Any:
    """`known[name]`, or a ValueError that lists what there is."""
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(known)}")
    return known[name]


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _gets_more_bits(layer: int, num_layers: int) -> bool:
    """llama.cpp's mixes spend more on the first and last eighth of the layers and on every third between."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2
