"""Bodies: JSON with one meaning, of bounded depth, for every route of the application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from qwen3.server import limits
from qwen3.server.errors import ApiError
from qwen3.strict_json import parse_object

# Larger bodies are read beside the event loop, which others wait for; one at a time, as what is read may take thirty
# times a body's bytes.
_LARGE_BYTES = 64 << 10
_LARGE_BODIES = ThreadPoolExecutor(1, "large-bodies")


class StrictRoute(APIRoute):
    """A route that reads its body with `strict_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        try:
            if len(body) <= _LARGE_BYTES:
                return _parse(body)
            return await asyncio.get_running_loop().run_in_executor(_LARGE_BODIES, _parse, body)
        except ValueError as error:
            raise ApiError(400, f"faulty body: {error}") from error


def _parse(body: bytes) -> dict[str, Any]:
    value = parse_object(body)
    if _is_deeper(value, limits.JSON_DEPTH):
        raise ValueError(f"it is nested more than {limits.JSON_DEPTH} levels deep")
    return value


def _is_deeper(value: Any, limit: int) -> bool:
    layer = [value]
    for _ in range(limit):
        children = (child for item in layer for child in (item.values() if isinstance(item, dict) else item))
        layer = [child for child in children if isinstance(child, dict | list)]
        if not layer:
            return False
    return True
