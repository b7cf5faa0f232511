"""The application: its routers, what stands before them, and the beginning and end of its service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from qwen3 import __version__
from qwen3.engine.llm import LLM
from qwen3.server import documents
from qwen3.server.anthropic_messages import messages_router
from qwen3.server.calculator import calculator_router
from qwen3.server.errors import add_error_handlers
from qwen3.server.guard import Guard
from qwen3.server.openai_chat import chat_router
from qwen3.server.openai_completions import completions_router
from qwen3.server.openai_responses import responses_router
from qwen3.server.operations import operations_router
from qwen3.server.pages import page_router
from qwen3.server.prompts import prompts_router
from qwen3.server.service import Service, Settings

# A new family of endpoints is a module with a function of this kind, and a row here.
ROUTERS = (
    chat_router,
    completions_router,
    responses_router,
    messages_router,
    prompts_router,
    operations_router,
    calculator_router,
    page_router,
)


def make_app(llm: LLM, **options: Any) -> ASGIApp:
    """The server for one model, which belongs to it from then on. Options are those of `application` and `Settings`."""
    return serving(llm, **options)[1]


def serving(llm: LLM, **options: Any) -> tuple[Service, ASGIApp]:
    """The same, with its service."""
    ours = {name: options.pop(name) for name in ("api_keys", "hosts", "cors_origins") if name in options}
    service = Service(Settings(**options))
    service.attach(llm)
    return service, application(service, **ours)


def application(
    service: Service,
    *,
    api_keys: Collection[str] = (),
    hosts: Collection[str] | None = None,
    cors_origins: Sequence[str] = (),
) -> ASGIApp:
    """The server for a service, whose model may be attached later.

    `api_keys` and `hosts` are those of `Guard`. Web pages from `cors_origins` may use the server; '*' is any.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.loop = asyncio.get_running_loop()
        yield
        await service.close()

    # The pages that FastAPI would offer load scripts from other machines.
    app = FastAPI(title="qwen3", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    add_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router(service))
    documents.complete(app, has_keys=bool(api_keys))

    def count(method: str, status: int) -> None:
        service.metrics.answers.labels(method if method in ("GET", "POST") else "other", status).inc()

    guarded: ASGIApp = Guard(app, api_keys=api_keys, hosts=hosts, on_answer=count)
    if cors_origins:
        # Outside: a browser asks without the key whether it may ask.
        guarded = CORSMiddleware(
            guarded,
            allow_origins=cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "X-Qwen3-Warning", "Retry-After"],
        )
    return guarded
