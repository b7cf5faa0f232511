"""The scheduler and the blocks under any history of requests; and its rules one by one.

`Machine` stands for the data plane: in place of keys and values it writes into a block what they would be made of. So
a block that is shared, cut, forgotten or overwritten wrongly is seen when somebody attends to it.
"""

import hashlib
import os
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from qwen3.engine import scheduler as scheduler_module
from qwen3.engine.blocks import BLOCK_TOKENS, BlockPool, blocks_for
from qwen3.engine.cost import CostModel
from qwen3.engine.request import ContextError, FinishReason, Request, SamplingParams, TokenLogprob
from qwen3.engine.scheduler import MAX_RUNNING, Scheduler

STEPS = int(os.environ.get("QWEN3_SCHEDULER_STEPS", "600"))
STEPS_A_RUN = 60
VOCABULARY = 3  # few, so that guesses come true


def next_token(tokens, seed):
    """The 'model': a token that depends on all before it, mostly on the last few."""
    window = tokens if seed % 7 == 0 else tokens[-2:]
    return hashlib.blake2b(repr((seed % 3, window)).encode(), digest_size=2).digest()[0] % VOCABULARY


def answer(prompt, seed, count):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, seed))
    return tokens[len(prompt) :]


def make_request(prompt, seed=1, max_tokens=20, priority=0, salt=""):
    params = SamplingParams(max_tokens=max_tokens)
    return Request(list(prompt), params, seed, frozenset(), 10_000, priority=priority, cache_salt=salt)


class Machine:
    """A scheduler, its blocks, and what is written in them."""

    def __init__(self, num_blocks, *, grid=None, chunk=64, speculates=False):
        self.blocks, self.cost = BlockPool(num_blocks), CostModel()
        self.scheduler = Scheduler(self.blocks, self.cost, chunk=chunk, grid=grid, speculates=speculates)
        self.grid, self.chunk = grid, chunk
        self.memory = {}
        self.random = random.Random(0)
        self.num_guesses = self.num_right = self.num_steps = 0

    def entry(self, request, position, begin, end):
        """What a pass over [begin, end) writes for one position of a request."""
        tokens = request.prompt_ids + request.generated_ids
        shape = None if self.grid is None else (begin, end)
        return hash((tuple(tokens[: position + 1]), request.cache_salt, shape))

    def step(self):
        works = self.scheduler.schedule()
        assert len({id(work.sequence) for work in works}) == len(works)
        assert self.grid is not None or sum(work.count + len(work.guesses) for work in works) <= self.chunk
        for work in works:
            self.compute(work)
        self.scheduler.forget_finished()
        decode_rows = sum(work.count + len(work.guesses) for work in works if not work.sequence.is_prefilling)
        chunks = [(work.sequence.num_computed, work.count) for work in works if work.sequence.is_prefilling]
        if works:
            self.cost.observe(self.random.uniform(0.001, 0.1), decode_rows, chunks)
        self.num_steps += 1
        return works

    def compute(self, work):
        sequence, request = work.sequence, work.sequence.request
        begin, end = sequence.num_computed, sequence.num_computed + work.count
        assert 0 < work.count <= sequence.num_missing
        assert blocks_for(end + len(work.guesses)) <= len(sequence.blocks)
        self.check_attended(sequence, begin)
        for position in range(begin, end):
            self.write(sequence, position, self.entry(request, position, begin, end))
        for offset in range(len(work.guesses)):
            self.write(sequence, end + offset, "a guess")
        if self.grid is not None:
            solo = sequence.passes = [*getattr(sequence, "passes", []), (begin, end)]
            assert begin // self.grid == (end - 1) // self.grid, solo
        right = 0
        if end == request.num_tokens:
            for guess in [*work.guesses, None]:
                token = next_token(request.prompt_ids + request.generated_ids, request.seed)
                request.accept(TokenLogprob(token, 0.0))
                if token != guess or request.is_finished:
                    break
                self.write(sequence, end + right, self.entry(request, end + right, begin, end))
                right += 1
        self.num_guesses += len(work.guesses)
        self.num_right += right
        self.scheduler.computed(sequence, work.count + right)

    def write(self, sequence, position, entry):
        self.memory[sequence.blocks[position // BLOCK_TOKENS], position % BLOCK_TOKENS] = entry

    def check_attended(self, sequence, count):
        request = sequence.request
        found = [self.memory[sequence.blocks[p // BLOCK_TOKENS], p % BLOCK_TOKENS] for p in range(count)]
        if self.grid is None:
            assert found == [self.entry(request, position, 0, 0) for position in range(count)]
        else:
            ends = self.solo_ends(request, count)
            assert found == [self.entry(request, p, *ends[p]) for p in range(count)]

    def solo_ends(self, request, count):
        """The pass of each position if the request were alone: its prompt on the grid, then token by token."""
        prompt = len(request.prompt_ids)
        lines = [(b, min(b + self.grid, prompt)) for b in range(0, prompt, self.grid)]
        return [lines[p // self.grid] if p < prompt else (p, p + 1) for p in range(count)]

    def finish(self):
        """Run until nothing is left; everything must end."""
        for _ in range(20_000):
            if not (self.scheduler.waiting or self.scheduler.running):
                break
            self.step()
            self.scheduler.check_integrity()
        assert not self.scheduler.waiting
        assert not self.scheduler.running
        assert self.blocks.num_free == self.blocks.capacity
        self.blocks.check_integrity(held=[])


def run(machine, *requests):
    for request in requests:
        machine.scheduler.add(request)
    machine.finish()
    for request in requests:
        count = request.params.max_tokens
        assert request.generated_ids == answer(request.prompt_ids, request.seed, count)


# ---- Any history ----------------------------------------------------------------------------------------------


class AnyHistory(RuleBasedStateMachine):
    """Requests come with common beginnings, go, are aborted, and meet a pool that is too small for them."""

    @initialize(
        num_blocks=st.integers(4, 24),
        grid=st.sampled_from([None, None, 32, 64]),
        speculates=st.booleans(),
        max_running=st.sampled_from([2, 5, 32]),
    )
    def begin(self, num_blocks, grid, speculates, max_running):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(scheduler_module, "MAX_RUNNING", max_running)
        self.machine = Machine(num_blocks, grid=grid, speculates=speculates and grid is None)
        self.requests = []

    @rule(
        length=st.integers(1, 200),
        trunk=st.integers(0, 2),
        common=st.sampled_from([0, 31, 32, 64, 97, 128]),
        seed=st.integers(0, 5),
        max_tokens=st.integers(1, 90),
        priority=st.integers(-1, 1),
        salt=st.sampled_from(["", "", "a"]),
    )
    def add(self, length, trunk, common, seed, max_tokens, priority, salt):
        prompt = [trunk] * min(common, length) + [i % 5 + trunk for i in range(length - common)]
        request = make_request(prompt, seed, max_tokens, priority, salt)
        if blocks_for(length + max_tokens - 1) > self.machine.blocks.capacity:
            with pytest.raises(ContextError):
                self.machine.scheduler.add(request)
        else:
            self.machine.scheduler.add(request)
            self.requests.append(request)

    @rule(index=st.integers(0, 100), more=st.integers(1, 40), seed=st.integers(0, 5))
    def go_on(self, index, more, seed):
        """A conversation's next turn: the answer so far, and something new."""
        if self.requests:
            before = self.requests[index % len(self.requests)]
            prompt = before.prompt_ids + before.generated_ids + [4] * more
            if blocks_for(len(prompt) + 19) <= self.machine.blocks.capacity:
                self.requests.append(make_request(prompt, seed, salt=before.cache_salt))
                self.machine.scheduler.add(self.requests[-1])

    @rule(index=st.integers(0, 100))
    def abort(self, index):
        live = [request for request in self.requests if not request.is_finished]
        if live:
            live[index % len(live)].finish_reason = FinishReason.ABORT
            self.machine.scheduler.forget_finished()

    @rule(count=st.integers(1, 8))
    def step(self, count):
        for _ in range(count):
            self.machine.step()

    @invariant()
    def everything_adds_up(self):
        self.machine.scheduler.check_integrity()

    def teardown(self):
        if not hasattr(self, "machine"):
            return
        self.machine.finish()
        self.patch.undo()
        for request in self.requests:
            assert request.is_finished
            expected = answer(request.prompt_ids, request.seed, request.params.max_tokens)
            assert request.generated_ids == expected[: len(request.generated_ids)]
            if request.finish_reason is not FinishReason.ABORT:
                assert len(request.generated_ids) == len(expected)


AnyHistory.TestCase.settings = settings(max_examples=-(-STEPS // STEPS_A_RUN), stateful_step_count=STEPS_A_RUN)
TestAnyHistory = AnyHistory.TestCase


# ---- Sharing --------------------------------------------------------------------------------------------------

PROMPT = [i % 7 for i in range(100)]


def test_requests_with_one_prompt_that_come_together_compute_it_once():
    machine = Machine(64)
    requests = [make_request(PROMPT, seed) for seed in range(4)]
    computed = 0
    for request in requests:
        machine.scheduler.add(request)
    while machine.scheduler.waiting or machine.scheduler.running:
        computed += sum(work.count for work in machine.step() if len(work.sequence.request.generated_ids) == 1)
    assert [request.cached_tokens for request in requests] == [0, 96, 96, 96]
    assert computed < 2 * len(PROMPT)


def test_who_waits_for_a_prefix_goes_on_alone_when_the_one_who_computed_it_is_gone():
    machine = Machine(64, chunk=32)
    first, second = make_request(PROMPT, 1), make_request(PROMPT, 2)
    machine.scheduler.add(first)
    machine.scheduler.add(second)
    machine.step()
    assert len(machine.scheduler.waiting) == 1
    first.finish_reason = FinishReason.ABORT
    machine.scheduler.forget_finished()
    machine.finish()
    assert second.cached_tokens == 32
    assert len(second.generated_ids) == 20


def test_the_block_of_the_last_prompt_token_is_always_computed():
    for length, cached in ((32, 0), (33, 32), (64, 32), (65, 64)):
        machine = Machine(64)
        run(machine, make_request(PROMPT[:length]))
        again = make_request(PROMPT[:length])
        run(machine, again)
        assert again.cached_tokens == cached


def test_blocks_of_its_own_that_a_preempted_request_finds_again_are_no_hits(monkeypatch):
    machine = Machine(8)
    preempted = []
    preempt = machine.scheduler._preempt
    monkeypatch.setattr(machine.scheduler, "_preempt", lambda sequence: (preempted.append(sequence), preempt(sequence)))
    requests = [make_request([seed] * 40, seed, max_tokens=100) for seed in range(3)]
    run(machine, *requests)
    assert preempted
    assert [request.cached_tokens for request in requests] == [0, 0, 0]


def test_another_text_takes_what_the_steps_prompts_left():
    machine = Machine(64, chunk=200)
    machine.cost.tokens_within = lambda seconds, start: 100
    scheduler = machine.scheduler
    assert scheduler.room_beside(0) == 100
    scheduler.add(make_request(PROMPT[:1], 1))
    machine.step()
    assert scheduler.room_beside(0) == 99
    machine.step()
    assert scheduler.room_beside(0) == 100
    scheduler.add(make_request(PROMPT[:60], 2))
    scheduler.schedule()
    assert scheduler.room_beside(0) == 40


def test_a_salt_hides_prefixes_from_others():
    machine = Machine(64)
    run(machine, make_request(PROMPT, salt="a"))
    other, same = make_request(PROMPT, salt="b"), make_request(PROMPT, salt="a")
    run(machine, other, same)
    assert (other.cached_tokens, same.cached_tokens) == (0, 96)


def test_an_answer_is_found_by_a_prompt_that_goes_on_behind_it():
    machine = Machine(64)
    first = make_request(PROMPT, max_tokens=60)
    run(machine, first)
    second = make_request(PROMPT + first.generated_ids + [1, 2, 3])
    run(machine, second)
    assert second.cached_tokens == 128  # of 160 tokens; the last one drawn was never computed


def test_on_a_grid_only_whole_cells_of_the_prompt_are_shared():
    machine = Machine(64, grid=64)
    run(machine, make_request(PROMPT, max_tokens=60))
    again = make_request(PROMPT, max_tokens=60)
    run(machine, again)
    # Its answer was computed token by token, which gives other bits than a prompt.
    longer = make_request(PROMPT + again.generated_ids)
    run(machine, longer)
    assert (again.cached_tokens, longer.cached_tokens) == (64, 64)


# ---- Room -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [None, 32])
def test_preempted_requests_get_the_same_tokens(grid):
    machine = Machine(8, grid=grid)
    requests = [make_request([seed] * 40, seed, max_tokens=100) for seed in range(4)]
    preempted = []
    preempt = machine.scheduler._preempt
    machine.scheduler._preempt = lambda sequence: (preempted.append(sequence.number), preempt(sequence))
    run(machine, *requests)
    assert preempted
    assert 1 not in preempted  # the first never has to go


def test_a_lower_priority_goes_first_and_makes_others_go():
    machine = Machine(8)
    low = [make_request([i] * 90, max_tokens=60, priority=1) for i in range(2)]
    for request in low:
        machine.scheduler.add(request)
    machine.step()
    urgent = make_request([9] * 90, max_tokens=60, priority=-1)
    machine.scheduler.add(urgent)
    while not urgent.is_finished:
        machine.step()
        assert urgent in [each.request for each in machine.scheduler.running] or urgent.is_finished
    assert not any(request.is_finished for request in low)
    machine.finish()
    assert all(len(request.generated_ids) == 60 for request in low)


def test_a_request_that_could_never_fit_is_refused_at_once_with_the_numbers():
    machine = Machine(4)
    with pytest.raises(ContextError, match="100 tokens with its answer may take 130 tokens, and the cache holds 128"):
        machine.scheduler.add(make_request(PROMPT, max_tokens=30))
    run(machine, make_request(PROMPT, max_tokens=29))


def test_at_most_so_many_run_at_once():
    machine = Machine(1000)
    for seed in range(MAX_RUNNING + 3):
        machine.scheduler.add(make_request([seed % 5, 2], seed))
    machine.step()
    assert len(machine.scheduler.running) == MAX_RUNNING
    machine.finish()


# ---- Time -----------------------------------------------------------------------------------------------------


def measured(machine, *, decode=0.05, token=0.01):
    for _ in range(30):
        machine.cost.observe(decode, 1, [])
        machine.cost.observe(100 * token, 0, [(0, 100)])


def test_a_long_prompt_delays_who_generates_by_about_a_step():
    machine = Machine(1000, chunk=512)
    measured(machine, decode=0.16)
    generating = make_request([1], max_tokens=100)
    machine.scheduler.add(generating)
    machine.step()
    machine.scheduler.add(make_request(range(3000), max_tokens=1))
    for _ in range(20):
        before = len(generating.generated_ids)
        works = {work.sequence.request: work for work in machine.scheduler.schedule()}
        assert works[generating].count == 1
        (chunk,) = [work.count for request, work in works.items() if request is not generating]
        assert 16 <= chunk <= 16 * 1.3  # 16 tokens of 10 ms are the least, and take as long as the token's 160 ms
        for work in works.values():
            machine.compute(work)
        assert len(generating.generated_ids) == before + 1


def test_with_nobody_generating_passes_are_full():
    machine = Machine(1000, chunk=128)
    machine.scheduler.add(make_request(range(3000)))
    assert [work.count for work in machine.scheduler.schedule()] == [128]


def test_prompts_share_a_pass_and_short_ones_do_not_wait_for_long_ones():
    machine = Machine(1000, chunk=128)
    for length in (3000, 2000, 20):
        machine.scheduler.add(make_request([length] * length))
    counts = {len(work.sequence.request.prompt_ids): work.count for work in machine.scheduler.schedule()}
    assert counts == {3000: 64, 20: 20, 2000: 44}


def test_the_wait_is_estimated_from_prompts_that_are_queued():
    machine = Machine(1000)
    measured(machine)
    assert machine.scheduler.backlog_seconds == 0
    machine.scheduler.add(make_request(range(500)))
    assert 3 < machine.scheduler.backlog_seconds < 8
    machine.finish()
    assert machine.scheduler.backlog_seconds == 0


def test_prompts_are_priced_by_their_context():
    cost = CostModel()
    for i in range(200):
        start = i % 20 * 500
        cost.observe(64 * (0.001 + 1e-6 * (start + 32)), 0, [(start, 64)])
    assert cost.token_seconds(0) == pytest.approx(0.001, rel=0.2)
    assert cost.token_seconds(10_000) == pytest.approx(0.011, rel=0.2)
    assert cost.tokens_within(0.1, 0) > 4 * cost.tokens_within(0.1, 9_000) > 0


def test_a_prompt_in_a_shared_pass_is_charged_without_the_tokens_beside_it():
    cost = CostModel()
    for _ in range(50):
        cost.observe(0.04, 4, [])
        cost.observe(0.04 + 0.032, 4, [(0, 32)])
    assert cost.token_seconds(16) == pytest.approx(0.001, rel=0.1)
