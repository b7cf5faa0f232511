"""OpenAI's text completions: a request to a generation, events to chunks or to one answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qwen3.chat import Event, fold
from qwen3.engine.generation import Generation
from qwen3.engine.llm import LLM
from qwen3.engine.request import Finished
from qwen3.server.openai_chat import usage
from qwen3.server.schemas import CompletionRequest


def prepare(llm: LLM, body: CompletionRequest) -> Generation:
    """Raises ValueError for what the schema could not see: token ids, the context's length."""
    return llm.prepare_completion(body.prompt, replace(llm.defaults(thinking=False), **body.sampling()))


@dataclass(frozen=True)
class CompletionWire:
    """One continuation's wire format. Both forms come from the same events."""

    model: str
    includes_usage: bool = False
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, events: Sequence[Event | Finished]) -> dict[str, Any]:
        *parts, finished = events
        return self._one(fold(parts).content, str(finished.reason)) | {"usage": usage(finished.usage)}

    def opening(self) -> list[dict[str, Any]]:
        return []

    def chunks(self, event: Event | Finished) -> list[dict[str, Any]]:
        if not isinstance(event, Finished):
            return [self._one(event.text, None)]
        last = [self._one("", str(event.reason))]
        if self.includes_usage:
            last.append(self._envelope([]) | {"usage": usage(event.usage)})
        return last

    def _one(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        return self._envelope([{"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}])

    def _envelope(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
