"""Which steps to skip: those whose loss or gradient norm is not finite, or far above what the last steps had.

A skipped step leaves weights and moments alone and goes on to the next data. The decision is made of numbers that are
equal on all processes, so all skip together.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean, pstdev
from typing import Any

# Of the mean: a window of nearly equal values is no reason to call the next one a spike.
_LEAST_DEVIATION = 0.01


class DivergedError(ValueError):
    """Several steps in a row had to be skipped."""


class SpikeGuard:
    """Remembers the loss and gradient norm of the last `window` steps that were taken."""

    def __init__(self, sigmas: float, window: int, most_skips: int) -> None:
        self._sigmas, self._most_skips = sigmas, most_skips
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=window)
        self.skipped = 0
        """Steps skipped since the run began."""
        self._in_a_row = 0

    def reason_to_skip(self, step: int, loss: float, norm: float) -> str:
        """Why step `step` must be skipped; empty if it need not be. DivergedError after `most_skips` in a row."""
        reason = _judge("loss", loss, self._losses, self._sigmas) or _judge("norm", norm, self._norms, self._sigmas)
        if not reason:
            self._losses.append(loss)
            self._norms.append(norm)
            self._in_a_row = 0
            return ""
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= self._most_skips:
            raise DivergedError(
                f"step {step}: {reason}, the {self._in_a_row}. step in a row that had to be skipped. Go on from an "
                "earlier checkpoint with a lower learning rate, or look at the data of these steps: qwen3 data trace"
            )
        return reason

    def state(self) -> dict[str, Any]:
        """All that is remembered, for JSON."""
        return {
            "losses": list(self._losses),
            "norms": list(self._norms),
            "skipped": self.skipped,
            "in_a_row": self._in_a_row,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._losses.extend(state["losses"])
        self._norms.extend(state["norms"])
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]

    def forget(self) -> None:
        """Begin a new window: what follows is not comparable, as at the start of a stage."""
        self._losses.clear()
        self._norms.clear()


def _judge(name: str, value: float, window: deque[float], sigmas: float) -> str:
    if not math.isfinite(value):
        return f"{name} is {value}"
    if len(window) < window.maxlen:
        return ""
    mean = fmean(window)
    deviation = max(pstdev(window), _LEAST_DEVIATION * abs(mean))
    if value > mean + sigmas * deviation:
        return f"{name} {value:.4g} is more than {sigmas:g} sigma above {mean:.4g}"
    return ""
