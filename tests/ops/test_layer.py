"""Layers as one native call give the bits of its operations one by one, on every instruction set."""

import pytest
import torch

from qwen3.config import ModelConfig
from qwen3.engine.attend import cached_attend
from qwen3.engine.cache import KVCache, PagePool
from qwen3.model import Qwen3
from qwen3.model.random import random_model
from qwen3.model.rope import cos_sin
from qwen3.model.transformer import Block
from qwen3.ops import native
from qwen3.ops.layer import PackedLayer, PackedLayers
from qwen3.ops.packed import pack
from qwen3.ops.paged import PackedVector, PagedStep, PageLayout

CONFIG = ModelConfig("qwen3", 320, 96, 160, 2, 6, 2, head_dim=32, tie_word_embeddings=True)


def pool(model: Qwen3) -> PagePool:
    return PagePool(model.config, torch.float32, torch.device("cpu"), "bf16")


def inputs(num_tokens: int, start: int = 0) -> tuple[torch.Tensor, ...]:
    x_TD = torch.randn(num_tokens, CONFIG.hidden_size, generator=torch.Generator().manual_seed(start))
    positions_T = torch.arange(start, start + num_tokens)
    return x_TD, *cos_sin(CONFIG.rope_parameters, CONFIG.head_dim, positions_T, torch.float32)


@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("instruction_set", native.available_instruction_sets())
def test_one_call_equals_the_operations(weights, instruction_set):
    model = random_model(CONFIG, weights)
    one, many = KVCache(pool(model)), KVCache(pool(model))
    start = 0
    for num_tokens in (70, 1, 3):
        x_TD, cos_Td, sin_Td = inputs(num_tokens, start)
        for layer, block in enumerate(model.model.layers):
            step = cached_attend([one], [num_tokens])
            at_once = PackedLayers([block.layer])(x_TD, cos_Td, sin_Td, step, instruction_set=instruction_set)
            each = Block.forward(block, x_TD, cos_Td, sin_Td, cached_attend([many], [num_tokens]))
            assert torch.equal(at_once, each), (layer, num_tokens)
            x_TD = each
        one.advance(num_tokens)
        many.advance(num_tokens)
        start += num_tokens


@pytest.mark.parametrize("num_tokens", [1, 40])
def test_all_layers_at_once_equal_the_operations(num_tokens):
    model = random_model(CONFIG)
    one, many = KVCache(pool(model)), KVCache(pool(model))
    arguments = inputs(num_tokens)
    at_once = model.model(*arguments, cached_attend([one], [num_tokens]))
    x_TD = arguments[0]
    for block in model.model.layers:
        x_TD = Block.forward(block, x_TD, *arguments[1:], cached_attend([many], [num_tokens]))
    assert torch.equal(at_once, x_TD)


def test_a_cache_of_another_shape_is_refused():
    block = random_model(CONFIG).model.layers[0]
    layout = PageLayout("bf16", 2, 1, 32)
    step = PagedStep(layout, [[layout.new_page()]], [0], [3])
    with pytest.raises(ValueError, match="1 heads of 32, not 2 of 32"):
        block(*inputs(3), step)
    layout = PageLayout("bf16", 2, 2, 32)
    step = PagedStep(layout, [[layout.new_page()]], [0], [3])
    with pytest.raises(ValueError, match="the activations must be"):
        block(*inputs(4), step)


def plain_layer(index: int, heads: int = 1) -> PackedLayer:
    norms = [PackedVector(torch.ones(size)) for size in (64, 32, 32, 64)]
    shapes = [(32 * heads, 64), (32, 64), (32, 64), (64, 32 * heads)]
    return PackedLayer(index, 32, 1e-6, norms, [pack(torch.ones(shape)) for shape in shapes])


@pytest.mark.parametrize(
    "layers",
    [[], [(0,), (10**6,), (1,)], [(0,), (0,)], [(0,), (1, 2), (2,)]],
    ids=["none", "index in the middle", "twice", "shape in the middle"],
)
def test_layers_that_do_not_follow_each_other_are_refused(layers):
    with pytest.raises(ValueError, match=r"one shape .* and rising indices"):
        PackedLayers([plain_layer(*each) for each in layers])
