"""What the endpoints answer, for the OpenAPI document. The answers themselves are written by the wires."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class ErrorDetail(_Answer):
    message: str
    type: str
    param: str | None = Field(description="The request's field at fault.")
    code: str | None = Field(description="A word for programs, such as context_length_exceeded.")


class Error(_Answer):
    error: ErrorDetail


class PromptDetails(_Answer):
    cached_tokens: int


class CompletionDetails(_Answer):
    reasoning_tokens: int


class Usage(_Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class Timings(_Answer):
    """Of the first choice, in milliseconds and tokens a second."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class _Completion(_Answer):
    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage
    timings: Timings


Reason = Literal["stop", "length", "tool_calls"]


class FunctionCall(_Answer):
    name: str
    arguments: str = Field(description="JSON of an object.")


class ToolCall(_Answer):
    id: str
    type: Literal["function"]
    function: FunctionCall


class ChatMessage(_Answer):
    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = None
    reasoning: str | None = Field(None, description="As reasoning_content, on servers told to.")
    tool_calls: list[ToolCall] | None = None


class TopLogprob(_Answer):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(_Answer):
    content: list[TokenLogprob] = Field(description="Their tokens, joined, are the content.")
    refusal: None = None


class ChatChoice(_Answer):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Reason


class ChatCompletion(_Completion):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextLogprobs(_Answer):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(_Answer):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Reason


class TextCompletion(_Completion):
    object: Literal["text_completion"]
    choices: list[TextChoice]


class EndedThinking(_Answer):
    id: str
    object: Literal["chat.completion.end_thinking"]


class Model(_Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int = Field(description="Tokens of context.")


class Models(_Answer):
    object: Literal["list"]
    data: list[Model]


class Piece(_Answer):
    id: int
    piece: str | list[int] = Field(description="The token's text, or its bytes where they are no text.")


class Tokens(_Answer):
    tokens: list[int] | list[Piece]
    count: int
    max_model_len: int


class Text(_Answer):
    content: str


class Rendered(_Answer):
    prompt: str
    tokens: list[int]
    count: int
    max_model_len: int


class Prompt(_Answer):
    prompt: str


class Health(_Answer):
    status: Literal["ok"]
    requests: int = Field(description="Running and waiting.")


class Ready(_Answer):
    status: Literal["ready"]


class Version(_Answer):
    version: str


class Props(_Answer):
    """llama.cpp's."""

    model_path: str
    total_slots: int
    default_generation_settings: dict[str, Any]
    chat_template: str
    build_info: str
