"""The application: routes, faults to error answers, and how an answer reaches its client.

Everything about a wire format is in the format's own file; the engine is reached through `Worker` alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from qwen3 import __version__
from qwen3.chat import Event
from qwen3.engine.generation import Generation
from qwen3.engine.llm import LLM
from qwen3.engine.request import ContextError, Finished
from qwen3.server import openai_chat, openai_completions
from qwen3.server.errors import ApiError, invalid_body
from qwen3.server.guard import Guard
from qwen3.server.openai_chat import ChatWire
from qwen3.server.openai_completions import CompletionWire
from qwen3.server.pages import page_router
from qwen3.server.schemas import ChatRequest, CompletionRequest
from qwen3.server.worker import EngineFailure, Stream, Unavailable, Worker
from qwen3.strict_json import parse_object

Wire = ChatWire | CompletionWire


def served_name(llm: LLM) -> str:
    """What clients call the model: its name on the hub, or the last part of its path."""
    path = Path(llm.name)
    return path.resolve().name if path.exists() else llm.name


def make_app(
    llm: LLM,
    *,
    api_key: str | None = None,
    hosts: frozenset[str] | None = None,
    max_requests: int = 256,
) -> ASGIApp:
    """The server for one model. Its lifespan starts and ends the engine thread, to which `llm` belongs from then on.

    `api_key` and `hosts` are those of `Guard`, `max_requests` is that of `Worker`.
    """
    name = served_name(llm)
    created = int(time.time())
    worker: Worker

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        nonlocal worker
        worker = Worker(llm, max_requests)
        yield
        await worker.close()

    # The pages that FastAPI would offer load scripts from other machines.
    app = FastAPI(title="qwen3", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.router.route_class = _StrictRoute
    _add_error_handlers(app)

    def model_card() -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": created, "owned_by": "qwen3"}
        return card | {"max_model_len": llm.max_context}

    def check_model(asked_for: str | None) -> None:
        if asked_for not in (None, name):
            message = f"there is no model {asked_for!r} here; this server has {name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    async def reply(request: Request, wire: Wire, is_streamed: bool, prepare: Callable[[], Generation]) -> Response:
        try:
            stream = await worker.start(prepare)
        except ContextError as error:
            raise ApiError(400, str(error), code="context_length_exceeded") from error
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        if is_streamed:
            return _EventStream(stream, wire)
        try:
            events = await _collect(request, stream)
        finally:
            stream.close()
        # Nobody reads the answer to a client that has gone; 499 is what proxies' logs call it.
        return Response(status_code=499) if events is None else JSONResponse(wire.whole(events))

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        check_model(body.model)
        wire = ChatWire(name, body.includes_usage)
        return await reply(request, wire, body.stream, lambda: openai_chat.prepare(llm, body))

    @app.post("/v1/completions", response_model=None)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        check_model(body.model)
        wire = CompletionWire(name, body.includes_usage)
        return await reply(request, wire, body.stream, lambda: openai_completions.prepare(llm, body))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_card()]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        check_model(model)
        return model_card()

    @app.get("/health")
    async def health() -> dict[str, Any]:
        if not worker.is_alive:
            raise Unavailable("the engine is not running")
        return {"status": "ok", "requests": worker.num_open}

    app.include_router(page_router(llm, name))
    return Guard(app, api_key=api_key, hosts=hosts)


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return parse_object(await self.body())
        except ValueError as error:
            raise HTTPException(400, f"faulty body: {error}") from error


class _StrictRoute(APIRoute):
    """A route that reads its body with `strict_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return invalid_body(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        where = f"{request.method} {request.url.path}: " if error.status_code in (404, 405) else ""
        return ApiError(error.status_code, f"{where}{error.detail}").response()

    @app.exception_handler(Unavailable)
    async def unavailable(request: Request, error: Unavailable) -> Response:
        return ApiError(503, str(error)).response()

    @app.exception_handler(EngineFailure)
    async def engine_failure(request: Request, error: EngineFailure) -> Response:
        return ApiError(500, str(error)).response()

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return ApiError(500, "the server failed on this request; its log has the cause").response()


class _EventStream(StreamingResponse):
    """An answer as server-sent events. However it ends, the engine hears of it."""

    media_type = "text/event-stream"

    def __init__(self, stream: Stream, wire: Wire) -> None:
        super().__init__(self._lines(stream, wire), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()

    @staticmethod
    async def _lines(stream: Stream, wire: Wire) -> AsyncIterator[bytes]:
        for chunk in wire.opening():
            yield _line(chunk)
        try:
            async for event in stream.events():
                for chunk in wire.chunks(event):
                    yield _line(chunk)
        except EngineFailure as error:
            # The status has been sent: only an event can still tell.
            yield _line(ApiError(500, str(error)).body())
        yield b"data: [DONE]\n\n"


def _line(chunk: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


async def _collect(request: Request, stream: Stream) -> list[Event | Finished] | None:
    """All events, or None as soon as the client has gone."""

    async def arrive() -> list[Event | Finished]:
        return [event async for event in stream.events()]

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    arriving, leaving = asyncio.create_task(arrive()), asyncio.create_task(leave())
    try:
        await asyncio.wait({arriving, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return arriving.result() if arriving.done() else None
    finally:
        arriving.cancel()
        leaving.cancel()
