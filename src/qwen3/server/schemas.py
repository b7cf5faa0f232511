"""What requests may hold: the parts that several endpoints share.

A known field does what its name says, or has no effect here and is at the end of `Common`, or is refused. Unknown ones
are ignored, as clients send many; `unknown_fields` names them, so that the server can count them. Values are not
converted ("1" is not 1), and their bounds are those of `limits`.

It does not know what the model's limits are, and what a message must look like: `chat.template` says that.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from qwen3.grammar import Constraint
from qwen3.server import limits


def unknown_fields(body: BaseModel) -> list[str]:
    """The fields of a request that are ignored, those of its objects as paths."""
    names = list(body.model_extra or ())
    for name in type(body).model_fields:
        if isinstance(inner := getattr(body, name), BaseModel):
            names += [f"{name}.{unknown}" for unknown in unknown_fields(inner)]
    return names


def cuts(top_p: float | None, top_k: int | None) -> dict[str, Any]:
    """Fields of `SamplingParams` for these, where they are given: a `top_p` of 0 keeps one token, as the smallest share
    does; a `top_k` of -1 keeps all, as 0 does."""
    given = {"top_p": None if top_p is None else top_p or 1e-9, "top_k": None if top_k is None else max(top_k, 0)}
    return {name: value for name, value in given.items() if value is not None}


class Strict(BaseModel):
    model_config = ConfigDict(
        extra="allow", strict=True, frozen=True, allow_inf_nan=False, serialize_by_alias=True, protected_namespaces=()
    )


def refused(reason: str) -> Any:
    """The type of a field that a client must not mean: null is fine, anything else is an error with the reason."""

    def check(value: Any) -> None:
        if value is not None:
            raise ValueError(reason)

    return Annotated[None, BeforeValidator(check, json_schema_input_type=None), Field(description=f"Refused: {reason}")]


def as_list(value: Any) -> Any:
    """A string as a list of one."""
    return [value] if isinstance(value, str) else value


Tokens = Annotated[int, Field(ge=0, le=limits.TOKENS)]
TokenLimit = Annotated[int, Field(ge=1, le=limits.TOKENS)]
Label = Annotated[str, Field(max_length=limits.LABEL_CHARS)]
IdleLabel = Annotated[str, Field(max_length=limits.IDLE_LABEL_CHARS, description="Without effect.")]
_Penalty = Annotated[float, Field(ge=-limits.PENALTY, le=limits.PENALTY)]
_Repetition = Annotated[float, Field(ge=limits.REPETITION_PENALTY_MIN, le=limits.REPETITION_PENALTY)]
Seed = Annotated[
    int,
    Field(ge=-(2**63), lt=2**63),
    # The document's bounds are floats, among which this is the last before 2**63.
    WithJsonSchema({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1024}),
]
ReasoningEffort = Annotated[
    Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"],
    Field(description="none turns thinking off; the others turn it on, and do not differ."),
]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
_StopString = Annotated[str, Field(min_length=1, max_length=limits.STOP_CHARS)]
StopStrings = Annotated[
    list[_StopString],
    Field(max_length=limits.STOPS),
    BeforeValidator(as_list, json_schema_input_type=_StopString | list[_StopString]),
]
_Bias = Annotated[float, Field(ge=-limits.LOGIT_BIAS, le=limits.LOGIT_BIAS)]
_GrammarText = Annotated[str, Field(min_length=1, max_length=limits.SCHEMA_BYTES)]


def _within_size(schema: Any) -> Any:
    if schema is not None and (size := len(json.dumps(schema))) > limits.SCHEMA_BYTES:
        raise ValueError(f"a schema may have {limits.SCHEMA_BYTES:,} bytes, this one has {size:,}")
    return schema


Schema = Annotated[dict[str, Any] | bool, Field(description="A JSON schema."), BeforeValidator(_within_size)]


class StreamOptions(Strict):
    include_usage: bool = Field(False, description="A last chunk with token counts.")
    continuous_usage_stats: bool = Field(False, description="Token counts in every chunk.")


class TemplateArguments(BaseModel):
    """What a request may tell the chat template; other names are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    enable_thinking: bool | None = None
    thinking: bool | None = None
    thinking_budget: Tokens | None = None


class JsonSchemaFormat(Strict):
    name: Label | None = None
    description: str | None = None
    schema_: Schema = Field(True, alias="schema")
    strict: bool | None = Field(None, description="The schema is always enforced.")


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    schema_: Schema | None = Field(None, alias="schema", description="llama.cpp's place for the schema.")

    @property
    def constraint(self) -> Constraint | None:
        schema = self.schema_ if self.json_schema is None else self.json_schema.schema_
        if self.type == "text":
            return None
        if schema is not None:
            return Constraint("json_schema", schema)
        if self.type == "json_schema":
            raise ValueError("response_format.json_schema is missing")
        return Constraint("json_object")


class StructuredOutputs(Strict):
    """One of these."""

    json_: Schema | _GrammarText | None = Field(None, alias="json", description="A JSON schema, or its text.")
    json_object: bool | None = None
    regex: _GrammarText | None = None
    choice: Annotated[list[_StopString], Field(min_length=1, max_length=limits.GUIDED_CHOICES)] | None = None
    grammar: _GrammarText | None = Field(None, description="In the notation of Lark or GBNF.")

    @property
    def constraints(self) -> list[Constraint]:
        schema = self.json_
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"structured_outputs.json is not valid JSON: {error}") from error
        given = [("json_schema", schema), ("regex", self.regex), ("choice", self.choice), ("grammar", self.grammar)]
        return [Constraint(kind, value) for kind, value in given if value is not None] + (
            [Constraint("json_object")] if self.json_object else []
        )


class Common(Strict):
    """What both endpoints take."""

    model: Label | None = Field(None, description="The served model's name; it may be left out.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=limits.CHOICES)] | None = Field(None, description="Answers to each prompt.")

    temperature: Annotated[float, Field(ge=0, le=limits.TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=limits.TOKENS)] | None = Field(None, description="0 or -1 for all tokens.")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: _Repetition | None = None
    repeat_penalty: _Repetition | None = Field(None, description="Another name for repetition_penalty.")
    logit_bias: (
        Annotated[dict[Annotated[str, Field(pattern=r"^[0-9]{1,7}$")], _Bias], Field(max_length=limits.LOGIT_BIASES)]
        | None
    ) = Field(None, description="Added to the logits of these token ids.")
    seed: Seed | None = Field(
        None, description="The same seed gives the same tokens; of n answers, the second takes seed + 1, and so on."
    )
    n_predict: Literal[-1] | TokenLimit | None = Field(None, description="Another name for max_tokens; -1 is no limit.")
    min_tokens: Tokens | None = None
    stop: StopStrings | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=limits.STOP_TOKEN_IDS)] | None = None
    ignore_eos: bool | None = None

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    json_schema: Schema | None = Field(None, description="As structured_outputs.json.")
    grammar: _GrammarText | None = Field(None, description="As structured_outputs.grammar.")

    priority: Annotated[int, Field(ge=-limits.PRIORITY, le=limits.PRIORITY)] | None = Field(
        None, description="Lower runs earlier."
    )
    cache_salt: Label | None = Field(None, description="Only requests with the same salt share cached prompts.")
    return_progress: bool | None = Field(None, description="A stream reports how far the prompt is.")
    timings_per_token: bool | None = Field(None, description="A stream's chunks have timings.")

    # Without effect: labels of the client's own, and hints for what this server does not have.
    user: IdleLabel | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: IdleLabel | None = None
    safety_identifier: IdleLabel | None = None
    prompt_cache_key: IdleLabel | None = None

    @field_validator("stream")
    @classmethod
    def _no_stream_by_default(cls, stream: bool | None) -> bool:
        return bool(stream)

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream: true")
        for what, values in self._aliases().items():
            if len(set(values.values())) > 1:
                raise ValueError(f"{' and '.join(values)} contradict each other about {what}: give one of them")
        self.constraint  # noqa: B018 - raises
        return self

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def shows_usage_always(self) -> bool:
        return self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def constraint(self) -> Constraint | None:
        """Raises ValueError where there are several."""
        found = [] if self.structured_outputs is None else self.structured_outputs.constraints
        if self.structured_outputs is not None and len(found) != 1:
            raise ValueError("structured_outputs needs exactly one of json, json_object, regex, choice, grammar")
        if self.response_format is not None and (constraint := self.response_format.constraint) is not None:
            found.append(constraint)
        if self.json_schema is not None:
            found.append(Constraint("json_schema", self.json_schema))
        if self.grammar is not None:
            found.append(Constraint("grammar", self.grammar))
        if len(found) > 1:
            raise ValueError("the answer has several formats: give one of response_format, structured_outputs, ...")
        return found[0] if found else None

    def sampling(self) -> dict[str, Any]:
        """Fields of `SamplingParams` that the request gives; the others keep the model's defaults."""
        names = "temperature min_p presence_penalty frequency_penalty seed min_tokens stop stop_token_ids ignore_eos"
        given = {name: value for name in names.split() if (value := getattr(self, name)) is not None}
        given |= cuts(self.top_p, self.top_k)
        if self.logit_bias is not None:
            given["logit_bias"] = {int(token): bias for token, bias in self.logit_bias.items()}
        aliases = self._aliases()
        for penalty in aliases["the repetition penalty"].values():
            given["repetition_penalty"] = penalty
        for limit in aliases["the longest answer"].values():
            given["max_tokens"] = None if limit < 0 else limit
        return given

    def _aliases(self) -> dict[str, dict[str, Any]]:
        """By what they are about, the fields that are given, with their values."""
        return {
            "the longest answer": self._given("max_tokens", "max_completion_tokens", "n_predict"),
            "the repetition penalty": self._given("repetition_penalty", "repeat_penalty"),
        }

    def _given(self, *names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}
