"""Products with 4- and 8-bit weights: right by the specification; instruction set, batch and threads change no bit."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3.ops import native, packed, reference

INSTRUCTION_SETS = native.available_instruction_sets()
GROUPS = (32, 64, 128)
FORMATS = [(bits, group) for bits in (4, 8) for group in GROUPS]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_quantized(num_rows: int, num_columns: int, bits: int, group: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    quants_NK = torch.randint(0, 2**bits, (num_rows, num_columns), dtype=torch.uint8, generator=generator)
    scales_NG = torch.randn(num_rows, num_columns // group, generator=generator).to(torch.float16)
    return quants_NK, scales_NG


def assert_same_bits(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    as_integers = torch.int32 if a.dtype == torch.float32 else torch.int16
    assert torch.equal(a.view(as_integers), b.view(as_integers))


def quantized_activations(x_MK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int [M, K / 32, 32] and float32 scales [M, K / 32], as docs/kernels.md says."""
    groups = x_MK.reshape(len(x_MK), -1, 32)
    amax = np.abs(groups).max(-1)
    is_zero = amax < np.float32(1e-30)
    reciprocal = np.float32(127) / np.where(is_zero, np.float32(1), amax)
    quants = np.where(is_zero[..., None], 0, np.rint(groups * reciprocal[..., None]))
    return quants.astype(np.int64), np.where(is_zero, np.float32(0), amax / np.float32(127))


def specified_product(quants_NK, scales_NG, bits: int, x_MK: torch.Tensor) -> torch.Tensor:
    """The arithmetic of docs/kernels.md in numpy; a float64 holds a fused multiply-add's product exactly.

    Adding to it rounds once more than a fused operation, which alters the last bit in about one of 2^29 cases.
    """
    activations, activation_scales = quantized_activations(x_MK.numpy())
    num_tokens, num_groups, _ = activations.shape
    weights = quants_NK.numpy().astype(np.int64).reshape(len(quants_NK), num_groups, 32) - 2 ** (bits - 1)
    weight_scales = scales_NG.numpy().astype(np.float32).repeat(num_groups // scales_NG.shape[1], axis=1)
    y_MN = np.zeros((num_tokens, len(weights)), np.float32)
    for g in range(num_groups):
        dots = (activations[:, g] @ weights[:, g].T).astype(np.float32)
        scales = activation_scales[:, g, None] * weight_scales[None, :, g]
        y_MN = (dots.astype(np.float64) * scales.astype(np.float64) + y_MN).astype(np.float32)
    return torch.from_numpy(y_MN)


@pytest.mark.parametrize(("bits", "group"), FORMATS)
def test_products_follow_the_specification(bits, group):
    quants_NK, scales_NG = random_quantized(37, 384, bits, group)
    x_MK = random(5, 384)
    weight = packed.pack_quantized(quants_NK, scales_NG, bits)
    expected = specified_product(quants_NK, scales_NG, bits, x_MK)
    assert_same_bits(packed.packed_linear(x_MK, weight, instruction_set="generic"), expected)


@pytest.mark.parametrize(("bits", "group"), FORMATS)
@pytest.mark.parametrize("num_rows", [1, 16, 37])
def test_every_instruction_set_and_number_of_tokens_gives_the_same_bits(bits, group, num_rows):
    weight = packed.pack_quantized(*random_quantized(num_rows, 256, bits, group), bits)
    x_MK = random(33, 256)
    expected = packed.packed_linear(x_MK, weight, instruction_set="generic")
    for instruction_set in INSTRUCTION_SETS:
        for num_tokens in range(34):
            y_MN = packed.packed_linear(x_MK[:num_tokens], weight, instruction_set=instruction_set)
            assert_same_bits(y_MN, expected[:num_tokens])


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("weight_quant", [0, 2**15])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sums_of_the_largest_values_do_not_overflow(instruction_set, bits, weight_quant, sign):
    quants_NK = torch.full((16, 128), min(weight_quant, 2**bits - 1), dtype=torch.uint8)
    weight = packed.pack_quantized(quants_NK, torch.ones(16, 1, dtype=torch.float16), bits)
    x_MK = torch.full((7, 128), 127.0 * sign)
    y_MN = packed.packed_linear(x_MK, weight, instruction_set=instruction_set)
    assert (y_MN == 128 * 127 * sign * (int(quants_NK[0, 0]) - 2 ** (bits - 1))).all()


@functools.cache
def packed_once(bits: int) -> packed.PackedWeight:
    return packed.pack(random(19, 64), bits)


@settings(max_examples=1000)
@given(data=st.data(), num_tokens=st.integers(1, 33), bits=st.sampled_from([4, 8]))
def test_a_row_alone_equals_the_row_in_any_batch(data, num_tokens, bits):
    weight = packed_once(bits)
    x_MK = random(num_tokens, 64, seed=data.draw(st.integers(0, 2**32)))
    row = data.draw(st.integers(0, num_tokens - 1))
    alone = packed.packed_linear(x_MK[row : row + 1], weight)
    assert_same_bits(packed.packed_linear(x_MK, weight)[row : row + 1], alone)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_tokens", [1, 5, 13])
def test_fused_forms_equal_their_specification_on_every_instruction_set(instruction_set, dtype, num_tokens):
    x_MK, up_MK = (random(num_tokens, 128, seed=seed).mul(3).to(dtype) for seed in (1, 2))
    norm_weight_K = random(128, seed=3)
    weights = [packed.pack(random(num_rows, 128, seed=num_rows)) for num_rows in (16, 21)]
    for y_MN, expected in zip(
        packed.packed_norm_linear(x_MK, norm_weight_K, 1e-6, weights, instruction_set=instruction_set),
        packed.packed_norm_linear(x_MK, norm_weight_K, 1e-6, weights, instruction_set="generic"),
        strict=True,
    ):
        assert_same_bits(y_MN, expected)
    assert_same_bits(
        packed.packed_swiglu_linear(x_MK, up_MK, weights[0], instruction_set=instruction_set),
        packed.packed_swiglu_linear(x_MK, up_MK, weights[0], instruction_set="generic"),
    )


def test_fused_forms_equal_the_reference_within_activation_rounding():
    x_MK, up_MK, norm_weight_K = random(9, 512, seed=1), random(9, 512, seed=2), random(512, seed=3)
    weight = packed.pack(random(64, 512), bits=8)
    weight_NK = packed.dequantize(weight)
    pairs = [
        (packed.packed_linear(x_MK, weight), F.linear(x_MK, weight_NK)),
        (
            packed.packed_norm_linear(x_MK, norm_weight_K, 1e-6, [weight])[0],
            reference.norm_linear(x_MK, norm_weight_K, 1e-6, [weight_NK])[0],
        ),
        (packed.packed_swiglu_linear(x_MK, up_MK, weight), reference.swiglu_linear(x_MK, up_MK, weight_NK)),
    ]
    for y_MN, expected in pairs:
        assert (y_MN - expected).norm() < 0.01 * expected.norm()


def test_silu_is_right_where_its_exponential_is_clamped():
    """up = 1 / silu makes every product 1, so that one group's scale hides no error."""
    gate_MK = torch.tensor(
        [-80.0, -20.0, -5.0, -1.0, -1e-4, 1e-4, 1.0, 5.0, 20.0, 86.0, 100.0, 3e4, 1e30, -2.5, 2.5, 7.0]
    )
    gate_MK = gate_MK.repeat(2).reshape(1, 32)
    up_MK = (1 / (gate_MK.double() * gate_MK.double().sigmoid())).float()
    weight = packed.pack_quantized(
        torch.eye(32, dtype=torch.uint8) + 128, torch.ones(32, 1, dtype=torch.float16), bits=8
    )
    torch.testing.assert_close(
        packed.packed_swiglu_linear(gate_MK, up_MK, weight), torch.ones(1, 32), rtol=1e-6, atol=0
    )


def test_bfloat16_in_gives_the_float32_result_rounded():
    weight = packed.pack(random(37, 128))
    x_MK = random(5, 128).to(torch.bfloat16)
    y_MN = packed.packed_linear(x_MK, weight)
    assert_same_bits(y_MN, packed.packed_linear(x_MK.float(), weight).to(torch.bfloat16))


@pytest.mark.parametrize(("bits", "group"), FORMATS)
def test_quantized_weights_come_back_unchanged(bits, group):
    quants_NK, scales_NG = random_quantized(37, 256, bits, group)
    scales_NG[0] = 6e-8  # the smallest subnormal
    weight = packed.pack_quantized(quants_NK, scales_NG, bits)
    expected = (quants_NK.float() - 2 ** (bits - 1)) * scales_NG.float().repeat_interleave(group, dim=1)
    assert torch.equal(packed.dequantize(weight), expected)


@pytest.mark.parametrize("group", GROUPS)
def test_packing_what_q4_0_can_hold_loses_nothing(group):
    quants_NK, scales_NG = random_quantized(37, 256, 4, group)
    quants_NK[:, ::group] = 0  # -8, the end that Q4_0 puts a group's largest weight at
    weight_NK = packed.dequantize(packed.pack_quantized(quants_NK, scales_NG, 4))
    assert torch.equal(packed.dequantize(packed.pack(weight_NK, 4, group)), weight_NK)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize(("bits", "group"), FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_instruction_set_packs_the_same(instruction_set, bits, group, dtype):
    weight_NK = (random(37, 256) ** 3).to(dtype)
    expected = packed.pack(weight_NK, bits, group, instruction_set="generic")
    weight = packed.pack(weight_NK, bits, group, instruction_set=instruction_set)
    assert torch.equal(weight.quants, expected.quants)
    assert torch.equal(weight.scales, expected.scales)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_weights_pack_as_the_float32_that_they_are(bits, dtype):
    weight_NK = (random(37, 256) * 1e-4).to(dtype)  # in float16, many are subnormal
    weight, expected = packed.pack(weight_NK, bits), packed.pack(weight_NK.float(), bits)
    assert torch.equal(weight.quants, expected.quants)
    assert torch.equal(weight.scales, expected.scales)


@pytest.mark.parametrize("group", GROUPS)
def test_four_bits_are_the_best_of_their_candidates(group):
    """The specification in plain torch and float64; where it finds the same scale, it finds the same quants."""
    weight_NG = random(64, 8 * group).reshape(-1, group).double() ** 3
    extreme_N1 = weight_NG.gather(1, weight_NG.abs().argmax(1, keepdim=True))
    errors, scales = [], []
    for divisor in (-8, -7, -7.5, -8.5, -9):
        q_NG = (weight_NG / extreme_N1 * divisor).round().clamp(-8, 7)
        scale_N1 = (weight_NG * q_NG).sum(1, keepdim=True) / q_NG.square().sum(1, keepdim=True)
        errors.append((weight_NG - q_NG * scale_N1).square().sum(1, keepdim=True))
        scales.append(scale_N1)
    best_N1 = torch.cat(errors, 1).argmin(1, keepdim=True)
    scale_N1 = torch.cat(scales, 1).gather(1, best_N1).half().double()
    expected = (weight_NG / scale_N1).round().clamp(-8, 7) * scale_N1
    actual = packed.dequantize(packed.pack(weight_NG.reshape(64, -1).float(), 4, group)).reshape(-1, group).double()
    assert ((actual - expected).abs().amax(1) < 1e-7).double().mean() > 0.98
    ratio = (actual - weight_NG).square().sum() / (expected - weight_NG).square().sum()
    assert abs(ratio - 1) < 1e-3


def test_four_bits_have_a_smaller_error_than_ggufs_q4_0():
    gguf = pytest.importorskip("gguf")
    weight_NK = random(256, 1024)
    blocks = gguf.quants.quantize(weight_NK.numpy(), gguf.GGMLQuantizationType.Q4_0)
    theirs = torch.from_numpy(gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_0))
    ours = packed.dequantize(packed.pack(weight_NK))
    assert (ours - weight_NK).square().mean() < 0.92 * (theirs - weight_NK).square().mean()


def test_eight_bits_are_off_by_half_a_step_at_most():
    weight_NK = random(64, 256)
    weight = packed.pack(weight_NK, bits=8)
    step_NK = (weight_NK.abs().reshape(64, 8, 32).amax(-1) / 127).repeat_interleave(32, dim=1)
    assert ((packed.dequantize(weight) - weight_NK).abs() <= step_NK * (0.5 + 127 * 2**-11)).all()


def test_embedding_rows_are_those_of_the_weight():
    weight = packed.pack(random(50, 64))
    tokens_T = torch.tensor([49, 0, 17, 17])
    assert torch.equal(packed.packed_embedding(tokens_T, weight), packed.dequantize(weight)[tokens_T])
    with pytest.raises(ValueError, match=r"not in 0\.\.49"):
        packed.packed_embedding(torch.tensor([50]), weight)
    with pytest.raises(ValueError, match=r"not in 0\.\.49"):
        packed.packed_embedding(torch.tensor([-1]), weight)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
def test_a_token_that_is_not_finite_gives_nan_and_its_neighbours_do_not(instruction_set, special):
    weight = packed.pack(random(20, 64))
    x_MK = random(3, 64)
    expected = packed.packed_linear(x_MK, weight)
    x_MK[1, 40] = special
    y_MN = packed.packed_linear(x_MK, weight, instruction_set=instruction_set)
    assert y_MN[1].isnan().all()
    assert_same_bits(y_MN[::2].contiguous(), expected[::2].contiguous())


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-31, 1e-38, 1e-29, 1e30])
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_tiny_and_huge_activations(instruction_set, value):
    quants_NK = torch.full((16, 32), 129, dtype=torch.uint8)
    weight = packed.pack_quantized(quants_NK, torch.ones(16, 1, dtype=torch.float16), bits=8)
    y_MN = packed.packed_linear(torch.full((1, 32), value), weight, instruction_set=instruction_set)
    expected = 32 * value if abs(value) >= 1e-30 else 0.0
    torch.testing.assert_close(y_MN, torch.full((1, 16), expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_weights_that_have_no_scale_are_refused(bits, value):
    weight_NK = random(20, 64)
    weight_NK[19, 63] = value
    with pytest.raises(ValueError, match="infinite, NaN, or too large"):
        packed.pack(weight_NK, bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_below_float16s_range_become_zero(bits):
    assert (packed.dequantize(packed.pack(torch.full((16, 32), 1e-12), bits)) == 0).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(count):
    weight_NK, x_MK = random(700, 256), random(40, 256)
    weight = packed.pack(weight_NK)
    expected = packed.packed_linear(x_MK, weight)
    before = packed.num_threads()
    packed.set_num_threads(count)
    try:
        assert packed.num_threads() == count
        assert torch.equal(packed.pack(weight_NK).quants, weight.quants)
        for _ in range(20):
            assert_same_bits(packed.packed_linear(x_MK, weight), expected)
    finally:
        packed.set_num_threads(before)


@pytest.mark.parametrize(
    "call",
    [
        lambda weight: packed.packed_linear(torch.zeros(2, 32), weight),
        lambda weight: packed.packed_linear(torch.zeros(2, 40), weight),
        lambda weight: packed.packed_linear(torch.zeros(64), weight),
        lambda weight: packed.packed_linear(torch.zeros(2, 64, dtype=torch.float16), weight),
        lambda weight: packed.packed_linear(torch.zeros(64, 2).T, weight),
        lambda weight: packed.packed_linear(torch.zeros(2, 64, device="meta"), weight),
        lambda weight: packed.packed_linear(torch.zeros(2, 64), weight, instruction_set="mmx"),
        lambda weight: packed.packed_norm_linear(torch.zeros(2, 64), torch.zeros(32), 1e-6, [weight]),
        lambda weight: packed.packed_norm_linear(torch.zeros(2, 64), torch.zeros(64).bfloat16(), 1e-6, [weight]),
        lambda weight: packed.packed_swiglu_linear(torch.zeros(2, 64), torch.zeros(1, 64), weight),
        lambda weight: packed.packed_swiglu_linear(torch.zeros(2, 64), torch.zeros(2, 64).bfloat16(), weight),
        lambda weight: packed.packed_embedding(torch.zeros(2, dtype=torch.int32), weight),
        lambda weight: packed.pack(torch.zeros(2, 33)),
        lambda weight: packed.pack(torch.zeros(2, 0)),
        lambda weight: packed.pack(torch.zeros(64)),
        lambda weight: packed.pack(torch.zeros(2, 64), bits=5),
        lambda weight: packed.pack(torch.zeros(2, 64), group=16),
        lambda weight: packed.pack_quantized(torch.zeros(2, 64, dtype=torch.uint8), torch.zeros(2, 2).half(), 3),
        lambda weight: packed.pack_quantized(torch.full((2, 64), 16, dtype=torch.uint8), torch.zeros(2, 2).half(), 4),
        lambda weight: packed.pack_quantized(
            torch.zeros(2, 64, dtype=torch.uint8), torch.full((2, 2), torch.inf).half(), 4
        ),
        lambda weight: packed.PackedWeight(weight.quants, weight.scales, (99, 64), "int4-g32"),
        lambda weight: packed.set_num_threads(0),
    ],
)
def test_wrong_arguments_are_refused(call):
    with pytest.raises(ValueError, match=r"must be|need|do not fit|not one of|pack into|does not divide|infinite"):
        call(packed.pack(torch.zeros(20, 64)))
