"""Random choices that are a pure function of a text key, and the record that every task returns.

Invariants: the same key gives the same choices in every process and on every Python version (only
`random.Random.random`, whose sequence Python guarantees, is used), and no state outlives a `Draw`.
This module knows nothing of tasks, flags or conversations.
"""

# ruff: noqa: RUF001 - full-width punctuation is meant

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
Phrases = dict[str, list[str]]
FINAL_PUNCTUATION = ".?!。？！ "


def key_number(key: str) -> int:
    """A 64-bit number that depends on `key` alone (unlike `hash`, which differs between processes)."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def phrases(text: str) -> Phrases:
    """Read a table of phrases: a line `en: one | two` for each language; an indented line goes on."""
    table: Phrases = {}
    for line in re.sub(r"\n\s+", " ", text.strip()).splitlines():
        language, rest = line.split(": ", 1)
        table[language] = rest.split(" | ")
    return table


class Draw:
    """A stream of random choices keyed by a text."""

    def __init__(self, key: str):
        self._uniform = random.Random(key_number(key)).random
        self.spoken = "en"
        """The language of the last phrase."""

    def chance(self, probability: float) -> bool:
        return self._uniform() < probability

    def integer(self, low: int, high: int) -> int:
        """Uniform in low..high, both ends included."""
        return low + int(self._uniform() * (high - low + 1))

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.integer(0, len(choices) - 1)]

    def weighted(self, choices: dict[T, float]) -> T:
        """A key of `choices` with probability proportional to its value."""
        mark = self._uniform() * sum(choices.values())
        for choice, weight in choices.items():
            mark -= weight
            if mark < 0:
                return choice
        return choice  # the rounding of the sum can leave nothing of the last weight

    def distinct(self, choices: Sequence[T], count: int) -> list[T]:
        """`count` different elements in random order."""
        pool = list(choices)
        return [pool.pop(self.integer(0, len(pool) - 1)) for _ in range(count)]

    def number(self, digits: int) -> int:
        """A number of exactly `digits` digits; one digit includes zero."""
        return self.integer(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)

    def phrase(self, table: Phrases, language: str, **values: object) -> str:
        """A filled-in template of the language (English if it has none), with the small liberties that people
        take with case and final punctuation."""
        self.spoken = language if language in table else "en"
        text = self.pick(table[self.spoken])
        if self.chance(0.2):
            text = text.lower()
        if self.chance(0.15):
            text = text.rstrip(FINAL_PUNCTUATION)
        return text.format(**values)


@dataclass(frozen=True)
class Turn:
    """One question with both ways to answer it: `thought` then `content`, or `content` alone.

    `answer` is what `score` looks for at the end of the content; None when any sensible reply is right.
    """

    question: str
    thought: str
    content: str
    answer: str | None = None
