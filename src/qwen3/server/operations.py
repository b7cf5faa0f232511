"""For who runs the server and for clients that look around: models, health, readiness, metrics, version, properties."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from qwen3 import __version__
from qwen3.server import answers
from qwen3.server.documents import documented
from qwen3.server.openai_chat import FINGERPRINT
from qwen3.server.service import Service


def operations_router(service: Service) -> APIRouter:
    router = APIRouter(tags=["Operations"])

    def model_card() -> dict[str, Any]:
        card = {"id": service.names[0], "object": "model", "created": service.created, "owned_by": "qwen3"}
        return card | {"max_model_len": service.llm.max_context}

    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_card()]}

    async def model(model: str) -> dict[str, Any]:
        service.check_model(model)
        return model_card()

    async def health() -> dict[str, Any]:
        """Whether the engine lives, not only this interface. Open without a key."""
        service.check_alive()
        return {"status": "ok", "requests": service.num_open}

    async def ready() -> dict[str, Any]:
        """Whether a request would be taken: not while the model is loading, and not while the server shuts down."""
        service.check_ready()
        return {"status": "ready"}

    async def version() -> dict[str, Any]:
        return {"version": __version__}

    async def props() -> dict[str, Any]:
        """What llama.cpp's clients ask for."""
        llm = service.llm
        return {
            "model_path": llm.name,
            "total_slots": service.settings.max_requests,
            "default_generation_settings": {"n_ctx": llm.max_context},
            "chat_template": "",
            "build_info": FINGERPRINT,
        }

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """In Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    for path, endpoint, answer in (
        ("/v1/models", models, answers.Models),
        ("/v1/models/{model:path}", model, answers.Model),
        ("/health", health, answers.Health),
        ("/ready", ready, answers.Ready),
        ("/version", version, answers.Version),
        ("/props", props, answers.Props),
    ):
        documented(router, path, endpoint, answer, method="GET")
    router.add_api_route("/models", models, include_in_schema=False)
    return router
