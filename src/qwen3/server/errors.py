"""Errors: which status each fault has, and the form in which a client of each path reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from qwen3.server.worker import EngineFailure, Unavailable

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_SERVER_TYPES = {501: "not_supported_error", 503: "overloaded_error"}


class ApiError(Exception):
    """An answer that is an error. `param` is the field at fault, `code` a word that programs look for."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})
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


def error_response(path: str, error: ApiError) -> Response:
    """The error as clients of `path` expect it. This is where a path with another form than OpenAI's has it."""
    # ASCII: a message may quote half a surrogate pair, which UTF-8 cannot carry.
    return Response(json.dumps(error.body()), error.status, error.headers, "application/json")


def invalid_body(faults: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of pydantic's faults of a request body, in words of this interface."""
    fault = faults[0]
    path = [str(part) for part in fault["loc"][1:]]
    where = ".".join(path) or "the body"
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        message = f"{where} is not supported"
    elif kind == "missing":
        message = f"{where} is missing"
    elif kind in ("literal_error", "none_required"):
        message = f"{where}: only {context.get('expected', 'null')} is supported"
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
            return error_response(request.url.path, to_error(request, error))

    def http_error(request: Request, error: HTTPException) -> ApiError:
        where = f"{request.method} {request.url.path}: " if error.status_code in (404, 405) else ""
        return ApiError(error.status_code, f"{where}{error.detail}", headers=error.headers)

    handle(ApiError, lambda _, error: error)
    handle(RequestValidationError, lambda _, error: invalid_body(error.errors()))
    handle(HTTPException, http_error)
    handle(Unavailable, lambda _, error: ApiError(503, str(error)))
    handle(EngineFailure, lambda _, error: ApiError(500, str(error)))
    handle(Exception, lambda *_: ApiError(500, "the server failed on this request; its log has the cause"))
