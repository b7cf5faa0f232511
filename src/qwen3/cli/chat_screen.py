"""How a streamed answer appears: on a terminal, with thinking dimmed and folded, or in a pipe.

In a pipe the answer goes to stdout and all else to stderr. On a terminal the reasoning runs in a small window that
shrinks to one line when it ends. Control characters of the model's text are made visible, never sent to a terminal.
"""

import os
import shutil
import sys
import termios
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TextIO

from qwen3.agent import AgentEvent, ToolResult
from qwen3.chat import Content, Reasoning, ToolCall
from qwen3.engine.request import Finished

_WINDOW_ROWS = 6
_REDRAW_SECONDS = 0.05
_RESULT_LENGTH = 300
# Unicode's pictures of the control characters stand in for them; newline and tab are harmless.
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_VISIBLE |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
# What turns the direction of the text behind it shows a command other than it is.
_VISIBLE |= dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)


class View(StrEnum):
    """How reasoning is shown on a terminal."""

    FOLD = "fold"
    """In a window while it runs, as one line afterwards."""
    SHOW = "show"
    HIDE = "hide"


def printable(text: str) -> str:
    """`text` without anything that a terminal would take as a command."""
    return text.translate(_VISIBLE)


def is_terminal(stream: TextIO) -> bool:
    """Whether `stream` obeys escape sequences."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _styled(stream: TextIO, text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if is_terminal(stream) and not os.environ.get("NO_COLOR") else text


def _describe_call(call: ToolCall) -> str:
    return f"[calls {call.name}({call.arguments})]"


def _describe_result(result: ToolResult) -> str:
    """The beginning of a result, on one line."""
    text = " ".join(result.text[: 2 * _RESULT_LENGTH].split())
    if len(text) > _RESULT_LENGTH or len(result.text) > 2 * _RESULT_LENGTH:
        text = text[:_RESULT_LENGTH] + " …"
    return f"[{result.name} {'failed' if result.is_error else 'gave'}: {text}]"


class PipeScreen:
    """Answers to stdout, as they are where that is no terminal; reasoning, notes and errors to stderr."""

    def __init__(self, view: View = View.FOLD) -> None:
        self.view = view
        self.had_error = False

    def answer(self, events: Iterable[AgentEvent]) -> Finished:
        """Write events as they come; returns the end of the last step."""
        open_line: TextIO | None = None
        for event in events:
            match event:
                case Reasoning(text) if self.view is not View.HIDE:
                    stream, is_dim = sys.stderr, True
                case Content(text):
                    stream, is_dim = sys.stdout, False
                case ToolCall():
                    stream, text, is_dim = sys.stderr, _describe_call(event), True
                case ToolResult():
                    stream, text, is_dim = sys.stderr, _describe_result(event), True
                case Finished():
                    finished = event
                    continue
                case _:  # hidden reasoning
                    continue
            is_line = isinstance(event, ToolCall | ToolResult)
            if open_line is not None and (is_line or open_line is not stream):
                open_line.write("\n")
                open_line.flush()
            open_line = stream
            shown = printable(text) if stream.isatty() else text
            stream.write(_styled(stream, shown, "2") if is_dim else shown)
            stream.flush()
        if open_line is not None:
            open_line.write("\n")
            open_line.flush()
        return finished

    def note(self, text: str) -> None:
        print(_styled(sys.stderr, text, "2"), file=sys.stderr)

    def status(self, text: str) -> None:
        """What belongs to the eye only: nothing in a pipe."""

    def error(self, text: str) -> None:
        self.had_error = True
        print(_styled(sys.stderr, text, "31"), file=sys.stderr)


class TerminalScreen:
    """Everything to the terminal at stdout."""

    def __init__(self, view: View = View.FOLD, count_tokens: Callable[[str], int] = len) -> None:
        """`count_tokens` gives the length of a reasoning text, for the line that it folds to."""
        self.view = view
        self.had_error = False
        self._count_tokens = count_tokens
        self._window = _Window()

    def answer(self, events: Iterable[AgentEvent]) -> Finished:
        """Write events as they come; where that is interrupted, leave the screen tidy. Returns the end of the last
        step."""
        reasoning, is_thinking, at_line_start = "", False, True
        started = time.monotonic()
        self._window.draw("…")
        try:
            for event in events:
                if isinstance(event, Reasoning):
                    if not reasoning:
                        self._window.erase()
                    reasoning += event.text
                    is_thinking = True
                    self._think(event.text, reasoning, time.monotonic() - started)
                    continue
                if is_thinking:
                    is_thinking = False
                    self._end_thinking(reasoning, time.monotonic() - started)
                self._window.erase()
                match event:
                    case Content(text):
                        self._write(printable(text))
                        at_line_start = text.endswith("\n")
                    case ToolCall() | ToolResult():
                        is_call = isinstance(event, ToolCall)
                        self._write("" if at_line_start else "\n")
                        self.note(_describe_call(event) if is_call else _describe_result(event))
                        at_line_start = True
                        self._window.draw("…")
                    case Finished():
                        finished = event
                        reasoning, started = "", time.monotonic()
        finally:
            if is_thinking:
                self._end_thinking(reasoning, time.monotonic() - started)
            self._window.erase()
            if not at_line_start:
                self._write("\n")
        return finished

    def ask(self, question: str) -> str:
        """What is typed after a question, from now on: keys pressed earlier were not meant for it."""
        self._window.erase()
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
        try:
            return input(printable(question))
        except EOFError:
            return ""

    def _think(self, new: str, all_so_far: str, seconds: float) -> None:
        if self.view is View.SHOW:
            self._write(_styled(sys.stdout, printable(new), "2"))
        else:
            body = all_so_far if self.view is View.FOLD else ""
            self._window.draw_now_and_then(f"thinking … {seconds:.0f} s", body)

    def _end_thinking(self, reasoning: str, seconds: float) -> None:
        self._window.erase()
        if self.view is View.SHOW:
            self._write("\n\n")
        elif self.view is View.FOLD:
            self.note(f"▸ thought for {seconds:.1f} s, {self._count_tokens(reasoning):,} tokens")

    def note(self, text: str) -> None:
        self._write(_styled(sys.stdout, printable(text), "2") + "\n")

    def status(self, text: str) -> None:
        self.note(text)

    def error(self, text: str) -> None:
        self.had_error = True
        self._write(_styled(sys.stdout, printable(text), "31") + "\n")

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class _Window:
    """A few rows at the cursor that are drawn over and over, and leave nothing behind."""

    def __init__(self) -> None:
        self._num_rows = 0
        self._next_draw = 0.0

    def draw_now_and_then(self, title: str, body: str) -> None:
        if time.monotonic() >= self._next_draw:
            self.draw(title, body)
            self._next_draw = time.monotonic() + _REDRAW_SECONDS

    def draw(self, title: str, body: str = "") -> None:
        """Show `title` and the last rows of `body`, wrapped to the terminal."""
        from rich.cells import chop_cells

        size = shutil.get_terminal_size()
        width, height = max(size.columns - 3, 2), min(_WINDOW_ROWS, size.lines - 3)
        rows = []
        # Enough of the text's end to fill the window whatever the characters' width.
        for line in printable(body[-width * _WINDOW_ROWS :]).expandtabs().splitlines():
            rows += chop_cells(line, width) or [""]
        rows = [title[:width], *(f"│ {row}" for row in rows[-height:] if height > 0)]
        self.erase()
        sys.stdout.write("\n".join(_styled(sys.stdout, row, "2") for row in rows))
        sys.stdout.flush()
        self._num_rows = len(rows)

    def erase(self) -> None:
        if self._num_rows:
            up = f"\x1b[{self._num_rows - 1}A" if self._num_rows > 1 else ""
            sys.stdout.write(f"\r{up}\x1b[J")
            sys.stdout.flush()
            self._num_rows = 0
