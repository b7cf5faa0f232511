"""Learning rate by step, as a line through given points: straight up, half a cosine down, level between equals."""

import math
from collections.abc import Sequence
from itertools import pairwise

Schedule = Sequence[tuple[int, float]]
"""(step, rate) in order of steps from step 0; the last step is the end of training. Two points at one step: a jump."""


def check(schedule: Schedule) -> None:
    """ValueError unless the points are at least two, in order from step 0, with finite rates of 0 or more."""
    steps = [step for step, _ in schedule]
    if len(steps) < 2 or steps[0] != 0 or steps[-1] < 1 or any(later < before for before, later in pairwise(steps)):
        raise ValueError(f"schedule has points at the steps {steps}: begin at 0, go up, and end with the last step")
    if not all(math.isfinite(rate) and rate >= 0 for _, rate in schedule):
        raise ValueError(f"schedule has the rates {[rate for _, rate in schedule]}: give finite ones of 0 or more")


def learning_rate(schedule: Schedule, step: int) -> float:
    """The rate of step `step`, counted from 0, of a run of `schedule[-1][0]` steps.

    Later points do not matter to earlier steps: a run may be given a longer end without changing what has happened.
    """
    for (start, low), (end, high) in pairwise(schedule):
        if start <= step < end:
            if high >= low:  # One step ahead, so that the first step of a run already learns.
                return low + (high - low) * (step + 1 - start) / (end - start)
            return high + (low - high) * 0.5 * (1 + math.cos(math.pi * (step - start) / (end - start)))
    raise ValueError(f"step {step} is not in a schedule of {schedule[-1][0]} steps from {schedule[0][0]}")


def warm_up_and_decay(steps: int, peak: float, end: float, warm_up: int = 0) -> tuple[tuple[int, float], ...]:
    """Straight up to `peak` in `warm_up` steps, then half a cosine down to `end` at the last of `steps`."""
    if warm_up:
        return ((0, 0.0), (warm_up, peak), (steps, end))
    return ((0, peak), (steps, end))
