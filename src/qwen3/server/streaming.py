"""How an answer reaches its client: as server-sent events, or whole. Formats are the wires' matter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from qwen3.chat import Content, Reasoning, TokenText
from qwen3.engine.generation import Logprobs
from qwen3.engine.request import Finished
from qwen3.server.errors import ApiError
from qwen3.server.metrics import Metrics
from qwen3.server.worker import Batch, EngineFailure, Stream, Work

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""JSON text of a value, as it is sent."""


class Wire(Protocol):
    """One request's wire format. Streamed, it writes server-sent events."""

    id: str
    """The answer's id, by which the client may speak of it."""
    generations: Sequence[Work]
    """Set when they run."""

    def opening(self) -> bytes:
        """Sent before anything is computed."""
        ...

    def encode(self, batch: Batch) -> bytes:
        """Of a batch's events, those of `Finished` included. Adjacent texts may be joined."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """In place of the rest."""
        ...

    def closing(self) -> bytes:
        """Sent after the last `Finished`, or after a failure."""
        ...

    def whole(self, answers: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """The unstreamed answer from the events of each generation."""
        ...


def event(data: Any, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {encode(data)}\n\n".encode()


def openai_failure(error: ApiError) -> bytes:
    return event(error.body())


def openai_closing() -> bytes:
    return b"data: [DONE]\n\n"


def joined(batch: Batch) -> list[tuple[int, Any, list[TokenText]]]:
    """A batch with adjacent texts of one generation made one, each with its tokens where these are reported. Tokens
    that come after their text stand alone, without an event."""
    items: list[tuple[int, Any, list[TokenText]]] = []
    for number, event in batch:
        previous = items[-1][1] if items and items[-1][0] == number else None
        if isinstance(event, Logprobs):
            if isinstance(previous, Content):
                items[-1][2].extend(event.tokens)
            else:
                items.append((number, None, event.tokens))
        elif type(event) is type(previous) and isinstance(event, Content | Reasoning):
            items[-1] = (number, type(event)(previous.text + event.text), items[-1][2])
        else:
            items.append((number, event, []))
    return items


async def _by_rules(batches: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
    """The same batches. Raises ApiError where an answer could not go on by its rules: what is there of it must pass
    neither for whole nor for one that a limit of tokens has cut, and another try would end likewise.

    Of several answers to a request, one such ends all: no format has an error for a single choice, nor a
    `finish_reason` that says so, and clients count on all that they asked for."""
    async for batch in batches:
        for i, (_, item) in enumerate(batch):
            if isinstance(item, Finished) and item.error:
                if before := batch[:i]:
                    yield before
                why = item.error.splitlines()[0]  # below may be the state of the parser
                raise ApiError(400, f"the answer cannot go on by its schema or grammar: {why}")
        yield batch


class EventStream(StreamingResponse):
    """An answer as server-sent events. However it ends, the engine hears of it."""

    media_type = "text/event-stream"

    def __init__(self, stream: Stream, wire: Wire, metrics: Metrics, keep_alive: float) -> None:
        """While nothing is to be sent for `keep_alive` seconds, a comment keeps proxies from ending the connection."""
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._pieces(stream, wire, metrics, keep_alive), headers=headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()

    @staticmethod
    async def _pieces(stream: Stream, wire: Wire, metrics: Metrics, keep_alive: float) -> AsyncIterator[bytes]:
        if opening := wire.opening():
            yield opening
        try:
            async for batch in _by_rules(metrics.timed(stream.batches(keep_alive))):
                if piece := wire.encode(batch) if batch else b": keep-alive\n\n":
                    yield piece
        # The status has been sent: only an event can still tell.
        except EngineFailure as error:
            yield wire.failure(ApiError(500, str(error)))
        except ApiError as error:
            yield wire.failure(error)
        yield wire.closing()


async def whole_answer(request: Request, stream: Stream, wire: Wire, metrics: Metrics) -> Response:
    """The unstreamed answer. Ends the computation when the client leaves. Raises EngineFailure and ApiError."""
    answers: list[list[Any]] = [[] for _ in stream.generations]

    async def arrive() -> None:
        async for batch in _by_rules(metrics.timed(stream.batches())):
            for number, item in batch:
                answers[number].append(item)

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    arriving, leaving = asyncio.create_task(arrive()), asyncio.create_task(leave())
    try:
        await asyncio.wait({arriving, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if arriving.done():
            arriving.result()
            return JSONResponse(wire.whole(answers))
        # Nobody reads it; 499 is what proxies' logs call it.
        return Response(status_code=499)
    finally:
        arriving.cancel()
        leaving.cancel()
        stream.close()
