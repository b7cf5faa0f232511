"""Generated token ids to events: reasoning, content, tool calls.

Structure is read off token *ids*, never off text: a `<tool_call>` that a model spells out letter by letter is prose.
Events joined per channel do not depend on how the ids were cut into `feed` calls; the unstreamed answer is `fold` over
the same events.

What belongs to the format and what to the answer:
- Reasoning loses the newlines at its end, and those after a `<think>` seen in the stream; content loses those after a
  `</think>` seen in the stream. Where the prompt itself opened or closed the think block it also supplied the
  newlines, and the stream's own are kept.
- Before a tool call, the single newline that the template would write is dropped. Newlines that begin the stream's
  content or follow a tool call count only if text follows them.
- A block between `<tool_call>` and `</tool_call>` (or the end, or the next `<tool_call>`) that is not a call, or calls
  a tool that was not offered, is content, tags included.
- In reasoning `<tool_call>` is text: a call drafted there is not made. A tag without a role where it stands, such as
  `</think>` in an answer, is text too. Tokens with the `special` flag, such as `<|im_end|>`, never show.
- Stop strings are looked for in content only, within one run of text between tags. Of several, the first to be
  complete stops the stream; it is not part of the content, and nothing after it is.

It does not know about requests, and when generation ends.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwen3.chat.calls import ObjectText, parse_call
from qwen3.chat.structure import StreamState, Structure, start_state
from qwen3.chat.template import Rendered
from qwen3.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the think block."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete tool call. `arguments` is the JSON object as the model wrote it, so that a later prompt with this
    call has the same tokens. `index` counts the calls of an answer from 0."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call whose arguments are valid by construction, as far as they have come. The first of a call
    has `id` and `name` and perhaps no arguments yet; the later ones have the index and a fragment."""

    index: int
    id: str
    name: str
    arguments: str


Event = Reasoning | Content | ToolCall | ToolCallDelta


@dataclass(frozen=True)
class Message:
    """A whole answer."""

    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The message to append to a conversation, in OpenAI's form."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        return message


def fold(events: Iterable[Event]) -> Message:
    """The answer that a stream of events adds up to."""
    reasoning, content, calls = [], [], []
    for event in events:
        match event:
            case Reasoning(text):
                reasoning.append(text)
            case Content(text):
                content.append(text)
            case ToolCall():
                calls.append(event)
            case ToolCallDelta(id="", arguments=more):
                calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + more)
            case ToolCallDelta(index, id, name, arguments):
                calls.append(ToolCall(index, id, name, arguments))
    return Message("".join(reasoning), "".join(content), tuple(calls))


class StreamParser:
    """Parses one answer. `feed` ids as they come, `finish` once at the end; both return events.

    `start` is the rendered prompt, or a state. `tool_names` are the tools offered; None accepts any name. Tool call
    ids are `call_id_prefix` and the index: give a prefix of its own to each answer of a conversation. With
    `streams_calls` a call that begins with the exact header of an offered tool comes in pieces: only for answers
    whose arguments are made to be valid. Without `parallel_calls` the answer is over after its first call.

    Attributes:
        stopped: the stop string that was met, else None.
        is_over: a stop string or the only call has ended the answer: `feed` and `finish` return nothing more.
        can_end: some text could end the answer, so that it pays to feed ids as soon as they come.
        num_reasoning_tokens: ids fed while reasoning, tags not counted.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        start: Rendered | StreamState,
        *,
        stop: Sequence[str] = (),
        tool_names: Collection[str] | None = None,
        call_id_prefix: str = "call_",
        streams_calls: bool = False,
        parallel_calls: bool = True,
    ) -> None:
        if isinstance(stop, str) or not all(stop):
            raise ValueError(f"stop must be a list of strings that are not empty, got {stop!r}")
        state = start if isinstance(start, StreamState) else start_state(start)
        self.stopped: str | None = None
        self.is_over = False
        self.can_end = bool(stop) or not parallel_calls
        self.num_reasoning_tokens = 0
        self._structure = Structure(tokenizer, state, (tool_names or ()) if streams_calls else ())
        self._detokenizer = tokenizer.detokenizer()
        self._tags = {id: name for name, id in tokenizer.control_ids.items()}
        self._special_tags = frozenset(self._tags[id] for id in tokenizer.special_ids)
        self._stop = _StopStrings(stop)
        self._tool_names = tool_names
        self._call_id_prefix, self._parallel_calls = call_id_prefix, parallel_calls
        self._num_calls = 0
        self._events: list[Event] = []
        self._call: list[str] | None = None  # text since a <tool_call>
        self._arguments: ObjectText | None = None  # of a call that comes in pieces
        self._newlines = ""  # held back: who they belong to depends on what follows
        self._is_fresh = True  # no content since the last tag
        self._drops_newlines = False  # a think tag came just before: newlines are the format's

    @property
    def state(self) -> StreamState:
        """Where the stream is now."""
        return self._structure.state

    def feed(self, ids: Iterable[int]) -> list[Event]:
        """Events that `ids` complete, one for each stretch of a channel."""
        run: list[int] = []
        for id in ids:
            if id in self._tags:
                self._run(run)
                self._text(self._detokenizer.finish())
                run = []
                before = self.state
                self._structure.observe(id)
                self._tag(before, self._tags[id])
                continue
            self._structure.observe(id)
            run.append(id)
            if self._structure.called is not None:
                self._run(run)
                run = []
                self._begin_arguments(self._structure.called)
        self._run(run)
        return self._take()

    def finish(self) -> list[Event]:
        """Events that only the end of the stream decides."""
        self._text(self._detokenizer.finish())
        if not self.is_over:
            self._end_call("")
            self._end_run()
            self._end_content()
        return self._take()

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _run(self, ids: Sequence[int]) -> None:
        if self.state is StreamState.REASONING:
            self.num_reasoning_tokens += len(ids)
        self._text(self._detokenizer.feed(ids))

    def _tag(self, before: StreamState, tag: str) -> None:
        """A control token, by the state that it came in: show it as text where it has no role."""
        if self.is_over:
            return
        match before, tag:
            case _ if tag in self._special_tags:
                pass
            case (StreamState.RAW, _):
                self._text(tag)
            case (StreamState.START, "<think>" | "</think>") | (StreamState.REASONING, "</think>"):
                self._end_run()
                self._newlines = ""
                self._is_fresh = True
                self._drops_newlines = True
            case (StreamState.REASONING, _):
                self.num_reasoning_tokens += 1
                self._text(tag)
            case (_, "<tool_call>"):
                self._end_call("")
                self._end_run()
                self._call = []
            case (_, "</tool_call>") if self._call is not None:
                self._end_call(tag)
            case _:
                self._text(tag)

    def _text(self, text: str) -> None:
        if self.is_over:
            return
        if self._arguments is not None:
            self._emit_arguments(self._arguments.feed(text))
            return
        if self._call is not None:
            self._call.append(text)
            return
        if self._drops_newlines:
            text = text.lstrip("\n")
            self._drops_newlines = not text
        if self.state is StreamState.REASONING:
            text = self._newlines + text
            shown = text.rstrip("\n")
            self._newlines = text[len(shown) :]
            self._emit(Reasoning, shown)
            return
        text, self.stopped = self._stop.feed(text)
        self._content(text)
        if self.stopped is not None:
            self._end_content()
            self.is_over = True

    def _content(self, text: str) -> None:
        """Emit content but for newlines that a following tool call would claim: its last one, or all if it has
        nothing else."""
        if self.state is StreamState.RAW:
            self._emit(Content, text)
            return
        text = self._newlines + text
        if text.strip("\n"):
            self._is_fresh = False
        shown = "" if self._is_fresh else text.removesuffix("\n")
        self._newlines = text[len(shown) :]
        self._emit(Content, shown)

    def _end_run(self) -> None:
        """What could have begun a stop string did not."""
        if held := self._stop.flush():
            self._content(held)

    def _end_content(self) -> None:
        if self.state is StreamState.CONTENT and not self._is_fresh:
            self._emit(Content, self._newlines)

    def _begin_arguments(self, name: str) -> None:
        if self.is_over or self._call is None:
            return
        self._arguments = ObjectText()
        self._newlines = ""
        self._is_fresh = True
        self._events.append(ToolCallDelta(self._num_calls, self._next_id(), name, ""))

    def _end_call(self, closing: str) -> None:
        if self._call is None:
            return
        text = "".join(self._call)
        self._call = None
        self._drops_newlines = False
        if self._arguments is None:
            parsed = parse_call(text)
            if parsed is None or (self._tool_names is not None and parsed[0] not in self._tool_names):
                self._content(f"<tool_call>{text}{closing}")
                return
            self._events.append(ToolCall(self._num_calls, self._next_id(), *parsed))
        self._arguments = None
        self._newlines = ""
        self._is_fresh = True
        self._num_calls += 1
        self.is_over = not self._parallel_calls

    def _next_id(self) -> str:
        return f"{self._call_id_prefix}{self._num_calls}"

    def _emit(self, channel: type[Reasoning] | type[Content], text: str) -> None:
        if not text:
            return
        if self._events and isinstance(self._events[-1], channel):
            text = self._events.pop().text + text
        self._events.append(channel(text))

    def _emit_arguments(self, fragment: str) -> None:
        if not fragment:
            return
        if self._events and isinstance(last := self._events[-1], ToolCallDelta) and last.index == self._num_calls:
            self._events[-1] = replace(last, arguments=last.arguments + fragment)
        else:
            self._events.append(ToolCallDelta(self._num_calls, "", "", fragment))


class _StopStrings:
    """Finds the first stop string to be complete, whatever the pieces that the text comes in."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """The text that is certainly before any stop string, and the stop string if one is complete."""
        text = self._held + text
        found = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            _, start, stop = min(found)
            self._held = ""
            return text[:start], stop
        held = min(len(text), self._longest - 1)
        while held > 0 and not any(stop.startswith(text[-held:]) for stop in self._stops):
            held -= 1
        split = len(text) - max(held, 0)
        self._held = text[split:]
        return text[:split], None

    def flush(self) -> str:
        """The text held back, which then is no longer waited on."""
        held, self._held = self._held, ""
        return held
