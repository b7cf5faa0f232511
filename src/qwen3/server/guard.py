"""What every request must pass before anything reads it: host, key, content type, size; and its line in the log.

Deny by default: the one open path is `/health`, and it is compared with what routing sees, `scope["path"]`. The log has
no bodies, no queries and no keys.

A browser that opens the chat page can send no header of ours. So the page's own paths ask for the key as the password
of HTTP's basic authentication, which browsers know how to ask for and keep out of addresses and histories. Browsers
then send it with whatever any page asks of this server; outside the page's paths it counts only where the browser says
that this server's own page asks (Sec-Fetch-Site), so it gives other sites nothing.
"""

from __future__ import annotations

import asyncio
import binascii
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen3.server import limits
from qwen3.server.errors import ApiError, error_response

_log = logging.getLogger(__name__)

PAGE, PAGE_FILES = "/", "/web/"
_REQUEST_ID = re.compile(rf"[A-Za-z0-9._-]{{1,{limits.REQUEST_ID_CHARS}}}")


def is_open(path: str) -> bool:
    """Whether this path needs no key."""
    return path == "/health"


class Guard:
    """ASGI middleware around the application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_keys: Collection[str] = (),
        hosts: Collection[str] | None = None,
        on_answer: Callable[[str, int], None] | None = None,
    ) -> None:
        """`api_keys`: any of them opens the server; none leaves it open. `hosts` are the names by which clients may
        call the server, without port; None allows any. `on_answer` gets each answer's method and status."""
        self._app, self._hosts, self._on_answer = app, hosts, on_answer
        self._keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a WebSocket: uvicorn answers 403
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(12)
        scope.setdefault("state", {})["request_id"] = request_id
        status, started = 499, time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            try:
                self._check(scope, headers)
                body = await _read(receive) if scope["method"] == "POST" else None
            except ApiError as error:
                await error_response(scope, error)(scope, receive, send_with_id)
                return
            await self._app(scope, receive if body is None else _replay(body, receive), send_with_id)
        finally:
            if self._on_answer is not None:
                self._on_answer(scope["method"], status)
            took = time.perf_counter() - started
            _log.info("%s %s %d %.3f s %s", scope["method"], scope["path"], status, took, request_id)

    def _check(self, scope: Scope, headers: Headers) -> None:
        if self._hosts is not None and _host_name(headers.get("host", "")) not in self._hosts:
            raise ApiError(403, f"this server answers to the host names {', '.join(sorted(self._hosts))} only")
        is_page = scope["path"] == PAGE or scope["path"].startswith(PAGE_FILES)
        if self._keys and not is_open(scope["path"]) and not self._has_key(headers, is_page):
            challenge = {"WWW-Authenticate": 'Basic realm="qwen3", charset="UTF-8"'} if is_page else None
            message = "no valid key: send 'Authorization: Bearer KEY'"
            raise ApiError(401, message, code="invalid_api_key", headers=challenge)
        if scope["method"] == "POST":
            length = headers.get("content-length", "")
            has_body = length.strip("0") or "transfer-encoding" in headers
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            # Of a request without a body, the route says whether it needs one.
            if has_body and kind != "application/json":
                raise ApiError(415, "the body must have the content type application/json")
            if length.isdecimal() and int(length) > limits.BODY_BYTES:
                raise _too_large()

    def _has_key(self, headers: Headers, is_page: bool) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic" and (is_page or headers.get("sec-fetch-site") == "same-origin"):
            given = _password(given)
        elif kind.lower() != "bearer":
            given = headers.get("x-api-key", "")  # Anthropic's clients
        fits = [hmac.compare_digest(given.strip().encode(), key) for key in self._keys]
        return any(fits)  # all are compared, whichever fits: the time must not tell


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(limits.BODY_SECONDS):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > limits.BODY_BYTES:
                    raise _too_large()
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {limits.BODY_SECONDS:.0f} seconds") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` as it was before `body` was read."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _too_large() -> ApiError:
    return ApiError(413, f"the body has more than the {limits.BODY_BYTES:,} bytes allowed")


def _password(credentials: str) -> str:
    """The password of basic credentials; empty where they are damaged."""
    try:
        return binascii.a2b_base64(credentials, strict_mode=True).decode().partition(":")[2]
    except ValueError:
        return ""


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
