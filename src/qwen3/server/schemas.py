"""The requests that the server takes, field by field.

Every field does what its name says, or is one of those that have no effect here (at the end of `_Request`), or is
refused: nothing that a client asks for is dropped in silence. What is known but not built yet is in the schema with its
neutral value only, so that the refusal can say so. Values are not converted ("1" is not 1), and bounds are those within
which one request cannot break the step that it shares with others.

It does not know what the model's limits are, and what a message must look like: `chat.template` says that.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

MAX_MESSAGES = 4096
MAX_TOOLS = 256
MAX_STOPS = 16

_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Count = Annotated[int, Field(ge=0)]
_StopString = Annotated[str, Field(min_length=1, max_length=256)]
_StopStrings = Annotated[
    list[_StopString],
    Field(max_length=MAX_STOPS),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=str | list[str]),
]
_TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,7}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    include_usage: bool = False


class TemplateArguments(_Strict):
    """What a request may tell the chat template."""

    enable_thinking: bool | None = None


class ResponseFormat(_Strict):
    model_config = ConfigDict(extra="ignore")  # what belongs to the types that are refused

    type: Literal["text"]


class _Request(_Strict):
    """What both endpoints take."""

    model: str | None = Field(None, description="The served model's name; it may be left out.")
    stream: bool = False
    stream_options: StreamOptions | None = None

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = Field(None, description="0 or -1 for all tokens.")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    logit_bias: Annotated[dict[_TokenId, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = (
        None
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    min_tokens: _Count | None = None
    stop: _StopStrings | None = None
    stop_token_ids: Annotated[list[_Count], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None

    # Not built yet.
    n: Literal[1] | None = None

    # Without effect: labels of the client's own, and hints for what this server does not have.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    cache_salt: str | None = None
    priority: int | None = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream: true")
        return self

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> dict[str, Any]:
        """Fields of `SamplingParams` that the request gives; the others keep the model's defaults."""
        names = (
            "max_tokens temperature top_p min_p presence_penalty frequency_penalty repetition_penalty seed min_tokens "
            "stop stop_token_ids ignore_eos"
        )
        given = {name: value for name in names.split() if (value := getattr(self, name)) is not None}
        if self.top_k is not None:
            given["top_k"] = max(self.top_k, 0)
        if self.logit_bias is not None:
            given["logit_bias"] = {int(token): bias for token, bias in self.logit_bias.items()}
        return given


class ChatRequest(_Request):
    """`POST /v1/chat/completions`. The names for thinking are one switch and one budget."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="Another name for max_tokens.")

    enable_thinking: bool | None = None
    chat_template_kwargs: TemplateArguments | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = Field(
        None, description="none turns thinking off; the others turn it on, and do not differ."
    )
    thinking_budget: _Count | None = Field(None, description="Reasoning tokens after which the model must answer.")
    thinking_token_budget: _Count | None = None
    reasoning_budget_tokens: _Count | None = None

    # Not built yet.
    parallel_tool_calls: Literal[True] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    add_generation_prompt: Literal[True] | None = None
    continue_final_message: Literal[False] | None = None

    @field_validator("tools")
    @classmethod
    def _tools_are_functions(cls, tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        for i, tool in enumerate(tools or ()):
            function = tool.get("function")
            if tool.get("type") != "function" or not isinstance(function, dict):
                raise ValueError(f'[{i}] must be {{"type": "function", "function": {{"name": ..., ...}}}}')
            if not isinstance(function.get("name"), str) or not function["name"]:
                raise ValueError(f"[{i}].function.name must be a string that is not empty")
        return tools

    @model_validator(mode="after")
    def _aliases_agree(self) -> Self:
        for what, values in (
            ("thinking on or off", self._thinking_switches()),
            ("the thinking budget", self._budgets()),
            ("the longest answer", self._limits()),
        ):
            if len(set(values.values())) > 1:
                raise ValueError(f"{' and '.join(values)} contradict each other about {what}: give one of them")
        return self

    @property
    def thinking(self) -> bool:
        """Whether the model may think; it does unless the request says otherwise."""
        return next(iter(self._thinking_switches().values()), True)

    @property
    def budget(self) -> int | None:
        return next(iter(self._budgets().values()), None)

    @property
    def offered_tools(self) -> list[dict[str, Any]] | None:
        return None if self.tool_choice == "none" else self.tools

    def sampling(self) -> dict[str, Any]:
        given = super().sampling()
        if self.max_completion_tokens is not None:
            given["max_tokens"] = self.max_completion_tokens
        return given

    def _thinking_switches(self) -> dict[str, bool]:
        switches = {"enable_thinking": self.enable_thinking}
        if self.chat_template_kwargs is not None:
            switches["chat_template_kwargs.enable_thinking"] = self.chat_template_kwargs.enable_thinking
        if self.reasoning_effort is not None:
            switches["reasoning_effort"] = self.reasoning_effort != "none"
        return {name: value for name, value in switches.items() if value is not None}

    def _budgets(self) -> dict[str, int]:
        return self._given("thinking_budget", "thinking_token_budget", "reasoning_budget_tokens")

    def _limits(self) -> dict[str, int]:
        return self._given("max_tokens", "max_completion_tokens")

    def _given(self, *names: str) -> dict[str, int]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def _only_prompt(value: Any) -> Any:
    """A prompt, or the one that a list of prompts holds."""
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        if len(value) > 1:
            raise ValueError("several prompts in one request are not supported yet: send a request for each")
        value = value[0]
    is_ids = isinstance(value, list) and all(type(item) is int for item in value)
    if not isinstance(value, str) and not is_ids:
        raise ValueError("it must be a text or a list of token ids")
    return value


class CompletionRequest(_Request):
    """`POST /v1/completions`. In a text prompt the names of control tokens are control tokens."""

    prompt: Annotated[
        str | list[int],
        BeforeValidator(_only_prompt, json_schema_input_type=str | list[int] | list[str] | list[list[int]]),
    ]

    # Not built yet.
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None
