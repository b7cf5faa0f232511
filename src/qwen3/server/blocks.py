"""Answers and histories as lists of blocks: what OpenAI's Responses and Anthropic's Messages have in common.

Both write an answer as blocks that open, grow and close one after the other (reasoning, text, a tool call), and read a
conversation back as such blocks; inside, a conversation is messages in the form of OpenAI's chat completions.
It does not know how either format spells a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from qwen3.chat import Content, Event, Reasoning, ToolCall, ToolCallDelta

Kind = Literal["reasoning", "text", "call"]


@dataclass
class Block:
    """One block of an answer; `text` is what it holds so far, of a call its arguments. Only a call has id and name."""

    kind: Kind
    index: int
    id: str = ""
    name: str = ""
    text: str = ""


@dataclass(frozen=True)
class Opened:
    block: Block


@dataclass(frozen=True)
class Grew:
    block: Block
    text: str


@dataclass(frozen=True)
class Closed:
    block: Block


Change = Opened | Grew | Closed


class BlockStream:
    """Events of one answer as changes of its blocks. At most one block, the last, is open."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._open: Block | None = None

    def feed(self, event: Event) -> Iterator[Change]:
        match event:
            case Reasoning(text):
                yield from self._grow("reasoning", text)
            case Content(text):
                yield from self._grow("text", text)
            case ToolCallDelta(id="", arguments=more):
                yield from self._grow("call", more)
            case ToolCallDelta(_, id, name, arguments):
                yield from self.close()
                yield from self._grow("call", arguments, id, name)
            case ToolCall(_, id, name, arguments):
                yield from self.close()
                yield from self._grow("call", arguments, id, name)
                yield from self.close()

    def close(self) -> Iterator[Closed]:
        """The end of the block that is open, if one is."""
        if self._open is not None:
            block, self._open = self._open, None
            yield Closed(block)

    def _grow(self, kind: Kind, text: str, id: str = "", name: str = "") -> Iterator[Change]:
        block = self._open
        if block is None or block.kind != kind:
            yield from self.close()
            block = self._open = Block(kind, len(self.blocks), id, name)
            self.blocks.append(block)
            yield Opened(block)
        if text:
            block.text += text
            yield Grew(block, text)


class Conversation:
    """Messages in the form of OpenAI's chat completions, put together from blocks.

    Blocks of an assistant that follow each other are one message, as they were when the model wrote them: reasoning,
    then content, then calls. Reasoning after anything else begins another.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def say(self, role: str, text: str) -> None:
        if role == "assistant":
            message = self._assistant()
            message["content"] = message.get("content", "") + text
        else:
            # OpenAI's newer name for the system role.
            self.messages.append({"role": "system" if role == "developer" else role, "content": text})

    def reason(self, text: str) -> None:
        message = self._assistant()
        if "content" in message or "tool_calls" in message:
            message = self._begin()
        message["reasoning_content"] = message.get("reasoning_content", "") + text

    def call(self, id: str, name: str, arguments: str | dict[str, Any]) -> None:
        call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self._assistant().setdefault("tool_calls", []).append(call)

    def result(self, call_id: str, text: str) -> None:
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": text})

    def _assistant(self) -> dict[str, Any]:
        """The message that the assistant's next block belongs to."""
        is_open = self.messages and self.messages[-1]["role"] == "assistant"
        return self.messages[-1] if is_open else self._begin()

    def _begin(self) -> dict[str, Any]:
        self.messages.append({"role": "assistant"})
        return self.messages[-1]


def function_tool(name: str, description: str | None, parameters: Any, strict: bool | None) -> dict[str, Any]:
    """A tool in the form of OpenAI's chat completions, with what was given of it."""
    function = {"name": name, "description": description, "parameters": parameters, "strict": strict}
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}
