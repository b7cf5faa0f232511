"""The procedural curriculum of the built-in model: seeded code, no data files, no network.

Arithmetic, words and lists, dates and units, short dialogue, and keys to find in long texts, each answered with a
worked-out think block and directly. `sample(seed, index)` is random access into an endless, reproducible stream.
"""

from qwen3.train.curriculum.example import TASKS, Example, held_out_sums, passkey, sample, score

__all__ = ["TASKS", "Example", "held_out_sums", "passkey", "sample", "score"]
