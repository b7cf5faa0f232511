"""Errors: which status each fault has, and the form in which a client of each path reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from qwen3.engine.request import RequestError
from qwen3.server.worker import EngineFailure, Unavailable

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_SERVER_TYPES = {501: "not_supported_error", 503: "overloaded_error"}

ANTHROPIC_PATH = "/v1/messages"
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ApiError(HTTPException):
    """An answer that is an error. `param` is the field at fault, `code` a word that programs look for.

    An HTTPException, because only those pass FastAPI where it reads a body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.status, self.message, self.param, self.code = status, message, param, code
        if status in (429, 503):
            self.headers.setdefault("Retry-After", "1")
        if status == 401:
            self.headers.setdefault("WWW-Authenticate", "Bearer")

    @property
    def type(self) -> str:
        if self.status >= 500:
            return _SERVER_TYPES.get(self.status, "server_error")
        return _TYPES.get(self.status, "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """In OpenAI's form."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def anthropic_body(error: ApiError, request_id: str) -> dict[str, Any]:
    """In Anthropic's form."""
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}


def error_response(scope: Scope, error: ApiError) -> Response:
    """The error as clients of the request's path expect it."""
    status, body, headers = error.status, error.body(), error.headers
    if scope["path"] == ANTHROPIC_PATH or scope["path"].startswith(f"{ANTHROPIC_PATH}/"):
        request_id = scope["state"]["request_id"]
        body, headers = anthropic_body(error, request_id), headers | {"request-id": request_id}
        status = 529 if status == 503 else status
    # ASCII: a message may quote half a surrogate pair, which UTF-8 cannot carry.
    return Response(json.dumps(body), status, headers, "application/json")


def invalid_body(faults: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of pydantic's faults of a request body, in words of this interface."""
    fault = faults[0]
    path = [str(part) for part in fault["loc"][1:]]
    where = ".".join(path) or "the body"
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "union_tag_invalid":
        message = f"{where}: {context['tag'][:40]!r} is not supported, only {context['expected_tags']}"
    elif kind == "extra_forbidden":
        message = f"{where} is not supported"
    elif kind == "missing":
        message = f"{where} is missing"
    elif kind in ("literal_error", "none_required"):
        given = f", not {fault['input'][:40]!r}" if isinstance(fault["input"], str) else ""
        message = f"{where}: only {context.get('expected', 'null')} is supported{given}"
    elif kind == "value_error":
        message = f"{where}: {context['error']}" if path else str(context["error"])
    else:
        message = f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
    return ApiError(400, message, param=path[0] if path else None)


def add_error_handlers(app: FastAPI) -> None:
    """Whatever a route raises becomes an error answer; what nobody expected becomes one without details."""

    def handle(kind: type[Exception], to_error: Any) -> None:
        @app.exception_handler(kind)
        async def handler(request: Request, error: Exception) -> Response:
            return error_response(request.scope, to_error(request, error))

    def http_error(request: Request, error: HTTPException) -> ApiError:
        where = f"{request.method} {request.url.path}: " if error.status_code in (404, 405) else ""
        return ApiError(error.status_code, f"{where}{error.detail}", headers=error.headers)

    handle(ApiError, lambda _, error: error)
    handle(RequestValidationError, lambda _, error: invalid_body(error.errors()))
    handle(HTTPException, http_error)
    handle(RequestError, lambda _, error: ApiError(400, str(error)))
    handle(Unavailable, lambda _, error: ApiError(503, str(error)))
    handle(EngineFailure, lambda _, error: ApiError(500, str(error)))
    handle(Exception, lambda *_: ApiError(500, "the server failed on this request; its log has the cause"))
