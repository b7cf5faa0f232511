"""Models with random weights: the storage that quantizing gives, its size, and activations as of fresh weights."""

from dataclasses import replace

import pytest
import torch

from qwen3.config import ModelConfig
from qwen3.memory import weight_bytes
from qwen3.model import CausalAttend, Qwen3
from qwen3.model.random import random_model
from qwen3.model.transforms import quantize_weights
from qwen3.ops import PackedWeight
from qwen3.quant.formats import Format, Storage

DENSE = ModelConfig(
    model_type="qwen3",
    vocab_size=320,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    tie_word_embeddings=True,
)
UNTIED = replace(DENSE, tie_word_embeddings=False)
SPARSE = replace(
    UNTIED,
    model_type="qwen3_moe",
    num_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=64,
    norm_topk_prob=True,
)
SHAPES = {"tied": DENSE, "untied": UNTIED, "sparse": SPARSE}


def weights_of(model):
    return {name: module.weight for name, module in model.named_modules() if hasattr(module, "weight")}


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("weights", "bits"), [("int4", 4), ("int8", 8)])
@pytest.mark.parametrize("group", [32, 64])
def test_storage_is_that_of_a_quantized_model_and_of_the_memory_calculator(config, weights, bits, group):
    model = random_model(config, weights, group)
    quantized = Qwen3(config)
    quantized.initialise(seed=0)
    quantize_weights(quantized, bits, group)

    def layout(weight):
        return weight.format if isinstance(weight, PackedWeight) else weight.dtype

    made, expected = weights_of(model), weights_of(quantized)
    assert {name: (layout(w), tuple(w.shape)) for name, w in made.items()} == {
        name: (layout(w), tuple(w.shape)) for name, w in expected.items()
    }
    assert model.has_independent_rows == quantized.has_independent_rows
    matrices, lookup = Storage(bits, 16, columns=group), Storage(8, 16, columns=group)
    stored = Format(matrices=matrices, head=lookup, embedding=lookup, rest=Storage(32))
    assert sum(weight.nbytes for weight in made.values()) == weight_bytes(config, stored)


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_bfloat16_has_the_calculators_size(config):
    model = random_model(config, "bf16")
    assert model.dtype == torch.bfloat16
    assert not model.has_independent_rows
    assert sum(weight.nbytes for weight in weights_of(model).values()) == weight_bytes(config, "bf16")


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("weights", ["int4", "int8", "bf16"])
def test_logits_spread_as_those_of_fresh_weights(config, weights):
    def logits(model):
        with torch.inference_mode():
            tokens_T = torch.arange(0, 300, 7)
            return model.logits(model(tokens_T, torch.arange(len(tokens_T)), CausalAttend([len(tokens_T)]))).float()

    fresh = Qwen3(config)
    fresh.initialise(seed=0)
    found_TV, fresh_TV = logits(random_model(config, weights)), logits(fresh)
    assert found_TV.std() == pytest.approx(fresh_TV.std().item(), rel=0.15)
    # Tokens differ from one another: no common part drowns the rest.
    assert found_TV.std(0).mean() == pytest.approx(fresh_TV.std(0).mean().item(), rel=0.15)


def test_matrices_differ_and_a_seed_repeats():
    first, again, other = (random_model(SPARSE, "int4", seed=seed) for seed in (1, 1, 2))
    experts = first.model.layers[0].mlp.experts
    assert not torch.equal(experts[0].up_proj.weight.quants, experts[1].up_proj.weight.quants)
    for name, weight in weights_of(first).items():
        if isinstance(weight, PackedWeight):
            assert torch.equal(weight.quants, weights_of(again)[name].quants)
            assert not torch.equal(weight.quants, weights_of(other)[name].quants)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="int8, int4, bf16, not 'q4_0'"):
        random_model(DENSE, "q4_0")
    with pytest.raises(ValueError, match="blocks of 128"):
        random_model(replace(DENSE, hidden_size=160), "int4", group=128)
