"""The chat page at `/`: its files, what it must know of the model, and the memory calculator behind its second tab.

The files are read once and served by name from a fixed table, so a path never reaches the file system. They may load
nothing but each other (`HEADERS`), and hold nothing secret. All figures of the calculator are `qwen3.memory`'s. The
page talks to the model through the public endpoints, and nothing here does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.abc import Traversable
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from qwen3 import __version__
from qwen3.chat import ChatFormat
from qwen3.config import ModelConfig
from qwen3.engine.llm import LLM
from qwen3.memory import MAX_CONTEXT, estimate, what_fits
from qwen3.presets import PRESETS
from qwen3.quant.formats import FORMATS, KV_FORMATS
from qwen3.server.errors import ApiError

FOLDER = "/web/"
"""Where the page's files are; the page itself is at `/`."""

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
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_MAX_CONTEXTS = 64


def is_page(path: str) -> bool:
    """Whether this path belongs to the page: what a browser asks for without a script's help."""
    return path == "/" or path.startswith(FOLDER)


@dataclass(frozen=True)
class _File:
    content: bytes
    headers: Mapping[str, str]

    def answer(self, request: Request) -> Response:
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if self.headers["ETag"] in known:
            return Response(status_code=304, headers=self.headers)
        return Response(self.content, headers=self.headers)


def _read_files(folder: Traversable, name: str = "") -> Iterator[tuple[str, _File]]:
    """Every file below `folder` whose suffix is one of a page's, by its path from there."""
    for entry in folder.iterdir():
        path = f"{name}{entry.name}"
        if entry.is_dir():
            yield from _read_files(entry, f"{path}/")
        elif (kind := _TYPES.get(f".{entry.name.rpartition('.')[2]}")) is not None:
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            yield path, _File(content, HEADERS | {"Content-Type": kind, "ETag": tag})


def page_router(llm: LLM, name: str) -> APIRouter:
    """The routes of the page for `llm`, which clients call `name`."""
    table = dict(_read_files(files("qwen3.server") / "web"))
    index = table.pop("index.html")
    router = APIRouter()

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return index.answer(request)

    @router.get(f"{FOLDER}setup.json", include_in_schema=False)
    async def setup() -> dict[str, Any]:
        return _setup(llm, name)

    @router.api_route(f"{FOLDER}{{path:path}}", methods=["GET", "HEAD"], include_in_schema=False)
    async def file(request: Request, path: str) -> Response:
        if path not in table:
            raise HTTPException(404, "Not Found")
        return table[path].answer(request)

    # Not async: the figures of a large model take some tens of milliseconds, which a thread spends instead.
    @router.get("/v1/memory")
    def memory(
        context: Annotated[
            list[Annotated[int, Query(ge=1, le=MAX_CONTEXT)]],
            Query(max_length=_MAX_CONTEXTS, min_length=1, description="Tokens a sequence; repeat it for several."),
        ],
        model: Annotated[str | None, Query(description="An official name; the served model without one.")] = None,
        weights: str = "bf16",
        kv: str = "bf16",
        batch: Annotated[int, Query(ge=1, le=4096, description="Sequences at once.")] = 1,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> dict[str, Any]:
        """What a model needs, part by part, and the longest context on common machines: as `qwen3 memory --json`."""
        if model in (None, name):
            return _memory(name, llm.config, context, weights, kv, batch, device)
        if model not in PRESETS:
            raise ApiError(404, f"no model {model!r}; there are {', '.join([name, *PRESETS])}", param="model")
        return _memory(model, PRESETS[model], context, weights, kv, batch, device)

    return router


def _setup(llm: LLM, name: str) -> dict[str, Any]:
    """What the page shows and offers before the first request."""
    thinking = {ChatFormat.THINKING_2507: "always", ChatFormat.INSTRUCT_2507: "never"}.get(llm.format, "switch")
    sampled: Callable[[bool], dict[str, Any]] = lambda thinks: {
        key: value
        for key, value in asdict(llm.defaults(thinks)).items()
        if key in ("temperature", "top_p", "top_k", "min_p", "presence_penalty")
    }
    return {
        "version": __version__,
        "model": {"name": name, "storage": llm.storage, "max_context": llm.max_context, "thinking": thinking},
        "sampling": {"thinking": sampled(True), "plain": sampled(False)},
        "memory": {
            "models": [name, *PRESETS],
            "weights": list(FORMATS),
            "kv": list(KV_FORMATS),
            "max_context": MAX_CONTEXT,
        },
    }


def _memory(
    title: str, config: ModelConfig, contexts: list[int], weights: str, kv: str, batch: int, device: str
) -> dict[str, Any]:
    options: dict[str, Any] = {"weights": weights, "kv": kv, "batch": batch}
    try:
        figures = [estimate(config, context=context, device=device, **options) for context in contexts]
        fitting = what_fits(config, **options)
    except ValueError as error:
        raise ApiError(400, str(error)) from error
    return {
        "model": title,
        "parameters": config.num_parameters,
        "active_parameters": config.num_active_parameters,
        "max_context": config.max_context,
        "batch": batch,
        "kv": kv,
        "device": device,
        "estimates": [
            {"format": weights, "context": context, "bytes": asdict(each) | {"total": each.total}}
            for context, each in zip(contexts, figures, strict=True)
        ],
        "machines": [
            {"machine": machine.name, "usable_bytes": machine.usable_bytes, "longest_context": {weights: longest}}
            for machine, longest in fitting.items()
        ],
    }
