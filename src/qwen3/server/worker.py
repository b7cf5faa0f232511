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
from collections.abc import AsyncIterator, Callable

from qwen3.chat import Event
from qwen3.engine.generation import Generation
from qwen3.engine.llm import LLM
from qwen3.engine.request import Finished

_log = logging.getLogger(__name__)

_BACKLOG_SECONDS = 0.05  # how old the estimate may be


class Unavailable(RuntimeError):  # noqa: N818 - a state of the server, not a fault
    """The server takes no request now; a later one may succeed."""


class EngineFailure(RuntimeError):  # noqa: N818
    """The step that computed this request failed; the log has the cause."""


class Stream:
    """One request's events, for the event loop. Whoever has it calls `close` in the end, however it ends."""

    generation: Generation

    def __init__(self, on_close: Callable[[Stream], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[list[Event | Finished] | EngineFailure] = asyncio.Queue()
        self._on_close = on_close
        self.is_closed = False
        """Read by the engine thread before each step: what is closed is computed no further."""

    async def events(self) -> AsyncIterator[Event | Finished]:
        """Events as they come, and last Finished. Raises EngineFailure."""
        while True:
            item = await self._arrived.get()
            if isinstance(item, EngineFailure):
                raise item
            for event in item:
                yield event
                if isinstance(event, Finished):
                    return

    def close(self) -> None:
        self.is_closed = True
        self._on_close(self)

    def post(self, item: list[Event | Finished] | EngineFailure) -> None:
        """Called in the engine thread."""
        self._loop.call_soon_threadsafe(self._arrived.put_nowait, item)


class Worker:
    """Runs `llm` in a thread of its own. All methods are for the thread of the event loop."""

    def __init__(self, llm: LLM, max_requests: int, max_wait: float | None = None) -> None:
        """`max_requests` may run and wait at a time; more are refused, and so are those that would wait for more than
        about `max_wait` seconds for their first token."""
        self._llm, self._max_requests, self._max_wait = llm, max_requests, max_wait
        self._backlog, self._backlog_at = 0.0, 0.0
        self.last_step_at = time.monotonic()
        """When the engine thread was last seen to move, by `time.monotonic`; a step in progress does not move it."""
        self._open: set[Stream] = set()
        self._inbox: queue.SimpleQueue[Stream | None] = queue.SimpleQueue()
        self._is_closing = False
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

    async def start(self, prepare: Callable[[], Generation]) -> Stream:
        """Start what `prepare` makes, which is called in another thread, as it renders and tokenizes the prompt.

        Raises Unavailable before any work, and what `prepare` raises.
        """
        if not self.is_alive:
            raise Unavailable("the server is shutting down")
        if len(self._open) >= self._max_requests:
            raise Unavailable(f"{self._max_requests} requests are running or waiting, which is the limit")
        if self._max_wait is not None and self._backlog > self._max_wait:
            raise Unavailable(f"a request would wait for about {self._backlog:.0f} seconds, and the limit is less")
        stream = Stream(self._open.discard)
        self._open.add(stream)
        try:
            stream.generation = await asyncio.to_thread(prepare)
            if self._is_closing:
                raise Unavailable("the server is shutting down")
        except BaseException:
            stream.close()
            raise
        self._inbox.put(stream)
        return stream

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
                    stream.generation.cancel()
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
                stream = self._inbox.get(block=is_idle and not self._llm.has_idle_work)
            except queue.Empty:
                if not is_idle:
                    return True
                self._work_ahead()
                continue
            self.last_step_at = time.monotonic()
            if stream is None:
                return False
            try:
                stream.generation.start()
            except ValueError as error:
                stream.post(EngineFailure(str(error)))
            else:
                running.append(stream)

    def _work_ahead(self) -> None:
        try:
            self._llm.idle_step()
        # Nobody asked for it: it may fail, and costs the next turn some time.
        except Exception:
            _log.exception("a step of computing ahead failed")

    def _step(self, running: list[Stream]) -> list[Stream]:
        """One step of all; those that go on."""
        try:
            self._llm.step()
            self._note_step()
            for stream in running:
                events: list[Event | Finished] = [*stream.generation.poll()]
                if stream.generation.is_done:
                    events.append(stream.generation.finished)
                if events:
                    stream.post(events)
        # Whatever went wrong is these requests' end, not the server's.
        except Exception:
            _log.exception("a step of the engine failed, and %d requests with it", len(running))
            self._fail(running, "the engine failed while it computed this request; the server's log has the cause")
            return []
        return [stream for stream in running if not stream.generation.is_done]

    def _note_step(self) -> None:
        self.last_step_at = time.monotonic()
        if self.last_step_at - self._backlog_at > _BACKLOG_SECONDS:
            self._backlog, self._backlog_at = self._llm.backlog_seconds, self.last_step_at

    def _fail(self, running: list[Stream], message: str) -> None:
        for stream in running:
            stream.generation.cancel()
            stream.post(EngineFailure(message))
