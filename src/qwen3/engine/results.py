"""What `LLM` returns when a text or an answer is finished."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3.chat import ToolCall
from qwen3.engine.request import FinishReason, TokenLogprob, Usage


@dataclass(frozen=True)
class Completion:
    """One finished text. `token_ids` holds every generated token, the end token included."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    logprobs: list[TokenLogprob]
    usage: Usage


@dataclass(frozen=True)
class ChatResult:
    """One finished answer: what the stream's events add up to."""

    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    error: str = ""
    """Why an aborted answer could not go on by its rules."""
