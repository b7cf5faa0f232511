"""The engine over token ids: equal to transformers' greedy decoding, independent of the batch, honest about ends."""

import numpy as np
import pytest
import torch
from transformers_models import reference_pair

from qwen3.engine import engine as engine_module
from qwen3.engine import scheduler
from qwen3.engine.engine import Engine
from qwen3.engine.request import FinishReason, Request, SamplingParams


@pytest.fixture(scope="module", params=[False, True], ids=["dense", "moe"])
def pair(request):
    return reference_pair(moe=request.param, num_hidden_layers=2)


@pytest.fixture(scope="module")
def model():
    return reference_pair(num_hidden_layers=2)[1]


def make_request(prompt, *, stop_ids=(), max_length=128, guide=None, **params):
    params = SamplingParams(**{"temperature": 0.0, "max_tokens": 20} | params)
    return Request(list(prompt), params, params.seed or 0, frozenset(stop_ids), max_length, guide)


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


class Forcing:
    """A guide that forces some tokens after so many drawn ones, and allows only odd ones from there on."""

    error, is_over = "", False

    def __init__(self, count, tokens):
        self.count, self.tokens = count, tokens

    def opening(self):
        return self.tokens if self.count == 0 else []

    def observe(self, token):
        self.count -= 1
        return self.opening()

    def mask(self):
        return None if self.count > 0 else np.full(320 // 8, 0b10101010, np.uint8)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_forced_tokens_follow_at_once_and_what_comes_next_is_drawn_as_if_they_had_stood_in_the_prompt(model, count):
    (prompt,) = prompts(1)
    forced = [311, 312, 313]
    request = make_request(prompt, guide=Forcing(count, forced), logprobs=0)
    run(model, request)
    assert request.generated_ids[count : count + 3] == forced
    assert len(request.generated_ids) == 20
    assert [entry.logprob for entry in request.logprobs[count : count + 3]] == [0.0] * 3
    rest = make_request(prompt + request.generated_ids[: count + 3], guide=Forcing(0, []), max_tokens=20 - count - 3)
    assert run(model, rest) == [request.generated_ids[count + 3 :]]
    assert all(token % 2 for token in rest.generated_ids)


def test_max_tokens_cuts_forced_tokens_too(model):
    (prompt,) = prompts(1)
    request = make_request(prompt, guide=Forcing(1, [311, 312, 313]), max_tokens=3)
    run(model, request)
    assert request.generated_ids[1:] == [311, 312]
    assert request.finish_reason is FinishReason.LENGTH
