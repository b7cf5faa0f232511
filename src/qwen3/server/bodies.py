"""Bodies: JSON with one meaning, of bounded depth, for every route of the application."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from qwen3.server import limits
from qwen3.server.errors import ApiError
from qwen3.strict_json import parse_object


class StrictRoute(APIRoute):
    """A route that reads its body with `strict_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            value = parse_object(await self.body())
        except ValueError as error:
            raise ApiError(400, f"faulty body: {error}") from error
        if _is_deeper(value, limits.JSON_DEPTH):
            raise ApiError(400, f"faulty body: it is nested more than {limits.JSON_DEPTH} levels deep")
        return value


def _is_deeper(value: Any, limit: int) -> bool:
    layer = [value]
    for _ in range(limit):
        children = (child for item in layer for child in (item.values() if isinstance(item, dict) else item))
        layer = [child for child in children if isinstance(child, dict | list)]
        if not layer:
            return False
    return True
