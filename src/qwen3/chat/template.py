"""Messages to a prompt: the chat format of Qwen3, written out in Python.

`render` gives spans rather than one string. A span is text from outside or from the format (`control=False`), or one
control token (`control=True`); only the renderer makes control spans, so nothing that a user, a tool or a client writes
can open or close a turn. `trained` marks what the model itself generates.

The joined text equals the official jinja template byte for byte wherever that template gives a result. Where it fails
or prints Python values the behaviour is defined here:
- content that is null or absent is "" (the official template fails; for a tool message it prints "None");
- content given as OpenAI parts is the concatenation of its text parts, as in Qwen's templates for models that take
  parts; other kinds of part are refused;
- reasoning may be called `reasoning_content` (read first) or `reasoning`;
- a tool call without `arguments` has `{}`;
- unknown roles and fields of the wrong type are errors (the official template drops or prints them).

It does not know about token ids, or about what the model answers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen3.chat.foreign import ForeignTemplate

ROLES = ("system", "user", "assistant", "tool")


class ChatError(ValueError):
    """A conversation that cannot be rendered; the message names the message's index and the field."""


class ChatFormat(Enum):
    """The three official formats. They differ in the think block of assistant turns and in the generation prompt."""

    HYBRID = "hybrid"
    """Qwen3: thinks unless `thinking=False`, which puts an empty think block into the generation prompt."""
    THINKING_2507 = "thinking-2507"
    """Always thinks: the generation prompt opens the think block. `thinking` changes nothing."""
    INSTRUCT_2507 = "instruct-2507"
    """Never thinks: reasoning in the history is left out. `thinking` changes nothing."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a prompt. `control`: the text is one control token. `trained`: the model generates this."""

    text: str
    control: bool = False
    trained: bool = False


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation. No two adjacent spans are text with the same `trained`."""

    spans: tuple[Span, ...]

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)

    @property
    def open_text(self) -> str:
        """What there is of the message that the model continues, without the format's newlines before it."""
        last = self.spans[-1]
        return last.text.lstrip("\n") if last.trained and not last.control else ""


@dataclass(frozen=True)
class Call:
    """A tool call of an assistant message. `arguments` is JSON text, as given where the client sent text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Turn:
    """A checked message: strings only, parts joined. `reasoning` is None where the message has none of its own, so
    that it may stand in `content` between think tags."""

    role: str
    content: str
    reasoning: str | None = None
    calls: tuple[Call, ...] = ()


def render(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    thinking: bool = True,
    add_generation_prompt: bool = True,
    *,
    format: "ChatFormat | ForeignTemplate" = ChatFormat.HYBRID,
    continue_final_message: bool = False,
) -> Rendered:
    """Render a conversation in OpenAI's message form.

    `tools` are JSON schemas of the functions that may be called. With `continue_final_message` the last message, from
    the assistant, is left open for the model to continue (in its think block if it has reasoning and no content), and
    there is no generation prompt.

    Every assistant turn in the result is trained, with its `<|im_end|>`: the turns before the last question in the
    form that they have in history, without their reasoning.

    Raises ChatError for anything that it cannot render.
    """
    if not isinstance(thinking, bool):
        raise ChatError(f"thinking must be True or False, got {thinking!r}")
    turns = check_messages(messages)
    tools = _check_tools(tools)
    if continue_final_message and (turns[-1].role != "assistant" or turns[-1].calls):
        raise ChatError(
            f"messages[{len(turns) - 1}]: only a final assistant message without tool_calls can be continued"
        )
    if not isinstance(format, ChatFormat):
        return format.render(turns, tools, thinking, add_generation_prompt, continue_final_message)

    writer = _Writer(format)
    writer.system(turns[0].content if turns[0].role == "system" else None, tools)
    last_query = _last_query(turns)
    for i, turn in enumerate(turns):
        is_last = i == len(turns) - 1
        if turn.role == "assistant":
            writer.assistant(turn, i > last_query, is_last, is_open=is_last and continue_final_message)
        elif turn.role == "tool":
            writer.tool(turn.content, i == 0 or turns[i - 1].role != "tool", is_last or turns[i + 1].role != "tool")
        elif turn.role == "user" or i > 0:
            writer.turn(turn.role, turn.content)
    if add_generation_prompt and not continue_final_message:
        writer.generation_prompt(thinking)
    return Rendered(join_spans(writer.spans))


class _Writer:
    """Collects spans; a method for each part of the format."""

    def __init__(self, format: ChatFormat) -> None:
        self.format = format
        self.spans: list[Span] = []

    def text(self, text: str, trained: bool = False) -> None:
        self.spans.append(Span(text, trained=trained))

    def control(self, name: str, trained: bool = False) -> None:
        self.spans.append(Span(name, control=True, trained=trained))

    def system(self, content: str | None, tools: Sequence[Mapping[str, Any]]) -> None:
        if not tools:
            if content is not None:
                self.turn("system", content)
            return
        self.control("<|im_start|>")
        self.text("system\n")
        if content is not None:
            self.text(content + "\n\n")
        self.text("# Tools\n\nYou may call one or more functions to assist with the user query.\n\n")
        self.text("You are provided with function signatures within <tools></tools> XML tags:\n<tools>")
        for i, tool in enumerate(tools):
            self.text("\n" + _json(tool, f"tools[{i}]"))
        self.text("\n</tools>\n\nFor each function call, return a json object with function name and arguments within ")
        # The instructions name the tags with the tokens themselves, as the official tokenizer encodes them.
        self.control("<tool_call>")
        self.control("</tool_call>")
        self.text(" XML tags:\n")
        self.control("<tool_call>")
        self.text('\n{"name": <function-name>, "arguments": <args-json-object>}\n')
        self.control("</tool_call>")
        self.end_turn()

    def turn(self, role: str, content: str) -> None:
        self.control("<|im_start|>")
        self.text(f"{role}\n{content}")
        self.end_turn()

    def end_turn(self, trained: bool = False) -> None:
        self.control("<|im_end|>", trained)
        self.text("\n")

    def tool(self, content: str, is_first: bool, is_last: bool) -> None:
        if is_first:
            self.control("<|im_start|>")
            self.text("user")
        self.text("\n")
        self.control("<tool_response>")
        self.text(f"\n{content}\n")
        self.control("</tool_response>")
        if is_last:
            self.end_turn()

    def assistant(self, turn: Turn, is_after_query: bool, is_last: bool, is_open: bool) -> None:
        thinks = self.format is not ChatFormat.INSTRUCT_2507
        reasoning, content = _split_reasoning(turn) if thinks else ("", turn.content)
        self.control("<|im_start|>")
        self.text("assistant\n")
        if thinks and is_after_query and (is_last or reasoning):
            # The generation prompt of Thinking-2507 holds the opening: the model does not generate it.
            opens = self.format is ChatFormat.HYBRID
            self.control("<think>", trained=opens)
            self.text("\n", trained=opens)
            self.text(reasoning.strip("\n"), trained=True)
            if is_open and reasoning and not content:
                return
            self.text("\n", trained=True)
            self.control("</think>", trained=True)
            self.text("\n\n" + content.lstrip("\n"), trained=True)
        else:
            self.text(content, trained=True)
        if is_open:
            return
        for i, call in enumerate(turn.calls):
            if i > 0 or content:
                self.text("\n", trained=True)
            self.control("<tool_call>", trained=True)
            self.text(f'\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n', trained=True)
            self.control("</tool_call>", trained=True)
        self.end_turn(trained=True)

    def generation_prompt(self, thinking: bool) -> None:
        self.control("<|im_start|>")
        self.text("assistant\n")
        if self.format is ChatFormat.THINKING_2507:
            self.control("<think>")
            self.text("\n")
        elif self.format is ChatFormat.HYBRID and not thinking:
            self.control("<think>")
            self.text("\n\n")
            self.control("</think>")
            self.text("\n\n")


def join_spans(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Join adjacent text spans with the same `trained`, and drop empty ones."""
    joined: list[Span] = []
    for (control, trained), run in groupby(spans, key=lambda span: (span.control, span.trained)):
        if control:
            joined += run
        elif text := "".join(span.text for span in run):
            joined.append(Span(text, trained=trained))
    return tuple(joined)


def _split_reasoning(turn: Turn) -> tuple[str, str]:
    """Reasoning and answer of an assistant turn; reasoning that it does not have of its own is looked for in the
    content, between think tags of which the opening one may be missing."""
    if turn.reasoning is not None:
        return turn.reasoning, turn.content
    if "</think>" not in turn.content:
        return "", turn.content
    before, *_, answer = turn.content.split("</think>")
    return before.rstrip("\n").split("<think>")[-1].lstrip("\n"), answer.lstrip("\n")


def _last_query(turns: Sequence[Turn]) -> int:
    """Index of the last user message that is not wholly a tool response; without one, of the last message. Reasoning
    is kept in assistant turns after it: these belong to one answer with several tool calls."""
    for i in range(len(turns) - 1, -1, -1):
        content = turns[i].content
        is_tool_response = content.startswith("<tool_response>") and content.endswith("</tool_response>")
        if turns[i].role == "user" and not is_tool_response:
            return i
    return len(turns) - 1


# From messages in OpenAI's form to turns


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Turns of a conversation, or ChatError naming what is wrong with it and where."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ChatError(f"messages must be a list, got {type(messages).__name__}")
    if not messages:
        raise ChatError("messages is empty: at least one message is needed")
    return [_check_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _check_message(message: Mapping[str, Any], where: str) -> Turn:
    if not isinstance(message, Mapping):
        raise ChatError(f"{where} must be an object with role and content, got {type(message).__name__}")
    role = message.get("role")
    if role not in ROLES:
        raise ChatError(f"{where}.role must be one of {', '.join(ROLES)}; got {role!r}")
    content = _check_content(message.get("content"), f"{where}.content")
    if role != "assistant":
        return Turn(role, content)
    reasoning = message.get("reasoning_content")
    name = "reasoning_content"
    if reasoning is None:
        reasoning, name = message.get("reasoning"), "reasoning"
    if reasoning is not None and not isinstance(reasoning, str):
        raise ChatError(f"{where}.{name} must be a string or null, got {type(reasoning).__name__}")
    return Turn(role, content, reasoning, _check_calls(message.get("tool_calls"), f"{where}.tool_calls"))


def _check_content(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ChatError(f"{where} must be a string, null or a list of parts, got {type(content).__name__}")
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text":
            raise ChatError(f"{where}[{i}]: parts of type {kind!r} are not supported; Qwen3 reads text parts only")
        if not isinstance(part.get("text"), str):
            raise ChatError(f"{where}[{i}].text must be a string")
        texts.append(part["text"])
    return "".join(texts)


def _check_calls(calls: Any, where: str) -> tuple[Call, ...]:
    if calls is None:
        return ()
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise ChatError(f"{where} must be a list or null, got {type(calls).__name__}")
    checked = []
    for i, call in enumerate(calls):
        if not isinstance(call, Mapping):
            raise ChatError(f"{where}[{i}] must be an object, got {type(call).__name__}")
        function = call.get("function") or call
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ChatError(f"{where}[{i}].function.name must be a string")
        arguments = function.get("arguments", {})
        if not isinstance(arguments, str):
            arguments = _json(arguments, f"{where}[{i}].function.arguments")
        checked.append(Call(function["name"], arguments))
    return tuple(checked)


def _check_tools(tools: Sequence[Mapping[str, Any]] | None) -> Sequence[Mapping[str, Any]]:
    if tools is None:
        return ()
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise ChatError(f"tools must be a list or null, got {type(tools).__name__}")
    for i, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise ChatError(f"tools[{i}] must be an object, got {type(tool).__name__}")
    return tools


def _json(value: Any, where: str) -> str:
    """JSON as the reference writes it: keys in their order, non-ASCII and HTML characters as they are."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ChatError(f"{where} cannot be written as JSON: {error}") from error
