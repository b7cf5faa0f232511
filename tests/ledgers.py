"""Ledgers of made-up runs, with a meter that can be foretold."""

from qwen3.presets import PRESETS
from qwen3.train.ledger import Hardware, Ledger

MACHINE = Hardware("a processor", 4, 2**34)


class Steady:
    """Ten joules every time it is read."""

    method, uncertainty = "made up", 0.1

    def __init__(self):
        self._total = 0.0

    def joules(self):
        self._total += 10
        return self._total


def begin(run, step, **options):
    options = {"recipe_sha256": "r" * 64, "meters": {"cpu": Steady()}, "hardware": MACHINE} | options
    return Ledger(run, step, name="tiny", software="qwen3 0.1.0", config=PRESETS["Qwen3-0.6B"], **options)


def work(book, first, last, *, stage="general", tokens=100):
    for step in range(first + 1, last + 1):
        book.record(step, stage=stage, tokens=tokens, trained_tokens=tokens - 1, flops=1000)
