"""Prompt lookup: what is guessed, when it pays, and that it saves passes and changes nothing."""

import pytest
from transformers_models import reference_pair

from qwen3.engine.cost import CostModel
from qwen3.engine.engine import Engine
from qwen3.engine.request import Request, SamplingParams, TokenLogprob
from qwen3.engine.speculate import PromptLookup, num_paying
from qwen3.model.transforms import quantize_weights


def make_request(prompt, max_tokens=100, **params):
    return Request(list(prompt), SamplingParams(max_tokens=max_tokens, **params), 3, frozenset(), 10_000)


def test_what_followed_the_last_tokens_before_is_guessed():
    assert PromptLookup().guess(make_request([1, 2, 3, 4, 5, 6, 1, 2, 3])) == [4, 5, 6, 1, 2, 3, 4, 5]


def test_the_latest_place_counts():
    assert PromptLookup().guess(make_request([1, 2, 3, 4, 9, 1, 2, 3, 7, 8, 1, 2, 3]))[:2] == [7, 8]


def test_nothing_is_guessed_of_what_is_new():
    assert PromptLookup().guess(make_request(range(50))) == []
    assert PromptLookup().guess(make_request([1, 2])) == []


def test_a_text_that_repeats_itself_is_guessed_to_go_on():
    assert PromptLookup().guess(make_request([5] * 4)) == [5] * 8


def test_no_more_is_guessed_than_may_still_come():
    # One more token is drawn in any case.
    assert len(PromptLookup().guess(make_request([5] * 9, max_tokens=4))) == 3
    assert PromptLookup().guess(make_request([5] * 9, max_tokens=1)) == []


def test_the_rate_of_right_guesses_is_known_without_computing_them():
    lookup, request = PromptLookup(), make_request([1, 2, 3, 4] * 3)
    before = lookup.acceptance
    lookup.guess(request)
    for token in (1, 2, 3):
        request.accept(TokenLogprob(token, 0.0))
        lookup.guess(request)
    assert lookup.acceptance > before
    for new in range(20, 35):
        for token in (new, 1, 2, 3):
            request.accept(TokenLogprob(token, 0.0))
            lookup.guess(request)
    assert lookup.acceptance < before


def costs(**seconds):
    cost = CostModel()
    for rows, value in seconds.items():
        for _ in range(20):
            cost.observe(value, int(rows[1:]), [])
    return cost


@pytest.mark.parametrize(
    ("chances", "cost", "count"),
    [
        ([0.9, 0.8, 0.7], costs(r1=1.0, r4=1.1), 3),  # rows are nearly free
        ([0.9, 0.8, 0.7], costs(r1=1.0, r2=2.0, r3=3.0, r4=4.0), 0),  # rows cost as much as tokens
        ([0.01], costs(r1=1.0, r2=1.05), 0),  # hardly ever right
        ([0.9, 0.9, 0.9], costs(r1=1.0, r2=1.05, r3=1.1, r4=2.5), 2),  # kernels have steps
        ([0.9, 0.8], CostModel(), 0),  # nothing is known yet
        ([], costs(r1=1.0), 0),
    ],
)
def test_as_many_guesses_as_make_a_token_cheapest(chances, cost, count):
    assert num_paying(chances, 1, 1, cost) == count


def test_a_text_that_copies_takes_fewer_passes_and_one_that_does_not_no_more(monkeypatch):
    _, model = reference_pair(num_hidden_layers=1)
    quantize_weights(model, 8)
    monkeypatch.setattr(CostModel, "decode_seconds", lambda self, num_rows: 1 + 0.02 * num_rows)
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))

    def num_passes(**params):
        sizes.clear()
        engine, request = Engine(model, speculates=True), make_request(range(20), **params)
        engine.add(request)
        while engine.has_work:
            engine.step()
        assert len(request.generated_ids) == 100
        return len(sizes)

    assert num_passes(temperature=0.0, frequency_penalty=-2.0) < 50  # soon says one thing only
    assert num_passes(temperature=1.0) == 100
    assert max(sizes) <= 20
