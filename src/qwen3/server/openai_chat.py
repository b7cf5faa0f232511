"""OpenAI's chat completions: a request to a generation, events to chunks or to one answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qwen3.chat import Content, Event, Reasoning, ToolCall, ToolCallDelta, fold
from qwen3.engine.generation import Generation
from qwen3.engine.llm import LLM
from qwen3.engine.request import Finished, Usage
from qwen3.server.schemas import ChatRequest


def prepare(llm: LLM, body: ChatRequest) -> Generation:
    """Raises ValueError for what the schema could not see: messages, token ids, the context's length."""
    # OpenAI's newer name for the system role.
    messages = [
        message | {"role": "system"} if message.get("role") == "developer" else message for message in body.messages
    ]
    params = replace(llm.defaults(body.thinking), **body.sampling())
    return llm.prepare_chat(messages, body.offered_tools, body.thinking, params, thinking_budget=body.budget)


@dataclass(frozen=True)
class ChatWire:
    """One answer's wire format. Both forms come from the same events."""

    model: str
    includes_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, events: Sequence[Event | Finished]) -> dict[str, Any]:
        *parts, finished = events
        message = fold(parts).to_dict()
        if message.get("tool_calls") and not message["content"]:
            message["content"] = None
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": str(finished.reason)}
        return self._envelope("chat.completion", [choice]) | {"usage": usage(finished.usage)}

    def opening(self) -> list[dict[str, Any]]:
        return [self._chunk({"role": "assistant", "content": None})]

    def chunks(self, event: Event | Finished) -> list[dict[str, Any]]:
        match event:
            case Reasoning(text):
                return [self._chunk({"reasoning_content": text})]
            case Content(text):
                return [self._chunk({"content": text})]
            case ToolCall():
                function = {"name": event.name, "arguments": event.arguments}
                call = {"index": event.index, "id": event.id, "type": "function", "function": function}
                return [self._chunk({"tool_calls": [call]})]
            case ToolCallDelta(index, "", _, arguments):
                return [self._chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})]
            case ToolCallDelta(index, id, name, arguments):
                function = {"name": name, "arguments": arguments}
                call = {"index": index, "id": id, "type": "function", "function": function}
                return [self._chunk({"tool_calls": [call]})]
            case Finished():
                last = [self._chunk({}, str(event.reason))]
                if self.includes_usage:
                    last.append(self._envelope("chat.completion.chunk", []) | {"usage": usage(event.usage)})
                return last

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._envelope("chat.completion.chunk", [choice])

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def usage(counts: Usage) -> dict[str, Any]:
    """Token counts in OpenAI's form. No prompt is taken from a cache yet."""
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
    }
