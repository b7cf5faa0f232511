"""A checkpoint's own chat template, for fine-tunes that changed the format.

`load_format` decides by behaviour: a template that renders the probe conversations below exactly as one of the three
official formats *is* that format, however it is written (official files differ in wording between releases; tools
rewrite them for their jinja engines). Anything else is kept as a `ForeignTemplate` and rendered by sandboxed jinja2.

Text from outside cannot become a control token here either. While the template runs, a mark follows every character in
it with which a control string could begin (`<`, unless a checkpoint added others); what then still matches a control
string was written by the template, and the marks are taken out afterwards.
Excepted are `<think>` and `</think>` in an assistant's content, which templates look for. So a template cannot
recognise other tags in messages; that is the price.

Only `{% generation %}` blocks of a foreign template are trained.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from qwen3.chat.template import ChatError, ChatFormat, Rendered, Span, Turn, join_spans, render
from qwen3.tokenizer import CONTROL_TOKENS

_THINK_TAG = re.compile("(</?think>)")


@dataclass(frozen=True)
class ForeignTemplate:
    """A jinja chat template; pass it to `render` as `format`. `variables` are named strings that it may use, such
    as `eos_token`; `control` are the strings that become control tokens where the template writes them."""

    source: str
    variables: Mapping[str, str] = field(default_factory=dict)
    control: Sequence[str] = tuple(CONTROL_TOKENS)

    @cached_property
    def _compiled(self) -> jinja2.Template:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
        try:
            return environment.from_string(self.source)
        except jinja2.TemplateError as error:
            raise ChatError(f"the checkpoint's chat template does not compile: {error}") from error

    def render(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Mapping[str, Any]],
        thinking: bool,
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> Rendered:
        """Called by `qwen3.chat.render`, which describes the arguments; `turns` are the checked messages."""
        messages = [_message(turn) for turn in turns]
        openings = "".join({name[0] for name in self.control})
        try:
            mark, begin, end = _unused_characters(_tojson([messages, list(tools), self.source]), 3)
            text = self._compiled.render(
                messages=[_guard_message(message, openings, mark) for message in messages],
                tools=_guard(list(tools), openings, mark) or None,
                documents=None,
                enable_thinking=thinking,
                add_generation_prompt=add_generation_prompt and not continue_final_message,
                generation_marks=(begin, end),
                **self.variables,
            )
        except ChatError:
            raise
        except Exception as error:  # a template is a program: it may fail in any way
            raise ChatError(f"the checkpoint's chat template failed on this conversation: {error}") from error
        spans = []
        control = re.compile("|".join(map(re.escape, sorted(self.control, key=len, reverse=True))))
        trained = False
        for piece in re.split(f"([{begin}{end}])", text):
            if piece in (begin, end):
                trained = piece == begin
                continue
            position = 0
            for match in control.finditer(piece):
                spans.append(Span(piece[position : match.start()].replace(mark, ""), trained=trained))
                spans.append(Span(match[0], control=True, trained=trained))
                position = match.end()
            spans.append(Span(piece[position:].replace(mark, ""), trained=trained))
        if continue_final_message:
            spans = _reopen(spans)
        return Rendered(join_spans(spans))


def load_format(directory: str | Path) -> ChatFormat | ForeignTemplate:
    """The chat format of a checkpoint directory: `chat_template.jinja`, else `chat_template` in
    `tokenizer_config.json`. A directory without a template has the hybrid format."""
    directory = Path(directory)
    config: dict[str, Any] = {}
    if (path := directory / "tokenizer_config.json").is_file():
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ChatError(f"{path} is not readable as JSON: {error}") from error
    source = config.get("chat_template")
    if (path := directory / "chat_template.jinja").is_file():
        source = path.read_text(encoding="utf-8")
    if isinstance(source, list):
        source = {entry["name"]: entry["template"] for entry in source}.get("default")
        if source is None:
            raise ChatError(f"{directory}: chat_template lists several templates and none is named 'default'")
    if source is None:
        return ChatFormat.HYBRID
    if not isinstance(source, str):
        raise ChatError(f"{directory}: chat_template must be a string, got {type(source).__name__}")
    added = config.get("added_tokens_decoder", {}).values()
    return format_of(source, _token_variables(config), [token["content"] for token in added])


def format_of(
    source: str, variables: Mapping[str, str], added_tokens: Iterable[str] = ()
) -> ChatFormat | ForeignTemplate:
    """The chat format of a template: an official one if it renders as that, else the template itself, with the
    strings that it may name and the control strings that the checkpoint has besides Qwen3's."""
    foreign = ForeignTemplate(source, variables, tuple(dict.fromkeys([*CONTROL_TOKENS, *added_tokens])))
    return next((format for format in ChatFormat if _renders_as(foreign, format)), foreign)


def _token_variables(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token`, `eos_token` and so on, each a string or an object with its content."""
    variables = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = config.get(name)
        variables[name] = token["content"] if isinstance(token, Mapping) else token or ""
    return variables


# Recognising an official format


def _probes() -> list[dict[str, Any]]:
    """Conversations that together take every branch of the official templates."""
    call = {"type": "function", "function": {"name": "f", "arguments": {"z": "<é>", "a": [1, None]}}}
    bare = {"name": "g", "arguments": '{"raw":  1}'}
    steps: list[dict[str, Any]] = [
        {"role": "system", "content": "S "},
        {"role": "user", "content": "\nquestion"},
        {"role": "assistant", "content": "\nearlier", "reasoning_content": "dropped"},
        {"role": "assistant", "content": "<think>\ninline\n</think>\n\nanswer", "tool_calls": [call]},
        {"role": "tool", "content": "1"},
        {"role": "system", "content": "late"},
        {"role": "user", "content": "last question"},
        {"role": "assistant", "content": "", "reasoning_content": "\nwhy\n", "tool_calls": [call, bare]},
        {"role": "tool", "content": "r1"},
        {"role": "tool", "content": "r2"},
        {"role": "user", "content": "<tool_response>\nby hand\n</tool_response>"},
        {"role": "assistant", "content": "\nno reasoning\n", "tool_calls": [bare]},
        {"role": "tool", "content": "r3"},
        {"role": "assistant", "content": "no tag</think>\nend", "reasoning_content": None},
    ]
    tools = [{"type": "function", "function": {"name": "f", "description": "ü & <b>"}}, {"z": 1, "a": 2}]
    return [
        {"messages": steps[:stop], "tools": offered, "thinking": thinking, "add_generation_prompt": prompt}
        for stop in range(1, len(steps) + 1)
        for offered, thinking, prompt in ((None, True, True), (tools, False, True), (None, True, False))
    ] + [
        {"messages": steps[2:3], "tools": tools, "thinking": True, "add_generation_prompt": False},
        {"messages": steps[4:], "tools": [], "thinking": False, "add_generation_prompt": True},
    ]


def _renders_as(foreign: ForeignTemplate, format: ChatFormat) -> bool:
    return all(_plain_text(foreign, probe) == render(**probe, format=format).text for probe in _probes())


def _plain_text(foreign: ForeignTemplate, probe: Mapping[str, Any]) -> str | None:
    """What jinja makes of a conversation that needs no protection; None if the template fails on it."""
    try:
        return foreign._compiled.render(
            messages=probe["messages"],
            tools=probe["tools"],
            documents=None,
            enable_thinking=probe["thinking"],
            add_generation_prompt=probe["add_generation_prompt"],
            generation_marks=("", ""),
            **foreign.variables,
        )
    except ChatError:
        raise
    except Exception:  # a template is a program: it may fail in any way
        return None


# Keeping text from outside apart from the template's own


def _message(turn: Turn) -> dict[str, Any]:
    """The message that templates expect: strings, and arguments as objects where they are JSON objects."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.reasoning is not None:
        message["reasoning_content"] = turn.reasoning
    if turn.calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": _parsed(call.arguments)}}
            for call in turn.calls
        ]
    return message


def _parsed(arguments: str) -> Any:
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments
    return value if isinstance(value, dict) else arguments


def _guard_message(message: Mapping[str, Any], openings: str, mark: str) -> dict[str, Any]:
    guarded = _guard(message, openings, mark)
    if message["role"] == "assistant":
        pieces = _THINK_TAG.split(message["content"])
        guarded["content"] = "".join(
            piece if i % 2 else _guard(piece, openings, mark) for i, piece in enumerate(pieces)
        )
    return guarded


def _guard(value: Any, openings: str, mark: str) -> Any:
    """A copy of `value` in which `mark` follows each of the characters `openings` in every string."""
    if isinstance(value, str):
        return value.translate({ord(char): char + mark for char in openings})
    if isinstance(value, Mapping):
        return {_guard(key, openings, mark): _guard(item, openings, mark) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_guard(item, openings, mark) for item in value]
    return value


def _unused_characters(text: str, count: int) -> list[str]:
    """Private-use characters that do not occur in `text`."""
    private = map(chr, chain(range(0xE000, 0xF900), range(0xF0000, 0xFFFFE)))
    used = set(text)
    return list(islice((char for char in private if char not in used), count))


def _reopen(spans: Sequence[Span]) -> list[Span]:
    """`spans` without what ends the last turn."""
    for i in range(len(spans) - 1, -1, -1):
        if spans[i].control and spans[i].text == "<|im_end|>":
            return list(spans[:i])
    raise ChatError("continue_final_message needs a chat template that ends a turn with <|im_end|>")


# What transformers gives a template beside jinja itself


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: the text in it is the assistant's own."""

    tags: ClassVar = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = nodes.Name("generation_marks", "load")
        call = self.call_method("_marked", [marks])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, marks: tuple[str, str], caller: Callable[[], str]) -> str:
        return marks[0] + caller() + marks[1]


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise ChatError(f"the checkpoint's chat template refuses this conversation: {message}")
