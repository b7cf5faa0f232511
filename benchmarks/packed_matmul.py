"""Products with packed weights, by default in 4 and 8 bits, against torch's bfloat16 and against what the memory gives.

Everything takes turns over matrices that together exceed the caches, so that weights come from memory as they do in
a model; medians are printed. One token is bound by memory: GB/s of weights, beside a read of plain memory by the same
threads in the same round. Many tokens are bound by arithmetic: 10^9 multiplications and additions a second. The floor
is the time of all matrix products of Qwen3-4B alone, one after the other: no attention, no sampling.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from qwen3.ops import native, packed

# Output and input features of each matrix of Qwen3-4B, and how many there are of it.
QWEN3_4B = {
    "q": (4096, 2560, 36),
    "k, v": (1024, 2560, 72),
    "o": (2560, 4096, 36),
    "gate, up": (9728, 2560, 72),
    "down": (2560, 9728, 36),
    "head": (151936, 2560, 1),
}
FLOATS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
MEGABYTES = 192  # of weights that take turns


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def best(memory: packed.PlainMemory) -> float:
    """GB/s, of a few passes."""
    return max(memory.bandwidth() for _ in range(3))


def random_weight(num_rows: int, num_columns: int, format: str) -> packed.PackedWeight:
    """Random quants: packing a real weight would take longer than all the measurements."""
    weight = packed.PackedWeight.empty(num_rows, num_columns, format)
    weight.quants.random_(0, 256)
    weight.scales.fill_(0x21)  # 0.01 in fp16
    if weight.format in FLOATS:  # any bits would make infinities, and numbers so small that they slow a CPU down
        weight.quants.view(FLOATS[weight.format]).uniform_(-1, 1)
    return weight


def measure(num_rows: int, num_columns: int, num_tokens: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each form, per product."""
    forms: dict[str, list[Callable[[], object]]] = {}
    x_MK = torch.randn(num_tokens, num_columns)
    for format in arguments.formats:
        example = random_weight(num_rows, num_columns, format)
        copies = max(1, (MEGABYTES << 20) // example.nbytes)
        weights = [example] + [random_weight(num_rows, num_columns, format) for _ in range(copies - 1)]
        for instruction_set in arguments.instruction_sets:
            forms[f"{format} {instruction_set}"] = [
                lambda w=w, s=instruction_set: packed.packed_linear(x_MK, w, instruction_set=s) for w in weights
            ]
    if arguments.torch:
        copies = max(1, (MEGABYTES << 20) // (2 * num_rows * num_columns))
        wide = [torch.rand(num_rows, num_columns, dtype=torch.bfloat16) for _ in range(copies)]
        x_bf16_MK = x_MK.to(torch.bfloat16)
        forms["bf16 torch"] = [lambda w=w: F.linear(x_bf16_MK, w) for w in wide]
    times: dict[str, list[float]] = {name: [] for name in forms}
    for i in range(arguments.rounds + 1):
        for name, calls in forms.items():
            turns = calls if num_tokens <= 16 else calls[:1]
            took = [seconds(call) for call in turns]
            if i:  # the first round warms up
                times[name].append(statistics.median(took))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 8, 16, 512])
    parser.add_argument("--formats", nargs="+", default=["int4-g32", "int8-g32"], choices=list(packed.FORMATS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--instruction-sets", nargs="+", default=[native.instruction_set()])
    parser.add_argument("--matrices", nargs="+", default=list(QWEN3_4B), choices=list(QWEN3_4B))
    parser.add_argument("--no-torch", dest="torch", action="store_false")
    arguments = parser.parse_args()

    torch.set_num_threads(packed.num_threads())
    memory = packed.PlainMemory(256)
    print(f"{packed.num_threads()} threads; {best(memory):.1f} GB/s read from memory at best")
    for num_tokens in arguments.tokens:
        totals: dict[str, float] = {}
        print(f"\n{num_tokens} tokens" if num_tokens > 1 else "\n1 token")
        for name in arguments.matrices:
            num_rows, num_columns, count = QWEN3_4B[name]
            if name == "head" and num_tokens > 16:
                continue  # a prompt needs the head for its last token only
            bandwidth = best(memory)
            for form, times in measure(num_rows, num_columns, num_tokens, arguments).items():
                median = statistics.median(times)
                totals[form] = totals.get(form, 0.0) + median * count
                bits = packed.FORMATS[form.split()[0]].bits_per_weight  # torch's bf16 has as many as ours
                rate = num_rows * num_columns * bits / 8 / median / 1e9
                operations = 2 * num_rows * num_columns * num_tokens / median / 1e9
                print(
                    f"{name:9} {num_rows:6} x {num_columns:5} {form:21} {median * 1e3:9.3f} ms {rate:6.1f} GB/s "
                    f"({rate / bandwidth:4.0%} of {bandwidth:.1f}) {operations:8.1f} Gop/s"
                )
        if len(arguments.matrices) == len(QWEN3_4B):
            for form, total in totals.items():
                print(f"Qwen3-4B's products, {form:21} {total * 1e3:9.1f} ms {num_tokens / total:8.2f} tokens/s")


if __name__ == "__main__":
    main()
