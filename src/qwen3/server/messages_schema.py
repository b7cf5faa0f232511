"""What a request to Anthropic's `POST /v1/messages` and `/v1/messages/count_tokens` may hold.

Fields that only mean something to Anthropic's own service (cache_control, service_tier, ...) are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from qwen3.grammar import Constraint
from qwen3.server import limits
from qwen3.server.schemas import IdleLabel, Label, Schema, StopStrings, Strict, TokenLimit, Tokens, cuts, refused


class TextBlock(Strict):
    type: Literal["text"]
    text: str


class ThinkingBlock(Strict):
    """The signature is taken back unread: nothing here depends on who wrote the text."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Strict):
    """Reasoning of another service, which cannot be read here."""

    type: Literal["redacted_thinking"]


class ToolUseBlock(Strict):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


def _text_block(value: Any) -> Any:
    """A plain string is a list with one block."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Texts = Annotated[
    list[TextBlock],
    Field(max_length=limits.CONTENT_PARTS),
    BeforeValidator(_text_block, json_schema_input_type=str | list[TextBlock]),
]


class ToolResultBlock(Strict):
    type: Literal["tool_result"]
    tool_use_id: str
    content: Texts | None = None
    is_error: bool | None = None


UserBlock = Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]
AssistantBlock = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock, Field(discriminator="type")
]


class UserMessage(Strict):
    role: Literal["user"]
    content: Annotated[
        list[UserBlock],
        Field(max_length=limits.CONTENT_PARTS),
        BeforeValidator(_text_block, json_schema_input_type=str | list[UserBlock]),
    ]


class AssistantMessage(Strict):
    role: Literal["assistant"]
    content: Annotated[
        list[AssistantBlock],
        Field(max_length=limits.CONTENT_PARTS),
        BeforeValidator(_text_block, json_schema_input_type=str | list[AssistantBlock]),
    ]


class SystemMessage(Strict):
    role: Literal["system"]
    content: Texts


Message = Annotated[UserMessage | AssistantMessage | SystemMessage, Field(discriminator="role")]


class Tool(Strict):
    type: Literal["custom"] | None = None
    name: Annotated[str, Field(min_length=1, max_length=limits.TOOL_NAME_CHARS)]
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ToolMode(Strict):
    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None


class NamedTool(Strict):
    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


_Display = Annotated[
    Literal["summarized", "omitted"] | None,
    Field(description="omitted leaves the thinking out of the answer; there are no summaries."),
]


class BudgetedThinking(Strict):
    type: Literal["enabled"]
    budget_tokens: Tokens = Field(description="Reasoning tokens after which the model must answer.")
    display: _Display = None


class Thinking(Strict):
    type: Literal["adaptive", "disabled"]
    display: _Display = None


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    schema_: Schema = Field(alias="schema")


class OutputConfig(Strict):
    format: JsonSchemaFormat | None = None


class Metadata(Strict):
    user_id: IdleLabel | None = None


class PromptRequest(Strict):
    """What decides the prompt, and so how many tokens it has: `POST /v1/messages/count_tokens`."""

    model: Label | None = Field(None, description="The served model's name; it may be left out.")
    messages: Annotated[list[Message], Field(min_length=1, max_length=limits.MESSAGES)]
    system: Texts | None = None
    tools: Annotated[list[Tool], Field(max_length=limits.TOOLS)] | None = None
    tool_choice: Annotated[ToolMode | NamedTool, Field(discriminator="type")] | None = None
    thinking: Annotated[BudgetedThinking | Thinking, Field(discriminator="type")] | None = Field(
        None, description="The model thinks only if it is asked to."
    )

    container: refused("there are no containers here") = None
    mcp_servers: refused("this server calls no others: offer their tools as tools") = None

    @model_validator(mode="after")
    def _calls_have_results(self) -> Self:
        last = self.messages[-1]
        if last.role == "assistant":
            if any(block.type == "tool_use" for block in last.content):
                raise ValueError(f"messages.{len(self.messages) - 1}: its tool_use needs a tool_result after it")
            if self.is_thinking:
                raise ValueError(
                    f"messages.{len(self.messages) - 1}: with thinking on, the last message cannot be the assistant's"
                )
        return self

    @property
    def is_thinking(self) -> bool:
        return self.thinking is not None and self.thinking.type != "disabled"

    @property
    def tool_name(self) -> str:
        """none, auto, required, or the tool's name."""
        match self.tool_choice:
            case None:
                return "auto"
            case NamedTool(name=name):
                return name
            case ToolMode(type=mode):
                return "required" if mode == "any" else mode

    @property
    def is_continued(self) -> bool:
        """Whether the answer goes on from what the last message says."""
        return self.messages[-1].role == "assistant"


class MessagesRequest(PromptRequest):
    """`POST /v1/messages`."""

    max_tokens: TokenLimit
    stream: bool | None = None
    stop_sequences: StopStrings | None = None
    temperature: Annotated[float, Field(ge=0, le=limits.TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=limits.TOKENS)] | None = Field(None, description="0 or -1 for all tokens.")
    output_config: OutputConfig | None = None

    # Without effect.
    metadata: Metadata | None = None
    service_tier: IdleLabel | None = None

    @model_validator(mode="after")
    def _the_budget_leaves_an_answer(self) -> Self:
        if self.budget is not None and self.budget >= self.max_tokens:
            raise ValueError("max_tokens must be greater than thinking.budget_tokens")
        return self

    @property
    def constraint(self) -> Constraint | None:
        format = self.output_config and self.output_config.format
        return format and Constraint("json_schema", format.schema_)

    @property
    def budget(self) -> int | None:
        return self.thinking.budget_tokens if isinstance(self.thinking, BudgetedThinking) else None

    def sampling(self) -> dict[str, Any]:
        """Fields of `SamplingParams` that the request gives; the others keep the model's defaults."""
        given = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "stop": self.stop_sequences,
        }
        return {name: value for name, value in given.items() if value is not None} | cuts(self.top_p, self.top_k)
