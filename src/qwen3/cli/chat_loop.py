"""The loop of `qwen3 chat`: read a message or command, show what it gives, until the input ends."""

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3.cli.chat_commands import COMMANDS, Events, Screen, expand, find_command, load
from qwen3.cli.chat_input import Reader, pipe_reader, terminal_reader
from qwen3.cli.chat_screen import PipeScreen, TerminalScreen, View, is_terminal
from qwen3.cli.chat_session import ChatSession, SessionError
from qwen3.cli.chat_tools import Approval, open_tools
from qwen3.cli.errors import USER_ERRORS, describe
from qwen3.engine.request import ContextError, FinishReason, Usage

if TYPE_CHECKING:
    from qwen3.engine.llm import LLM


def run(
    llm: "LLM",
    *,
    system: str | None,
    file: Path | None,
    thinking: bool,
    thinking_budget: int | None,
    overrides: dict[str, Any],
    hide_thinking: bool,
    tools: Sequence[str] = (),
    servers: Sequence[str] = (),
    approves_all: bool = False,
) -> bool:
    """Hold a conversation on stdin and stdout. Returns whether all of it worked; on a terminal errors are only shown.

    `file` is a conversation to continue; `system` takes the place of its system message. `tools` and `servers` are
    those of `open_tools`; without `approves_all` the user is asked before a tool runs.
    """
    view = View.HIDE if hide_thinking else View.FOLD
    screen: Screen = PipeScreen(view)
    if is_terminal(sys.stdout):
        screen = TerminalScreen(view, count_tokens=lambda text: len(llm.tokenizer.encode(text, control=False)))
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    approval = Approval(screen.ask if is_interactive else None, approves_all=approves_all)
    with open_tools(tools, servers, screen.note) as opened:
        if not is_interactive and not all(map(approval.is_given, opened)):
            raise ValueError("nobody can be asked in a pipe before a tool runs: give --yes to run them unasked")
        session = ChatSession(
            llm,
            thinking=thinking,
            overrides=overrides,
            thinking_budget=thinking_budget,
            tools=opened,
            allow=approval,
        )
        if file is not None:
            load(session, screen, str(file))
        if system is not None:
            session.set_system(system)
        if is_interactive:
            _converse_on_terminal(session, screen)
            return True
        converse(session, screen, pipe_reader(), is_interactive=False)
        return not screen.had_error


def _converse_on_terminal(session: ChatSession, screen: Screen) -> None:
    llm, tools = session.llm, session.agent.tools
    screen.note(
        f"{llm.name}: {llm.config.num_parameters:,} parameters, {llm.storage}, "
        f"context {llm.max_context:,}, thinking {'on' if session.thinking else 'off'}\n"
        + (f"tools: {', '.join(tools)}\n" if tools else "")
        + "/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves\n"
    )

    def read_ahead(is_key_waiting: Callable[[], bool]) -> None:
        """Compute what the next turn begins with, in steps so short that no key is felt to wait."""
        while llm.has_idle_work and not is_key_waiting():
            llm.idle_step()

    read = terminal_reader(
        list(COMMANDS),
        on_toggle=lambda: _attempt(lambda: expand(session, screen), screen),
        while_waiting=read_ahead,
    )
    converse(session, screen, read, is_interactive=True)


def converse(session: ChatSession, screen: Screen, read: Reader, *, is_interactive: bool) -> None:
    """Read messages and commands and show the answers until the input ends."""
    while True:
        try:
            text = read()
            if text:
                _attempt(lambda text=text: _handle(session, screen, text, is_interactive), screen)
        except EOFError:
            return
        except KeyboardInterrupt:
            if not is_interactive:
                raise


def _attempt(action: Callable[[], None], screen: Screen) -> None:
    """What fails because of the user or a file is said, and the conversation goes on."""
    try:
        action()
    except USER_ERRORS as error:
        screen.error(describe(error))


def _handle(session: ChatSession, screen: Screen, text: str, is_interactive: bool) -> None:
    found = find_command(text)
    if found is None:
        _show(session, screen, session.ask(text), is_interactive)
        return
    command, argument = found
    events = command.run(session, screen, argument)
    if events is not None:
        _show(session, screen, events, is_interactive)


def _show(session: ChatSession, screen: Screen, events: Events, is_interactive: bool) -> None:
    before = session.last
    try:
        with closing(events):
            finished = screen.answer(events)
    except KeyboardInterrupt:
        if not is_interactive:
            raise
        screen.note(
            "stopped before the first token: nothing changed\n"
            if session.last is before
            else "stopped; what there is stays in the conversation, /retry answers anew\n"
        )
        return
    except ContextError as error:
        raise SessionError(
            f"{error}. Nothing was lost: /undo takes back the last turn, /reset begins anew, "
            "/save keeps all of it for a start with a larger --max-context or with --yarn"
        ) from error
    screen.status(_status(session, finished.usage))
    if finished.error:
        screen.note(f"broken off, as it cannot go on by its rules: {finished.error}")
    if finished.reason is FinishReason.LENGTH:
        screen.note(_why_cut(session, finished.usage))
    if finished.reason is FinishReason.TOOL_CALLS:
        screen.note("too many rounds of tool calls: it was stopped before an answer; say 'go on', or ask otherwise")
    screen.status("")


def _status(session: ChatSession, usage: Usage) -> str:
    parts = [f"{usage.completion_tokens:,} tokens"]
    if usage.decode_seconds:
        parts.append(f"{usage.completion_tokens / usage.decode_seconds:.1f} tokens/s")
    if usage.reasoning_tokens:
        parts.append(f"{usage.reasoning_tokens:,} thinking")
    parts.append(f"context {usage.prompt_tokens + usage.completion_tokens:,} of {session.llm.max_context:,}")
    return " · ".join(parts)


def _why_cut(session: ChatSession, usage: Usage) -> str:
    """Why the last answer ended before the model wanted to, and what to do."""
    if usage.prompt_tokens + usage.completion_tokens >= session.llm.max_context:
        why = f"the context of {session.llm.max_context:,} tokens is full; /undo or /reset makes room"
    else:
        why = f"max_tokens is {usage.completion_tokens:,}; /params max_tokens N changes it"
    where = "" if session.last.content else " while still thinking (/budget N makes it answer in time)"
    return f"cut short{where}: {why}"
