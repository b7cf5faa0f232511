"""The thinking budget: after so many reasoning tokens, the model is told to answer.

Counts token ids only (Qwen3 Technical Report, section 4.3); the sentence comes in as ids.
"""

from __future__ import annotations

from collections.abc import Sequence


class ThinkingBudget:
    """Watches one request's generated tokens and says which must follow."""

    def __init__(
        self, limit: int, *, think_id: int, end_think_id: int, closing_ids: Sequence[int], is_thinking: bool
    ) -> None:
        """`limit` in reasoning tokens; `closing_ids` is the official sentence with its `</think>`.

        `is_thinking` says that the prompt itself already opened the think block.
        """
        self._limit, self._think_id, self._end_think_id = limit, think_id, end_think_id
        self._closing_ids = list(closing_ids)
        self._is_thinking, self._is_over = is_thinking, False
        self._num_tokens = 0

    def opening(self) -> list[int]:
        """What must be generated before anything is drawn: a budget of 0 in an already open block."""
        return self._close() if self._is_thinking and self._limit == 0 else []

    def end(self) -> list[int]:
        """Close the think block now, if it is open; the ids that must follow."""
        return self._close() if self._is_thinking and not self._is_over else []

    def observe(self, token: int) -> list[int]:
        """Note a drawn token; return the ids that must follow it, mostly none."""
        if self._is_over:
            return []
        if token == self._end_think_id:
            self._is_over = True
            return []
        if self._is_thinking:
            self._num_tokens += 1
        elif token == self._think_id:
            self._is_thinking = True
        return self._close() if self._is_thinking and self._num_tokens >= self._limit else []

    def _close(self) -> list[int]:
        self._is_over = True
        return self._closing_ids
