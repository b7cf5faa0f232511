"""Step Law (arXiv 2503.04715): peak learning rate and batch for a model and a number of tokens.

A public stand-in for the constants of Qwen3, which are not published. It was fitted to models of 60 million to
1 billion parameters on up to 100 billion tokens; beyond, it is an extrapolation. For the one run of the Qwen team whose
values are known (1.7B on 3.5T tokens, arXiv 2505.06708: 4.5e-3, 8.4 million tokens) it gives 3.8e-3 and 8.4 million.
"""

from __future__ import annotations

import math


def learning_rate(parameters: int, tokens: float) -> float:
    """The peak rate of AdamW; `parameters` without embeddings, of a sparse model those that a token uses (our choice:
    the law was fitted to dense models)."""
    return 1.79 * parameters**-0.713 * tokens**0.307


def batch_tokens(tokens: float) -> int:
    """Tokens of a step, as the nearest power of two, which divides well among processes."""
    return 1 << round(math.log2(0.58 * tokens**0.571))
