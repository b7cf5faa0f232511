"""Steps as `Batch`es: the last stop of the data, and the only one that knows torch.

Rank r of w takes rows r, r + w, ... of each step, so the rows of a step are the same at any world size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from qwen3.train.batch import Batch
from qwen3.train.data.stage import StageData
from qwen3.train.layout import check_division


def batches(data: StageData, step: int, rank: int = 0, world_size: int = 1, rows_per_batch: int = 1) -> Iterator[Batch]:
    """The micro-batches of one rank for a step, of `rows_per_batch` rows each: all of the same number of tokens.

    The loss of a step is normalised by `num_targets(data, step)`, which every rank knows without asking the others.
    """
    check_division(data.num_rows, world_size, rows_per_batch)
    own = data.num_rows // world_size
    rows = np.arange(rank, data.num_rows, world_size)
    for start in range(0, own, rows_per_batch):
        arrays = data.arrays(step, rows[start : start + rows_per_batch])
        yield Batch(
            torch.from_numpy(arrays.tokens_T),
            torch.from_numpy(arrays.positions_T),
            arrays.lengths,
            torch.from_numpy(arrays.targets_T),
            torch.from_numpy(arrays.loss_weight_T),
        )


def num_targets(data: StageData, step: int) -> int:
    """How many predictions count in a step, over all ranks: every token but the last of each document."""
    rows = data.rows(step)
    ends = rows.last == data.dataset.lengths[rows.documents]
    return data.stage.tokens_per_step - int(ends.sum())
