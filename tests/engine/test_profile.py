"""Timers from outside: own time of nested functions, and nothing left behind."""

import time
from types import ModuleType

import pytest

from qwen3.engine.profile import timed


@pytest.fixture
def module():
    made = ModuleType("made")

    def inner():
        time.sleep(0.02)

    def outer():
        time.sleep(0.01)
        made.inner()
        made.inner()

    made.inner, made.outer = inner, outer
    return made


def test_a_functions_time_is_its_own(module):
    start = time.perf_counter()
    with timed([(module, "inner"), (module, "outer")]) as seconds:
        module.outer()
        module.inner()
    total = time.perf_counter() - start
    assert seconds["inner"] >= 0.06
    assert 0.01 <= seconds["outer"] < seconds["inner"]
    assert sum(seconds.values()) == pytest.approx(total, rel=0.05)


def test_functions_are_put_back_and_errors_pass(module):
    before = module.inner
    module.outer = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError), timed([(module, "inner"), (module, "outer")]):  # noqa: PT012
        assert module.inner is not before
        module.outer()
    assert module.inner is before
