"""`POST /v1/completions`, `/tokenize` and `/detokenize`, field by field."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from qwen3.server import limits
from qwen3.server.chat_schema import Messages, Tools
from qwen3.server.schemas import Common, Label, Strict, TokenId, Tokens, refused

_TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=limits.IDS)]
_Prompt = Annotated[str, Field(min_length=1)] | _TokenIds
_PROMPTS: TypeAdapter[list[str | list[int]]] = TypeAdapter(
    Annotated[list[_Prompt], Field(min_length=1, max_length=limits.PROMPTS)], config=ConfigDict(strict=True)
)


def _as_prompts(value: Any) -> Any:
    is_one = isinstance(value, str) or (isinstance(value, list) and value and not isinstance(value[0], str | list))
    try:
        return _PROMPTS.validate_python([value] if is_one else value)
    except ValidationError as error:
        fault = error.errors()[0]
        if fault["type"] == "too_long":
            raise ValueError(f"{len(value)} prompts are more than {limits.PROMPTS}") from error
        raise ValueError("it must be a text, a list of token ids, or a list of these, none of them empty") from error


class CompletionRequest(Common):
    """`POST /v1/completions`. In a text prompt the names of control tokens are control tokens."""

    prompt: Annotated[
        list[str | list[int]],
        BeforeValidator(_as_prompts, json_schema_input_type=_Prompt | list[_Prompt]),
    ]
    max_tokens: Tokens | None = Field(None, description="0 only with echo.")
    best_of: Annotated[int, Field(ge=1, le=limits.CHOICES)] | None = Field(None, description="Only the value of n.")
    echo: bool | None = Field(None, description="The text begins with the prompt's.")
    logprobs: Annotated[int, Field(ge=0, le=limits.TOP_LOGPROBS)] | None = Field(
        None,
        description="Log-probabilities of the tokens, with this many alternatives; with echo, of the prompt's too.",
    )
    suffix: refused("the model only continues a text") = None

    @model_validator(mode="after")
    def _completion_fields_agree(self) -> Self:
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of may only be n")
        if len(self.prompt) * (self.n or 1) > limits.SEQUENCES:
            raise ValueError(f"n x prompts is more than {limits.SEQUENCES}")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens 0 is for echo: true")
        if self.stream and self.echo and self.logprobs is not None:
            raise ValueError("echo with logprobs is not streamed")
        return self

    def sampling(self) -> dict[str, Any]:
        given = super().sampling()
        if given.get("max_tokens") == 0:
            given["max_tokens"] = 1  # never drawn
        return given | ({"logprobs": self.logprobs} if self.logprobs is not None else {})


class TokenizeRequest(Strict):
    """`POST /tokenize`: a text, or messages as a chat request has them."""

    model: Label | None = None
    content: str | None = None
    prompt: str | None = Field(None, description="Another name for content.")
    messages: Messages | None = None
    tools: Tools | None = None
    add_generation_prompt: bool = True
    parse_special: bool = Field(True, description="Names of control tokens in the text are control tokens.")
    with_pieces: bool = Field(False, description="Each token with its text.")
    add_special: bool | None = Field(None, description="Without effect: the model has no token that begins a text.")

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if [self.content, self.prompt, self.messages].count(None) != 2:
            raise ValueError("give one of content, prompt and messages")
        return self


class DetokenizeRequest(Strict):
    """`POST /detokenize`."""

    model: Label | None = None
    tokens: Annotated[list[TokenId], Field(max_length=limits.IDS)]
