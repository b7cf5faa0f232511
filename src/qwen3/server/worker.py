"""The engine thread: one thread owns the `LLM` and steps it for all requests together.

The event loop hands over generations through a queue and gets their events back with `call_soon_threadsafe`: the engine
never waits for a socket, and the loop never touches a tensor. A request that joins between two steps shares the next
one with those that run. While nobody waits, the engine computes ahead (`LLM.idle_step`), a little at a time. It
does not know HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from qwen3.engine.request import Finished
from qwen3.server import limits

if TYPE_CHECKING:
    from qwen3.engine.llm import LLM

_log = logging.getLogger(__name__)

_BACKLOG_SECONDS = 0.05  # how old the estimate may be
# What fast steps give is read and handed over together: it costs less so, and each time wakes the event loop, which
# then takes from the engine's cores and lock. Nobody sees fifty changes a second.
_DELIVERY_SECONDS = 0.02


class Unavailable(RuntimeError):  # noqa: N818 - a state of the server, not a fault
    """The server takes no request now; a later one may succeed."""


class EngineFailure(RuntimeError):  # noqa: N818
    """This request's computation has failed; the log has the cause."""


class Work(Protocol):
    """What a `Generation` is to the engine thread."""

    prompt_ids: Sequence[int]
    is_done: bool

    @property
    def is_due(self) -> bool:
        """Whether `poll` must follow this step. Otherwise it may wait, and gives more at once."""
        ...

    def start(self) -> None: ...
    def poll(self) -> Sequence[Any]: ...
    def cancel(self) -> None: ...
    def end_thinking(self) -> None: ...
    @property
    def finished(self) -> Finished: ...


Batch = list[tuple[int, Any]]
"""Events, each with the number of the generation that it belongs to."""


class Stream:
    """One request's events, for the event loop. Whoever has it calls `close` in the end, however it ends."""

    generations: Sequence[Work]
    """One, or for a request with several answers one each."""

    def __init__(self) -> None:
        self._arrived: Batch = []
        self._failure: EngineFailure | None = None
        self._change = asyncio.Event()
        self._on_close: list[Callable[[], object]] = []
        self.is_closed = False
        """Read by the engine thread before each step: what is closed is computed no further."""
        self.has_begun = False
        """Whether the engine thread has handed over events."""

    async def batches(self, idle: float | None = None) -> AsyncIterator[Batch]:
        """What came since the last batch, until each generation's Finished; an empty one if nothing came for `idle`
        seconds. Who asks late gets more at once. Raises EngineFailure."""
        loop = asyncio.get_running_loop()
        silent_since = loop.time()

        def tick() -> None:
            nonlocal timer
            rest = silent_since + idle - loop.time()
            if rest <= 0:
                self._change.set()
            timer = loop.call_later(rest if rest > 0 else idle, tick)

        # One timer for the whole stream: a timeout for each batch would cost more than the batch.
        timer = None if idle is None else loop.call_later(idle, tick)
        try:
            num_open = len(self.generations)
            while num_open:
                await self._change.wait()
                self._change.clear()
                silent_since = loop.time()
                batch, self._arrived = self._arrived, []
                num_open -= sum(isinstance(event, Finished) for _, event in batch)
                if batch or self._failure is None:
                    yield batch
                if self._failure is not None:
                    raise self._failure
        finally:
            if timer is not None:
                timer.cancel()

    async def events(self) -> AsyncIterator[Any]:
        """Events of the only generation as they come, and last Finished. Raises EngineFailure."""
        async for batch in self.batches():
            for _, event in batch:
                yield event

    def on_close(self, action: Callable[[], object]) -> None:
        self._on_close.append(action)

    def close(self) -> None:
        self.is_closed = True
        while self._on_close:
            self._on_close.pop()()

    def receive(self, batch: Batch) -> None:
        """Take events, in the event loop's thread. A client that reads too slowly loses its request: what is computed
        for it must not pile up."""
        self._arrived += batch
        if len(self._arrived) > limits.PENDING_EVENTS * len(self.generations):
            self.fail("the client reads its answer too slowly")
            self.close()
        self._change.set()

    def fail(self, message: str) -> None:
        self._failure = EngineFailure(message)
        self._change.set()


class Worker:
    """Runs `llm` in a thread of its own. All methods are for the thread of the event loop."""

    def __init__(
        self,
        llm: LLM,
        max_requests: int,
        max_wait: float | None = None,
        on_step: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        """`max_requests` may run and wait at a time; more are refused, and so are those that would wait for more than
        about `max_wait` seconds for their first token. `on_step` gets each step's time, in the engine thread."""
        self._llm, self._max_requests, self._max_wait, self._on_step = llm, max_requests, max_wait, on_step
        self._backlog, self._backlog_at = 0.0, 0.0
        self.last_step_at = time.monotonic()
        """When the engine thread was last seen to move, by `time.monotonic`; a step in progress does not move it."""
        self._open: set[Stream] = set()
        self._inbox: queue.SimpleQueue[Stream | Callable[[], object] | None] = queue.SimpleQueue()
        self._held: dict[Stream, Batch] = {}
        """Events for the event loop, of the engine thread."""
        self._delivered_at = 0.0
        self._is_closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_closing

    @property
    def num_open(self) -> int:
        """Requests that run or wait."""
        return len(self._open)

    @property
    def is_stepping(self) -> bool:
        """Whether the engine thread has something to do, so that `last_step_at` should move."""
        return bool(self._open)

    async def start(self, prepare: Callable[[], Work | Sequence[Work]]) -> Stream:
        """Start what `prepare` makes, which is called in another thread, as it renders and tokenizes the prompt.

        Raises Unavailable before any work, and what `prepare` raises.
        """
        self._loop = asyncio.get_running_loop()
        if not self.is_alive:
            raise Unavailable("the server is shutting down")
        if len(self._open) >= self._max_requests:
            raise Unavailable(f"{self._max_requests} requests are running or waiting, which is the limit")
        if self._max_wait is not None and self._backlog > self._max_wait:
            raise Unavailable(f"a request would wait for about {self._backlog:.0f} seconds, and the limit is less")
        if not self._open:
            self.last_step_at = time.monotonic()  # until now there was nothing to do
        stream = Stream()
        self._open.add(stream)
        stream.on_close(lambda: self._open.discard(stream))
        try:
            prepared = await asyncio.to_thread(prepare)
            stream.generations = prepared if isinstance(prepared, Sequence) else [prepared]
            if self._is_closing:
                raise Unavailable("the server is shutting down")
        except BaseException:
            stream.close()
            raise
        self._inbox.put(stream)
        return stream

    def call(self, action: Callable[[], object]) -> None:
        """Have the engine thread call `action` between two steps."""
        self._inbox.put(action)

    async def close(self) -> None:
        """Take no more requests, fail those that still run, and end the thread."""
        self._is_closing = True
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        running: list[Stream] = []
        while self._admit(running):
            for stream in running:
                if stream.is_closed:
                    _cancel(stream)
            running = [stream for stream in running if not stream.is_closed]
            if running:
                running = self._step(running)
        self._fail(running, "the server is shutting down")

    def _admit(self, running: list[Stream]) -> bool:
        """Start what has arrived, waiting for something if there is nothing to do; False when it is time to end."""
        while True:
            is_idle = not running
            if is_idle:
                self._backlog = 0.0
            try:
                item = self._inbox.get(block=is_idle and not self._llm.has_idle_work)
            except queue.Empty:
                if not is_idle:
                    return True
                self._work_ahead()
                continue
            self.last_step_at = time.monotonic()
            self._hand_over(running)  # the next step may be a longer one
            if item is None:
                return False
            if not isinstance(item, Stream):
                item()
            elif self._start(item):
                running.append(item)

    def _start(self, stream: Stream) -> bool:
        try:
            for generation in stream.generations:
                generation.start()
        except ValueError as error:
            self._fail([stream], str(error))
            return False
        return True

    def _work_ahead(self) -> None:
        try:
            self._llm.idle_step()
        # Nobody asked for it: it may fail, and costs the next turn some time.
        except Exception:
            _log.exception("a step of computing ahead failed")

    def _step(self, running: list[Stream]) -> list[Stream]:
        """One step of all; those that go on."""
        started = time.perf_counter()
        try:
            self._llm.step()
            self._note_step(started)
            now = time.perf_counter()
            next_is_too_late = 2 * now - started - self._delivered_at > _DELIVERY_SECONDS
            self._collect(running if next_is_too_late else [stream for stream in running if _is_due(stream)])
        # Whatever went wrong is these requests' end, not the server's.
        except Exception:
            _log.exception("a step of the engine failed, and %d requests with it", len(running))
            self._fail(running, "the engine failed while it computed this request; the server's log has the cause")
            return []
        going_on = [stream for stream in running if not all(generation.is_done for generation in stream.generations)]
        if next_is_too_late or len(going_on) < len(running) or any(not stream.has_begun for stream in self._held):
            self._deliver()
        return going_on

    def _collect(self, streams: Sequence[Stream]) -> None:
        """Hold what the answers of `streams` have for the event loop."""
        for stream in streams:
            if batch := _poll(stream):
                self._held.setdefault(stream, []).extend(batch)

    def _hand_over(self, running: Sequence[Stream]) -> None:
        """Give the event loop all that `running` have to say, whatever the time."""
        try:
            self._collect(running)
        # Then the step's own reading fails too, and ends these requests; or it is why they end.
        except Exception:
            _log.exception("reading what was computed failed")
        self._deliver()

    def _deliver(self) -> None:
        """Hand over what is held: one call for all."""
        if self._held:
            for stream in self._held:
                stream.has_begun = True
            self._loop.call_soon_threadsafe(_receive, self._held)
            self._held = {}
        self._delivered_at = time.perf_counter()

    def _note_step(self, started: float) -> None:
        self._on_step(time.perf_counter() - started)
        self.last_step_at = time.monotonic()
        if self.last_step_at - self._backlog_at > _BACKLOG_SECONDS:
            self._backlog, self._backlog_at = self._llm.backlog_seconds, self.last_step_at

    def _fail(self, running: list[Stream], message: str) -> None:
        self._hand_over(running)
        for stream in running:
            _cancel(stream)
            self._loop.call_soon_threadsafe(stream.fail, message)


def _is_due(stream: Stream) -> bool:
    return not stream.has_begun or any(generation.is_due for generation in stream.generations)


def _poll(stream: Stream) -> Batch:
    batch: Batch = []
    for number, generation in enumerate(stream.generations):
        if not generation.is_done:
            batch += [(number, event) for event in generation.poll()]
            if generation.is_done:
                batch.append((number, generation.finished))
    return batch


def _cancel(stream: Stream) -> None:
    for generation in stream.generations:
        generation.cancel()


def _receive(batches: Mapping[Stream, Batch]) -> None:
    for stream, batch in batches.items():
        stream.receive(batch)
