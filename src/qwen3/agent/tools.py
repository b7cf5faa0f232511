"""A tool: what the model reads about it, and how it is run.

A tool made of a function takes its description from the docstring and its arguments' schema from the type hints;
arguments are checked against them before the function sees any. It does not know about conversations.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, get_type_hints

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_NAME_LIMIT = 64


class ToolDefinitionError(ValueError):
    """A function that cannot be a tool; the message says what it lacks."""


class ToolFailure(Exception):  # noqa: N818 - a result, if a bad one
    """What a tool raises to say to the model that it failed: the message is the result, as it is."""


@dataclass(frozen=True)
class Tool:
    """Something that the model can call."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of an object, one property an argument."""
    call: Callable[[dict[str, Any]], Any]
    """Takes the arguments, which may be anything that is JSON: whoever makes a tool by hand checks them. A coroutine
    function runs in the event loop that all of them share, any other in a thread of its own. What it returns is the
    result: text, or what JSON can hold. What it raises is the result too."""
    source: str = ""
    """Where it comes from, such as an MCP server's name."""
    timeout: float = 60.0
    """Seconds after which its result is that it took too long. A coroutine is then cancelled; a thread cannot be."""
    max_result: int = 20_000
    """Characters of a result; of a longer one the model reads the beginning."""

    @classmethod
    def of(cls, function: Callable[..., Any], **fields: Any) -> Tool:
        """The tool that a function with type hints and a docstring is. `fields` are those of `Tool`.

        The docstring's `Args:` section describes the arguments. Hints may be whatever pydantic takes: numbers, text,
        Literal, enums, lists, dicts, dataclasses, Optional ...

        Raises ToolDefinitionError for a function without docstring or hints, or with hints that no JSON can have.
        """
        name = fields.pop("name", getattr(function, "__name__", ""))
        description, of_arguments = _documentation(function)
        description = fields.pop("description", description)
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or len(name) > _NAME_LIMIT:
            raise ToolDefinitionError(
                f"{name!r} is no name for a tool: it takes up to {_NAME_LIMIT} of A-Z a-z 0-9 _ -"
            )
        if not description:
            raise ToolDefinitionError(f"{name} has no docstring, and that is what the model knows it by")
        arguments = _arguments(function, name, of_arguments)
        schema = without_titles(arguments.json_schema())
        return cls(name, description, schema, _checked(function, arguments), **fields)

    @property
    def definition(self) -> dict[str, Any]:
        """In OpenAI's form."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


def with_unique_names(tools: Iterable[Tool]) -> list[Tool]:
    """The tools, where those whose name is taken by an earlier one are called after their source, or numbered."""
    named: dict[str, Tool] = {}
    for tool in tools:
        name = tool.name
        if name in named and tool.source:
            name = tool_name(f"{tool.source}_{name}")
        base, number = name, 2
        while name in named:
            name = f"{base[: _NAME_LIMIT - 4]}_{number}"
            number += 1
        named[name] = tool if name == tool.name else replace(tool, name=name)
    return list(named.values())


def tool_name(text: str) -> str:
    """`text` as a name that a model writes without fault."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:_NAME_LIMIT] or "tool"


# From functions


def _documentation(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What the docstring says of a function, and of its arguments by name."""
    text, _, section = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    arguments: dict[str, list[str]] = {}
    lines: list[str] = []
    indent = re.match(r"\s*", section)[0]
    for line in section.splitlines():
        if line and not line[0].isspace():
            break  # the next section
        entry = re.match(rf"{indent}(\w+)(?: *\([^)]*\))?: *(.*)", line)
        if entry:
            lines = arguments.setdefault(entry[1], [])
            line = entry[2]
        lines.append(line.strip())
    return text.strip(), {name: " ".join(lines).strip() for name, lines in arguments.items()}


def _arguments(function: Callable[..., Any], name: str, described: Mapping[str, str]) -> TypeAdapter:
    """The type of a function's arguments, as one object."""
    from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter
    from typing_extensions import TypedDict  # the standard one, before Python 3.12, lacks what pydantic needs

    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ToolDefinitionError(f"{name}: a type hint is not defined: {error}") from None
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ToolDefinitionError(f"{name}: {parameter} has no name that the model could give it by")
        if parameter.name not in hints:
            raise ToolDefinitionError(f"{name}: the argument {parameter.name} has no type hint")
        default = parameter.default
        shown = {"default": default} if type(default) in (str, int, float, bool) else None
        hint = Annotated[hints[parameter.name], Field(json_schema_extra=shown)]
        if parameter.name in described:
            hint = Annotated[hint, Field(description=described[parameter.name])]
        fields[parameter.name] = hint if default is parameter.empty else NotRequired[hint]
    arguments = TypedDict(name, fields)
    arguments.__pydantic_config__ = ConfigDict(extra="forbid")
    try:
        adapter = TypeAdapter(arguments)
        adapter.json_schema()
    except PydanticUserError as error:
        raise ToolDefinitionError(f"{name}: {error.message}") from None
    return adapter


def _checked(function: Callable[..., Any], arguments: TypeAdapter) -> Callable[[dict[str, Any]], Any]:
    """`function` on arguments that may not fit it."""
    from pydantic import ValidationError

    def check(given: dict[str, Any]) -> dict[str, Any]:
        try:
            return arguments.validate_python(given)
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise ToolFailure(f"wrong arguments: {'; '.join(faults)}") from None

    def call(given: dict[str, Any]) -> Any:
        return function(**check(given))

    async def call_async(given: dict[str, Any]) -> Any:
        return await function(**check(given))

    return call_async if inspect.iscoroutinefunction(function) else call


def without_titles(schema: Any) -> Any:
    """The schema without pydantic's titles, which repeat the names and cost tokens."""
    if isinstance(schema, list):
        return [without_titles(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    # A property that is called "title" has an object there.
    return {key: without_titles(part) for key, part in schema.items() if not (key == "title" and isinstance(part, str))}


# Running


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """The one loop in which the asynchronous tools of this process run: their connections live as long as it."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="asynchronous tools", daemon=True).start()
    return loop


def start(tool: Tool, arguments: dict[str, Any]) -> Future[str]:
    """Run a tool in the background, for its result as text. Cancelling the future ends a coroutine; a thread goes on,
    unheard."""
    if inspect.iscoroutinefunction(tool.call):
        return asyncio.run_coroutine_threadsafe(_await(tool, arguments), event_loop())
    future: Future[str] = Future()
    # Not of an executor: the program would wait at its end for a thread that hangs.
    threading.Thread(target=_fulfil, args=(future, tool, arguments), name=tool.name, daemon=True).start()
    return future


async def _await(tool: Tool, arguments: dict[str, Any]) -> str:
    try:
        return _as_text(await tool.call(arguments), tool.max_result)
    except (SystemExit, KeyboardInterrupt) as error:
        raise ToolFailure(f"the tool ended itself with {error!r}") from error  # it would end the loop besides


def _fulfil(future: Future[str], tool: Tool, arguments: dict[str, Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(_as_text(tool.call(arguments), tool.max_result))
    # SystemExit too: a function that exits ends its call, not the program.
    except BaseException as error:
        future.set_exception(error)


def _as_text(value: Any, limit: int) -> str:
    return cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), limit)


def cut(text: str, limit: int) -> str:
    """A result as a prompt can hold it: its first `limit` characters, and no half of a surrogate pair."""
    shown = text if len(text) <= limit else f"{text[:limit]}\n[cut: {limit:,} of {len(text):,} characters]"
    return shown.encode("utf-8", "replace").decode()
