"""From messages, text or ids to a prompt's ids, which fit the context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from qwen3.chat import ChatFormat, Rendered, render
from qwen3.engine.request import ContextError, RequestError
from qwen3.text_split import PieceError, TokenLimitError
from qwen3.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model reads it."""

    rendered: Rendered
    ids: list[int]

    @property
    def text(self) -> str:
        return self.rendered.text


class Prompts:
    """Of one model. Its methods may be called from any thread."""

    def __init__(self, tokenizer: Tokenizer, format: ChatFormat, max_context: int, vocab_size: int) -> None:
        """`vocab_size` is the number of logits: ids from the tokenizer's own up to it are allowed in a prompt."""
        self._tokenizer, self.format, self._max_context, self._vocab_size = tokenizer, format, max_context, vocab_size

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        thinking: bool,
        *,
        tool_choice: str = "auto",
        continue_final_message: bool = False,
        add_generation_prompt: bool = True,
        limit: int | None = None,
    ) -> Prompt:
        """A conversation's prompt; arguments as of `LLM.prepare_chat`. Raises TokenLimitError for more than `limit`
        tokens, and ChatError."""
        rendered = render(
            messages,
            None if tool_choice == "none" else tools,
            thinking,
            add_generation_prompt,
            format=self.format,
            continue_final_message=continue_final_message,
        )
        return Prompt(rendered, self._tokenizer.encode_spans(rendered.spans, limit))

    def history(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        thinking: bool,
        content: str,
    ) -> list[int]:
        """The ids with which any prompt begins that goes on after the answer `content`: templates leave its reasoning
        out."""
        answer = {"role": "assistant", "content": content}
        first, other = (
            self.chat([*messages, answer, {"role": "user", "content": question}], tools, thinking).ids
            for question in ("A", "1")
        )
        return [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, other, strict=False))]

    def ids(self, prompt: str | Sequence[int]) -> list[int]:
        """Of a raw text, in which control strings become control tokens. Raises ContextError for one that is far too
        long."""
        if not isinstance(prompt, str):
            return list(prompt)
        with self.within_context() as limit:
            return self._tokenizer.encode(prompt, limit=limit)

    def check(self, ids: Sequence[int]) -> None:
        """Raises RequestError for what is no prompt, and ContextError for one that is too long."""
        if not ids:
            raise RequestError("the prompt is empty: give at least one token")
        for token in ids:
            if not isinstance(token, int) or not 0 <= token < self._vocab_size:
                raise RequestError(f"prompt token {token!r} is not an id below {self._vocab_size}")
        if len(ids) >= self._max_context:
            raise self._too_long(str(len(ids)))

    @contextmanager
    def within_context(self) -> Iterator[int]:
        """The limit for encoding a prompt: one that is not far too long is encoded whole, so that its length can be
        told. What is longer, or cannot be encoded for its length, is a ContextError."""
        try:
            yield 2 * self._max_context
        except TokenLimitError as error:
            raise self._too_long(f"at least {error.least}") from error
        except PieceError as error:
            raise ContextError(str(error)) from error

    def _too_long(self, count: str) -> ContextError:
        return ContextError(
            f"the prompt has {count} tokens and the context holds {self._max_context}: "
            "shorten the prompt, or load the model with a longer context"
        )
