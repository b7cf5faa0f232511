"""Sampling: draws follow the distribution, penalties count what they should."""

import math

import numpy as np
import pytest
import torch

from qwen3.engine.request import RequestError, SamplingParams
from qwen3.engine.sampler import sample, uniform


def random_logits(seed: int, size: int = 60) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


def test_draws_follow_the_distribution():
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    counts = torch.zeros(4)
    for seed in range(4000):
        counts[sample(logits, SamplingParams(), [], seed, ()).token_id] += 1
    assert (counts / 4000 - logits.softmax(-1)).abs().max() < 0.03


def test_noise_depends_on_seed_and_position_only_and_is_uniform():
    values = [uniform(seed, position) for seed in range(-20, 20) for position in range(100)]
    assert len(set(values)) == 4000
    assert all(0 <= value < 1 for value in values)
    assert sum(values) / 4000 == pytest.approx(0.5, abs=0.02)
    assert uniform(7, 3) == uniform(7, 3)


def test_temperature_zero_takes_the_most_likely():
    assert sample(torch.tensor([0.0, 5.0, 4.9]), SamplingParams(temperature=0), [], 1, ()).token_id == 1


@pytest.mark.parametrize(
    ("params", "generated", "expected"),
    [
        ({}, [0, 0, 2], 0),
        ({"presence_penalty": 0.6}, [0], 1),
        ({"presence_penalty": 0.4}, [0, 0, 0], 0),
        ({"frequency_penalty": 0.2}, [0, 0], 0),
        ({"frequency_penalty": 0.2}, [0, 0, 0], 1),
        ({"repetition_penalty": 1.5}, [0], 1),
        ({"repetition_penalty": 1.5}, [], 0),
        ({"logit_bias": {2: 10.0}}, [], 2),
        ({"logit_bias": {0: -math.inf}}, [], 1),
    ],
)
def test_penalties_and_bias_move_the_greedy_choice(params, generated, expected):
    logits = torch.tensor([2.0, 1.5, -1.0])
    assert sample(logits, SamplingParams(temperature=0, **params), generated, 0, ()).token_id == expected
    assert logits.tolist() == [2.0, 1.5, -1.0]


def test_repetition_penalty_lowers_negative_logits_too():
    logits = torch.tensor([-1.0, -1.2])
    assert sample(logits, SamplingParams(temperature=0, repetition_penalty=1.5), [0], 0, ()).token_id == 1


def test_stop_tokens_wait_for_min_tokens():
    params = SamplingParams(temperature=0, min_tokens=2)
    logits = torch.tensor([9.0, 1.0])
    assert sample(logits, params, [1], 0, {0}).token_id == 1
    assert sample(logits, params, [1, 1], 0, {0}).token_id == 0


def test_logprobs_are_of_the_unmodified_distribution():
    logits = random_logits(1)
    drawn = sample(logits, SamplingParams(temperature=0.2, logit_bias={5: 50.0}, logprobs=3), [], 0, ())
    expected = logits.log_softmax(-1)
    assert drawn.token_id == 5
    assert drawn.logprob == pytest.approx(expected[5].item(), abs=1e-6)
    assert [token for token, _ in drawn.top] == expected.topk(3).indices.tolist()


def test_a_mask_leaves_only_what_it_allows_whatever_else_is_asked_for():
    for seed in range(20):
        logits = random_logits(seed, size=70)
        allowed = [3, 17, 64, 69]
        bits = np.zeros(96, np.uint8)
        bits[allowed] = 1
        mask = np.packbits(bits, bitorder="little")
        for temperature in (0.0, 1.0):
            params = SamplingParams(temperature=temperature, logprobs=2, min_tokens=5, logit_bias={3: -math.inf})
            drawn = sample(logits, params, [], seed, {17}, mask)
            assert drawn.token_id in (64, 69)
            expected = logits.log_softmax(-1)
            assert drawn.logprob == pytest.approx(expected[drawn.token_id].item(), abs=1e-5)
            assert [token for token, _ in drawn.top] == expected.topk(2).indices.tolist()


def test_a_ban_falls_where_a_mask_allows_nothing_else():
    mask = np.packbits(np.array([0, 1, 0, 0, 0, 0, 0, 0], np.uint8), bitorder="little")
    params = SamplingParams(min_tokens=3, logit_bias={1: -math.inf})
    assert sample(torch.zeros(8), params, [], 0, {1}, mask).token_id == 1


def test_logits_without_a_finite_value_are_an_error_not_a_token():
    with pytest.raises(FloatingPointError, match="no finite logit"):
        sample(torch.full((4,), torch.nan), SamplingParams(), [], 0, ())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", "1"), ("top_p", 0), ("top_p", 1.01),
        ("top_k", -1), ("top_k", 2.5), ("min_p", -1), ("presence_penalty", 2.1), ("frequency_penalty", math.inf),
        ("repetition_penalty", 0), ("max_tokens", 0), ("min_tokens", -1), ("seed", "x"), ("logprobs", 21),
        ("stop", [""]), ("stop", [3]), ("logit_bias", {1: math.nan}), ("logit_bias", {"a": 1.0}), ("max_tokens", True),
    ],
)  # fmt: skip
def test_parameters_out_of_range_are_named(field, value):
    with pytest.raises(RequestError, match=field):
        SamplingParams(**{field: value})
