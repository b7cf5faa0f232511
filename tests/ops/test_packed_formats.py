"""GGUF's block types in panels: the numbers of the gguf package, and products whose bits depend on nothing else."""

import functools

import gguf
import numpy as np
import pytest
import torch
from gguf_files import FIELDS, FLOATS, TYPES, random_blocks
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3.ops import native, packed, reference

INSTRUCTION_SETS = native.available_instruction_sets()


def values_of(blocks: np.ndarray, type: str) -> torch.Tensor:
    return torch.from_numpy(gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[type]).astype(np.float32))


def repacked(type: str, blocks: np.ndarray, num_columns: int) -> packed.PackedWeight:
    weight = packed.PackedWeight.empty(len(blocks), num_columns, packed.REPACKED[type])
    packed.repack(type, blocks, weight)
    return weight


def random_weight(type: str, num_rows: int, num_columns: int, seed: int = 0) -> packed.PackedWeight:
    return repacked(type, random_blocks(type, num_rows, num_columns, seed), num_columns)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same_bits(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.dtype == b.dtype == torch.float32
    assert torch.equal(a.view(torch.int32), b.view(torch.int32))


# ---- Numbers --------------------------------------------------------------------------------------------------


def test_every_type_that_is_dequantized_has_a_format():
    from qwen3.quant.blocks import DEQUANTIZED

    assert set(packed.REPACKED) == DEQUANTIZED == set(TYPES)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize(("num_rows", "num_columns"), [(1, 256), (16, 512), (37, 768)])
def test_repacked_blocks_keep_every_bit(type, num_rows, num_columns):
    blocks = random_blocks(type, num_rows, num_columns)
    assert_same_bits(packed.dequantize(repacked(type, blocks, num_columns)), values_of(blocks, type))


@pytest.mark.parametrize("type", ["Q4_0", "Q5_1", "Q8_0", "F16"])
def test_types_of_short_blocks_take_rows_of_one_group(type):
    blocks = random_blocks(type, 3, 32)
    assert_same_bits(packed.dequantize(repacked(type, blocks, 32)), values_of(blocks, type))


@pytest.mark.parametrize("type", TYPES)
def test_rows_may_come_piece_by_piece(type):
    blocks = random_blocks(type, 70, 256)
    weight = packed.PackedWeight.empty(70, 256, packed.REPACKED[type])
    for first, last in ((48, 70), (0, 32), (32, 48)):
        packed.repack(type, blocks[first:last], weight, first)
    whole = repacked(type, blocks, 256)
    assert torch.equal(weight.quants, whole.quants)
    assert torch.equal(weight.scales, whole.scales)


def test_weights_lie_apart():
    blocks = [random_blocks("Q5_K", 20, 256, seed) for seed in range(3)]
    stack = [packed.PackedWeight.empty(20, 256, "q5_k") for _ in blocks]
    for each, weight in zip(blocks, stack, strict=True):
        packed.repack("Q5_K", each, weight)
    for each, weight in zip(blocks, stack, strict=True):
        assert_same_bits(packed.dequantize(weight), values_of(each, "Q5_K"))


@pytest.mark.parametrize("type", TYPES)
def test_embedding_rows_are_those_of_the_weight(type):
    weight = random_weight(type, 50, 256)
    tokens_T = torch.tensor([49, 0, 17, 17])
    assert_same_bits(packed.packed_embedding(tokens_T, weight), packed.dequantize(weight)[tokens_T])


def test_bits_of_a_weight_are_as_documented():
    bits = {name: format.bits_per_weight for name, format in packed.FORMATS.items()}
    assert (bits["int4-g32"], bits["int8-g32"], bits["q4_1"], bits["q5_0"], bits["q5_1"]) == (4.5, 8.5, 5, 5.5, 6)
    assert (bits["q4_k"], bits["q5_k"], bits["q6_k"]) == (4.625, 5.625, 6.5625)
    assert (bits["fp16"], bits["bf16"], bits["fp32"]) == (16, 16, 32)


# ---- Products -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize(("num_rows", "num_columns"), [(1, 256), (37, 768)])
def test_every_instruction_set_and_number_of_tokens_gives_the_same_bits(type, num_rows, num_columns):
    weight = random_weight(type, num_rows, num_columns)
    x_MK = random(33, num_columns)
    expected = packed.packed_linear(x_MK, weight, instruction_set="generic")
    for instruction_set in INSTRUCTION_SETS:
        for num_tokens in range(34):
            y_MN = packed.packed_linear(x_MK[:num_tokens], weight, instruction_set=instruction_set)
            assert_same_bits(y_MN, expected[:num_tokens])


@pytest.mark.parametrize("type", TYPES)
def test_products_are_those_of_float64_within_the_documented_bound(type):
    """Weights of the gguf package times the rounded activations."""
    num_columns = 768
    blocks = random_blocks(type, 37, num_columns)
    x_MK = random(5, num_columns)
    y_MN = packed.packed_linear(x_MK, repacked(type, blocks, num_columns), instruction_set="generic")
    weight_NK = values_of(blocks, type).double()
    if type in FLOATS:
        rounded_MK, magnitude_NK, steps = x_MK.double(), weight_NK.abs(), num_columns // 2
    else:
        groups = x_MK.reshape(5, -1, 32)
        scales = groups.abs().amax(-1, keepdim=True) / 127
        rounded_MK = ((groups / scales).round().double() * scales.double()).reshape(5, num_columns)
        # A weight is quant * scale + minimum; what quants of zero leave is the second part.
        zeroed = blocks.reshape(37, -1, gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type]][1]).copy()
        zeroed[..., FIELDS[type][1]] = 0
        minimum_NK = values_of(zeroed.reshape(37, -1), type).double()
        magnitude_NK = (weight_NK - minimum_NK).abs() + minimum_NK.abs()
        steps = num_columns // (16 if type == "Q6_K" else 32)
    bound = (steps + 2) * 2**-23 * (rounded_MK.abs() @ magnitude_NK.T)
    error = (y_MN.double() - rounded_MK @ weight_NK.T).abs()
    assert (error <= bound).all()


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("type", FIELDS)
@pytest.mark.parametrize("quants", [0x00, 0x7F, 0x80, 0xFF])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sums_of_the_largest_values_do_not_overflow(instruction_set, type, quants, sign):
    num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type]][1]
    block = np.full((1, num_bytes), 0xFF, np.uint8)  # scales of 63 or -1
    block[:, FIELDS[type][1]] = quants
    for position in FIELDS[type][0]:
        block[0, position : position + 2] = np.array([1], np.float16).view(np.uint8)
    num_columns = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type]][0]
    weight = repacked(type, block.repeat(16, axis=0), num_columns)
    y_MN = packed.packed_linear(torch.full((7, num_columns), 127.0 * sign), weight, instruction_set=instruction_set)
    assert (y_MN == 127 * sign * values_of(block, type).sum()).all()


@functools.cache
def weight_once(type: str) -> packed.PackedWeight:
    return random_weight(type, 19, 256)


@settings(max_examples=500)
@given(data=st.data(), num_tokens=st.integers(1, 33), type=st.sampled_from(TYPES))
def test_a_row_alone_equals_the_row_in_any_batch(data, num_tokens, type):
    x_MK = random(num_tokens, 256, seed=data.draw(st.integers(0, 2**32)))
    row = data.draw(st.integers(0, num_tokens - 1))
    alone = packed.packed_linear(x_MK[row : row + 1], weight_once(type))
    assert_same_bits(packed.packed_linear(x_MK, weight_once(type))[row : row + 1], alone)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_one_norm_feeds_weights_of_several_formats(instruction_set):
    x_MK, norm_weight_K = random(9, 256, seed=1).mul(3), random(256, seed=2)
    weights = [random_weight(type, 21, 256) for type in TYPES]
    together = packed.packed_norm_linear(x_MK, norm_weight_K, 1e-6, weights, instruction_set=instruction_set)
    for y_MN, weight in zip(together, weights, strict=True):
        alone = packed.packed_norm_linear(x_MK, norm_weight_K, 1e-6, [weight], instruction_set="generic")[0]
        assert_same_bits(y_MN, alone)


@pytest.mark.parametrize("type", FLOATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_floats_round_no_activation(type, dtype):
    x_MK, up_MK, norm_weight_K = random(9, 256, seed=1).to(dtype), random(9, 256, seed=2).to(dtype), random(256, seed=3)
    weight = random_weight(type, 40, 256)
    weight_NK, x32_MK, up32_MK = packed.dequantize(weight), x_MK.float(), up_MK.float()
    pairs = [
        (packed.packed_linear(x_MK, weight), reference.linear(x32_MK, weight_NK)),
        (
            packed.packed_norm_linear(x_MK, norm_weight_K, 1e-6, [weight])[0],
            reference.norm_linear(x32_MK, norm_weight_K, 1e-6, [weight_NK])[0],
        ),
        (packed.packed_swiglu_linear(x_MK, up_MK, weight), reference.swiglu_linear(x32_MK, up32_MK, weight_NK)),
    ]
    most = 1e-6 if dtype == torch.float32 else 4e-3
    for y_MN, expected in pairs:
        assert y_MN.dtype == dtype
        assert (y_MN.float() - expected).norm() < most * expected.norm()


@pytest.mark.parametrize("type", TYPES)
def test_a_token_that_is_not_finite_leaves_its_neighbours_alone(type):
    weight, x_MK = random_weight(type, 20, 256), random(3, 256)
    expected = packed.packed_linear(x_MK, weight)
    x_MK[1, 40] = torch.nan
    y_MN = packed.packed_linear(x_MK, weight)
    assert y_MN[1].isnan().all()
    assert_same_bits(y_MN[::2].contiguous(), expected[::2].contiguous())


# ---- Refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_scales_and_floats_that_are_not_finite_are_refused(type, value):
    blocks = random_blocks(type, 37, 512)
    num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type]][1]
    bits = gguf.quants.quantize(np.full((1, 1), value, np.float32), gguf.GGMLQuantizationType.BF16)
    bits = bits if type == "BF16" else np.array([value], FLOATS.get(type, np.float16))
    for position in FIELDS[type][0] if type in FIELDS else [0]:
        damaged = blocks.reshape(37, -1, num_bytes).copy()
        damaged[36, -1, position : position + bits.nbytes] = bits.reshape(-1).view(np.uint8)
        with pytest.raises(ValueError, match=f"in the {type} blocks is infinite or NaN"):
            repacked(type, damaged.reshape(37, -1), 512)


@pytest.mark.parametrize(
    "call",
    [
        lambda weight, blocks: packed.repack("Q4_1", blocks, weight),
        lambda weight, blocks: packed.repack("Q5_K", blocks, weight),
        lambda weight, blocks: packed.repack("Q2_K", blocks, weight),
        lambda weight, blocks: packed.repack("Q4_K", blocks[:32], weight, -16),
        lambda weight, blocks: packed.repack("Q4_K", blocks[:8], weight),
        lambda weight, blocks: packed.repack("Q4_K", blocks, weight, 16),
        lambda weight, blocks: packed.repack("Q4_K", blocks[:16], weight, 8),
        lambda weight, blocks: packed.repack("Q4_K", blocks[:, :-144], weight),
        lambda weight, blocks: packed.repack("Q4_K", blocks.astype(np.int8), weight),
        lambda weight, blocks: packed.repack("Q4_K", np.asfortranarray(blocks), weight),
        lambda weight, blocks: packed.repack(
            "Q4_0", random_blocks("Q4_0", 40, 512), packed.pack(torch.ones(40, 512), 4, 64)
        ),
        lambda weight, blocks: packed.PackedWeight.empty(40, 96, "q4_k"),
        lambda weight, blocks: packed.PackedWeight.empty(40, 512, "q4_2"),
    ],
)
def test_wrong_arguments_are_refused(call):
    blocks = random_blocks("Q4_K", 40, 512)
    with pytest.raises(ValueError, match=r"do not fit|must be contiguous|does not divide|weights pack into"):
        call(repacked("Q4_K", blocks, 512), blocks)
