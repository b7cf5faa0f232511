"""Drawing a token from 151,936 logits: the native form against the plain one, taking turns; medians in microseconds.

The logits are normal with a few likely tokens, as a model's are; `flat` ones leave no chunk of them out.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from qwen3.ops import reference, sampling

VOCABULARY = 151936
FILTERS = {
    "greedy": (0.0, 0, 1.0, 0.0),
    "top_k 20, top_p 0.95": (0.6, 20, 0.95, 0.0),
    "top_p 0.95": (0.6, 0, 0.95, 0.0),
    "min_p 0.05": (1.0, 0, 1.0, 0.05),
    "none": (1.0, 0, 1.0, 0.0),
}


def microseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(VOCABULARY, generator=generator)
    likely = flat * 2.5
    likely[:50] += torch.arange(50, 0, -1) / 4
    for shape, logits in (("model", likely), ("flat", flat)):
        for name, filters in FILTERS.items():
            times: dict[str, list[float]] = {"native": [], "plain": []}
            for i in range(arguments.rounds):
                noise = (i + 0.5) / arguments.rounds
                times["native"].append(microseconds(lambda f=filters, u=noise, x=logits: sampling.draw(x, *f, u)))
                times["plain"].append(microseconds(lambda f=filters, u=noise, x=logits: reference.draw(x, *f, u)))
            native, plain = (statistics.median(values) for values in times.values())
            print(f"{shape:6} {name:22} native {native:8.0f}  plain {plain:8.0f}  {plain / native:6.1f} times as long")


if __name__ == "__main__":
    main()
