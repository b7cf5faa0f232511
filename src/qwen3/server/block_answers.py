"""What Responses and Messages answer, for the OpenAPI document. The answers themselves are written by the wires."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

# ---- OpenAI's Responses

_Status = Literal["completed", "incomplete"]


class OutputText(BaseModel):
    type: Literal["output_text"]
    text: str
    annotations: list[None]
    logprobs: list[None]


class ReasoningText(BaseModel):
    type: Literal["reasoning_text"]
    text: str


class OutputMessage(BaseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: _Status
    content: list[OutputText]


class OutputReasoning(BaseModel):
    id: str
    type: Literal["reasoning"]
    status: _Status
    summary: list[None]
    content: list[ReasoningText]
    encrypted_content: None


class OutputCall(BaseModel):
    id: str
    type: Literal["function_call"]
    status: _Status
    call_id: str
    name: str
    arguments: str = Field(description="JSON of an object; cut short if the status is incomplete.")


class InputDetails(BaseModel):
    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(BaseModel):
    reasoning_tokens: int


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class IncompleteDetails(BaseModel):
    reason: Literal["max_output_tokens"]


class Response(BaseModel):
    """Fields of the request that are not here come back as they were given."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: _Status
    error: None
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[OutputReasoning | OutputMessage | OutputCall]
    usage: ResponseUsage
    store: Literal[False]
    temperature: float
    top_p: float
    truncation: Literal["disabled"]


# ---- Anthropic's Messages


class Text(BaseModel):
    type: Literal["text"]
    text: str


class Thinking(BaseModel):
    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUse(BaseModel):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ThinkingDetails(BaseModel):
    thinking_tokens: int


class MessageUsage(BaseModel):
    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingDetails


class Message(BaseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Text | Thinking | ToolUse]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(BaseModel):
    input_tokens: int


class AnthropicErrorDetail(BaseModel):
    type: str
    message: str


class AnthropicError(BaseModel):
    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str
