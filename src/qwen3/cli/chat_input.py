"""Where user messages come from: a line editor on a terminal, lines in a pipe.

Both let a message go on over several lines: after a trailing backslash, between triple quotes, and until a ``` block
is closed.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Reader = Callable[[], str]
"""Returns the next message; raises EOFError after the last, KeyboardInterrupt at Ctrl-C."""


def continued(text: str) -> str | None:
    """What the message becomes when Enter is pressed at its end and it goes on; None where it is complete."""
    stripped = text.strip()
    if stripped.startswith('"""'):
        is_closed = len(stripped) >= 6 and stripped.endswith('"""')
        return None if is_closed else text + "\n"
    num_fences = sum(line.lstrip().startswith("```") for line in text.splitlines())
    if num_fences % 2:
        return text + "\n"
    return text[:-1] + "\n" if text.endswith("\\") else None


def unquoted(text: str) -> str:
    """The message without the triple quotes around it."""
    text = text.strip()
    if text.startswith('"""'):
        text = text[3:].removesuffix('"""').strip("\n")
    return text


def pipe_reader() -> Reader:
    """Messages from stdin, normally one a line."""

    def read() -> str:
        text = ""
        while line := sys.stdin.buffer.readline():
            text += line.decode("utf-8", errors="replace").rstrip("\r\n")
            longer = continued(text)
            if longer is None:
                return unquoted(text)
            text = longer
        if text:
            return unquoted(text)
        raise EOFError

    return read


def terminal_reader(
    commands: Sequence[str], on_toggle: Callable[[], None], while_waiting: Callable[[Callable[[], bool]], None]
) -> Reader:
    """Messages from a line editor with history; Tab completes `commands`, Ctrl-T calls `on_toggle`.

    Whenever no key waits, `while_waiting` is called in this thread; it gets a function that says whether one does, and
    then should return soon.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import run_in_terminal
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.shortcuts import CompleteStyle

    keys = KeyBindings()

    @keys.add("enter")
    def _(event) -> None:
        buffer = event.current_buffer
        longer = continued(buffer.text) if buffer.document.is_cursor_at_the_end else None
        if longer is None:
            buffer.validate_and_handle()
        else:
            buffer.text = longer
            buffer.cursor_position = len(longer)

    @keys.add("escape", "enter")
    def _(event) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-t")
    def _(event) -> None:
        run_in_terminal(on_toggle)

    history: History
    try:
        history = FileHistory(str(_history_file()))
    except OSError:
        history = InMemoryHistory()
    session: PromptSession[str] = PromptSession(
        "> ",
        multiline=True,
        prompt_continuation="  ",
        key_bindings=keys,
        history=history,
        completer=WordCompleter(list(commands), sentence=True),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
    )
    return lambda: unquoted(session.prompt(inputhook=lambda context: while_waiting(context.input_is_ready)))


def _history_file() -> Path:
    """The file of earlier messages, readable by its owner only. Raises OSError where it cannot be made."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    folder = Path(home) / "qwen3"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / "chat_history"
    file.touch(mode=0o600)
    return file
