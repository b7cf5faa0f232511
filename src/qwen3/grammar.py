"""Structured output: what a constraint is, and which tokens it allows next.

It knows token ids and the tokenizer, not requests, the chat format, or how a token is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal["json_object", "json_schema", "regex", "choice", "grammar"]


class GrammarError(ValueError):
    """A constraint that is faulty, too large, or beyond what can be enforced; the message says what and where."""


@dataclass(frozen=True)
class Constraint:
    """What an answer must be, all of it.

    `value` by kind: json_object None; json_schema the schema (an object or a boolean); regex a pattern; choice a
    sequence of strings; grammar the text of a Lark grammar.
    """

    kind: Kind
    value: Any = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise GrammarError(f"constraint kind {self.kind!r} is not one of {', '.join(get_args(Kind))}")
