"""The engine: computes what the scheduler says, one step at a time.

A request's tokens are the same whatever runs beside it. Where the model's rows do not depend on one another (native
kernels), all requests share one pass, which reads the weights once; their prompts may be cut anywhere and may begin
with blocks that others computed. Torch's matrix products choose other summation orders for other row counts, so with
them each request runs by itself, in shapes that depend on it alone.

Decides nothing about who runs: here plans meet tensors.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3.engine.attend import cached_attend
from qwen3.engine.blocks import BLOCK_TOKENS, BlockPool, blocks_for
from qwen3.engine.cache import KVCache, PagePool
from qwen3.engine.cost import CostModel
from qwen3.engine.request import FinishReason, Request, RequestError
from qwen3.engine.sampler import sample
from qwen3.engine.scheduler import Scheduler, Work
from qwen3.model import Qwen3

# Most tokens of one pass: bounds the activations' memory. The native kernels are at full speed with fewer. Torch's
# passes are cut at multiples of theirs.
NATIVE_CHUNK, TORCH_CHUNK, GPU_CHUNK = 512, 512, 2048
# What a request that arrives while the engine is idle may have to wait for.
_IDLE_SECONDS = 0.05
_MOST_REMEMBERED = 32
_UNLIMITED = 2**40
_OVER = object()

Prompt = Callable[[], Sequence[int]]


def chunk_of(model: Qwen3) -> int:
    """The most tokens of one pass."""
    if model.is_packed:
        return NATIVE_CHUNK
    return TORCH_CHUNK if model.device.type == "cpu" else GPU_CHUNK


def make_pool(model: Qwen3, kv_format: str | None) -> PagePool:
    """Pages for a model, none of them made yet. Raises RequestError for a format where there is no choice."""
    if kv_format is not None and not model.is_packed:
        raise RequestError(
            f"kv {kv_format!r} is for models on the native kernels (weights int8 or int4, or a GGUF file); "
            f"this one keeps keys and values in {str(model.dtype).removeprefix('torch.')}"
        )
    return PagePool(model.config, model.dtype, model.device, (kv_format or "bf16") if model.is_packed else None)


@dataclass(frozen=True)
class Load:
    """What an engine holds now: requests, and the share of the cache's blocks that they take."""

    running: int
    waiting: int
    cache_used: float


class Engine:
    """Runs requests on one model. Not thread-safe: one caller steps it."""

    def __init__(
        self,
        model: Qwen3,
        kv_format: str | None = None,
        *,
        num_blocks: int = _UNLIMITED,
        speculates: bool = False,
    ) -> None:
        """Take `model`, whose weights stay as they are.

        Args:
            kv_format: of `ops.paged.KV_FORMATS`, how a packed model keeps keys and values; None takes bf16.
            num_blocks: the most blocks of 32 positions that are ever held. Their memory is taken when one is first
                used: whoever sets a limit has seen that it is there (`engine.capacity`).
            speculates: guess tokens where that pays; changes no token. Only for models with independent rows.

        Raises RequestError for a `kv_format` where there is no choice: other models keep keys and values in their
        dtype.
        """
        self._model = model
        self.pool = make_pool(model, kv_format)
        self.blocks = BlockPool(num_blocks)
        is_free = model.has_independent_rows
        self._chunk = chunk_of(model)
        self._cost = CostModel()
        self.scheduler = Scheduler(
            self.blocks,
            self._cost,
            chunk=self._chunk,
            grid=None if is_free else self._chunk,
            speculates=speculates and is_free,
        )
        self._beside: deque[Iterator[object]] = deque()
        self._to_remember: deque[tuple[Prompt, str]] = deque(maxlen=_MOST_REMEMBERED)
        self._remembering: tuple[list[int], list[bytes]] | None = None

    # ---- Requests ---------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Queue a request. Raises ContextError for one that could not end, as `check` does."""
        self.scheduler.add(request)

    def check(self, request: Request) -> None:
        """Raise ContextError, with the numbers, for a request that the blocks could not hold. From any thread."""
        self.scheduler.check(request)

    def abort(self, request: Request, reason: FinishReason = FinishReason.ABORT) -> None:
        """End a request now and free its blocks; nothing happens to one that has ended."""
        if not request.is_finished:
            request.finish_reason = reason
        self.scheduler.forget_finished()

    @property
    def has_work(self) -> bool:
        return bool(self.scheduler.waiting or self.scheduler.running or self._beside)

    @property
    def load(self) -> Load:
        """From any thread."""
        scheduler, blocks = self.scheduler, self.blocks
        used = 1 - blocks.num_free / blocks.capacity
        return Load(len(scheduler.running), len(scheduler.waiting), used)

    @property
    def backlog_seconds(self) -> float:
        """About how long a request that came now would wait for its first token."""
        return self.scheduler.backlog_seconds

    def step(self) -> None:
        """Advance what runs: who generates by a token at least, prompts by a chunk; and one of `run_beside`."""
        with self._computing():
            works = self.scheduler.schedule()
            forwards = [works] if self._model.has_independent_rows else [[work] for work in works]
            for each in forwards:
                if each:
                    self._advance(each)
            self.scheduler.forget_finished()
        if self._beside:
            passes = self._beside.popleft()
            if next(passes, _OVER) is not _OVER:
                self._beside.append(passes)

    def run_beside(self, passes: Iterator[object]) -> None:
        """Take `passes` one by one, in turn with others that were given so, each after a step of the requests."""
        self._beside.append(passes)

    def hidden(self, token_ids: Sequence[int]) -> Tensor:
        """Hidden states [T, D] of a text of its own, in passes as a request's prompt takes them.

        Raises RequestError if running requests leave too few blocks.
        """
        return torch.cat(list(self.hidden_chunks(token_ids)))

    def hidden_chunks(self, token_ids: Sequence[int]) -> Iterator[Tensor]:
        """`hidden`, pass by pass; others may run between them, and make the passes shorter."""
        if not self.blocks.can_allocate(blocks_for(len(token_ids))):
            raise RequestError(
                f"{len(token_ids)} tokens need more than the {self.blocks.num_free} blocks that are free"
            )
        blocks = self.blocks.allocate(blocks_for(len(token_ids)))
        cache = KVCache(self.pool, self.pool.pages(blocks))
        try:
            done = 0
            while done < len(token_ids):
                ids = token_ids[done : done + self.scheduler.room_beside(done)]
                with self._computing():
                    hidden_nD = self._forward([cache], [ids])
                done += len(ids)
                yield hidden_nD
        finally:
            self.blocks.release(blocks)

    def hidden_beside(self, token_ids: Sequence[int]) -> Iterator[Tensor | None]:
        """`hidden_chunks` for `run_beside`: None while there is no room, which is then kept for it."""
        needed = blocks_for(len(token_ids))
        try:
            while not self.blocks.can_allocate(needed):
                self.scheduler.num_reserved = max(self.scheduler.num_reserved, needed)
                yield None
        finally:
            self.scheduler.num_reserved = 0
        yield from self.hidden_chunks(token_ids)

    # ---- While nobody waits -----------------------------------------------------------------------------------

    def remember(self, prompt: Prompt, cache_salt: str = "") -> None:
        """Have `prompt`'s tokens, which are asked for then, in the cache when there is time (`idle_step`)."""
        self._to_remember.append((prompt, cache_salt))

    @property
    def has_idle_work(self) -> bool:
        return self._remembering is not None or bool(self._to_remember)

    def idle_step(self) -> None:
        """Compute a few blocks of what is to be remembered. Between two calls it holds none."""
        if self._remembering is None:
            prompt, cache_salt = self._to_remember.popleft()
            token_ids = list(prompt())
            self._remembering = token_ids, self.scheduler.shareable(token_ids, cache_salt)
        token_ids, digests = self._remembering
        part = self.scheduler.next_shared(digests, _IDLE_SECONDS)
        if part is None:
            self._remembering = None
            return
        blocks, start, count = part
        started = time.perf_counter()
        try:
            with self._computing():
                self._forward([KVCache(self.pool, self.pool.pages(blocks), start)], [token_ids[start : start + count]])
            for index in range(start // BLOCK_TOKENS, len(blocks)):
                self.blocks.publish(blocks[index], digests[index])
        finally:
            self.blocks.release(blocks)
        self._cost.observe(time.perf_counter() - started, 0, [(start, count)])

    # ---- Passes -----------------------------------------------------------------------------------------------

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Without gradients; and beside the native kernels' threads torch's own would only be in the way."""
        num_threads = torch.get_num_threads()
        if self._model.is_packed:
            torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(num_threads)

    def _forward(self, caches: Sequence[KVCache], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Hidden states of the next tokens of several sequences, whose caches then hold them."""
        counts = [len(chunk) for chunk in chunks]
        tokens_T = torch.tensor([token for chunk in chunks for token in chunk])
        positions_T = torch.cat([torch.arange(c.length, c.length + n) for c, n in zip(caches, counts, strict=True)])
        device = self._model.device
        hidden_TD = self._model(tokens_T.to(device), positions_T.to(device), cached_attend(caches, counts))
        for cache, count in zip(caches, counts, strict=True):
            cache.advance(count)
        return hidden_TD

    def _advance(self, works: Sequence[Work]) -> None:
        """One pass over the next tokens of several sequences, and the tokens that its rows draw."""
        started = time.perf_counter()
        starts = [work.sequence.num_computed for work in works]
        caches = [
            KVCache(self.pool, self.pool.pages(work.sequence.blocks), start)
            for work, start in zip(works, starts, strict=True)
        ]
        chunks = [
            work.sequence.request.tokens_from(start, work.count) + work.guesses
            for work, start in zip(works, starts, strict=True)
        ]
        hidden_TD = self._forward(caches, chunks)
        # The rows that draw: of who has no token left to compute, the last one's and those of the guesses behind it.
        rows, end = [], 0
        for work, chunk in zip(works, chunks, strict=True):
            end += len(chunk)
            if work.count == work.sequence.num_missing:
                rows += range(end - len(work.guesses) - 1, end)
        logits = iter(self._model.logits(hidden_TD[rows]).float() if rows else ())
        for work in works:
            is_complete = work.count == work.sequence.num_missing
            drawn = self._draw(work, [next(logits) for _ in range(1 + len(work.guesses))]) if is_complete else 0
            self.scheduler.computed(work.sequence, work.count + max(drawn - 1, 0))
        self._note_times(works, starts, time.perf_counter() - started)

    def _draw(self, work: Work, logits: Sequence[Tensor]) -> int:
        """Take tokens from rows of logits for as long as the request is what the rows were computed for; how many
        rows that were."""
        request = work.sequence.request
        end = request.num_tokens
        for index, logits_V in enumerate(logits):
            # A row is worth something if all tokens up to it are the request's; then it is its last one's or it is not
            # needed, because what follows was forced.
            if request.is_finished or request.tokens_from(end, index) != work.guesses[:index]:
                return index
            if request.num_tokens == end + index:
                drawn = sample(
                    logits_V,
                    request.params,
                    request.generated_ids,
                    request.seed,
                    request.stop_ids,
                    request.mask(),
                )
                request.accept(drawn)
        return len(logits)

    def _note_times(self, works: Sequence[Work], starts: Sequence[int], seconds: float) -> None:
        num_rows, chunks = 0, []
        for work, start in zip(works, starts, strict=True):
            request = work.sequence.request
            if start < len(request.prompt_ids):
                request.prefill_seconds += seconds
            else:
                request.decode_seconds += seconds
            if start < work.sequence.prefill_end:
                chunks.append((start, work.count))
            else:
                num_rows += work.count + len(work.guesses)
        self._cost.observe(seconds, num_rows, chunks)
