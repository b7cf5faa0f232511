"""What passes cost on this machine, learned from those that were run.

Two questions are answered: how long a pass takes in which every sequence computes a token or a few (`decode_seconds`,
by rows), and how many tokens of a prompt fit into some time (`tokens_within`, by the context they attend to). Both fade
what they learned long ago, as contexts grow and machines get busy. A wrong answer costs time and never a token.

Knows only counts and seconds.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

_FADE = 0.8  # of what was known, with each further measurement
_FORGOTTEN_AFTER = 512  # passes
# Before anything is measured: of each further row over the first, and of a prompt's token.
_GUESSED_ROW, _GUESSED_TOKEN = 0.05, 1e-3
# Contexts must differ by about so many tokens before a trend over them means anything.
_CONTEXT_SPREAD = 256.0


class CostModel:
    """Learns from `observe`, once for each pass."""

    def __init__(self) -> None:
        self._num_passes = 0
        self._decode: dict[int, tuple[float, int]] = {}  # rows -> seconds, number of the last such pass
        self._rows: list[int] = []  # of those, sorted
        # Of seconds a token over the mean context: sums of 1, x, y, xx, xy, weighted.
        self._prefill = [0.0] * 5

    def observe(self, seconds: float, num_decode_rows: int, chunks: Sequence[tuple[int, int]]) -> None:
        """Note a pass of so many rows of decoding and `chunks` (start, count) of prompts."""
        self._num_passes += 1
        if not chunks:
            known, _ = self._decode.get(num_decode_rows, (seconds, 0))
            self._decode[num_decode_rows] = (_FADE * known + (1 - _FADE) * seconds, self._num_passes)
            self._rows = sorted(
                n for n, (_, last) in self._decode.items() if self._num_passes - last < _FORGOTTEN_AFTER
            )
            self._decode = {rows: self._decode[rows] for rows in self._rows}
            return
        count = sum(count for _, count in chunks)
        context = sum(count * (start + count / 2) for start, count in chunks) / count
        beside = self.decode_seconds(num_decode_rows) if num_decode_rows else 0.0
        # Some of the pass is the prompt's, however badly the rest is known.
        seconds_a_token = max(seconds - beside, seconds / 4) / count
        self._learn(min(count, 64) / 64, context, seconds_a_token)

    def _learn(self, weight: float, x: float, y: float) -> None:
        new = (1.0, x, y, x * x, x * y)
        self._prefill = [_FADE * old + weight * each for old, each in zip(self._prefill, new, strict=True)]

    def decode_seconds(self, num_rows: int) -> float:
        """Of a pass in which so many rows are decoded; 0.0 before any was."""
        rows, seconds = self._rows, self._decode
        if not rows:
            return 0.0
        if num_rows in seconds:
            return seconds[num_rows][0]
        above = bisect.bisect(rows, num_rows)
        if 0 < above < len(rows):
            low, high = rows[above - 1], rows[above]
            nearest, slope = low, (seconds[high][0] - seconds[low][0]) / (high - low)
        else:
            nearest = rows[min(above, len(rows) - 1)]
            slope = _GUESSED_ROW * seconds[nearest][0]
            if len(rows) > 1:
                slope = max(0.0, (seconds[rows[-1]][0] - seconds[rows[0]][0]) / (rows[-1] - rows[0]))
        return max(seconds[nearest][0] + slope * (num_rows - nearest), seconds[nearest][0] / 2)

    def token_seconds(self, context: float) -> float:
        """Of one token of a prompt that attends to `context` others."""
        weight, x, y, xx, xy = self._prefill
        if not weight:
            return _GUESSED_TOKEN
        slope = max(0.0, (xy - x * y / weight) / (xx - x * x / weight + weight * _CONTEXT_SPREAD**2))
        base = max((y - slope * x) / weight, 0.1 * y / weight)
        return base + slope * context

    def prefill_seconds(self, start: int, count: int) -> float:
        return count * self.token_seconds(start + count / 2)

    def tokens_within(self, seconds: float, start: int) -> int:
        """Tokens from position `start` on that are computed in so many seconds, a little less rather than more."""
        count = int(seconds / self.token_seconds(start))
        return int(seconds / self.token_seconds(start + count / 2))
