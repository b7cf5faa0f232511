"""What multipleOf costs: it becomes an automaton of about as many states, which no limit of the compiler counts.

A guard before compiling, not a second compiler: it follows a schema as far as it must to let harmless ones pass, and
counts too much rather than too little.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from typing import Any

_MAX_STATES = 100_000  # they take half a second and 50 MB
_WITHOUT_EFFECT = frozenset("const enum default examples $defs definitions".split())  # but for what a $ref names
_NAMES = frozenset("properties patternProperties dependentSchemas".split())
# Their schemas hold for values apart; those of the others, but for anyOf and oneOf, for one value.
_APART = frozenset("properties prefixItems items additionalItems additionalProperties".split())


def check(lark: str) -> None:
    """Raises ValueError if following every multipleOf of the schemas in a Lark grammar would take too much memory, and
    RecursionError where they are nested too deeply to tell."""
    _check_sum(frozenset().union(*(_Multiples(schema).automata() for schema in _schemas(lark))))


def _check_sum(automata: Collection[int]) -> None:
    if sum(automata) > _MAX_STATES:
        raise ValueError(
            f"multipleOf: the different numbers added up, and the least common multiple of those that hold for one "
            f"value, may not exceed {_MAX_STATES:,}, where digits count that are followed by z zeros count 20 z - 10 "
            f"times; check larger ones afterwards"
        )


def _schemas(lark: str) -> Iterator[Any]:
    decoder = json.JSONDecoder(parse_int=float)  # int() refuses a long one, for which the compiler would not stop
    for found in re.finditer(r"%json\s*", lark):
        try:
            yield decoder.raw_decode(lark, found.end())[0]
        except ValueError:  # not a schema: the compiler says why
            continue


class _Multiples:
    """The automata that one schema's multipleOf become: equal ones are made once, and those that hold for one value
    make one, of their least common multiple. Where parts of a schema hold together, all that is in them counts as if it
    held for one value: rather too much than too little."""

    def __init__(self, root: Any) -> None:
        self._root, self._all = root, frozenset(_sizes(root))
        self._of_ref: dict[str, frozenset[int]] = {}

    def automata(self) -> frozenset[int]:
        """Their sizes. Raises ValueError where they are too large."""
        return self._of(self._root) if self._all else self._all

    def _of(self, schema: Any) -> frozenset[int]:
        if not isinstance(schema, dict):
            return frozenset()
        if "$id" in schema and schema is not self._root:  # what a $ref names depends on it
            return _together([self._all, self._all])
        apart, parts = frozenset(filter(None, [_size(schema)])), []
        for key, value in schema.items():
            if key in _WITHOUT_EFFECT:
                continue
            if key in _NAMES:
                value = list(value.values()) if isinstance(value, dict) else []
            inner = [self._of(each) for each in (value if isinstance(value, list) else [value])]
            if key in _APART:
                apart = apart.union(*inner)
            elif key in ("anyOf", "oneOf"):
                parts.append(frozenset().union(*inner))
            elif key in ("$ref", "$dynamicRef", "$recursiveRef"):
                parts.append(self._named(value))
            else:
                parts += inner
        return _together([apart, *parts])

    def _named(self, ref: Any) -> frozenset[int]:
        if not isinstance(ref, str):
            return frozenset()
        if ref not in self._of_ref:
            self._of_ref[ref] = self._all  # for where it leads back to itself
            self._of_ref[ref] = self._of(self._target(ref))
        return self._of_ref[ref]

    def _target(self, ref: str) -> Any:
        """What a JSON pointer names; where it is none, a schema of which all is counted."""
        target = self._root
        try:
            if ref.strip("#") and (ref[:2] != "#/" or "%" in ref):
                raise LookupError
            for name in ref.split("/")[1:]:
                name = name.replace("~1", "/").replace("~0", "~")
                target = target[int(name) if isinstance(target, list) else name]
            return target
        except (LookupError, TypeError, ValueError):
            return {"$id": ref}


def _together(parts: list[frozenset[int]]) -> frozenset[int]:
    """Of parts that hold for one value."""
    parts = [part for part in parts if part]
    automata = frozenset().union(*parts)
    _check_sum(automata)
    if len(parts) > 1:
        automata |= {math.lcm(*automata)}
        _check_sum(automata)
    return automata


def _sizes(schema: Any) -> Iterator[int]:
    """Of every multipleOf that may be in it."""
    rest = [schema]
    while rest:
        value = rest.pop()
        if isinstance(value, list):
            rest += value
        elif isinstance(value, dict):
            rest += value.values()
            if size := _size(value):
                yield size


def _size(schema: Mapping[str, Any]) -> int:
    """About the states of the automaton of its multipleOf, 0 without one."""
    number = schema.get("multipleOf")
    if type(number) not in (int, float) or not number or not math.isfinite(number):
        return 0
    _, digits, zeros = Decimal(str(number)).normalize().as_tuple()
    # Zeros that follow are states of their own: of 997 and its like, 10, 32, 53, 78 and 94 times as many were measured.
    return int("".join(map(str, digits))) * max(1, 20 * zeros - 10)
