"""From what a request asks for (a constraint, tools, a choice of tool) to the rules that its answer is held to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen3.chat import StreamState, Structure
from qwen3.chat.calls import CALL_END, call_header
from qwen3.engine.guide import FormatIds, Guide, Rules
from qwen3.engine.request import RequestError
from qwen3.engine.thinking import ThinkingPolicy
from qwen3.grammar import Constraint, Grammar, GrammarError, Grammars, json_rule, lark_string
from qwen3.tokenizer import Tokenizer

# Qwen3 Technical Report, section 4.3, as the official documentation's code has it.
BUDGET_SENTENCE = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly "
    "now.\n</think>\n\n"
)


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


class Guides:
    """Makes the guides of one model's answers."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Collection[int]) -> None:
        """`vocab_size` is the number of logits; `end_ids` end an answer."""
        self._tokenizer = tokenizer
        self._grammars = Grammars(tokenizer, vocab_size, end_ids)
        (newline,) = tokenizer.encode("\n")
        self._ids = FormatIds(
            think=tokenizer.id("<think>"),
            end_think=tokenizer.id("</think>"),
            call=tokenizer.id("<tool_call>"),
            end_call=tokenizer.id("</tool_call>"),
            newline=newline,
            after_think=tuple(tokenizer.encode("\n\n")),
            closing=tuple(tokenizer.encode(BUDGET_SENTENCE)),
        )

    def chat(
        self,
        state: StreamState,
        room: int,
        policy: ThinkingPolicy,
        tools: Sequence[OfferedTool],
        tool_choice: str,
        *,
        parallel: bool,
        constraint: Constraint | None,
        written: str,
        may_think: bool,
    ) -> Guide:
        """The guide of an answer of at most `room` tokens that begins in `state`, with `written` already there.

        `may_think` is false for models that have no think block. A tool chosen by name is called once. Where the
        answer's text is constrained so is every call, from its tag on: a call that is none would be text.
        Raises GrammarError.
        """
        rules = self._rules(tools, tool_choice, parallel, constraint, written)
        structure = Structure(self._tokenizer, state, {tool.name for tool in tools})
        return Guide(structure, self._ids, self._grammars, room, policy=policy, rules=rules, may_think=may_think)

    def completion(self, room: int, constraint: Constraint) -> Guide:
        """The guide of a plain completion. Raises GrammarError."""
        structure = Structure(self._tokenizer, StreamState.RAW)
        return Guide(structure, self._ids, self._grammars, room, rules=Rules(self._grammars.compile(constraint)))

    def _rules(
        self,
        tools: Sequence[OfferedTool],
        tool_choice: str,
        parallel: bool,
        constraint: Constraint | None,
        written: str,
    ) -> Rules:
        if tool_choice not in ("none", "auto"):
            # What the answer's text must be does not matter: it has none.
            return Rules(
                calls=_calls(self._grammars, tools, all_strict=True), parallel=parallel and tool_choice == "required"
            )
        if constraint is None:
            return Rules(arguments={tool.name: _arguments(self._grammars, tool, tool.is_strict) for tool in tools})
        return Rules(
            content=self._grammars.compile(constraint),
            calls=_calls(self._grammars, tools, all_strict=False) if tools and not written else None,
            parallel=parallel,
            written=written,
        )


def _offered(tool: Mapping[str, Any], where: str) -> OfferedTool:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else tool
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
