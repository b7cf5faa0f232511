"""Dequantization of GGUF's block types against the gguf package, bit for bit on arbitrary bytes."""

import gguf
import numpy as np
import pytest

from qwen3.quant.blocks import BLOCK_TYPES, DEQUANTIZED, dequantize


def reference(rows: np.ndarray, type: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[type])


def random_rows(type: str, rows: int, blocks: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (rows, blocks * BLOCK_TYPES[type].num_bytes), np.uint8)


def test_every_block_type_has_the_number_and_sizes_of_the_gguf_package():
    sizes = {type.name: (type.value, *gguf.GGML_QUANT_SIZES[type]) for type in gguf.GGMLQuantizationType}
    ours = {t.name: (t.id, t.num_values, t.num_bytes) for t in BLOCK_TYPES.values()}
    assert ours == sizes | {"Q2_0": (42, 64, 18)}  # newer than the package


@pytest.mark.parametrize("type", sorted(DEQUANTIZED))
@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (5, 3), (700, 8)])
def test_random_bytes_give_the_bits_of_the_reference(type, rows, blocks):
    data = random_rows(type, rows, blocks)
    values, expected = dequantize(data, type), reference(data, type)
    assert values.dtype == np.float32
    assert values.shape == expected.shape == (rows, blocks * BLOCK_TYPES[type].num_values)
    # Every bit, but for the payload of not-a-number, which random scales bring.
    number = ~np.isnan(expected)
    assert number.mean() > 0.5
    np.testing.assert_array_equal(np.isnan(values), ~number)
    np.testing.assert_array_equal(values.view(np.uint32)[number], expected.view(np.uint32)[number])


@pytest.mark.parametrize("type", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "BF16", "F16"])
def test_quantized_weights_come_back_within_a_step(type):
    weights = np.random.default_rng(0).standard_normal((4, 512), np.float32)
    packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[type]).view(np.uint8)
    levels = {"Q8_0": 254, "Q4_0": 15, "Q4_1": 15, "Q5_0": 31, "Q5_1": 31, "BF16": 256, "F16": 2048}[type]
    step = 2 * np.abs(weights).max() / levels
    assert np.abs(dequantize(packed, type) - weights).max() <= step


def test_rows_of_a_matrix_do_not_depend_on_how_many_are_done_at_once():
    data = random_rows("Q4_K", 600, 2)
    together = dequantize(data, "Q4_K")
    alone = np.concatenate([dequantize(row[None], "Q4_K") for row in data])
    np.testing.assert_array_equal(together, alone)


def test_a_type_that_is_not_known_is_refused_by_name():
    with pytest.raises(ValueError, match=r"IQ2_XXS cannot be dequantized: .*Q4_K"):
        dequantize(np.zeros((1, 66), np.uint8), "IQ2_XXS")


@pytest.mark.parametrize("shape", [(2, 17), (18,)])
def test_rows_of_broken_blocks_are_refused(shape):
    with pytest.raises(ValueError, match="whole Q4_0 blocks"):
        dequantize(np.zeros(shape, np.uint8), "Q4_0")


def test_no_rows_give_no_values():
    assert dequantize(np.zeros((0, 34), np.uint8), "Q8_0").shape == (0, 32)
