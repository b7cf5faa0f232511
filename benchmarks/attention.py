"""Speed of attention over the paged cache: decode as a share of memory bandwidth, prefill beside torch.

One layer of Qwen3-4B (32 query heads, 8 key-value heads of 128) in turn with the probe and torch's attention, so that
ratios hold on a noisy machine.

    python benchmarks/attention.py [--depth 4096] [--rounds 9]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

from qwen3.ops import native, packed
from qwen3.ops.paged import KV_FORMATS, PAGE_TOKENS, PagedStep, PageLayout

H, K, D = 32, 8, 128


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def filled(kv_format: str, layers: int, depth: int) -> tuple[PageLayout, list[torch.Tensor]]:
    """Pages of `depth` random positions in `layers` layers, more than the caches hold."""
    layout = PageLayout(kv_format, layers, K, D)
    pages = [layout.new_page() for _ in range(depth // PAGE_TOKENS + 1)]
    step = PagedStep(layout, [pages], [0], [depth])
    for layer in range(layers):
        step.write(layer, torch.randn(depth, K, D), torch.randn(depth, K, D))
    return layout, pages


def all_layers(step: PagedStep, layers: int, inputs: list[torch.Tensor]) -> None:
    for layer in range(layers):
        step(layer, *inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    depth, layers = options.depth, max(1, 36 * 4096 // options.depth)
    torch.set_num_threads(packed.num_threads())
    print(f"{native.instruction_set()}, {packed.num_threads()} threads, depth {depth}")

    memory = packed.PlainMemory(256)
    for kv_format in KV_FORMATS:
        layout, pages = filled(kv_format, layers, depth)
        step = PagedStep(layout, [pages], [depth], [1])
        inputs = [torch.randn(1, n, D) for n in (H, K, K)]
        ours, probe = [], []
        for _ in range(options.rounds):
            ours.append(seconds(partial(all_layers, step, layers, inputs)))
            probe.append(memory.bandwidth())
        speed = layout.page_bytes * depth / PAGE_TOKENS / statistics.median(ours) / 1e9
        print(
            f"decode {kv_format:9} {statistics.median(ours) / layers * 1e6:7.0f} us a layer, {speed:5.1f} GB/s, "
            f"{speed / statistics.median(probe):4.0%} of the probe's"
        )

    T = min(512, depth)
    layout, pages = filled("bf16", 1, depth)
    step = PagedStep(layout, [pages], [depth - T], [T])
    inputs = [torch.randn(T, n, D) for n in (H, K, K)]
    heads_first = [torch.randn(1, n, S, D) for n, S in ((H, T), (K, depth), (K, depth))]
    mask = torch.ones(T, depth, dtype=torch.bool).tril(depth - T)
    as_bf16 = [x.bfloat16() for x in heads_first]
    gigaflops = 4 * H * D * (T * (depth - T) + T * (T + 1) / 2) / 1e9
    forms = {
        "ours, bfloat16 keys and values": lambda: step(0, *inputs),
        "torch float32": lambda: scaled_dot_product_attention(*heads_first, attn_mask=mask, enable_gqa=True),
        "torch bfloat16": lambda: scaled_dot_product_attention(*as_bf16, attn_mask=mask, enable_gqa=True),
    }
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(options.rounds):
        for name, form in forms.items():
            times[name].append(seconds(form))
    for name, spent in times.items():
        print(f"prefill of the last {T}: {name:31} {gigaflops / statistics.median(spent):6.0f} GFLOP/s")


if __name__ == "__main__":
    main()
