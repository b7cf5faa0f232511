"""What the trainer takes: documents packed one after another into flat tokens, with a weight for each prediction.

A batch says what to predict and how much each prediction weighs; it does not know what it teaches. Chats are packed
here from lists of ids; the pre-training data fill the same `Batch` from shards (`qwen3.train.loader`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Document:
    """Token ids, and for each whether the model is trained to produce it."""

    ids: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class Batch:
    """Documents packed one after another into T tokens; none sees another."""

    tokens_T: Tensor
    positions_T: Tensor
    lengths: list[int]
    targets_T: Tensor
    """The token after each one; meaningless where the weight is zero."""
    loss_weight_T: Tensor
    """Float32, 1 where the target counts, else 0; never across a document's end."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return Batch(
            self.tokens_T.to(device),
            self.positions_T.to(device),
            self.lengths,
            self.targets_T.to(device),
            self.loss_weight_T.to(device),
        )


def pack(documents: Iterable[Document], max_tokens: int) -> Iterator[Batch]:
    """Batches of at most `max_tokens` tokens, documents whole and in order; ValueError for one that is longer."""
    packed: list[Document] = []
    size = 0
    for document in documents:
        length = len(document.ids)
        if length > max_tokens:
            raise ValueError(f"a document of {length} tokens exceeds {max_tokens}: raise tokens_per_micro_batch")
        if size + length > max_tokens:
            yield _batch(packed)
            packed, size = [], 0
        packed.append(document)
        size += length
    if packed:
        yield _batch(packed)


def _batch(documents: Sequence[Document]) -> Batch:
    lengths = [len(document.ids) for document in documents]
    tokens_T = torch.tensor([id for document in documents for id in document.ids])
    trained_T = torch.tensor([flag for document in documents for flag in document.trained], dtype=torch.float32)
    loss_weight_T = trained_T.roll(-1)
    ends = torch.tensor(lengths).cumsum(0) - 1
    loss_weight_T[ends] = 0
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    return Batch(tokens_T, positions_T, lengths, tokens_T.roll(-1), loss_weight_T)
