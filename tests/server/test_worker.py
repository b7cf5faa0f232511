"""The engine thread: who leaves stops costing, nobody holds up others for long, idle time is used and given back."""

import asyncio
import time
from dataclasses import replace

import pytest

from qwen3 import SamplingParams
from qwen3.chat import Content, fold
from qwen3.engine.request import Finished, FinishReason, Usage
from qwen3.engine.scoring import PromptLogprobs
from qwen3.server import worker as worker_module
from qwen3.server.worker import EngineFailure, Unavailable, Worker

ENDLESS = SamplingParams(temperature=0.8, seed=1, ignore_eos=True)
QUESTION = [{"role": "user", "content": "What is 4821 + 3977?"}]


def run(llm, use, **options):
    """What `use(worker)` gives, and nothing is left in the engine."""

    async def main():
        worker = Worker(llm, **{"max_requests": 256} | options)
        try:
            return await use(worker)
        finally:
            await worker.close()

    result = asyncio.run(main())
    blocks = llm._engine.blocks
    llm._engine.scheduler.check_integrity()
    assert blocks.num_free == blocks.capacity
    return result


async def answer(worker, prepare):
    stream = await worker.start(prepare)
    try:
        return [event async for event in stream.events()]
    finally:
        stream.close()


def endless(llm, prompt="1 2 3", **changes):
    return lambda: llm.prepare_completion(prompt, replace(ENDLESS, **changes))


def short(llm):
    return lambda: llm.prepare_completion("1 2 3", SamplingParams(temperature=0, max_tokens=5))


def test_200_requests_that_are_cancelled_leave_the_next_one_an_answer_in_seconds(builtin):
    async def use(worker):
        streams = [await worker.start(endless(builtin, seed=seed)) for seed in range(200)]
        await asyncio.sleep(0.5)
        for stream in streams:
            stream.close()
        started = time.monotonic()
        *_, finished = await answer(worker, short(builtin))
        return finished, time.monotonic() - started

    finished, seconds = run(builtin, use)
    assert finished.reason is FinishReason.LENGTH
    assert seconds < 5


def test_disconnected_client_keeps_computing(builtin):
    async def use(worker):
        stream = await worker.start(endless(builtin))
        await anext(stream.events())
        stream.close()
        while builtin._engine.has_work:
            await asyncio.sleep(0.01)
        return stream.generations[0].request

    request = run(builtin, use)
    assert request.finish_reason is FinishReason.ABORT


def test_abort_during_another_prefill_hangs(builtin):
    async def use(worker):
        long = await worker.start(endless(builtin, "7 " * 400, max_tokens=3))
        other = await worker.start(endless(builtin))
        other.close()
        events = [event async for event in long.events()]
        long.close()
        return events

    *_, finished = run(builtin, use)
    assert isinstance(finished, Finished)
    assert finished.usage.completion_tokens == 3


@pytest.mark.parametrize("leaves", [False, True])
def test_random_comings_and_goings_leak_nothing(builtin, leaves):
    async def client(worker, seed):
        stream = await worker.start(endless(builtin, prompt=f"{seed % 5} " * 40, max_tokens=5 + seed, seed=seed))
        try:
            async for _ in stream.events():
                if leaves and seed % 3 == 0:
                    return
        finally:
            stream.close()

    run(builtin, lambda worker: asyncio.gather(*(client(worker, seed) for seed in range(40))))


def test_the_next_turn_is_computed_while_idle_and_given_up_for_a_request(builtin):
    params = SamplingParams(temperature=0, max_tokens=300)

    async def use(worker):
        *events, _ = await answer(worker, lambda: builtin.prepare_chat(QUESTION, params=params))
        *_, finished = await answer(worker, short(builtin))
        while builtin.has_idle_work:
            await asyncio.sleep(0.01)
        return fold(events), finished

    message, finished = run(builtin, use)
    assert message.reasoning
    assert finished.reason is FinishReason.LENGTH
    turn = [*QUESTION, {"role": "assistant", "content": message.content}, *QUESTION]
    usage = builtin.chat(turn, params=params, stream=False).usage
    history = len(builtin._prompts.history(QUESTION, None, True, message.content))
    assert usage.cached_tokens >= history // 32 * 32 > 0


def test_a_full_queue_and_a_long_wait_are_refused_at_once(builtin):
    async def refusal(worker):
        started = time.monotonic()
        with pytest.raises(Unavailable) as info:
            await worker.start(lambda: pytest.fail("it renders before it refuses"))
        return str(info.value), time.monotonic() - started

    async def full(worker):
        stream = await worker.start(endless(builtin))
        try:
            return await refusal(worker)
        finally:
            stream.close()

    async def long(worker):
        worker._backlog = 60.0
        return await refusal(worker)

    message, seconds = run(builtin, full, max_requests=1)
    assert message.startswith("1 requests are running or waiting")
    assert seconds < 0.5
    message, seconds = run(builtin, long, max_wait=30)
    assert message.startswith("a request would wait for about 60 seconds")
    assert seconds < 0.5


def test_prompts_that_are_scored_take_one_short_pass_of_a_step(builtin, monkeypatch):
    engine, sizes, passes = builtin._engine, [], []
    forward, step = engine._forward, engine.step

    def counting_forward(caches, token_ids):
        sizes.append(len(token_ids[0]))
        return forward(caches, token_ids)

    def counting_step():
        sizes.clear()
        step()
        passes.append(list(sizes))

    monkeypatch.setattr(engine, "_forward", counting_forward)
    monkeypatch.setattr(engine, "step", counting_step)
    monkeypatch.setattr(engine.scheduler._cost, "tokens_within", lambda seconds, start: 100)
    prompts = [[5 + number] * 600 for number in range(8)]

    async def use(worker):
        running = await worker.start(endless(builtin))
        events = running.events()
        await anext(events)
        stream = await worker.start(lambda: [builtin.prepare_scoring(prompt, 0) for prompt in prompts])
        found = [event async for batch in stream.batches() for _, event in batch]
        for closing in (stream, running):
            closing.close()
        return found

    found = run(builtin, use)
    assert [len(event.tokens) for event in found if isinstance(event, PromptLogprobs)] == [599] * 8
    assert max(map(len, passes)) == 2
    assert sum(len(sizes) == 2 for sizes in passes) == 8 * 6


def test_the_heartbeat_moves_with_the_steps(builtin):
    async def use(worker):
        before = worker.last_step_at
        stream = await worker.start(endless(builtin))
        events = stream.events()
        await anext(events)
        first = worker.last_step_at
        await anext(events)
        stream.close()
        return before, first, worker.last_step_at

    before, first, second = run(builtin, use)
    assert before < first <= second


class CountedEngine:
    """An LLM for `Worker` whose steps take `seconds`, and each of which gives every answer a token until `total`."""

    has_idle_work, backlog_seconds = False, 0.0

    def __init__(self, seconds, total, fails_at=None):
        self._seconds, self.total, self._fails_at, self.num_steps = seconds, total, fails_at, 0

    def step(self):
        time.sleep(self._seconds)
        if self.num_steps + 1 == self._fails_at:
            raise RuntimeError("a fault")
        self.num_steps += 1


class CountedAnswer:
    def __init__(self, llm):
        self._llm, self.prompt_ids, self.is_done, self._num_read = llm, [1], False, 0
        self.finished = Finished(FinishReason.LENGTH, Usage(1, llm.total, 0, 0.0, 0.0))

    def start(self): ...

    def cancel(self): ...

    @property
    def is_due(self):
        return self._llm.num_steps == self._llm.total

    def poll(self):
        first, self._num_read = self._num_read, self._llm.num_steps
        self.is_done = self._llm.num_steps == self._llm.total
        return [Content(f"{number} ") for number in range(first + 1, self._num_read + 1)]


@pytest.fixture
def handed_over(monkeypatch):
    """A function that has a `CountedEngine` give one answer; the pieces that the event loop got at a time, and the
    failure if there is one."""
    pieces, receive = [], worker_module._receive

    def recorded(batches):
        events = [event for batch in batches.values() for _, event in batch]
        pieces.append("".join(event.text for event in events if isinstance(event, Content)))
        receive(batches)

    async def take(llm):
        worker = Worker(llm, max_requests=1)
        stream = await worker.start(lambda: CountedAnswer(llm))
        try:
            async for _ in stream.batches():
                pass
        except EngineFailure:
            pieces.append("failed")
        finally:
            stream.close()
            await worker.close()
        return pieces

    monkeypatch.setattr(worker_module, "_receive", recorded)
    return lambda *options: asyncio.run(take(CountedEngine(*options)))


def test_what_fast_steps_give_is_handed_over_together_but_for_the_first_token(handed_over):
    pieces = handed_over(0.0, 500)
    assert pieces[0] == "1 "
    assert "".join(pieces) == "".join(f"{number} " for number in range(1, 501))
    assert len(pieces) < 250


def test_an_answer_that_its_text_may_end_is_read_after_every_step(builtin):
    params = SamplingParams(temperature=0, max_tokens=200, stop=["="])

    async def use(worker):
        *_, finished = await answer(worker, lambda: builtin.prepare_chat(QUESTION, params=params, thinking=False))
        return finished

    *_, alone = builtin.chat(QUESTION, params=params, thinking=False)
    served = run(builtin, use)
    assert served.stop_string == alone.stop_string == "="
    assert served.usage.completion_tokens == alone.usage.completion_tokens


def test_what_slow_steps_give_is_handed_over_at_once(handed_over):
    assert handed_over(0.02, 5) == [f"{number} " for number in range(1, 6)]


def test_what_came_before_a_failure_is_handed_over_before_it(handed_over):
    *pieces, last = handed_over(0.0, 500, 3)
    assert "".join(pieces) == "1 2 "
    assert last == "failed"
