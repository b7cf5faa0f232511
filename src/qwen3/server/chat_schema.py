"""`POST /v1/chat/completions`, field by field; and the messages and tools of other endpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, field_validator, model_validator

from qwen3.server import limits
from qwen3.server.schemas import Common, ReasoningEffort, Strict, TemplateArguments, TokenLimit, Tokens, refused

_ONE_NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
_TOOL_CHOICE = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        {
            "type": "object",
            "properties": {"type": {"const": "function"}, "function": _ONE_NAME},
            "required": ["function"],
        },
        {"type": "null"},
    ]
}
_CONTENT = {
    "anyOf": [
        {"type": "string"},
        {"type": "null"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "required": ["type", "text"],
            },
        },
    ]
}
_TEXT_OR_NULL = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": _CONTENT,
        "reasoning_content": _TEXT_OR_NULL,
        "reasoning": _TEXT_OR_NULL,
        "tool_calls": {"anyOf": [{"type": "array", "items": {"type": "object"}}, {"type": "null"}]},
        "tool_call_id": {"type": "string"},
    },
    "required": ["role"],
}


def _check_message(message: dict[str, Any]) -> dict[str, Any]:
    for key, limit in (("content", limits.CONTENT_PARTS), ("tool_calls", limits.TOOL_CALLS)):
        if isinstance(items := message.get(key), list) and len(items) > limit:
            raise ValueError(f"{key} has {len(items):,} items, and {limit:,} are allowed")
    return message


Message = Annotated[dict[str, Any], AfterValidator(_check_message), WithJsonSchema(_MESSAGE)]


class ThinkingSwitch(Strict):
    """Anthropic's form."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Tokens | None = None


_TOOL = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": limits.TOOL_NAME_CHARS},
                "description": _TEXT_OR_NULL,
                "parameters": {"anyOf": [{"type": "object"}, {"type": "null"}]},
                "strict": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
            },
            "required": ["name"],
        },
    },
    "required": ["type", "function"],
}


def _check_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """The tool as it is: the prompt has its keys in the client's order."""
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        raise ValueError('it must be {"type": "function", "function": {"name": ..., ...}}')
    name = function.get("name")
    if not isinstance(name, str) or not 1 <= len(name) <= limits.TOOL_NAME_CHARS:
        raise ValueError(f"function.name must be a string of 1 to {limits.TOOL_NAME_CHARS} characters")
    for key, kind in (("description", str), ("parameters", dict), ("strict", bool)):
        if not isinstance(function.get(key), kind | None):
            raise ValueError(f"function.{key} has a wrong type")
    return tool


Tools = Annotated[
    list[Annotated[dict[str, Any], AfterValidator(_check_tool), WithJsonSchema(_TOOL)]],
    Field(max_length=limits.TOOLS),
]
Messages = Annotated[list[Message], Field(min_length=1, max_length=limits.MESSAGES)]


class ChatRequest(Common):
    """`POST /v1/chat/completions`. The names for thinking are one switch and one budget."""

    messages: Messages
    max_tokens: TokenLimit | None = Field(None, description="Longest answer, reasoning included.")
    max_completion_tokens: TokenLimit | None = Field(None, description="Another name for max_tokens.")
    logprobs: bool | None = Field(None, description="Log-probabilities of the answer's tokens.")
    top_logprobs: Annotated[int, Field(ge=0, le=limits.TOP_LOGPROBS)] | None = None

    tools: Tools | None = None
    tool_choice: Annotated[Any, WithJsonSchema(_TOOL_CHOICE)] = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = Field(None, description="Go on with the last message, the assistant's.")

    enable_thinking: bool | None = None
    thinking: ThinkingSwitch | None = None
    chat_template_kwargs: TemplateArguments | None = None
    reasoning_effort: ReasoningEffort | None = None
    thinking_budget: Tokens | None = Field(None, description="Reasoning tokens after which the model must answer.")
    thinking_token_budget: Tokens | None = None
    reasoning_budget_tokens: Tokens | None = None
    answer_reserve: Tokens | None = Field(
        None, description="Tokens of max_tokens that thinking must leave for the answer."
    )
    loop_guard: bool | None = Field(None, description="End thinking, or an answer, that repeats itself.")

    chat_template: refused("the server uses the model's own template") = None
    functions: refused("use tools") = None
    function_call: refused("use tool_choice") = None
    audio: refused("the model reads and writes text only") = None

    @field_validator("tool_choice")
    @classmethod
    def _choice_has_a_form(cls, choice: Any) -> Any:
        function = (
            choice.get("function")
            if isinstance(choice, dict) and choice.get("type", "function") == "function"
            else None
        )
        is_named = isinstance(function, dict) and isinstance(function.get("name"), str)
        if choice not in (None, "none", "auto", "required") and not is_named:
            raise ValueError('it must be none, auto, required or {"type": "function", "function": {"name": ...}}')
        return choice

    @model_validator(mode="after")
    def _chat_fields_agree(self) -> Self:
        if self.tool_name not in ("none", "auto"):
            names = [tool["function"]["name"] for tool in self.tools or ()]
            if not names:
                raise ValueError("tool_choice needs tools")
            if isinstance(self.tool_choice, dict) and self.tool_name not in names:
                raise ValueError(f"tool_choice: {self.tool_name!r} is none of the tools")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is for logprobs: true")
        if self.add_generation_prompt and self.continue_final_message:
            raise ValueError("add_generation_prompt and continue_final_message exclude each other")
        return self

    @property
    def tool_name(self) -> str:
        """none, auto, required, or the tool's name."""
        choice = self.tool_choice
        return choice["function"]["name"] if isinstance(choice, dict) else choice or "auto"

    @property
    def is_thinking(self) -> bool:
        """Whether the model may think; it does unless the request says otherwise."""
        return next(iter(self._aliases()["thinking on or off"].values()), True)

    @property
    def budget(self) -> int | None:
        return next(iter(self._aliases()["the thinking budget"].values()), None)

    def sampling(self) -> dict[str, Any]:
        return super().sampling() | ({"logprobs": self.top_logprobs or 0} if self.logprobs else {})

    def _aliases(self) -> dict[str, dict[str, Any]]:
        switches = self._given("enable_thinking")
        budgets = self._given("thinking_budget", "thinking_token_budget", "reasoning_budget_tokens")
        if self.thinking is not None:
            switches["thinking.type"] = self.thinking.type != "disabled"
            if self.thinking.budget_tokens is not None:
                budgets["thinking.budget_tokens"] = self.thinking.budget_tokens
        if self.chat_template_kwargs is not None:
            given = self.chat_template_kwargs.model_dump(exclude_none=True)
            for name, value in given.items():
                (budgets if name == "thinking_budget" else switches)[f"chat_template_kwargs.{name}"] = value
        if self.reasoning_effort is not None:
            switches["reasoning_effort"] = self.reasoning_effort != "none"
        return super()._aliases() | {"thinking on or off": switches, "the thinking budget": budgets}
