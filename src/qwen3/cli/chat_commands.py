"""The slash commands of `qwen3 chat`."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qwen3.agent import AgentEvent
from qwen3.cli.chat_screen import PipeScreen, TerminalScreen, View
from qwen3.cli.chat_session import SETTABLE, ChatSession, SessionError

Screen = TerminalScreen | PipeScreen
Events = Iterator[AgentEvent]


@dataclass(frozen=True)
class Command:
    """`run(session, screen, argument)` may return events to show as an answer."""

    usage: str
    summary: str
    run: Callable[[ChatSession, Screen, str], Events | None]


def find_command(text: str) -> tuple[Command, str] | None:
    """The command in a typed line, and its argument; None where the line is a message for the model.

    `/think` and `/no_think` with text after them are messages: there they are the model's own soft switches.
    Raises SessionError for an unknown command.
    """
    match = re.fullmatch(r"(/[a-z_]+)(?:\s+(.*))?", text, re.DOTALL)
    if match is None:
        return None
    name, argument = match[1], (match[2] or "").strip()
    if name in ("/think", "/no_think") and argument:
        return None
    if name not in COMMANDS:
        raise SessionError(f"no command {name}; /help lists them, and a space before the slash makes it a message")
    return COMMANDS[name], argument


def _help(session: ChatSession, screen: Screen, argument: str) -> None:
    shown = {id(command): command for command in COMMANDS.values()}
    width = max(len(command.usage) for command in shown.values())
    lines = [f"{command.usage:<{width}}  {command.summary}" for command in shown.values()]
    lines += [
        "",
        "Enter sends. More lines: Alt-Enter, a trailing backslash, ``` blocks, or triple quotes around all of it.",
        "Ctrl-C stops an answer, Ctrl-T shows the last reasoning, Ctrl-D leaves.",
        "Within a message, /think and /no_think are passed to the model, which follows the latest one.",
    ]
    screen.note("\n".join(lines))


def _set_thinking(thinking: bool) -> Callable[[ChatSession, Screen, str], None]:
    def run(session: ChatSession, screen: Screen, argument: str) -> None:
        session.set_thinking(thinking)
        screen.note(f"thinking is {'on' if thinking else 'off'}")

    return run


def _thinking_view(session: ChatSession, screen: Screen, argument: str) -> None:
    if argument not in list(View):
        raise SessionError(f"/thinking takes {', '.join(View)}; now it is {screen.view}")
    screen.view = View(argument)


def expand(session: ChatSession, screen: Screen, argument: str = "") -> None:
    """Show the reasoning of the last answer in full."""
    if session.last is None or not session.last.reasoning:
        raise SessionError("the last answer has no reasoning")
    screen.note(session.last.reasoning)


def _system(session: ChatSession, screen: Screen, argument: str) -> None:
    if not argument:
        screen.note(f"system message: {session.system}" if session.system else "there is no system message")
        return
    session.set_system("" if argument == "none" else argument)
    screen.note("system message removed" if argument == "none" else "system message set")


def _budget(session: ChatSession, screen: Screen, argument: str) -> None:
    if argument == "none":
        session.thinking_budget = None
    elif argument.isdecimal():
        session.thinking_budget = int(argument)
    elif argument:
        raise SessionError(f"/budget {argument!r} is not a whole number of tokens, or none")
    budget = session.thinking_budget
    screen.note("no thinking budget" if budget is None else f"thinking budget: {budget:,} tokens")


def _params(session: ChatSession, screen: Screen, argument: str) -> None:
    if argument:
        name, _, value = argument.partition(" ")
        if not value.strip():
            raise SessionError(f"/params {name} needs a value, or 'default'")
        session.set_sampling(name, value.strip())
    sampling = session.sampling()
    for name in SETTABLE:
        mark = "  (set here)" if name in session.overrides else ""
        screen.note(f"{name:<18} {getattr(sampling, name)}{mark}")


def _save(session: ChatSession, screen: Screen, argument: str) -> None:
    if not argument and session.file is None:
        raise SessionError("/save needs a file name")
    session.save(Path(argument).expanduser() if argument else session.file)
    screen.note(f"saved to {session.file}")


def load(session: ChatSession, screen: Screen, argument: str) -> None:
    """Continue a saved conversation."""
    if not argument:
        raise SessionError("/load needs a file name")
    session.load(Path(argument).expanduser())
    questions = [message["content"] for message in session.messages if message["role"] == "user"]
    last = f"; the last question was: {questions[-1]}" if questions else ""
    screen.note(f"loaded {len(session.messages)} messages from {session.file}{last}")


def _undo(session: ChatSession, screen: Screen, argument: str) -> None:
    screen.note(f"taken back: {session.undo()}")


def _reset(session: ChatSession, screen: Screen, argument: str) -> None:
    session.reset()
    screen.note("new conversation" + (", same system message" if session.system else ""))


def _stats(session: ChatSession, screen: Screen, argument: str) -> None:
    llm, finished = session.llm, session.finished
    generated = sum(usage.completion_tokens for usage in finished)
    thought = sum(usage.reasoning_tokens for usage in finished)
    read = sum(usage.prompt_tokens for usage in finished)
    decode, prefill = sum(u.decode_seconds for u in finished), sum(u.prefill_seconds for u in finished)
    used = finished[-1].prompt_tokens + finished[-1].completion_tokens if finished else 0
    lines = [
        f"model      {llm.name}, {llm.config.num_parameters:,} parameters, {llm.storage}",
        f"answers    {len(finished)} finished, {generated:,} tokens, {thought:,} of them thinking",
        f"context    {used:,} of {llm.max_context:,} tokens after the last finished answer",
    ]
    if decode and prefill:
        lines.append(f"speed      {generated / decode:.1f} tokens/s, reads {read / prefill:.1f} tokens/s")
    screen.note("\n".join(lines))


def _tools(session: ChatSession, screen: Screen, argument: str) -> None:
    if not session.agent.tools:
        raise SessionError("there are no tools; start with --tools or --mcp")
    for tool in session.agent.tools.values():
        arguments = ", ".join(tool.parameters.get("properties", {}))
        screen.note(f"{tool.name}({arguments})  {tool.description.partition(chr(10))[0]}  [{tool.source}]")


def _exit(session: ChatSession, screen: Screen, argument: str) -> None:
    raise EOFError


def _retry(session: ChatSession, screen: Screen, argument: str) -> Events:
    return session.retry()


COMMANDS = {
    "/help": Command("/help", "this list", _help),
    "/think": Command("/think", "reason before answering, from now on", _set_thinking(True)),
    "/no_think": Command("/no_think", "answer at once, from now on", _set_thinking(False)),
    "/budget": Command("/budget N|none", "reasoning tokens after which the model must answer", _budget),
    "/thinking": Command("/thinking fold|show|hide", "how reasoning appears", _thinking_view),
    "/expand": Command("/expand", "show the last reasoning in full", expand),
    "/system": Command("/system TEXT|none", "set or show the system message", _system),
    "/params": Command("/params [NAME VALUE]", "set or show sampling; VALUE may be 'default'", _params),
    "/retry": Command("/retry", "answer the last message anew", _retry),
    "/undo": Command("/undo", "take back the last message and its answer", _undo),
    "/reset": Command("/reset, /clear", "begin a new conversation", _reset),
    "/save": Command("/save [FILE]", "write the conversation as JSON", _save),
    "/load": Command("/load FILE", "continue a saved conversation", load),
    "/tools": Command("/tools", "list what the model can call", _tools),
    "/stats": Command("/stats", "tokens, speed, context", _stats),
    "/exit": Command("/exit, /quit", "leave (also Ctrl-D)", _exit),
}
COMMANDS |= {"/clear": COMMANDS["/reset"], "/quit": COMMANDS["/exit"]}
