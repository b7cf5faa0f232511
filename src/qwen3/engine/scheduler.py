"""Who computes what in the next step.

All sequences that generate go on by their next token, and prompts fill the rest of a time: while anybody waits for the
next token, the prompts' part may take as long as the tokens' part (or STALL_SECONDS, if that is longer), so a long
prompt delays nobody by more than about a step; otherwise a pass is full. Of several prompts the most urgent gets half,
and the shortest ones the rest.

Urgency is vLLM's: the lower `Request.priority` first, and among equals who came first. Sequences start when the blocks
for what they hold so far are free; room for more comes as they grow. Where there is none, the least urgent one goes
back to the queue and its blocks are free: it is computed again later, to the same tokens, because noise is keyed by
seed and position. Whoever needs a prefix that a running sequence is computing waits for that.

Passes have a shape of their own (`grid`) for models whose results depend on it: a prompt is then cut at multiples of
`grid` tokens only, whoever else is there, and a sequence that is computed again is cut as it was the first time.

Pure bookkeeping over ids and counts; moves no tensors and draws no tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from qwen3.engine.blocks import BLOCK_TOKENS, BlockPool, blocks_for
from qwen3.engine.cost import CostModel
from qwen3.engine.request import ContextError, Request
from qwen3.engine.speculate import PromptLookup, num_paying

MAX_RUNNING = 32
STALL_SECONDS = 0.02
# Of a pass in which nobody waits for a token: what an abort may have to wait for.
FULL_SECONDS = 2.0
_LEAST_CHUNK, _LEAST_FULL_CHUNK = 16, 64


@dataclass(eq=False)
class Sequence:
    """A request with what is held for it. The first `num_computed` positions of its blocks are filled."""

    request: Request
    number: int
    """In order of arrival."""
    lookup: PromptLookup | None
    started: float = field(default_factory=time.monotonic)
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    """Of its first blocks; kept over a preemption, as tokens never change."""
    num_computed: int = 0
    prefill_end: int = 0
    """The tokens that it had when it was admitted: beyond them it is generating."""
    is_shareable: bool = True
    """Whether its blocks so far have the bits that they would have for any sequence."""
    ends: list[int] = field(default_factory=list)
    """Where its passes ended, if that matters."""

    @property
    def urgency(self) -> tuple[int, int]:
        return self.request.priority, self.number

    @property
    def is_prefilling(self) -> bool:
        return self.num_computed < self.prefill_end

    @property
    def num_missing(self) -> int:
        """Tokens that are known and not computed."""
        return self.request.num_tokens - self.num_computed


@dataclass(frozen=True)
class Work:
    """What one sequence computes in a step: its next `count` tokens, and `guesses` of those that may follow them."""

    sequence: Sequence
    count: int
    guesses: list[int] = field(default_factory=list)


class Scheduler:
    """Holds the queue and the running sequences. Each step: `schedule`, then for each work `computed`."""

    def __init__(
        self, blocks: BlockPool, cost: CostModel, *, chunk: int, grid: int | None, speculates: bool = False
    ) -> None:
        """`chunk` is the most tokens of a step; `grid`, a multiple of the block, is for models whose rows depend on
        the shape of their pass, which then is one sequence's own."""
        assert grid is None or grid % BLOCK_TOKENS == 0
        self._blocks, self._cost, self._chunk, self._grid = blocks, cost, chunk, grid
        self._speculates = speculates
        self._num_added = 0
        self._num_prompt_tokens = 0  # of the step
        self._request_seconds = 0.0
        self.num_reserved = 0
        """Blocks that no further sequence may take: another text waits for them."""
        self._computing: dict[bytes, Sequence] = {}
        """Digests of prompts' blocks that will be published by who is computing them."""
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []

    def check(self, request: Request) -> None:
        """Raise ContextError for a request that could not end even if it had all blocks for itself."""
        longest = request.max_length
        if request.params.max_tokens is not None:
            longest = min(longest, len(request.prompt_ids) + request.params.max_tokens)
        if blocks_for(longest - 1) > self._blocks.capacity:
            raise ContextError(
                f"the prompt of {len(request.prompt_ids)} tokens with its answer may take {longest} tokens, and the "
                f"cache holds {self._blocks.capacity * BLOCK_TOKENS}: lower max_tokens, or give the cache more memory"
            )

    def add(self, request: Request) -> None:
        """Queue a request. Raises as `check` does."""
        self.check(request)
        self._num_added += 1
        lookup = PromptLookup() if self._speculates else None
        self.waiting.append(Sequence(request, self._num_added, lookup))

    def start_filled(self, request: Request, num_computed: int) -> Sequence:
        """Run a request as if so many of its positions were filled, and share nothing of it: for measurements."""
        self.add(request)
        sequence = self.waiting.pop()
        sequence.blocks = self._blocks.allocate(blocks_for(request.num_tokens))
        sequence.num_computed, sequence.prefill_end, sequence.is_shareable = num_computed, request.num_tokens, False
        self.running.append(sequence)
        return sequence

    def forget_finished(self) -> None:
        """Drop what has ended, and free its blocks."""
        for sequence in self.running:
            if sequence.request.is_finished:
                seconds = time.monotonic() - sequence.started
                self._request_seconds += 0.2 * (seconds - self._request_seconds)
                self._release(sequence)
        self.running = [each for each in self.running if not each.request.is_finished]
        self.waiting = [each for each in self.waiting if not each.request.is_finished]

    @property
    def backlog_seconds(self) -> float:
        """About how long a request that came now would wait for its first token."""
        queued = [each for each in (*self.waiting, *self.running) if each.is_prefilling or not each.blocks]
        prompts = sum(self._cost.prefill_seconds(each.num_computed, each.num_missing) for each in queued)
        return prompts + self._request_seconds * (len(self.waiting) // MAX_RUNNING)

    def schedule(self) -> list[Work]:
        """The next step's work, with blocks for it; of one sequence at most once."""
        self._admit()
        works = self._decoding()
        room = self._chunk - sum(work.count for work in works)
        prompts = sorted((each for each in self.running if each.is_prefilling), key=lambda each: each.urgency)
        if prompts and self._grid is not None:
            works += self._whole_chunks(prompts)
        elif prompts:
            start = max(each.num_computed for each in prompts)
            budget = self._budget(sum(work.count for work in works), start)
            works += self._prompts(prompts, min(room, budget))
        elif works and self._speculates:
            works = self._with_guesses(works)
        self._num_prompt_tokens = sum(work.count for work in works if work.sequence.is_prefilling)
        return works

    def computed(self, sequence: Sequence, count: int) -> None:
        """Note that a sequence's next `count` positions are filled, with tokens that are its own for good."""
        sequence.num_computed += count
        sequence.request.num_computed = sequence.num_computed
        if self._grid is not None:
            sequence.is_shareable &= count == self._grid
            if sequence.num_computed > max(sequence.ends[-1:], default=0):
                sequence.ends.append(sequence.num_computed)
        if sequence.is_shareable:
            first = (sequence.num_computed - count) // BLOCK_TOKENS
            for index in range(first, sequence.num_computed // BLOCK_TOKENS):
                digest = self._digests(sequence, index + 1)[index]
                self._blocks.publish(sequence.blocks[index], digest)
                self._computing.pop(digest, None)

    # ---- Prefixes that nobody asked for yet -------------------------------------------------------------------

    def shareable(self, token_ids: list[int], cache_salt: str) -> list[bytes]:
        """Digests of the blocks of a prompt that others can share."""
        count = len(token_ids) // BLOCK_TOKENS // self._unit * self._unit
        return self._extend([], token_ids, cache_salt, count)

    def next_shared(self, digests: list[bytes], seconds: float) -> tuple[list[int], int, int] | None:
        """Blocks up to the end of the next part of a prompt that takes about so long to compute.

        Gives blocks, which are held, the start of the part and its length in tokens; None if nothing is left to do, or
        there is no room.
        """
        hits = self._hits(digests)
        start = len(hits) * BLOCK_TOKENS
        count = max(self._cost.tokens_within(seconds, start) // BLOCK_TOKENS, 1)
        count = self._unit if self._grid is not None else min(count, len(digests) - len(hits))
        if len(hits) == len(digests) or count > self._blocks.num_free_without(hits):
            return None
        self._blocks.share(hits)
        return hits + self._blocks.allocate(count), start, count * BLOCK_TOKENS

    # ---- Composition ------------------------------------------------------------------------------------------

    def _decoding(self) -> list[Work]:
        works = []
        room = self._chunk
        for sequence in sorted(self.running, key=lambda each: each.urgency):
            if sequence.is_prefilling or not sequence.blocks or not room:
                continue
            count = min(sequence.num_missing, room)
            if self._grid is not None:
                count = self._grid_count(sequence)
            if self._grow(sequence, sequence.num_computed + count):
                works.append(Work(sequence, count))
                room -= count
        return works

    def room_beside(self, start: int) -> int:
        """Tokens of another text, of which `start` are computed, that may follow a step: what its prompts left."""
        if self._grid is not None:
            return self._chunk
        num_rows = sum(not each.is_prefilling for each in self.running)
        left = self._budget(num_rows, start) - (self._num_prompt_tokens if self.running else 0)
        return max(min(self._chunk, left), _LEAST_CHUNK)

    def _budget(self, num_rows: int, start: int) -> int:
        """Tokens of prompts, behind at most `start` others, that a step may take beside so many rows of decoding."""
        if not num_rows:
            return max(self._cost.tokens_within(FULL_SECONDS, start), _LEAST_FULL_CHUNK)
        beside = self._cost.decode_seconds(num_rows)
        return max(self._cost.tokens_within(max(beside, STALL_SECONDS), start), _LEAST_CHUNK)

    def _prompts(self, prompts: list[Sequence], budget: int) -> list[Work]:
        """Chunks of together at most `budget` tokens, the most urgent prompt's first."""
        first, *others = prompts
        wanted = sum(each.num_missing for each in others)
        works = []
        for sequence in (first, *sorted(others, key=lambda each: (each.request.priority, each.num_missing))):
            most = max(budget - wanted, budget // 2) if sequence is first else budget
            count = min(most, sequence.num_missing)
            if count > 0:
                works.append(Work(sequence, count))
                budget -= count
        return works

    def _whole_chunks(self, prompts: list[Sequence]) -> list[Work]:
        """As many as make a full step, at least the most urgent one's."""
        works: list[Work] = []
        room = self._chunk
        for sequence in prompts:
            count = self._grid_count(sequence)
            if count <= room or not works:
                works.append(Work(sequence, count))
                room -= count
        return works

    def _grid_count(self, sequence: Sequence) -> int:
        """Tokens up to where the pass must end: as it did before, else at the next line of the grid."""
        start = sequence.num_computed
        before = (end - start for end in sequence.ends if end > start)
        return min(sequence.num_missing, self._grid - start % self._grid, *before)

    def _with_guesses(self, works: list[Work]) -> list[Work]:
        """The same, and as many guesses as make a token cheaper."""
        guesses = [work.sequence.lookup.guess(work.sequence.request) for work in works]
        chances = [
            (work.sequence.lookup.acceptance ** (i + 1), index, i)
            for index, work in enumerate(works)
            for i in range(len(guesses[index]))
        ]
        chances.sort(reverse=True)
        num_rows = sum(work.count for work in works)
        most = self._chunk - num_rows
        num_taken = num_paying([chance for chance, *_ in chances[:most]], len(works), num_rows, self._cost)
        lengths = [0] * len(works)
        for _, index, i in chances[:num_taken]:
            lengths[index] = i + 1
        return [
            Work(work.sequence, work.count, guess[: self._room_for_guesses(work, length)])
            for work, guess, length in zip(works, guesses, lengths, strict=True)
        ]

    def _room_for_guesses(self, work: Work, wanted: int) -> int:
        """How many of `wanted` more positions there are blocks for, without taking any from others."""
        sequence = work.sequence
        end = sequence.num_computed + work.count
        missing = blocks_for(end + wanted) - len(sequence.blocks)
        if wanted and missing > 0 and self._blocks.can_allocate(missing):
            sequence.blocks += self._blocks.allocate(missing)
        return min(wanted, len(sequence.blocks) * BLOCK_TOKENS - end)

    # ---- Blocks -----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start, in order of urgency, what there is room for; the first that must wait for room holds up the rest."""
        for sequence in sorted(self.waiting, key=lambda each: each.urgency):
            num_shareable = self._num_shareable(sequence)
            digests = self._digests(sequence, num_shareable)[:num_shareable]
            hits = self._hits(digests)
            if len(hits) < num_shareable:
                owner = self._computing.get(digests[len(hits)])
                if owner is not None and owner.request.priority <= sequence.request.priority:
                    continue
            if not self._make_room(sequence, hits):
                return
            self._blocks.share(hits)
            needed = blocks_for(sequence.request.num_tokens) - len(hits)
            sequence.blocks = hits + self._blocks.allocate(needed)
            if not sequence.prefill_end:  # afterwards the blocks found may be its own
                sequence.request.cached_tokens = len(hits) * BLOCK_TOKENS
            sequence.num_computed = len(hits) * BLOCK_TOKENS
            sequence.prefill_end = sequence.request.num_tokens
            sequence.is_shareable = True
            self._computing |= {digest: sequence for digest in digests[len(hits) :] if digest not in self._computing}
            self.waiting.remove(sequence)
            self.running.append(sequence)

    def _make_room(self, sequence: Sequence, hits: list[int]) -> bool:
        """Whether a place and blocks are free, if need be after those with a lower priority have gone."""
        victims = [each for each in self.running if each.request.priority > sequence.request.priority]
        victims.sort(key=lambda each: each.urgency)
        while not self._has_room(sequence, hits):
            if not victims:
                return False
            self._preempt(victims.pop())
        return True

    def _has_room(self, sequence: Sequence, hits: list[int]) -> bool:
        # One block more for each that runs: who is admitted must not be the first to be sent away.
        needed = blocks_for(sequence.request.num_tokens) - len(hits) + len(self.running)
        room = self._blocks.num_free_without(hits) - self.num_reserved
        return len(self.running) < MAX_RUNNING and needed <= room

    def _grow(self, sequence: Sequence, num_positions: int) -> bool:
        """Give it the blocks for so many positions; False if it was itself the one that had to go."""
        missing = blocks_for(num_positions) - len(sequence.blocks)
        while missing > 0 and not self._blocks.can_allocate(missing):
            victim = max(self.running, key=lambda each: each.urgency)
            self._preempt(victim)
            if victim is sequence:
                return False
        if missing > 0:
            sequence.blocks += self._blocks.allocate(missing)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        self.running.remove(sequence)
        self.waiting.append(sequence)

    def _release(self, sequence: Sequence) -> None:
        for digest in sequence.digests:
            if self._computing.get(digest) is sequence:
                del self._computing[digest]
        self._blocks.release(sequence.blocks)
        sequence.blocks, sequence.num_computed = [], 0

    @property
    def _unit(self) -> int:
        """Blocks that are shared together."""
        return 1 if self._grid is None else self._grid // BLOCK_TOKENS

    def _num_shareable(self, sequence: Sequence) -> int:
        """Blocks that may come from others: whole ones, and never the last token's, whose row of logits is needed."""
        num_tokens = sequence.request.num_tokens - 1
        if self._grid is not None:
            num_tokens = min(num_tokens, len(sequence.request.prompt_ids))
        return num_tokens // BLOCK_TOKENS // self._unit * self._unit

    def _hits(self, digests: list[bytes]) -> list[int]:
        """The blocks of the longest cached beginning, not yet held."""
        hits = self._blocks.cached_prefix(digests)
        return hits[: len(hits) // self._unit * self._unit]

    def _digests(self, sequence: Sequence, count: int) -> list[bytes]:
        """At least the first `count` of its blocks' digests."""
        request, known = sequence.request, len(sequence.digests)
        tokens = request.tokens_from(known * BLOCK_TOKENS, (count - known) * BLOCK_TOKENS) if count > known else []
        return self._extend(sequence.digests, tokens, request.cache_salt, count - known)

    def _extend(self, digests: list[bytes], token_ids: list[int], cache_salt: str, count: int) -> list[bytes]:
        """`digests` with those of `count` more blocks, whose tokens `token_ids` begins with."""
        for begin in range(0, count * BLOCK_TOKENS, BLOCK_TOKENS):
            parent = digests[-1] if digests else cache_salt
            digests.append(self._blocks.digest(parent, token_ids[begin : begin + BLOCK_TOKENS]))
        return digests

    def check_integrity(self) -> None:
        """Raise AssertionError where the sequences and the pool disagree."""
        held: Iterable[int] = [block for each in self.running for block in each.blocks]
        self._blocks.check_integrity(held)
        for each in self.running:
            assert each.num_computed <= len(each.blocks) * BLOCK_TOKENS
        assert not any(each.blocks for each in self.waiting)
        assert all(owner in self.running for owner in self._computing.values())
