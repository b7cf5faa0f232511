"""From what a request asks for (a constraint, tools, a choice of tool) to the rules that its answer is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen3.chat.calls import CALL_END, call_header
from qwen3.engine.guide import Rules
from qwen3.engine.request import RequestError
from qwen3.grammar import Constraint, Grammar, GrammarError, Grammars, json_rule, lark_string


@dataclass(frozen=True)
class OfferedTool:
    """What of a function's definition matters to the answer."""

    name: str
    parameters: Mapping[str, Any]
    """The schema of its arguments."""
    is_strict: bool

    def schema(self) -> Mapping[str, Any]:
        """Of the arguments, which are an object also where the tool does not say so."""
        kinds = self.parameters.get("type", "object")
        if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
            raise GrammarError(f"tool {self.name!r}: parameters: arguments are an object, and never of type {kinds!r}")
        return {**self.parameters, "type": "object"}


def offered_tools(tools: Sequence[Mapping[str, Any]] | None, tool_choice: str) -> list[OfferedTool]:
    """The tools that the answer may call. Raises RequestError where there is no such choice."""
    if not isinstance(tool_choice, str):
        raise RequestError(f"tool_choice {tool_choice!r} is not none, auto, required, or the name of a tool")
    offered = [_offered(tool, f"tools[{i}]") for i, tool in enumerate(tools or ())]
    match tool_choice:
        case "none":
            return []
        case "auto":
            return offered
        case "required":
            chosen = offered
        case name:
            chosen = [tool for tool in offered if tool.name == name]
    if not chosen:
        names = ", ".join(tool.name for tool in offered) or "none"
        raise RequestError(f"tool_choice {tool_choice!r} needs a tool to call; offered are: {names}")
    return chosen


def rules_of(
    grammars: Grammars,
    tools: Sequence[OfferedTool],
    tool_choice: str = "none",
    parallel: bool = True,
    constraint: Constraint | None = None,
    written: str = "",
) -> Rules:
    """Compile the rules of an answer, of which `written` is already there. Raises GrammarError.

    A tool chosen by name is called once. Where the answer's text is constrained so is every call, from its tag on:
    a call that is none would be text.
    """
    if tool_choice not in ("none", "auto"):
        # What the answer's text must be does not matter: it has none.
        return Rules(calls=_calls(grammars, tools, all_strict=True), parallel=parallel and tool_choice == "required")
    if constraint is None:
        return Rules(arguments={tool.name: _arguments(grammars, tool, tool.is_strict) for tool in tools})
    return Rules(
        content=grammars.compile(constraint),
        calls=_calls(grammars, tools, all_strict=False) if tools and not written else None,
        parallel=parallel,
        written=written,
    )


def _offered(tool: Mapping[str, Any], where: str) -> OfferedTool:
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f"{where} is not a function with a name")
    parameters = function.get("parameters")
    if not isinstance(parameters, Mapping | None):
        raise RequestError(f"{where}.function.parameters is not a schema: give an object, or leave it out")
    return OfferedTool(function["name"], parameters or {}, function.get("strict") is True)


def _arguments(grammars: Grammars, tool: OfferedTool, is_strict: bool) -> Grammar:
    """What follows the header of a call."""
    rule = json_rule(tool.schema() if is_strict else {"type": "object"})
    try:
        return grammars.compile_lark(f'start: " " {rule} {lark_string(CALL_END)}')
    except GrammarError as error:
        raise GrammarError(f"tool {tool.name!r}: parameters: {error}") from None


def _calls(grammars: Grammars, tools: Sequence[OfferedTool], all_strict: bool) -> Grammar:
    """What follows the opening tag of a call to one of the tools."""
    lines = ["start: " + " | ".join(f"call_{i}" for i in range(len(tools)))]
    for i, tool in enumerate(tools):
        schema = tool.schema() if all_strict or tool.is_strict else {"type": "object"}
        header, rule = lark_string(call_header(tool.name) + " "), json_rule(schema)
        lines.append(f"call_{i}: {header} {rule} {lark_string(CALL_END)}")
    try:
        return grammars.compile_lark("\n".join(lines))
    except GrammarError:
        for tool in tools:  # the first whose schema is at fault is named
            _arguments(grammars, tool, is_strict=all_strict or tool.is_strict)
        raise
