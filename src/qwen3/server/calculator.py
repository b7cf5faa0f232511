"""The memory calculator over HTTP: the figures of `qwen3.memory` for the served model and the official ones.

Only names are taken, of models whose config is known here: no path is read and nothing is fetched.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel

from qwen3.memory import MAX_CONTEXT, estimate, what_fits
from qwen3.presets import PRESETS
from qwen3.quant.formats import FORMATS, KV_FORMATS
from qwen3.server import limits
from qwen3.server.documents import documented
from qwen3.server.errors import ApiError
from qwen3.server.service import Service


class Parts(BaseModel):
    """Bytes."""

    weights: int
    kv_cache: int
    gradients: int
    optimizer: int
    activations: int
    runtime: int
    total: int


class Figures(BaseModel):
    format: str
    context: int
    bytes: Parts


class Place(BaseModel):
    machine: str
    usable_bytes: int
    longest_context: dict[str, int]


class Report(BaseModel):
    """What `qwen3 memory --json` prints, for one format of weights."""

    model: str
    parameters: int
    active_parameters: int
    max_context: int
    batch: int
    kv: str
    device: str
    estimates: list[Figures]
    machines: list[Place]


class Choices(BaseModel):
    models: list[str]
    weights: list[str]
    kv: list[str]
    max_context: int


_Context = Annotated[int, Query(ge=1, le=MAX_CONTEXT)]


def calculator_router(service: Service) -> APIRouter:
    router = APIRouter(tags=["Memory"])

    # Not async: the figures of a large model take some tens of milliseconds, which another thread spends.
    def memory(
        context: Annotated[
            list[_Context],
            Query(min_length=1, max_length=limits.CONTEXTS, description="Tokens a sequence; several by repeating it."),
        ],
        model: Annotated[
            str | None,
            Query(max_length=limits.LABEL_CHARS, description="An official name. Default: the served model."),
        ] = None,
        weights: Annotated[str, Query(max_length=limits.LABEL_CHARS)] = "bf16",
        kv: Annotated[str, Query(max_length=limits.LABEL_CHARS)] = "bf16",
        batch: Annotated[int, Query(ge=1, le=limits.SEQUENCES, description="Sequences at once.")] = 1,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> dict[str, Any]:
        """What a model needs, part by part, and the longest context on machines that people have."""
        if model is None or model in service.names:
            title, config = service.names[0], service.llm.config
        elif model in PRESETS:
            title, config = model, PRESETS[model]
        else:
            raise ApiError(404, f"no model {model!r}: see /v1/memory/choices", param="model", code="model_not_found")
        options: dict[str, Any] = {"weights": weights, "kv": kv, "batch": batch}
        try:
            figures = [estimate(config, context=each, device=device, **options) for each in context]
            places = what_fits(config, **options)
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
                {"format": weights, "context": each, "bytes": asdict(parts) | {"total": parts.total}}
                for each, parts in zip(context, figures, strict=True)
            ],
            "machines": [
                {"machine": place.name, "usable_bytes": place.usable_bytes, "longest_context": {weights: longest}}
                for place, longest in places.items()
            ],
        }

    async def choices() -> dict[str, Any]:
        """What `/v1/memory` knows; the first model is the served one."""
        return {
            "models": [service.names[0], *PRESETS],
            "weights": list(FORMATS),
            "kv": list(KV_FORMATS),
            "max_context": MAX_CONTEXT,
        }

    documented(router, "/v1/memory", memory, Report, method="GET")
    documented(router, "/v1/memory/choices", choices, Choices, method="GET")
    return router
