"""Errors in OpenAI's form, and which status each fault has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

_TYPES = {401: "authentication_error", 404: "not_found_error", 503: "overloaded_error"}


class ApiError(Exception):
    """An answer that is an error. `param` is the field at fault, `code` a word that programs look for."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        headers = {"Retry-After": "1"} if self.status == 503 else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        # ASCII: a message may quote half a surrogate pair, which UTF-8 cannot carry.
        return Response(json.dumps(self.body()), self.status, headers, "application/json")


def invalid_body(faults: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of pydantic's faults of a request body, in words of this interface."""
    fault = faults[0]
    path = [str(part) for part in fault["loc"][1:]]
    where = ".".join(path) or "the body"
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        message = f"unknown field {where!r}"
    elif kind == "missing":
        message = f"{where} is missing"
    elif kind in ("literal_error", "none_required"):
        message = f"{where}: only {context.get('expected', 'null')} is supported"
    elif kind == "value_error":
        message = f"{where}: {context['error']}" if path else str(context["error"])
    else:
        message = f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
    return ApiError(400, message, param=path[0] if path else None)
