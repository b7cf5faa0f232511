"""The chat format: messages to a prompt (`template`), answers to events (`stream`), foreign templates (`foreign`)."""

from typing import TYPE_CHECKING, Any

from qwen3.chat.stream import (
    Content,
    Event,
    Message,
    Reasoning,
    StreamParser,
    ToolCall,
    ToolCallDelta,
    fold,
)
from qwen3.chat.structure import StreamState, Structure, start_state
from qwen3.chat.template import ChatError, ChatFormat, Rendered, Span, render
from qwen3.chat.token_texts import TokenText, TokenTexts

if TYPE_CHECKING:
    from qwen3.chat.foreign import ForeignTemplate, format_of, load_format

__all__ = [
    "ChatError",
    "ChatFormat",
    "Content",
    "Event",
    "ForeignTemplate",
    "Message",
    "Reasoning",
    "Rendered",
    "Span",
    "StreamParser",
    "StreamState",
    "Structure",
    "TokenText",
    "TokenTexts",
    "ToolCall",
    "ToolCallDelta",
    "fold",
    "format_of",
    "load_format",
    "render",
    "start_state",
]


def __getattr__(name: str) -> Any:
    if name in ("ForeignTemplate", "format_of", "load_format"):  # on first use, because they bring jinja2
        from qwen3.chat import foreign

        return getattr(foreign, name)
    raise AttributeError(f"module 'qwen3.chat' has no attribute {name!r}")
