"""The native bfloat16 matrix-vector product against torch's, on one thread.

Takes turns over several matrices, more than fit in a cache, so that weights come from memory as they do when
a model decodes, and prints the medians. torch's bfloat16 form also rounds the activations to bfloat16; its
float32 form is what the native one computes, with twice the bytes.
"""

import argparse
import statistics
import time
from functools import partial

import torch

from qwen3.ops import native


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2560)
    parser.add_argument("--columns", type=int, default=9728)
    parser.add_argument("--matrices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--instruction-set", default=native.instruction_set())
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    shape = (arguments.rows, arguments.columns)
    weights = [torch.randn(shape, dtype=torch.bfloat16) for _ in range(arguments.matrices)]
    x_K = torch.randn(arguments.columns)
    native_product = partial(native.matvec_bf16, instruction_set=arguments.instruction_set)
    forms = {
        "native": (weights, x_K, native_product),
        "torch bfloat16": (weights, x_K.to(torch.bfloat16), torch.mv),
        "torch float32": ([weight_NK.float() for weight_NK in weights], x_K, torch.mv),
    }
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(arguments.rounds):
        for name, (matrices, vector, product) in forms.items():
            for matrix in matrices:
                start = time.perf_counter()
                product(matrix, vector)
                times[name].append(time.perf_counter() - start)

    print(f"{arguments.rows} x {arguments.columns}, one thread, {arguments.instruction_set}")
    native_median = statistics.median(times["native"])
    for name, (matrices, _, _) in forms.items():
        median = statistics.median(times[name])
        rate = matrices[0].nbytes / median / 1e9
        print(f"{name:15} {median * 1e3:7.2f} ms {rate:6.1f} GB/s {median / native_median:6.2f}x native's time")


if __name__ == "__main__":
    main()
