"""The engine over token ids: equal to transformers' greedy decoding, independent of the batch, honest about ends."""

import pytest
import torch
from transformers_models import reference_pair

from qwen3.engine import engine as engine_module
from qwen3.engine import scheduler
from qwen3.engine.engine import Engine
from qwen3.engine.request import FinishReason, Request, SamplingParams
from qwen3.engine.thinking import ThinkingBudget


@pytest.fixture(scope="module", params=[False, True], ids=["dense", "moe"])
def pair(request):
    return reference_pair(moe=request.param, num_hidden_layers=2)


@pytest.fixture(scope="module")
def model():
    return reference_pair(num_hidden_layers=2)[1]


def make_request(prompt, *, stop_ids=(), max_length=128, thinking=None, **params):
    params = SamplingParams(**{"temperature": 0.0, "max_tokens": 20} | params)
    return Request(list(prompt), params, params.seed or 0, frozenset(stop_ids), max_length, thinking)


def run(model, *requests):
    engine = Engine(model)
    for request in requests:
        engine.add(request)
    while engine.has_work:
        engine.step()
    return [request.generated_ids for request in requests]


def prompts(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 320, (3 + 5 * i,), generator=generator).tolist() for i in range(count)]


def test_greedy_tokens_equal_transformers(pair):
    theirs, ours = pair
    for prompt in prompts(4):
        expected = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=None,
        )
        assert run(ours, make_request(prompt, max_tokens=40)) == [expected[0, len(prompt) :].tolist()]


def test_sampled_tokens_are_the_same_alone_and_in_any_batch(pair):
    _, ours = pair
    settings = [{"temperature": 1.0, "top_k": 40, "seed": i, "presence_penalty": 0.5} for i in range(6)]
    requests = [make_request(p, **s) for p, s in zip(prompts(6), settings, strict=True)]
    together = run(ours, *requests)
    for prompt, setting, expected in zip(prompts(6), settings, together, strict=True):
        assert run(ours, make_request(prompt, **setting)) == [expected]
    assert len({tuple(tokens) for tokens in together}) == 6


def test_requests_beyond_the_running_limit_wait_and_finish(model, monkeypatch):
    monkeypatch.setattr(scheduler, "MAX_RUNNING", 2)
    together = run(model, *(make_request(prompt) for prompt in prompts(5)))
    assert together == [run(model, make_request(prompt))[0] for prompt in prompts(5)]


def test_chunked_prefill_draws_the_same_tokens(model, monkeypatch):
    prompt = prompts(20)[19]
    whole = run(model, make_request(prompt))
    monkeypatch.setattr(engine_module, "TORCH_CHUNK", 32)
    assert run(model, make_request(prompt)) == whole


def test_ends_are_told_apart(model):
    (prompt,) = prompts(1)
    free = make_request(prompt, max_tokens=None, max_length=40)
    run(model, free)
    assert free.finish_reason is FinishReason.LENGTH
    assert free.num_tokens == 40
    stop = free.generated_ids[7]
    stopped = make_request(prompt, stop_ids={stop})
    run(model, stopped)
    assert stopped.finish_reason is FinishReason.STOP
    assert stopped.generated_ids == free.generated_ids[: free.generated_ids.index(stop) + 1]


def test_an_aborted_request_computes_no_more_and_frees_its_cache(model):
    engine = Engine(model)
    kept, dropped, queued = (make_request(prompt) for prompt in prompts(3))
    engine.add(kept)
    engine.add(dropped)
    engine.step()
    engine.add(queued)
    engine.abort(dropped)
    engine.abort(queued)
    while engine.has_work:
        engine.step()
    assert (len(kept.generated_ids), len(dropped.generated_ids), len(queued.generated_ids)) == (20, 1, 0)
    assert dropped.finish_reason is queued.finish_reason is FinishReason.ABORT
    assert engine.blocks.num_free == engine.blocks.capacity
    engine.scheduler.check_integrity()


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_thinking_budget_forces_the_closing_ids_after_exactly_that_many_reasoning_tokens(model, limit):
    (prompt,) = prompts(1)
    closing = [311, 312, 313]
    budget = ThinkingBudget(limit, think_id=310, end_think_id=313, closing_ids=closing, is_thinking=True)
    request = make_request(prompt, thinking=budget, logprobs=0)
    run(model, request)
    assert request.generated_ids[limit : limit + 3] == closing
    assert len(request.generated_ids) == 20
    assert [entry.logprob for entry in request.logprobs[limit : limit + 3]] == [0.0] * 3
    # What follows is what the model says to the forced tokens, as if they had stood in the prompt.
    continued = make_request(prompt + request.generated_ids[: limit + 3], max_tokens=20 - limit - 3)
    assert run(model, continued) == [request.generated_ids[limit + 3 :]]


def test_thinking_budget_counts_from_the_opening_token_and_stays_silent_after_a_natural_end():
    def observe_all(tokens, limit):
        budget = ThinkingBudget(limit, think_id=1, end_think_id=2, closing_ids=[9, 2], is_thinking=False)
        return [budget.observe(token) for token in tokens]

    assert observe_all([5, 5, 5, 5], 2) == [[], [], [], []]
    assert observe_all([1, 5, 5, 5], 2) == [[], [], [9, 2], []]
    assert observe_all([1, 5, 2, 5, 5, 5], 2) == [[]] * 6
    assert observe_all([1], 0) == [[9, 2]]
    # A second opening token is reasoning like any other, and there is one think block only.
    assert observe_all([1, 1, 1, 1], 2) == [[], [], [9, 2], []]
    assert observe_all([1, 2, 1, 5, 5], 1) == [[]] * 5


def test_max_tokens_cuts_forced_tokens_too(model):
    (prompt,) = prompts(1)
    budget = ThinkingBudget(1, think_id=310, end_think_id=313, closing_ids=[311, 312, 313], is_thinking=True)
    request = make_request(prompt, thinking=budget, max_tokens=3)
    run(model, request)
    assert request.generated_ids[1:] == [311, 312]
    assert request.finish_reason is FinishReason.LENGTH
