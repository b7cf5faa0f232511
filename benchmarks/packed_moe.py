"""A sparse layer of Qwen3-30B-A3B: the native call against a loop over its experts, and against what memory gives.

Layers with random weights take turns, so that the experts come from memory as they do in a model; so do the two forms,
and a read of plain memory by the same threads. Medians are printed. GB/s counts the weights of the experts that the
tokens chose, each once, and the router's; many tokens are bound by arithmetic, 10^9 multiplications and additions a
second.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from qwen3.ops import packed, reference
from qwen3.ops.packed import PackedWeight
from qwen3.ops.packed_moe import PackedExperts, packed_moe

D, F, E, TOP_K, EPS = 2048, 768, 128, 8, 1e-6


def random_weights(num_rows: int, num_columns: int, bits: int) -> list[PackedWeight]:
    """Random quants for each expert: packing real weights would take longer than all the measurements."""
    weights = [PackedWeight.empty(num_rows, num_columns, f"int{bits}-g32") for _ in range(E)]
    for weight in weights:
        weight.quants.random_(0, 256)
        weight.scales.view(torch.float16).fill_(0.001)
    return weights


class Layer:
    """Random weights and the calls that take turns."""

    def __init__(self, bits: int) -> None:
        shapes = ((F, D), (F, D), (D, F))
        self.experts = PackedExperts(list(zip(*(random_weights(*shape, bits) for shape in shapes), strict=True)))
        self.norm_weight_D = torch.ones(D)
        self.router_ED = torch.randn(E, D)

    def native(self, x_TD: Tensor) -> Tensor:
        return packed_moe(x_TD, self.norm_weight_D, EPS, self.router_ED, self.experts, TOP_K, True)

    def loop(self, x_TD: Tensor) -> Tensor:
        """torch's router, and packed products for each expert that a token chose."""
        z_TD = reference.rms_norm(x_TD, self.norm_weight_D, EPS)
        weights_Tk, chosen_Tk = (z_TD @ self.router_ED.T).softmax(-1).topk(TOP_K)
        weights_Tk /= weights_Tk.sum(-1, keepdim=True)
        y_TD = torch.zeros_like(x_TD)
        for expert in chosen_Tk.unique().tolist():
            gate, up, down = self.experts.weights[expert]
            token, slot = (chosen_Tk == expert).nonzero(as_tuple=True)
            z_nD = z_TD[token]
            gate_nF, up_nF = packed.packed_linear(z_nD, gate), packed.packed_linear(z_nD, up)
            y_nD = packed.packed_swiglu_linear(gate_nF, up_nF, down)
            y_TD = y_TD.index_add(0, token, y_nD * weights_Tk[token, slot, None])
        return x_TD + y_TD

    def bytes_read(self, x_TD: Tensor) -> int:
        logits_TE = reference.rms_norm(x_TD, self.norm_weight_D, EPS) @ self.router_ED.T
        num_used = len(logits_TE.topk(TOP_K).indices.unique())
        return sum(weight.nbytes for weight in self.experts.weights[0]) * num_used + self.router_ED.nbytes


def seconds(call: Callable[[Tensor], object], x_TD: Tensor) -> float:
    start = time.perf_counter()
    call(x_TD)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8, 512])
    parser.add_argument("--bits", type=int, nargs="+", default=[4], choices=[4, 8])
    parser.add_argument("--layers", type=int, default=2, help="that take turns, 0.34 GB each in 4 bits")
    parser.add_argument("--rounds", type=int, default=30, help="at most; a fifth of it for hundreds of tokens")
    arguments = parser.parse_args()

    torch.set_num_threads(packed.num_threads())
    torch.manual_seed(0)
    print(f"{packed.num_threads()} threads")
    memory = packed.PlainMemory(256)
    for bits in arguments.bits:
        layers = [Layer(bits) for _ in range(arguments.layers)]
        for num_tokens in arguments.tokens:
            times: dict[str, list[float]] = {"native": [], "loop": []}
            shares, bandwidths = [], []
            for i in range(arguments.rounds if num_tokens < 100 else arguments.rounds // 5):
                layer, x_TD = layers[i % len(layers)], torch.randn(num_tokens, D)
                bandwidths.append(memory.bandwidth())
                times["loop"].append(seconds(layer.loop, x_TD))
                x_TD = torch.randn(num_tokens, D)  # other experts, which are not in the caches
                times["native"].append(seconds(layer.native, x_TD))
                shares.append(layer.bytes_read(x_TD) / times["native"][-1] / 1e9 / bandwidths[-1])
            loop, native = (statistics.median(times[name]) for name in ("loop", "native"))
            operations = 2 * 3 * D * F * TOP_K * num_tokens / native / 1e9
            print(
                f"{bits} bits, {num_tokens:4} tokens: native {native * 1e3:8.3f} ms, "
                f"{statistics.median(shares):4.0%} of {statistics.median(bandwidths):.1f} GB/s, "
                f"{operations:7.1f} Gop/s; loop {loop * 1e3:8.3f} ms, {loop / native:.2f} times as long"
            )


if __name__ == "__main__":
    main()
