"""The tools of `qwen3 chat`: where they come from, and the question before one runs."""

import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qwen3.agent import BUILTIN, McpServer, Tool, connect, read_servers

BUILTIN_NAME = "builtin"
_SHOWN_ARGUMENTS = 2_000  # characters at the beginning and at the end
_BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # printable to Unicode, and drawn as nothing


class Approval:
    """Asks before a tool runs. The tools built in harm nobody and are not asked about; the answer 'always' is
    remembered for the tool, as long as the program runs."""

    def __init__(self, ask: Callable[[str], str] | None, *, approves_all: bool = False) -> None:
        """`ask` shows a question and gives what was typed; None where nobody is there."""
        self._ask, self._approves_all = ask, approves_all
        self._approved: set[str] = set()

    def is_given(self, tool: Tool) -> bool:
        return self._approves_all or tool in BUILTIN or tool.name in self._approved

    def __call__(self, tool: Tool, arguments: dict[str, Any]) -> bool:
        if self.is_given(tool) or self._ask is None:
            return self.is_given(tool)
        answer = self._ask(f"run {tool.name}({_written(arguments)})? [y]es, [n]o, [a]lways: ").strip().lower()
        if answer in ("a", "always"):
            self._approved.add(tool.name)
        return answer in ("y", "yes", "a", "always")


def _written(arguments: dict[str, Any]) -> str:
    """What will run, so that nothing in it hides: not behind a run of one character, nor in one without a shape. Of
    very long arguments the beginning and the end, with a word on the rest."""
    text = "".join(map(_visible, json.dumps(arguments, ensure_ascii=False)))
    text = re.sub(r"(.)\1{8,}", lambda run: f"{run[1]}[{len(run[0])} times]", text)
    if (hidden := len(text) - 2 * _SHOWN_ARGUMENTS) > 0:
        text = f"{text[:_SHOWN_ARGUMENTS]} [{hidden:,} CHARACTERS ARE NOT SHOWN] {text[-_SHOWN_ARGUMENTS:]}"
    return text


def _visible(char: str) -> str:
    return char if char.isprintable() and char not in _BLANK else json.dumps(char)[1:-1]


@contextmanager
def open_tools(sources: Sequence[str], servers: Sequence[str], note: Callable[[str], None]) -> Iterator[list[Tool]]:
    """The tools of `--tools` (a Python file, or 'builtin') and `--mcp` (a URL, a command line, or a JSON file).

    The tools built in come first, so that no other can take their names.
    """
    tools = list(BUILTIN) if BUILTIN_NAME in sources else []
    for source in sources:
        if source != BUILTIN_NAME:
            tools += _tools_of(Path(source), note)
    if not servers:
        yield tools
        return
    places = []
    for server in servers:
        places += read_servers(Path(server)) if server.endswith(".json") else [McpServer.parse(server)]
    note("starting MCP servers: " + ", ".join(map(str, places)))
    with connect(places) as offered:
        yield tools + offered


def _tools_of(file: Path, note: Callable[[str], None]) -> list[Tool]:
    """The public functions that a file defines, and the `Tool`s in it. The file is the user's own program, and runs."""
    if file.suffix != ".py" or not file.is_file():
        raise ValueError(f"--tools takes '{BUILTIN_NAME}' or a Python file, and {str(file)!r} is neither")
    if find_spec("pydantic") is None:
        raise ImportError("tools of a file need a package that is not installed: pip install 'qwen3[agent]'")
    note(f"running {file} for the functions in it")
    spec = importlib.util.spec_from_file_location(f"qwen3_tools_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses look for theirs
    spec.loader.exec_module(module)
    tools = []
    for name, value in vars(module).items():
        if isinstance(value, Tool):
            tools.append(value)
        elif inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
            tools.append(Tool.of(value, source=file.stem))
    if not tools:
        raise ValueError(f"{file} defines no functions; those that begin with _ are not tools")
    return tools
