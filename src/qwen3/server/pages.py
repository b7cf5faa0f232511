"""The chat page at `/`: its files, and what it must know of the model before the first request.

The files are read once and served by name from a fixed table, so a path never reaches the file system. They may load
nothing but each other (`HEADERS`). The page talks to the model through the public endpoints, and nothing here does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.abc import Traversable
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from qwen3 import __version__
from qwen3.chat import ChatFormat
from qwen3.server.guard import PAGE, PAGE_FILES
from qwen3.server.service import Service

HEADERS = {
    # Trusted types make every function that parses text as HTML throw, in this page's code and in its libraries'.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Kept by the browser, and asked for again with the ETag at each load: an update of the server is seen at once.
    "Cache-Control": "no-cache",
}

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_INDEX = "index.html"
_THINKING = {ChatFormat.HYBRID: "switch", ChatFormat.THINKING_2507: "always", ChatFormat.INSTRUCT_2507: "never"}
_SAMPLED = ("temperature", "top_p", "top_k", "min_p", "presence_penalty")


@dataclass(frozen=True)
class _File:
    content: bytes
    headers: Mapping[str, str]

    def answer(self, request: Request) -> Response:
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if self.headers["ETag"] in known:
            return Response(status_code=304, headers=self.headers)
        return Response(self.content, headers=self.headers)


def _read_files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, _File]]:
    """Every file below `folder` whose suffix is one of a page's, by its path from there."""
    for entry in folder.iterdir():
        kind = _TYPES.get(entry.name.rpartition(".")[2])
        if entry.is_dir():
            yield from _read_files(entry, f"{prefix}{entry.name}/")
        elif kind is not None:
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            yield f"{prefix}{entry.name}", _File(content, HEADERS | {"Content-Type": kind, "ETag": tag})


def page_router(service: Service) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    table = dict(_read_files(files("qwen3.server") / "web"))
    index = table.pop(_INDEX)

    @router.api_route(PAGE, methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return index.answer(request)

    @router.get(f"{PAGE_FILES}setup.json")
    async def setup() -> dict[str, Any]:
        llm = service.llm
        thinking, plain = ({name: getattr(llm.defaults(thinks), name) for name in _SAMPLED} for thinks in (True, False))
        model = {
            "name": service.names[0],
            "storage": llm.storage,
            "max_context": llm.max_context,
            "thinking": _THINKING[llm.format],
        }
        return {"version": __version__, "model": model, "sampling": {"thinking": thinking, "plain": plain}}

    @router.api_route(f"{PAGE_FILES}{{name:path}}", methods=["GET", "HEAD"])
    async def file(request: Request, name: str) -> Response:
        if name not in table:
            raise HTTPException(404, "Not Found")
        return table[name].answer(request)

    return router
