"""What every request must pass before anything reads it: key, host, content type, size.

Deny by default: the one open path is `/health`, and it is compared with what routing sees, `scope["path"]`.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen3.server.errors import ApiError

OPEN_PATHS = frozenset({"/health"})
MAX_BODY_BYTES = 16 << 20


class Guard:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, *, api_key: str | None, hosts: Collection[str] | None) -> None:
        """`hosts` are the names by which clients may call the server, without port; None allows any."""
        self._app, self._hosts = app, hosts
        self._credentials = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
            body = await _read(receive) if scope["method"] == "POST" else None
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive if body is None else _replay(body, receive), send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._hosts is not None and _host_name(headers.get("host", "")) not in self._hosts:
            raise ApiError(403, f"this server answers to the host names {', '.join(sorted(self._hosts))} only")
        if self._credentials is not None and scope["path"] not in OPEN_PATHS:
            given = headers.get("authorization", "").encode()
            if not hmac.compare_digest(given, self._credentials):
                raise ApiError(401, "no valid key: send 'Authorization: Bearer KEY'", code="invalid_api_key")
        if scope["method"] == "POST":
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise ApiError(415, "the body must have the content type application/json")
            length = headers.get("content-length", "")
            if length.isdecimal() and int(length) > MAX_BODY_BYTES:
                raise _too_large()


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` as it was before `body` was read."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _too_large() -> ApiError:
    return ApiError(413, f"the body has more than the {MAX_BODY_BYTES:,} bytes allowed")


def _host_name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[")
    return host.partition(":")[0].lower()


def allowed_hosts(bound_to: str) -> frozenset[str] | None:
    """Names for `Guard`: a server on the loopback interface is for this machine, and a web page that gives its own
    name this address must not reach it. Elsewhere the names are not known, so any will do."""
    return frozenset({"localhost", "127.0.0.1", "::1", bound_to.lower()}) if is_loopback(bound_to) else None


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
