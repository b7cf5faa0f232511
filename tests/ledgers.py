"""Ledgers of made-up runs, with a meter that can be foretold."""

from qwen3.presets import PRESETS
from qwen3.train.ledger import Hardware
from qwen3.train.ledger_writer import LedgerWriter

MACHINE = Hardware("a processor", 4, 2**34)


class Steady:
    """So many joules every time it is read, ten if not said; `fails_after` so many readings."""

    def __init__(self, joules=10.0, method="made up", uncertainty=0.1, fails_after=None):
        self.method, self.uncertainty = method, uncertainty
        self._each, self._total, self._left = joules, 0.0, fails_after

    def joules(self):
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise OSError("the counter is gone")
        self._total += self._each
        return self._total


def begin(run, step, **options):
    options = {"recipe_sha256": "r" * 64, "meters": {"cpu": Steady()}, "hardware": MACHINE} | options
    return LedgerWriter(run, step, name="tiny", software="qwen3 0.1.0", config=PRESETS["Qwen3-0.6B"], **options)


def work(book, first, last, *, stage="general", tokens=100, skipped=""):
    trained = 0 if skipped else tokens - 1
    for step in range(first + 1, last + 1):
        book.record(step, stage=stage, tokens=tokens, trained_tokens=trained, flops=1000, skipped=skipped)
