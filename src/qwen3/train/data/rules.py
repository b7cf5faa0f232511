"""Conditions on labels, such as `education>=2` or `language=en,de`: one grammar for filters, pools and weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qwen3.train.data.errors import DataError

_FORM = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(<=|>=|!=|<|>|=)\s*(.+?)\s*")
_COMPARISONS: dict[str, Callable] = {
    "<=": np.less_equal,
    ">=": np.greater_equal,
    "<": np.less,
    ">": np.greater,
}


@dataclass(frozen=True)
class Rule:
    """`label` stands in relation `operator` to `operand`: a number, or for = and != any of several values, which are
    words if the label is one, else numbers."""

    label: str
    operator: str
    operand: float | tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Rule:
        """DataError for what is not a condition."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise DataError(
                f"{text!r} is not a condition: write LABEL OPERATOR VALUE, as in education>=2 or language=en,de"
            )
        label, operator, value = match.groups()
        if operator in ("=", "!="):
            return cls(label, operator, tuple(word.strip() for word in value.split(",")))
        try:
            return cls(label, operator, float(value))
        except ValueError:
            raise DataError(f"{text!r}: {operator} compares numbers, and {value!r} is none") from None

    def __str__(self) -> str:
        value = ",".join(self.operand) if isinstance(self.operand, tuple) else f"{self.operand:g}"
        return f"{self.label}{self.operator}{value}"

    def holds(self, value: str | float) -> bool:
        """Whether one document passes, given the value of its label. DataError if the rule is for the other kind."""
        if not isinstance(value, str):
            return bool(self._compared(np.float32(value)))
        if not isinstance(self.operand, tuple):
            raise DataError(f"{self}: the label {self.label} is a word, {value!r}, and not a number")
        return (value in self.operand) == (self.operator == "=")

    def mask(self, column: np.ndarray, words: Sequence[str] | None) -> np.ndarray:
        """The same for a column: numbers, or with `words` indices into them."""
        if words is None:
            return self._compared(column.astype(np.float32))
        return np.array([self.holds(word) for word in words], bool)[column]

    def _compared(self, numbers: np.ndarray | np.float32) -> np.ndarray:
        """Which float32 numbers pass; in float32, because that is how labels are stored."""
        if not isinstance(self.operand, tuple):
            return _COMPARISONS[self.operator](numbers, np.float32(self.operand))
        try:
            allowed = np.array([float(value) for value in self.operand], np.float32)
        except ValueError:
            raise DataError(f"{self}: the label {self.label} is a number, and not every value of the rule is") from None
        return np.isin(numbers, allowed, invert=self.operator == "!=")
