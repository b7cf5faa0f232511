"""Guesses at what comes next, read off what came before: prompt lookup.

Where the last few tokens stood earlier in prompt or answer, what followed them there is guessed to follow here. The
engine computes the guesses beside the next token, draws each position with its own noise as ever, and goes on as long
as what was drawn is what was guessed: the tokens are those of plain decoding, at any temperature, and only their time
changes. So it needs nothing but a model whose rows do not depend on one another: masks, penalties and forced tokens are
the request's, as ever.

Whether it pays is measured: a request's rate of right guesses, also of those that were not computed, and the time of
passes by their rows (`CostModel`). Where no guess makes a token cheaper, none is computed.

Saxena, "Prompt Lookup Decoding" (2023); verification by equality is exact because the draw is a function of position.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwen3.engine.cost import CostModel
from qwen3.engine.request import Request

_NGRAM = 3
_MOST_GUESSES = 8
_FIRST_ACCEPTANCE, _FADE = 0.5, 0.9
# Tokens that are put into the index in one step: a long prompt must not hold up the others.
_INDEXED_A_STEP = 4096


class PromptLookup:
    """Of one request. `acceptance` is the share of right ones among its recent guesses."""

    def __init__(self) -> None:
        self.acceptance = _FIRST_ACCEPTANCE
        self._tokens: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}  # where the token after an n-gram's last occurrence stands
        self._guessed: list[int] = []

    def guess(self, request: Request) -> list[int]:
        """What may follow the request's tokens, at most as many as it may still draw after the next one."""
        self._read(request.tokens_from(len(self._tokens), _INDEXED_A_STEP))
        self._guessed = []
        if len(self._tokens) < request.num_tokens:
            return []
        start = self._next.get(tuple(self._tokens[-_NGRAM:]))
        if start is not None:
            most = min(_MOST_GUESSES, request.num_left - 1)
            # What is copied may run into the guesses themselves: a text that repeats itself goes on doing so.
            known = self._tokens[start : start + most]
            period = len(self._tokens) - start
            self._guessed = [known[i % period] for i in range(max(most, 0))]
        return self._guessed

    def _read(self, tokens: Sequence[int]) -> None:
        for guessed, token in zip(self._guessed, tokens, strict=False):
            self.acceptance = _FADE * self.acceptance + (1 - _FADE) * (guessed == token)
            if guessed != token:
                break
        for token in tokens:
            if len(self._tokens) >= _NGRAM:
                self._next[tuple(self._tokens[-_NGRAM:])] = len(self._tokens)
            self._tokens.append(token)


def num_paying(chances: Sequence[float], num_sequences: int, num_rows: int, cost: CostModel) -> int:
    """How many guesses, of falling `chances` to be right, make tokens cheapest beside so many rows.

    0 before anything is known of what rows cost.
    """
    plain = cost.decode_seconds(num_rows)
    if not plain:
        return 0
    best, least = 0, plain / num_sequences
    tokens = float(num_sequences)
    for count, chance in enumerate(chances, start=1):
        tokens += chance
        seconds = cost.decode_seconds(num_rows + count) / tokens
        if seconds < least:
            best, least = count, seconds
    return best
