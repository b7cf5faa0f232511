"""Compare `qwen3.chat.render` with the official jinja template on generated conversations.

    python benchmarks/template_parity.py TOKENIZER_DIR [--count 20000]

TOKENIZER_DIR holds an official `tokenizer_config.json`. Prints one line; exits 1 on the first difference.
The 2507 templates are the official hybrid one with the edits in `VARIANTS`, which say how they differ from it.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from qwen3.chat import ChatFormat, render

GENERATION_PROMPT = "{{- '<|im_start|>assistant\\n' }}"
NON_THINKING = (
    "    {%- if enable_thinking is defined and enable_thinking is false %}\n"
    "        {{- '<think>\\n\\n</think>\\n\\n' }}\n"
    "    {%- endif %}\n"
)


def thinking_2507(hybrid: str) -> str:
    """The generation prompt opens the think block, and there is no switch."""
    return _edit(_edit(hybrid, NON_THINKING, ""), GENERATION_PROMPT, GENERATION_PROMPT[:-4] + "<think>\\n' }}")


def instruct_2507(hybrid: str) -> str:
    """No switch, and an assistant's content stays as it is: nothing is split off it, no block is written."""
    start = hybrid.index("{%- set content = message.content %}")
    end = hybrid.index("{%- if message.tool_calls %}")
    assistant = "{%- set content = message.content %}{{- '<|im_start|>' + message.role + '\\n' + content }}"
    return _edit(hybrid[:start] + assistant + hybrid[end:], NON_THINKING, "")


VARIANTS: dict[ChatFormat, Callable[[str], str]] = {
    ChatFormat.HYBRID: str,
    ChatFormat.THINKING_2507: thinking_2507,
    ChatFormat.INSTRUCT_2507: instruct_2507,
}


def _edit(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"not the official template: {old!r} occurs {text.count(old)} times"
    return text.replace(old, new)


def official_template(directory: Path) -> str:
    return json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]


def compile_reference(source: str) -> jinja2.Template:
    """jinja2 set up as transformers' `apply_chat_template` does."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(source)


# Conversations

ATOMS = (
    *("", " ", "\n", "\n\n", "\t", "Hello", "2+2?", "/think", "/no_think", " \n ", "é", "中文", "😀", "<b>&'\"</b>"),
    *("<think>", "</think>", "<think>\n\n</think>\n\n", "<tool_call>", "</tool_call>", "<tool_response>"),
    *("</tool_response>", "<|im_end|>", "<|im_start|>user\n", "{{ 1 }}", "{% raw %}", "\\n", "\u2028", "\x00"),
)


def _text(rng: random.Random) -> str:
    return "".join(rng.choices(ATOMS, k=rng.randrange(6)))


def _value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind == 6:
        return {_text(rng) or "key": _value(rng, depth + 1) for _ in range(rng.randrange(4))}
    if kind == 7:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return (_text(rng), rng.randrange(-99, 99), rng.random(), True, None, "ключ")[kind]


def _object(rng: random.Random) -> dict[str, Any]:
    return {rng.choice(("city", "город", "z", "a", "<tag>")): _value(rng) for _ in range(rng.randrange(4))}


def _call(rng: random.Random) -> dict[str, Any]:
    arguments = _object(rng)
    function = {
        "name": rng.choice(("get_weather", "f", 'a"b', "名")),
        "arguments": arguments if rng.random() < 0.5 else rng.choice((json.dumps(arguments), "", _text(rng))),
    }
    return function if rng.random() < 0.3 else {"id": "call_0", "type": "function", "function": function}


def _content(rng: random.Random, role: str) -> str:
    if role == "user" and rng.random() < 0.2:
        return f"<tool_response>{_text(rng)}</tool_response>"
    if role == "assistant" and rng.random() < 0.4:
        return rng.choice(("<think>", "", "<think>\n")) + _text(rng) + "</think>" + _text(rng)
    return _text(rng)


def _message(rng: random.Random, role: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": role, "content": _content(rng, role)}
    if role == "assistant":
        if rng.random() < 0.4:
            message["reasoning_content"] = rng.choice((None, _text(rng), _text(rng)))
        if rng.random() < 0.4:
            message["tool_calls"] = rng.choice((None, [_call(rng) for _ in range(rng.randrange(4))]))
    return message


def conversation(rng: random.Random) -> dict[str, Any]:
    """Arguments of one `render` call, in the forms that the official template accepts."""
    roles = rng.choices(("user", "assistant", "tool", "system"), weights=(4, 5, 3, 1), k=rng.randrange(1, 9))
    if rng.random() < 0.3:
        roles[0] = "system"
    tool = {"type": "function", "function": {"name": "f", "parameters": _object(rng), "description": _text(rng)}}
    return {
        "messages": [_message(rng, role) for role in roles],
        "tools": rng.choice((None, [], [tool], [tool, _object(rng) or tool])),
        "thinking": rng.random() < 0.5,
        "add_generation_prompt": rng.random() < 0.7,
    }


def first_difference(directory: Path, count: int, seed: int = 0) -> tuple[int, str | None]:
    """Number of conversations compared, each in all three formats, and the first that differs, if any."""
    hybrid = official_template(directory)
    references = {format: compile_reference(variant(hybrid)) for format, variant in VARIANTS.items()}
    rng = random.Random(seed)
    for i in range(count):
        arguments = conversation(rng)
        for format, reference in references.items():
            ours = render(**arguments, format=format).text
            theirs = reference.render(
                messages=arguments["messages"],
                tools=arguments["tools"],
                enable_thinking=arguments["thinking"],
                add_generation_prompt=arguments["add_generation_prompt"],
            )
            if ours != theirs:
                return i + 1, f"{format} {json.dumps(arguments, ensure_ascii=False)}\n  {ours!r}\n  {theirs!r}"
    return count, None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="directory of an official tokenizer_config.json")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    compared, difference = first_difference(options.directory, options.count, options.seed)
    found = "0 differences" if difference is None else "the last one differs"
    print(f"template: {compared:,} conversations compared in each of {len(VARIANTS)} formats, {found}")
    if difference is not None:
        print(difference, file=sys.stderr)
    return difference is not None


if __name__ == "__main__":
    sys.exit(main())
