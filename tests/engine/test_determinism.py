"""With a seed, the same tokens: alone, in a batch, after preemption, with and without prefix hits and guesses."""

import numpy as np
import pytest
import torch
from transformers_models import reference_pair

from qwen3.engine.engine import Engine
from qwen3.engine.request import FinishReason, Request, SamplingParams
from qwen3.model.transforms import pack_as_stored, quantize_weights

SHAPES = {"dense": {}, "moe": {"moe": True, "moe_intermediate_size": 64}}
WAYS = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 40},
    {"temperature": 0.3, "presence_penalty": 1.5, "repetition_penalty": 1.2},
    {"temperature": 1.0, "min_tokens": 20, "logprobs": 3},
    {"temperature": 0.5, "top_p": 0.9, "logit_bias": {7: 3.0}},
    {"temperature": 0.1, "frequency_penalty": -1.0},
    {"temperature": 0.0, "forced_after": 9},
    {"temperature": 0.2, "forced_after": 0},
]
"""Of a batch of eight; low temperatures and a negative penalty repeat themselves, so that guesses come true."""


class Guide:
    """Forces some tokens after every so many, and allows the next one to be only odd or only even, in turn."""

    error, is_over = "", False

    def __init__(self, every):
        self.every, self.count = every, 0

    def opening(self):
        return [311, 312, 313] if self.count % max(self.every, 5) == self.every else []

    def observe(self, token):
        self.count += 1
        return self.opening()

    def mask(self):
        return np.full(320 // 8, 0b10101010 if self.count % 2 else 0b01010101, np.uint8)


def packed(**shape):
    _, model = reference_pair(num_hidden_layers=2, **shape)
    quantize_weights(model, 8)
    return model


@pytest.fixture(scope="module", params=SHAPES)
def model(request):
    return packed(**SHAPES[request.param])


@pytest.fixture(scope="module")
def expected(model):
    return alone(model)


@pytest.fixture(scope="module")
def torch_model():
    return reference_pair(num_hidden_layers=2)[1]


def make_request(index, prompt=None, max_tokens=40, **changes):
    way = dict(WAYS[index % len(WAYS)])
    forced_after = way.pop("forced_after", None)
    guide = None if forced_after is None else Guide(forced_after)
    prompt = prompt or [(5 * i + index) % 300 for i in range(20 + 13 * index)]
    params = SamplingParams(max_tokens=max_tokens, **way)
    return Request(prompt, params, index, frozenset({319}), 400, guide, **changes)


def finish(engine):
    while engine.has_work:
        engine.step()
        engine.scheduler.check_integrity()
    assert engine.blocks.num_free == engine.blocks.capacity


def result(request):
    assert request.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    return request.generated_ids, request.logprobs


def run(engine, *requests):
    for request in requests:
        engine.add(request)
    finish(engine)
    return [result(request) for request in requests]


def alone(model, count=8, **options):
    return [run(Engine(model), make_request(i, **options))[0] for i in range(count)]


@pytest.mark.parametrize("speculates", [False, True])
def test_in_a_batch_of_eight(model, expected, speculates):
    assert run(Engine(model, speculates=speculates), *map(make_request, range(8))) == expected


def test_seed_ignored_in_mixed_batches(model, expected):
    """Greedy, seeded and differently filtered requests beside each other, joining at different steps."""
    engine, requests = Engine(model), [make_request(i) for i in range(8)]
    for request in requests:
        engine.add(request)
        engine.step()
    finish(engine)
    assert [result(request) for request in requests] == expected


@pytest.mark.parametrize("speculates", [False, True])
def test_after_preemption(model, expected, speculates):
    engine, requests = Engine(model, num_blocks=20, speculates=speculates), [make_request(i) for i in range(8)]
    for request in requests:
        engine.add(request)
    for _ in range(12):
        for _ in range(3):
            engine.step()
        for sequence in engine.scheduler.running[::3]:
            engine.scheduler._preempt(sequence)
    finish(engine)
    assert [result(request) for request in requests] == expected


def test_with_and_without_prefix_hits(model):
    engine = Engine(model)
    prompt = [(7 * i) % 300 for i in range(150)]
    expected = alone(model, prompt=prompt)
    first = [make_request(i, prompt) for i in range(8)]
    assert run(engine, *first) == expected
    assert sum(request.cached_tokens for request in first) == 7 * 128
    again = [make_request(i, prompt) for i in range(8)]
    assert run(engine, *again) == expected
    assert all(request.cached_tokens == 128 for request in again)


@pytest.mark.parametrize("kv", ["fp32", "bf16", "int8"])
def test_with_guesses_however_keys_and_values_are_kept(model, kv):
    plain = [run(Engine(model, kv), make_request(i, max_tokens=80))[0] for i in range(8)]
    engine = Engine(model, kv, speculates=True)
    assert [run(engine, make_request(i, max_tokens=80))[0] for i in range(8)] == plain


def test_on_torch_with_hits_preemption_and_others(torch_model):
    prompt = [(7 * i) % 300 for i in range(150)]
    ways = (0, 2, 3, 6)
    expected = [run(small_grid(torch_model), make_request(i, prompt))[0] for i in ways]
    engine = small_grid(torch_model, num_blocks=8)
    requests = [make_request(i, prompt) for i in ways]
    assert run(engine, *requests) == expected
    assert all(request.cached_tokens == 128 for request in requests[1:])


def small_grid(model, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qwen3.engine.engine.TORCH_CHUNK", 64)
        return Engine(model, **options)


@torch.no_grad()
def test_weights_as_stored_on_the_native_kernels_give_the_logits_of_torch():
    for shape in SHAPES.values():
        _, model = reference_pair(**shape)
        tokens = list(range(0, 300, 3))
        expected = model.logits(Engine(model).hidden(tokens).clone())
        pack_as_stored(model)
        assert model.has_independent_rows
        actual = model.logits(Engine(model, "fp32").hidden(tokens))
        assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()
