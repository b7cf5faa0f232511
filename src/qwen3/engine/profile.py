"""Where the time goes: functions timed from outside, while someone looks, at no cost otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def timed(functions: Iterable[tuple[ModuleType | type, str]]) -> Iterator[dict[str, float]]:
    """Within, each named function of a module or class is timed; yields its seconds by name, which grow.

    A class whose `__call__` it is goes by its own name.

    A function's time is its own: what it spends in others of the list counts for those. Seen are the calls that look
    the function up in its module, and those of one thread.
    """
    originals = [(owner, name, getattr(owner, name)) for owner, name in functions]
    labels = {name: owner.__name__ if name == "__call__" else name for owner, name, _ in originals}
    seconds = dict.fromkeys(labels.values(), 0.0)
    inner = [0.0]  # of each function that is running, the time that is not its own; at the bottom, of nobody

    def timing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                took = time.perf_counter() - start
                seconds[labels[name]] += took - inner.pop()
                inner[-1] += took

        return run

    for owner, name, function in originals:
        setattr(owner, name, timing(name, function))
    try:
        yield seconds
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)
