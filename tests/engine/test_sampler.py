"""Sampling: candidates equal transformers' processors, draws follow them, penalties count what they should."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from qwen3.engine.request import RequestError, SamplingParams
from qwen3.engine.sampler import candidates, sample, uniform


def random_logits(seed: int, size: int = 60) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.1, 3),
    top_k=st.integers(0, 70),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
)
def test_candidates_equal_transformers(seed, temperature, top_k, top_p, min_p):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    logits = random_logits(seed)
    processors = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    if min_p > 0:
        processors.append(MinPLogitsWarper(min_p))
    expected = processors(torch.zeros(1, 1, dtype=torch.long), logits[None].double())[0].softmax(-1)
    probabilities, ids = candidates(logits / temperature, params)
    actual = torch.zeros(60, dtype=torch.float64).index_put((ids,), probabilities / probabilities.sum())
    # A probability that lies on a threshold up to rounding may fall on either side of it.
    assert (actual - expected).abs().max() < 1e-5 or near_threshold(logits / temperature, params)


def near_threshold(scaled, params):
    kept = scaled.double().sort(descending=True).values[: params.top_k or None].softmax(-1)
    by_sum = (kept.cumsum(-1) - params.top_p).abs().min()
    by_ratio = (kept / kept[0] - params.min_p).abs().min()
    return min(by_sum, by_ratio) < 1e-6


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
