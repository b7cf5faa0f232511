"""The native sparse feed-forward: right by its specification, and nothing that shares a call changes a token's bits."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from qwen3.ops import native, packed, reference
from qwen3.ops.packed_moe import PackedExperts, packed_moe

INSTRUCTION_SETS = native.available_instruction_sets()
D, F, EPS = 256, 96, 1e-6
STORAGES = ["int4", "int8", "bf16", "mixed"]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same_bits(a: torch.Tensor, b: torch.Tensor) -> None:
    assert torch.equal(a.view(torch.int32), b.view(torch.int32))


def q6_k(num_rows: int, num_columns: int, seed: int) -> packed.PackedWeight:
    """Random numbers in the only format whose activations have sums of 16."""
    blocks = np.random.default_rng(seed).integers(0, 256, (num_rows, num_columns // 256, 210), np.uint8)
    blocks[..., 208:] = np.array([1e-4], np.float16).view(np.uint8)
    weight = packed.PackedWeight.empty(num_rows, num_columns, "q6_k")
    packed.repack("Q6_K", blocks.reshape(num_rows, -1), weight)
    return weight


def bf16(num_rows: int, num_columns: int, seed: int) -> packed.PackedWeight:
    weight = packed.PackedWeight.empty(num_rows, num_columns, "bf16")
    values = random(num_rows, num_columns, seed=seed).bfloat16().view(torch.uint8).numpy()
    packed.repack("BF16", values, weight)
    return weight


def weight_of(storage: str, num_rows: int, num_columns: int, seed: int) -> packed.PackedWeight:
    """`mixed` is another format for each seed."""
    if storage == "mixed":
        storage = ["q6_k" if num_columns % 256 == 0 else "int8", "bf16", "int4"][seed % 3]
    if storage == "q6_k":
        return q6_k(num_rows, num_columns, seed)
    if storage == "bf16":
        return bf16(num_rows, num_columns, seed)
    return packed.pack(random(num_rows, num_columns, seed=seed), bits=int(storage[3:]))


@functools.cache
def parts(num_experts: int, storage: str = "int8") -> tuple[tuple[packed.PackedWeight, ...], ...]:
    """(gate, up, down) of each expert."""
    shapes = [(F, D), (F, D), (D, F)]
    return tuple(
        tuple(weight_of(storage, *shape, seed=10 * expert + i) for i, shape in enumerate(shapes))
        for expert in range(num_experts)
    )


@functools.cache
def joined(num_experts: int, storage: str = "int8") -> PackedExperts:
    return PackedExperts(parts(num_experts, storage))


@functools.cache
def router(num_experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm's weight and the router's."""
    return 1 + 0.3 * random(D, seed=1), random(num_experts, D, seed=2) * 0.15


def dequantized(experts) -> list[tuple[torch.Tensor, ...]]:
    return [tuple(packed.dequantize(weight) for weight in expert) for expert in experts]


# ---- The specification, in numpy ------------------------------------------------------------------------------


def sum_of_lanes(terms_RK: np.ndarray) -> np.ndarray:
    """Rows of float32 terms summed as RouterLogits' comment in native/kernels.h says."""
    lanes = np.zeros((len(terms_RK), 16), np.float32)
    for k in range(0, terms_RK.shape[1], 16):
        lanes[:, : terms_RK[:, k : k + 16].shape[1]] += terms_RK[:, k : k + 16]
    while lanes.shape[1] > 1:
        lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
    return lanes[:, 0]


def exponential(x: np.ndarray) -> np.ndarray:
    f = np.float32
    x = np.clip(x, f(-87), f(87))
    n = np.rint(x * f(1.44269504))
    r = (x - n * f(0.693359375)) + n * f(2.12194440e-4)
    p = np.full_like(r, f(1.9875691500e-4))
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + f(c)
    return np.ldexp((p * (r * r) + r) + f(1), n.astype(np.int32)).astype(f)


def specified_choice(x_D, norm_weight_D, router_ED, top_k, renormalise):
    """The normed token and {expert: weight} in rising order of experts."""
    x_D = x_D.numpy()
    mean = sum_of_lanes((x_D * x_D)[None])[0] / np.float32(len(x_D))
    z_D = (x_D * (np.float32(1) / np.sqrt(mean + np.float32(EPS)))) * norm_weight_D.numpy()
    logits_E = sum_of_lanes(router_ED.numpy() * z_D)
    exponentials_E = exponential(logits_E - logits_E.max())
    probabilities_E = exponentials_E / sum_of_lanes(exponentials_E[None])[0]
    chosen_k = np.argsort(-probabilities_E, kind="stable")[:top_k]
    weights_k = probabilities_E[chosen_k]
    if renormalise:
        total = np.float32(0)
        for weight in weights_k:
            total += weight
        weights_k = weights_k / total
    return torch.from_numpy(z_D), dict(sorted(zip(chosen_k.tolist(), weights_k.tolist(), strict=True)))


def specified_moe(x_TD, norm_weight_D, router_ED, experts, top_k, renormalise):
    """Token by token, expert by expert, with products that tests/ops/test_packed.py proves."""
    y_TD = x_TD.clone()
    for x_D, y_D in zip(x_TD, y_TD, strict=True):
        z_D, choice = specified_choice(x_D, norm_weight_D, router_ED, top_k, renormalise)
        for expert, weight in choice.items():
            gate, up, down = experts[expert]
            gate_1F, up_1F = (packed.packed_linear(z_D[None], w, instruction_set="generic") for w in (gate, up))
            y_D += packed.packed_swiglu_linear(gate_1F, up_1F, down, instruction_set="generic")[0] * weight
    return y_TD


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("num_experts", "top_k"), [(1, 1), (5, 2), (18, 8), (7, 7)])
@pytest.mark.parametrize("renormalise", [True, False])
def test_it_follows_the_specification(storage, num_experts, top_k, renormalise):
    x_TD, weights = random(9, D, seed=3), router(num_experts)
    expected = specified_moe(x_TD, *weights, parts(num_experts, storage), top_k, renormalise)
    y_TD = packed_moe(x_TD, weights[0], EPS, weights[1], joined(num_experts, storage), top_k, renormalise)
    assert_same_bits(y_TD, expected)


# ---- Against what others compute ------------------------------------------------------------------------------


@pytest.mark.parametrize("renormalise", [True, False])
def test_it_equals_the_reference_within_activation_rounding(renormalise):
    x_TD, (norm_weight_D, router_ED), experts = random(50, D, seed=3), router(18), joined(18)
    expected = reference.moe(x_TD, norm_weight_D, EPS, router_ED, dequantized(parts(18)), 8, renormalise)
    y_TD = packed_moe(x_TD, norm_weight_D, EPS, router_ED, experts, 8, renormalise)
    assert (y_TD - expected).norm() < 0.02 * (expected - x_TD).norm()


def test_it_equals_transformers_within_activation_rounding():
    config = Qwen3MoeConfig(
        hidden_size=D, moe_intermediate_size=F, num_experts=18, num_experts_per_tok=4, norm_topk_prob=True
    )
    theirs = Qwen3MoeSparseMoeBlock(config)
    norm_weight_D, router_ED = router(18)
    experts = dequantized(parts(18))
    with torch.no_grad():
        theirs.gate.weight.copy_(router_ED)
        theirs.experts.gate_up_proj.copy_(torch.stack([torch.cat([gate, up]) for gate, up, _ in experts]))
        theirs.experts.down_proj.copy_(torch.stack([down for _, _, down in experts]))
        x_TD = random(50, D, seed=4)
        expected = x_TD + theirs(reference.rms_norm(x_TD, norm_weight_D, EPS)[None]).reshape(x_TD.shape)
    y_TD = packed_moe(x_TD, norm_weight_D, EPS, router_ED, joined(18), 4, True)
    assert (y_TD - expected).norm() < 0.02 * (expected - x_TD).norm()


# ---- What must not matter -------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_instruction_set_and_number_of_tokens_gives_the_same_bits(storage, instruction_set):
    weights, experts, x_TD = router(5), joined(5, storage), random(70, D, seed=5)
    expected = packed_moe(x_TD, weights[0], EPS, weights[1], experts, 3, True, instruction_set="generic")
    for num_tokens in [*range(20), 33, 70]:
        y_TD = packed_moe(
            x_TD[:num_tokens], weights[0], EPS, weights[1], experts, 3, True, instruction_set=instruction_set
        )
        assert_same_bits(y_TD, expected[:num_tokens])


@settings(max_examples=200)
@given(
    num_tokens=st.integers(1, 60),
    seed=st.integers(0, 2**32),
    top_k=st.integers(1, 18),
    instruction_set=st.sampled_from(INSTRUCTION_SETS),
    data=st.data(),
)
def test_a_token_alone_equals_the_token_in_any_batch(num_tokens, seed, top_k, instruction_set, data):
    (norm_weight_D, router_ED), experts = router(18), joined(18, "mixed")
    x_TD = random(num_tokens, D, seed=seed)
    together = packed_moe(x_TD, norm_weight_D, EPS, router_ED, experts, top_k, True, instruction_set=instruction_set)
    token = data.draw(st.integers(0, num_tokens - 1))
    alone = packed_moe(x_TD[token : token + 1], norm_weight_D, EPS, router_ED, experts, top_k, True)
    assert_same_bits(together[token : token + 1], alone)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(count):
    (norm_weight_D, router_ED), experts, x_TD = router(18), joined(18), random(80, D, seed=6)
    expected = packed_moe(x_TD, norm_weight_D, EPS, router_ED, experts, 8, True)
    before = packed.num_threads()
    packed.set_num_threads(count)
    try:
        for _ in range(10):
            assert_same_bits(packed_moe(x_TD, norm_weight_D, EPS, router_ED, experts, 8, True), expected)
    finally:
        packed.set_num_threads(before)


# ---- The edges ------------------------------------------------------------------------------------------------


def test_of_equally_likely_experts_the_lower_ones_are_chosen():
    norm_weight_D, experts, x_TD = router(8)[0], joined(8), random(4, D, seed=8)
    alike = torch.zeros(8, D)
    first_four = PackedExperts(parts(8)[:4])
    expected = packed_moe(x_TD, norm_weight_D, EPS, alike[:4], first_four, 4, True)
    assert_same_bits(packed_moe(x_TD, norm_weight_D, EPS, alike, experts, 4, True), expected)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
def test_a_token_that_is_not_finite_gives_nan_and_its_neighbours_do_not(instruction_set, special):
    (norm_weight_D, router_ED), experts, x_TD = router(5), joined(5), random(3, D, seed=9)
    expected = packed_moe(x_TD, norm_weight_D, EPS, router_ED, experts, 2, True)
    x_TD[1, 40] = special
    y_TD = packed_moe(x_TD, norm_weight_D, EPS, router_ED, experts, 2, True, instruction_set=instruction_set)
    assert y_TD[1].isnan().all()
    assert_same_bits(y_TD[::2].contiguous(), expected[::2].contiguous())


def test_logits_far_apart_leave_one_expert():
    norm_weight_D, experts, x_TD = torch.ones(D), joined(5), random(4, D, seed=10)
    router_ED = torch.zeros(5, D)
    router_ED[3] = 1e30
    x_TD = x_TD.abs()
    only = PackedExperts(parts(5)[3:4])
    expected = packed_moe(x_TD, norm_weight_D, EPS, router_ED[3:4], only, 1, True)
    y_TD = packed_moe(x_TD, norm_weight_D, EPS, router_ED, experts, 1, False)
    assert_same_bits(y_TD, expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, norm, router, experts: packed_moe(x[0], norm, EPS, router, experts, 2, True),
        lambda x, norm, router, experts: packed_moe(x[:, :64].contiguous(), norm, EPS, router, experts, 2, True),
        lambda x, norm, router, experts: packed_moe(x.bfloat16(), norm, EPS, router, experts, 2, True),
        lambda x, norm, router, experts: packed_moe(x, norm[:64], EPS, router, experts, 2, True),
        lambda x, norm, router, experts: packed_moe(x, norm.bfloat16(), EPS, router, experts, 2, True),
        lambda x, norm, router, experts: packed_moe(x, norm, EPS, router[:3], experts, 2, True),
        lambda x, norm, router, experts: packed_moe(x, norm, EPS, router.bfloat16(), experts, 2, True),
        lambda x, norm, router, experts: packed_moe(x, norm, EPS, router, experts, 0, True),
        lambda x, norm, router, experts: packed_moe(x, norm, EPS, router, experts, 6, True),
        lambda x, norm, router, experts: packed_moe(x, norm, EPS, router, experts, 2, True, instruction_set="mmx"),
        lambda x, norm, router, experts: PackedExperts([]),
        lambda x, norm, router, experts: PackedExperts([expert[::-1] for expert in parts(5)]),
        lambda x, norm, router, experts: PackedExperts([*parts(5), 3 * (packed.pack(random(64, 64)),)]),
    ],
)
def test_wrong_arguments_are_refused(call):
    with pytest.raises(ValueError, match=r"must be|need|not one of"):
        call(random(2, D), *router(5), joined(5))
