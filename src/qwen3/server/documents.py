"""The OpenAPI document: what every route says of its answers, and an example request for each endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from qwen3.server import answers
from qwen3.server.block_answers import AnthropicError
from qwen3.server.guard import is_open

_FAULTS = {
    400: "A fault of the body, named; the context is exceeded.",
    401: "No valid key.",
    403: "Another host name than this server's.",
    404: "No such model, answer or path.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is no application/json.",
    500: "The server's fault; its log has the cause.",
    503: "Loading, full, or shutting down: come back after Retry-After.",
}
_MESSAGES = [{"role": "user", "content": "What is 17 + 25?"}]
_EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": _MESSAGES, "max_tokens": 64},
    "/v1/chat/completions/render": {"messages": _MESSAGES},
    "/apply-template": {"messages": _MESSAGES},
    "/v1/responses": {"input": "What is 17 + 25?", "max_output_tokens": 64},
    "/v1/messages": {"messages": _MESSAGES, "max_tokens": 64},
    "/v1/messages/count_tokens": {"messages": _MESSAGES},
    "/v1/completions": {"prompt": "12 + 30 =", "max_tokens": 16},
    "/tokenize": {"content": "Hello, world."},
    "/detokenize": {"tokens": [1, 2, 3]},
}


def documented(
    router: APIRouter,
    path: str,
    endpoint: Callable[..., Any],
    answer: type[BaseModel],
    *,
    method: str = "POST",
    is_streamed: bool = False,
    error: type[BaseModel] = answers.Error,
) -> None:
    """Add a route whose 200 has the form of `answer`, or is a stream of server-sent events, and other answers that of
    `error`."""
    ok: dict[str, Any] = {"model": answer, "description": "The answer."}
    if is_streamed:
        events = {"type": "string", "description": "With stream: true, server-sent events."}
        ok["content"] = {"text/event-stream": {"schema": events}}
    faults: dict[int | str, Any] = {status: {"model": error, "description": text} for status, text in _FAULTS.items()}
    if error is AnthropicError:
        faults[529] = faults.pop(503)
    if method == "GET":
        faults = {status: fault for status, fault in faults.items() if status not in (400, 408, 413, 415)}
    # Without this row FastAPI would announce its own 422, which never comes.
    faults["4XX"] = {"model": error, "description": "Another fault of the request."}
    router.add_api_route(path, endpoint, methods=[method], response_model=None, responses={200: ok} | faults)


def complete(app: FastAPI, *, has_keys: bool) -> None:
    """Add examples and keys to the application's document."""
    make = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = make()
            for path, example in _EXAMPLES.items():
                body = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]
                body["example"] = example
            if has_keys:
                schemes = schema["components"]["securitySchemes"] = {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                }
                schema["security"] = [{name: []} for name in schemes]
                for path, operations in schema["paths"].items():
                    for operation in operations.values() if is_open(path) else ():
                        operation["security"] = []
        return app.openapi_schema

    app.openapi = document
