"""How long a model may think: the one policy that every name for it, in every API, comes down to.

It counts tokens; `engine.guide` closes the think block when the policy says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen3.engine.request import RequestError

_LONGEST_CYCLE = 256
_REPEATS, _REPEATED_TOKENS = 4, 128


@dataclass(frozen=True)
class ThinkingPolicy:
    """When the think block is closed for the model, if it does not do so itself."""

    thinking_budget: int | None = None
    """After so many reasoning tokens (Qwen3 Technical Report, section 4.3)."""
    answer_reserve: int | None = None
    """When only so many of the request's tokens are left for the answer, after the closing sentence."""
    loop_guard: bool = False
    """When it says the same over and over. Outside of thinking the same ends the answer."""

    def __post_init__(self) -> None:
        for name in ("thinking_budget", "answer_reserve"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise RequestError(f"{name} {value!r} is not a whole number of at least 0")

    def is_spent(self, num_reasoning: int, num_left: int) -> bool:
        """Whether the block must be closed after `num_reasoning` tokens in it, where closing it now would leave
        `num_left` tokens to the answer."""
        if self.thinking_budget is not None and num_reasoning >= self.thinking_budget:
            return True
        return self.answer_reserve is not None and num_left <= self.answer_reserve


class LoopDetector:
    """Notices that a text repeats one cycle of up to 256 tokens: at least four times after the first, and for 128
    tokens or more, so that a short list of equal items is none."""

    def __init__(self) -> None:
        self._recent = np.full(_LONGEST_CYCLE, -1, np.int64)  # the last tokens, the latest first
        self._runs = np.zeros(_LONGEST_CYCLE, np.int64)  # for each cycle length less 1, tokens that continued it
        self._needed = np.maximum(np.arange(1, _LONGEST_CYCLE + 1) * _REPEATS, _REPEATED_TOKENS)

    def is_loop(self, token: int) -> bool:
        """Note the next token; whether the text up to it ends in a loop."""
        self._runs = np.where(self._recent == token, self._runs + 1, 0)
        self._recent = np.roll(self._recent, 1)
        self._recent[0] = token
        return bool((self._runs >= self._needed).any())
