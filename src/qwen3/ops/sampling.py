"""The native forms of drawing a token: a few passes over the row of logits, which is never sorted as a whole.

`native/sample.h` says what is computed: what `reference.draw` and `reference.largest` specify, but for the rounding of
probabilities to float32. This module checks what the native code trusts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qwen3.ops.native import FASTEST, _native, check, place_of


def draw(
    logits_V: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    noise: float,
    *,
    instruction_set: str = FASTEST,
) -> int | None:
    """See `reference.draw`. Of equal logits the lower index counts as the larger."""
    _check_logits(logits_V)
    if not (temperature >= 0 and top_k >= 0 and 0 <= noise < 1):
        raise ValueError(f"need temperature and top_k >= 0 and noise in [0, 1), got {temperature}, {top_k}, {noise}")
    place = place_of(instruction_set)
    token = _native.draw(place, logits_V.data_ptr(), len(logits_V), temperature, top_k, top_p, min_p, noise)
    return None if token < 0 else token


def largest(logits_V: Tensor, count: int, *, instruction_set: str = FASTEST) -> Tensor:
    """See `reference.largest`. Of equal logits the lower index counts as the larger."""
    _check_logits(logits_V)
    if not 0 < count <= len(logits_V):
        raise ValueError(f"need a count of 1 to {len(logits_V)}, not {count}")
    ids_k = torch.empty(count, dtype=torch.int64)
    _native.largest(place_of(instruction_set), logits_V.data_ptr(), len(logits_V), count, ids_k.data_ptr())
    return ids_k


def _check_logits(logits_V: Tensor) -> None:
    if logits_V.ndim != 1 or not len(logits_V):
        raise ValueError(f"need logits [V], got {list(logits_V.shape)}")
    check("logits", logits_V, (torch.float32,), logits_V.shape)
