"""Drawing a token: the plain form equals transformers' processors, and the native form equals the plain one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from qwen3.ops import native, reference, sampling

INSTRUCTION_SETS = native.available_instruction_sets()
VOCABULARY = 151936
FILTERS = {
    "temperature": st.one_of(st.floats(0.05, 3), st.just(1.0)),
    "top_k": st.one_of(st.integers(0, 70), st.just(0)),
    "top_p": st.one_of(st.floats(0.01, 1), st.just(1.0)),
    "min_p": st.one_of(st.floats(0, 1), st.just(0.0)),
}


def random_logits(seed: int, size: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread


@given(seed=st.integers(0, 1000), **FILTERS)
def test_candidates_equal_transformers(seed, temperature, top_k, top_p, min_p):
    logits = random_logits(seed, 60)
    processors = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    if min_p > 0:
        processors.append(MinPLogitsWarper(min_p))
    expected = processors(torch.zeros(1, 1, dtype=torch.long), logits[None].double())[0].softmax(-1)
    probabilities, ids = reference.candidates(logits / temperature, top_k, top_p, min_p)
    actual = torch.zeros(60, dtype=torch.float64).index_put((ids,), probabilities / probabilities.sum())
    # A probability that lies on a threshold up to rounding may fall on either side of it.
    assert (actual - expected).abs().max() < 1e-5 or near_threshold(logits / temperature, top_k, top_p, min_p)


def near_threshold(scaled, top_k, top_p, min_p):
    kept = scaled.double().sort(descending=True).values[: top_k or None].softmax(-1)
    by_sum = (kept.cumsum(-1) - top_p).abs().min()
    by_ratio = (kept / kept[0] - min_p).abs().min()
    return min(by_sum, by_ratio) < 1e-6


@settings(max_examples=500)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 1000),
    spread=st.sampled_from([0.1, 3.0, 30.0]),
    noise=st.floats(0, 1, exclude_max=True),
    instruction_set=st.sampled_from(INSTRUCTION_SETS),
    **FILTERS,
)
def test_the_native_draw_falls_where_the_plain_one_does(
    seed, size, spread, noise, instruction_set, temperature, top_k, top_p, min_p
):
    logits = random_logits(seed, size, spread)
    filters = (temperature, top_k, top_p, min_p)
    drawn = sampling.draw(logits, *filters, noise, instruction_set=instruction_set)
    if drawn != reference.draw(logits, *filters, noise):
        assert is_within_rounding(logits, drawn, noise, *filters)


def is_within_rounding(logits, drawn, noise, temperature, top_k, top_p, min_p):
    """Whether a change of the probabilities by 1e-6 could make `drawn` the token of the noise."""
    scaled = logits / temperature
    probabilities, ids = reference.candidates(scaled, top_k, top_p, min_p)
    place = int((ids == drawn).nonzero())
    before, after = probabilities[:place].sum(), probabilities[: place + 1].sum()
    noise = noise * probabilities.sum()
    return before - 1e-6 <= noise <= after + 1e-6 or near_threshold(scaled, top_k, top_p, min_p)


@pytest.mark.parametrize(
    "filters",
    [(1.0, 0, 1.0, 0.0), (0.6, 20, 0.95, 0.0), (0.7, 0, 0.8, 0.0), (1.5, 0, 1.0, 0.05), (2.0, 2000, 0.9, 0.01)],
)
def test_a_whole_vocabulary_gives_the_tokens_of_a_full_sort(filters):
    generator = torch.Generator().manual_seed(1)
    for seed in range(20):
        logits = random_logits(seed, VOCABULARY, spread=2.5)
        logits[:50] += torch.arange(50, 0, -1) / 5  # some are likely, as in a model
        noise = float(torch.rand((), generator=generator, dtype=torch.float64))
        assert sampling.draw(logits, *filters, noise) == reference.draw(logits, *filters, noise)


@given(seed=st.integers(0, 2**32), noise=st.floats(0, 1, exclude_max=True), top_p=st.sampled_from([0.5, 0.9, 1.0]))
def test_equal_logits_stand_in_the_order_of_their_indices(seed, noise, top_p):
    logits = random_logits(seed, 700, spread=2.0).round()
    expected = reference.draw(logits, 1.0, 0, top_p, 0.0, noise)
    assert sampling.draw(logits, 1.0, 0, top_p, 0.0, noise) == expected
    assert sampling.draw(logits, 0.0, 0, 1.0, 0.0, noise) == int((logits == logits.max()).nonzero()[0])
    assert sampling.draw(torch.ones(700), 1.0, 3, 1.0, 0.0, noise) == int(noise * 3)


@given(seed=st.integers(0, 2**32), size=st.integers(1, 600), data=st.data())
def test_the_largest_are_those_of_a_stable_sort(seed, size, data):
    logits = random_logits(seed, size).mul(4).round()
    logits[random_logits(seed + 1, size) > 1] = -math.inf
    count = data.draw(st.integers(1, size))
    expected = logits.sort(descending=True, stable=True).indices[:count]
    for instruction_set in INSTRUCTION_SETS:
        assert torch.equal(sampling.largest(logits, count, instruction_set=instruction_set), expected)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("filters", [(1.0, 0, 1.0, 0.0), (1.0, 5, 1.0, 0.0), (0.01, 0, 0.999, 0.0), (3.0, 0, 1.0, 0.3)])
def test_a_banned_token_is_never_drawn(filters, noise):
    logits = torch.full((500,), -math.inf)
    logits[[3, 130, 480]] = torch.tensor([1.0, -60.0, -200.0])
    assert sampling.draw(logits, *filters, noise) in (3, 130, 480)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("place", [0, 17, 127, 128, 299])
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_finite_gives_none(instruction_set, place, value, temperature):
    logits = random_logits(1, 300)
    logits[5] = -math.inf
    assert sampling.draw(logits, temperature, 0, 1.0, 0.0, 0.5, instruction_set=instruction_set) is not None
    logits[place] = value
    assert sampling.draw(logits, temperature, 0, 1.0, 0.0, 0.5, instruction_set=instruction_set) is None
    assert reference.draw(logits, temperature, 0, 1.0, 0.0, 0.5) is None
    banned = torch.full((300,), -math.inf)
    assert sampling.draw(banned, temperature, 0, 1.0, 0.0, 0.5, instruction_set=instruction_set) is None


@pytest.mark.parametrize("temperature", [1e-30, 1e-44, 1e-300])
def test_a_temperature_near_zero_takes_the_largest(temperature):
    logits = random_logits(2, 300)
    assert sampling.draw(logits, temperature, 0, 1.0, 0.0, 0.999) == int(logits.argmax())


@pytest.mark.parametrize(
    "call",
    [
        lambda logits: sampling.draw(logits[None], 1.0, 0, 1.0, 0.0, 0.5),
        lambda logits: sampling.draw(logits[:0], 1.0, 0, 1.0, 0.0, 0.5),
        lambda logits: sampling.draw(logits.double(), 1.0, 0, 1.0, 0.0, 0.5),
        lambda logits: sampling.draw(logits[::2], 1.0, 0, 1.0, 0.0, 0.5),
        lambda logits: sampling.draw(logits, -1.0, 0, 1.0, 0.0, 0.5),
        lambda logits: sampling.draw(logits, 1.0, -1, 1.0, 0.0, 0.5),
        lambda logits: sampling.draw(logits, 1.0, 0, 1.0, 0.0, 1.0),
        lambda logits: sampling.draw(logits, 1.0, 0, 1.0, 0.0, 0.5, instruction_set="mmx"),
        lambda logits: sampling.largest(logits, 0),
        lambda logits: sampling.largest(logits, 5),
    ],
)
def test_wrong_arguments_are_refused(call):
    with pytest.raises(ValueError, match=r"must be|need|not one of"):
        call(torch.zeros(4))
