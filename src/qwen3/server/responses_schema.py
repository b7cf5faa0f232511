"""What a request to `POST /v1/responses` may hold.

Nothing is kept between requests: a field that speaks of an earlier response, a stored conversation or a run in the
background is refused by name. `store` and `truncation: "auto"` are taken and do nothing, as clients send them
unasked: the answer says `store: false` and `truncation: "disabled"`, and a prompt that is too long is an error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from qwen3.grammar import Constraint
from qwen3.server import limits
from qwen3.server.schemas import (
    IdleLabel,
    Label,
    ReasoningEffort,
    Schema,
    Seed,
    Strict,
    TokenLimit,
    Tokens,
    cuts,
    refused,
)


class TextPart(Strict):
    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalPart(Strict):
    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


ContentPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
Content = Annotated[
    list[ContentPart],
    Field(max_length=limits.CONTENT_PARTS),
    BeforeValidator(
        lambda value: [{"type": "input_text", "text": value}] if isinstance(value, str) else value,
        json_schema_input_type=str | list[ContentPart],
    ),
]


class MessageItem(Strict):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class FunctionCallItem(Strict):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionCallOutputItem(Strict):
    type: Literal["function_call_output"]
    call_id: str
    output: Content


class ReasoningText(Strict):
    type: Literal["reasoning_text", "summary_text", "text"]
    text: str


class ReasoningItem(Strict):
    """`summary` counts only where there is no `content`; this server's answers have content."""

    type: Literal["reasoning"]
    content: Annotated[list[ReasoningText], Field(max_length=limits.CONTENT_PARTS)] | None = None
    summary: Annotated[list[ReasoningText], Field(max_length=limits.CONTENT_PARTS)] | None = None


def _item_type(item: Any) -> str | None:
    """A message may leave its type out."""
    return (item.get("type") or "message") if isinstance(item, dict) else getattr(item, "type", None)


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_item_type),
]


class FunctionTool(Strict):
    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=limits.TOOL_NAME_CHARS)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolMode(Strict):
    type: Literal["none", "auto", "required"]


class NamedTool(Strict):
    type: Literal["function"]
    name: str


class AllowedTools(Strict):
    """Only these of the tools may be called; the others are not offered."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


ToolChoice = Annotated[
    ToolMode | NamedTool | AllowedTools,
    Field(discriminator="type"),
    BeforeValidator(
        lambda value: {"type": value} if isinstance(value, str) else value,
        json_schema_input_type=Literal["none", "auto", "required"] | NamedTool | AllowedTools,
    ),
]


class TextFormat(Strict):
    type: Literal["text"] = "text"


class JsonObjectFormat(Strict):
    type: Literal["json_object"]


class JsonSchemaFormat(Strict):
    """`strict` or not, the answer conforms."""

    type: Literal["json_schema"]
    name: str
    schema_: Schema = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextConfig(Strict):
    format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description="Without effect.")


class ReasoningConfig(Strict):
    effort: ReasoningEffort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = Field(
        None, description="Without effect: the reasoning itself is in the answer."
    )


class ResponsesRequest(Strict):
    """`POST /v1/responses`."""

    model: Label | None = Field(None, description="The served model's name; it may be left out.")
    input: Annotated[
        list[InputItem],
        BeforeValidator(
            lambda value: [{"role": "user", "content": value}] if isinstance(value, str) else value,
            json_schema_input_type=str | list[InputItem],
        ),
        Field(max_length=limits.MESSAGES),
    ]
    instructions: str | None = None
    stream: bool | None = None

    tools: Annotated[list[FunctionTool], Field(max_length=limits.TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None

    max_output_tokens: TokenLimit | None = None
    temperature: Annotated[float, Field(ge=0, le=limits.TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None

    # Not OpenAI's.
    top_k: Annotated[int, Field(ge=-1, le=limits.TOKENS)] | None = Field(None, description="0 or -1 for all tokens.")
    seed: Seed | None = Field(None, description="The same seed gives the same tokens.")
    thinking_budget: Tokens | None = Field(None, description="Reasoning tokens after which the model must answer.")
    priority: Annotated[int, Field(ge=-limits.PRIORITY, le=limits.PRIORITY)] | None = Field(
        None, description="Lower runs earlier."
    )
    cache_salt: Label | None = Field(None, description="Only requests with the same salt share cached prompts.")
    return_progress: bool | None = Field(None, description="A stream reports how far the prompt is.")
    timings_per_token: bool | None = Field(None, description="A stream's deltas have timings.")

    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    truncation: Literal["auto", "disabled"] | None = Field(None, description="Nothing is ever left out of a prompt.")
    store: bool | None = Field(None, description="Nothing is stored.")
    include: list[str] | None = None
    user: IdleLabel | None = None
    service_tier: IdleLabel | None = None
    safety_identifier: IdleLabel | None = None
    prompt_cache_key: IdleLabel | None = None

    background: Annotated[Literal[False], Field(description="There is nothing to ask for the answer later.")] | None = (
        None
    )
    previous_response_id: refused("nothing is stored here: send the whole conversation as input") = None
    conversation: refused("nothing is stored here: send the whole conversation as input") = None
    prompt: refused("no prompts are stored here: send the text as instructions and input") = None
    top_logprobs: Literal[0] | None = None

    @field_validator("include")
    @classmethod
    def _includes_no_logprobs(cls, include: list[str] | None) -> list[str] | None:
        if "message.output_text.logprobs" in (include or ()):
            raise ValueError("message.output_text.logprobs is not supported here; chat completions have logprobs")
        return include

    @property
    def is_thinking(self) -> bool:
        """Whether the model may think; it does unless the request says otherwise."""
        return self.reasoning is None or self.reasoning.effort != "none"

    @property
    def offered_tools(self) -> list[FunctionTool]:
        if not isinstance(self.tool_choice, AllowedTools):
            return self.tools or []
        allowed = {tool.name for tool in self.tool_choice.tools}
        return [tool for tool in self.tools or () if tool.name in allowed]

    @property
    def tool_name(self) -> str:
        """none, auto, required, or the tool's name."""
        match self.tool_choice:
            case None:
                return "auto"
            case NamedTool(name=name):
                return name
            case AllowedTools(mode=mode):
                return mode
            case ToolMode(type=mode):
                return mode

    @property
    def constraint(self) -> Constraint | None:
        match self.text and self.text.format:
            case JsonSchemaFormat(schema_=schema):
                return Constraint("json_schema", schema)
            case JsonObjectFormat():
                return Constraint("json_object")
            case _:
                return None

    def sampling(self) -> dict[str, Any]:
        """Fields of `SamplingParams` that the request gives; the others keep the model's defaults."""
        given = {
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }
        return {name: value for name, value in given.items() if value is not None} | cuts(self.top_p, self.top_k)
