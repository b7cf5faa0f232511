"""Where in an answer each token stands: think block, content, the header of a tool call.

The one place that says so. The parser (`stream`) turns it into events; the engine, which must know while the answer is
being drawn, bounds the thinking and constrains the rest by it.
"""

from collections.abc import Collection
from enum import Enum

from qwen3.chat.calls import call_header
from qwen3.chat.template import Rendered, Span
from qwen3.tokenizer import CONTROL_TOKENS, Tokenizer


class StreamState(Enum):
    """Where in an answer a stream is."""

    RAW = "raw"
    """A plain completion: everything is content, nothing is parsed."""
    START = "start"
    """A turn has just begun, and a `<think>` may come."""
    REASONING = "reasoning"
    CONTENT = "content"


def start_state(rendered: Rendered) -> StreamState:
    """The state that the end of a prompt implies for what follows it."""
    turn: list[Span] = []
    for span in reversed(rendered.spans):
        if span.control and span.text == "<|im_start|>":
            break
        if span.control and span.text in ("<think>", "</think>"):
            return StreamState.REASONING if span.text == "<think>" else StreamState.CONTENT
        if span.control and CONTROL_TOKENS.get(span.text):
            return StreamState.START  # a turn has ended, and the prompt begins no other, or not by this token
        turn.append(span)
    else:
        return StreamState.START
    text = "".join(span.text for span in reversed(turn))
    return StreamState.START if text.strip() == "assistant" else StreamState.CONTENT


class Structure:
    """Follows the ids of one answer.

    Attributes:
        state: where the answer is, after the ids that were observed.
        called: the tool whose header the last id completed, exactly as the template writes it; mostly None.
    """

    def __init__(self, tokenizer: Tokenizer, state: StreamState, tool_names: Collection[str] = ()) -> None:
        self.state = state
        self.called: str | None = None
        self._tokenizer = tokenizer
        self._tags = {id: name for name, id in tokenizer.control_ids.items() if id not in tokenizer.special_ids}
        self._headers = {call_header(name).encode(): name for name in tool_names}
        self._call = b""
        self._is_in_header = False

    def observe(self, id: int) -> None:
        """Note the next id. Those of special tokens, such as `<|im_end|>`, change nothing."""
        self.called = None
        if self.state is StreamState.RAW or id in self._tokenizer.special_ids:
            return
        if id in self._tags:
            self._tag(self._tags[id])
            return
        text = self._tokenizer.token_bytes(id)
        if self._is_in_header:
            self._call += text
            self.called = self._headers.get(self._call)
            self._is_in_header = any(header.startswith(self._call) for header in self._headers)
        elif self.state is StreamState.START and text.strip(b"\n"):
            self.state = StreamState.CONTENT

    def _tag(self, tag: str) -> None:
        self._is_in_header = False
        match self.state, tag:
            case (StreamState.START, "<think>"):
                self.state = StreamState.REASONING
            case (StreamState.START | StreamState.REASONING, "</think>"):
                self.state = StreamState.CONTENT
            case (StreamState.REASONING, _):
                pass
            case _:
                self.state = StreamState.CONTENT
                self._call, self._is_in_header = b"", tag == "<tool_call>"
