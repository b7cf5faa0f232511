"""What the routes share: the model once it is loaded, the engine thread, and how a request becomes an answer.

A service is first loading, then ready, perhaps draining, and closed in the end. It belongs to one event loop; only
`attach` may be called from elsewhere. It knows no wire format.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from qwen3.engine.llm import LLM
from qwen3.engine.request import ContextError
from qwen3.server.errors import ApiError
from qwen3.server.metrics import Metrics
from qwen3.server.schemas import unknown_fields
from qwen3.server.streaming import EventStream, Wire, whole_answer
from qwen3.server.worker import Stream, Unavailable, Work, Worker

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator chooses."""

    names: Sequence[str] = ()
    """What clients call the model: the first in answers, any in requests. None given: after its place."""
    max_requests: int = 256
    """Running and waiting; more are refused."""
    max_wait: float | None = None
    """Seconds that a request may have to wait for its first token; where it would be about more, it is refused."""
    stall_seconds: float = 120.0
    """A step of the engine that takes longer counts as its death."""
    keep_alive: float = 15.0
    """Seconds of silence after which a stream gets a comment."""
    emits_reasoning: bool = False
    """Reasoning also goes by the name `reasoning`."""


def served_name(llm: LLM) -> str:
    """What clients call the model: its name on the hub, or the last part of its path."""
    path = Path(llm.name)
    return path.resolve().name if path.exists() else llm.name


class Service:
    """One model for one application."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.created = int(time.time())
        self.metrics = Metrics()
        self.is_draining = False
        self.loop: asyncio.AbstractEventLoop
        """Set when the application starts."""
        self._llm: LLM | None = None
        self._worker: Worker | None = None
        self._running: dict[str, Stream | None] = {}
        """By the answer's id; None while it is being prepared."""
        gauge = self.metrics.gauge
        gauge("requests_open", "Requests that run or wait.", lambda: self.num_open)
        gauge("requests_running", "Answers that the engine computes.", lambda: self._load("running"))
        gauge("requests_waiting", "Answers that wait for a place.", lambda: self._load("waiting"))
        gauge("cache_used_ratio", "Of the cache's blocks, those in use.", lambda: self._load("cache_used"))

    def attach(self, llm: LLM) -> None:
        """Serve `llm` from now on; it then belongs to the engine thread."""
        self._llm = llm
        settings, observe = self.settings, self.metrics.step_seconds.observe
        self._worker = Worker(llm, settings.max_requests, settings.max_wait, observe)

    @property
    def llm(self) -> LLM:
        """Raises Unavailable while the model is loading."""
        if self._llm is None:
            raise Unavailable("the server is shutting down" if self.is_draining else "the model is loading")
        return self._llm

    @property
    def names(self) -> Sequence[str]:
        return self.settings.names or [served_name(self.llm)]

    @property
    def num_open(self) -> int:
        return 0 if self._worker is None else self._worker.num_open

    def _load(self, name: str) -> float:
        return 0 if self._llm is None else getattr(self._llm.load, name)

    def check_model(self, asked_for: str | None) -> None:
        if asked_for is not None and asked_for not in self.names:
            message = f"there is no model {asked_for!r} here; this server has {self.names[0]!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def answer_id(self, prefix: str, request: Request) -> str:
        """A new answer's id, made of the request's, which a client may choose to know it before the answer comes."""
        id = f"{prefix}{request.state.request_id}"
        return id if id not in self._running else f"{prefix}{secrets.token_hex(12)}"

    def note_unknown(self, body: BaseModel) -> None:
        """Count the fields of a request that are ignored."""
        if names := unknown_fields(body):
            self.metrics.unknown_fields.inc(len(names))
            _log.debug("ignored request fields: %s", ", ".join(name[:64] for name in names[:16]))

    def check_alive(self) -> None:
        """Raises Unavailable while the model is loading, and when the engine thread has died."""
        if self.llm and not self._worker.is_alive:
            raise Unavailable("the engine is not running")
        silence = time.monotonic() - self._worker.last_step_at
        if self._worker.is_stepping and silence > self.settings.stall_seconds:
            raise Unavailable(f"the engine has not moved for {silence:.0f} seconds")

    def check_ready(self) -> None:
        """Raises Unavailable unless a request would be taken."""
        self.check_alive()
        if self.is_draining:
            raise Unavailable("the server is shutting down")

    async def start(self, prepare: Callable[[], Work | Sequence[Work]]) -> Stream:
        """What `prepare` makes in another thread, running. Raises ApiError for its faults, and Unavailable."""
        self.check_ready()
        try:
            return await self._worker.start(prepare)
        except ContextError as error:
            raise ApiError(400, str(error), code="context_length_exceeded") from error
        except ValueError as error:
            raise ApiError(400, str(error)) from error

    async def reply(
        self,
        request: Request,
        wire: Wire,
        is_streamed: bool,
        prepare: Callable[[], Work | Sequence[Work]],
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer to a request, in its wire's format. While it runs, `end_thinking` knows it by the wire's id."""
        # Nothing was awaited since `answer_id`: no other request can have been given this one.
        self._running[wire.id] = None
        try:
            stream = await self.start(prepare)
        except BaseException:
            del self._running[wire.id]
            raise
        self._running[wire.id] = stream
        stream.on_close(lambda: self._running.pop(wire.id, None))
        wire.generations = stream.generations
        response: Response
        if is_streamed:
            response = EventStream(stream, wire, self.metrics, self.settings.keep_alive)
        else:
            response = await whole_answer(request, stream, wire, self.metrics)
        response.headers.update(headers or {})
        return response

    def end_thinking(self, id: str) -> bool:
        """Have the answer `id` go on after its think block; False if no such answer is running."""
        stream = self._running.get(id)
        if stream is None:
            return False
        for generation in stream.generations:
            self._worker.call(generation.end_thinking)
        return True

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Small work on text, beside the event loop. Raises ApiError for its faults."""
        try:
            return await asyncio.to_thread(work)
        except ValueError as error:
            raise ApiError(400, str(error)) from error

    async def drain(self, timeout: float) -> None:
        """Take no more requests, and wait for those that run, at most `timeout` seconds; then end them."""
        self.is_draining = True
        deadline = time.monotonic() + timeout
        while self.num_open and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await self.close()

    async def close(self) -> None:
        self.is_draining = True
        if self._worker is not None:
            await self._worker.close()
        self._worker = self._llm = None
