"""Timers from outside: own time of nested functions, and nothing left behind."""

import time
from types import ModuleType

import pytest

from qwen3.engine.profile import timed


@pytest.fixture
def module(monkeypatch):
    """Functions that move the clock: `inner` by 2 seconds, `outer` by 1 and two of `inner`."""
    made, now = ModuleType("made"), [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def inner():
        now[0] += 2

    def outer():
        now[0] += 1
        made.inner()
        made.inner()

    made.inner, made.outer = inner, outer
    return made


def test_a_functions_time_is_its_own(module):
    with timed([(module, "inner"), (module, "outer")]) as seconds:
        module.outer()
        module.inner()
    assert seconds == {"inner": 6, "outer": 1}


def test_functions_are_put_back_and_errors_pass(module):
    before = module.inner
    module.outer = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError), timed([(module, "inner"), (module, "outer")]):  # noqa: PT012
        assert module.inner is not before
        module.outer()
    assert module.inner is before
