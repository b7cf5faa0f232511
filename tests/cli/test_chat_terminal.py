"""`qwen3 chat` on a real (pseudo) terminal, with a scripted model."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from qwen3.cli.chat_screen import printable

FAKE_CLI = Path(__file__).with_name("fake_cli.py")
PROMPT = "\x1b[?2004h"  # bracketed paste is switched on when a line is read


class Terminal:
    """A program on a pseudo-terminal of 80 x 24."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.output = ""
        self._seen = 0
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            # A test run in the background ignores Ctrl-C and would pass that on.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execve(command[0], command, os.environ | environment)
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def wait_for(self, text: str, seconds: float = 15) -> str:
        """What was printed since the last call, up to and with `text`."""
        end = time.monotonic() + seconds
        while text not in self.output[self._seen :]:
            assert time.monotonic() < end, f"no {text!r} in {self.output[self._seen :]!r}"
            self._read(0.1)
        start, self._seen = self._seen, self.output.index(text, self._seen) + len(text)
        return self.output[start : self._seen]

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def type_at_prompt(self, keys: str) -> None:
        """Keys typed earlier would meet a terminal that is not yet in the line editor's mode."""
        self.wait_for(PROMPT)
        self.type(keys)

    def exit_code(self, seconds: float = 15) -> int:
        end = time.monotonic() + seconds
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            assert time.monotonic() < end, f"it does not end: {self.output[self._seen :]!r}"
            self._read(0.1)
        self.pid = None
        return os.waitstatus_to_exitcode(ended[1])

    def close(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._descriptor)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # Linux's way to say that the program has gone
            return False
        self.output += data.decode("utf-8", "replace")
        return bool(data)


@contextmanager
def chatting(folder, *options):
    terminal = Terminal(
        *(sys.executable, str(FAKE_CLI), "chat", *options),
        XDG_STATE_HOME=str(folder),
        TERM="xterm",
        PROMPT_TOOLKIT_NO_CPR="1",
    )
    try:
        terminal.wait_for("Ctrl-D leaves")
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def chat(tmp_path):
    with chatting(tmp_path) as terminal:
        yield terminal


def test_a_conversation_streams_folds_stops_and_ends(chat, tmp_path):
    chat.type_at_prompt("12+30\r")
    shown = chat.wait_for("context 18 of 100")
    # The window of the reasoning is erased before the line that it folds to, and that stands before the answer.
    assert re.search(r"│ I.*\x1b\[J\x1b\[2m▸ thought for \d+\.\d s, 6 tokens.*It is 42\.", shown, re.DOTALL)
    assert "16.0 tokens/s" in shown

    chat.type_at_prompt("slow 1+2\r")
    chat.wait_for("│ I add 1 and 2")
    chat.type("\x03")
    chat.wait_for("stopped; ")
    chat.type_at_prompt("half a line\x03")  # clears it
    chat.type_at_prompt("\x14")  # Ctrl-T shows the last reasoning
    chat.wait_for("I add 1 and 2")

    chat.type_at_prompt("/thinking show\r")
    chat.type_at_prompt('"""3\r+4"""\r')
    shown = chat.wait_for("context 18 of 100")
    assert "It is 7." in shown
    assert "▸" not in shown
    chat.type_at_prompt("/stats\r")
    chat.wait_for("2 finished")
    chat.type_at_prompt("\x04")
    assert chat.exit_code() == 0

    history = tmp_path / "qwen3" / "chat_history"
    assert "12+30" in history.read_text()
    assert "half a line" not in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_while_it_waits_for_a_message_the_model_reads_ahead(chat):
    chat.type_at_prompt("ahead 1+2\r")
    chat.wait_for("context 18 of 100")
    chat.wait_for("read ahead")
    chat.type("3+4\r")
    assert "It is 7." in chat.wait_for("context 18 of 100")


def test_alt_enter_makes_a_new_line_and_up_brings_the_message_back(chat):
    chat.type_at_prompt("1\x1b\r+2\r")
    assert "It is 3." in chat.wait_for("context 18 of 100")
    chat.type_at_prompt("\x1b[A\r")
    assert "It is 3." in chat.wait_for("context 18 of 100")
    chat.type_at_prompt("/exit\r")
    assert chat.exit_code() == 0


TOOLS = """
import time

def double(x: int) -> int:
    "Twice x."
    return 2 * x

def wait(seconds: float) -> str:
    "Sleep."
    print("asleep", flush=True)
    time.sleep(seconds)
    return "\\x1b]0;owned\\x07"
"""


def test_tools_ask_remember_show_their_results_and_stop_at_ctrl_c(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(TOOLS)
    with chatting(tmp_path, "--tools", str(file)) as chat:
        assert "tools: double, wait" in chat.output
        chat.type_at_prompt('use double {"x": 4}\r')
        shown = chat.wait_for('run double({"x": 4})? [y]es, [n]o, [a]lways: ')
        assert '[calls double({"x": 4})]' in shown
        chat.type("n\r")
        shown = chat.wait_for("context 11 of 100")
        assert "[double failed: not run: the user refused this call]" in shown

        chat.type_at_prompt('use double {"x": 4}\r')
        chat.wait_for("lways: ")
        chat.type("a\r")
        assert "[double gave: 8]" in chat.wait_for("It gave 8.")
        chat.type_at_prompt('use double {"x": 5}\r')
        assert "lways: " not in chat.wait_for("It gave 10.")

        chat.type_at_prompt('use wait {"seconds": 60}\r')
        chat.wait_for("lways: ")
        chat.type("y\r")
        chat.wait_for("asleep")
        chat.type("\x03")
        chat.wait_for("stopped; ")
        chat.type_at_prompt('use wait {"seconds": 0}\r')
        chat.wait_for("lways: ")
        chat.type("y\r")
        assert "␛]0;owned␇" in chat.wait_for("It gave")
        chat.type_at_prompt("\x04")
        # The thread that still sleeps does not keep the program.
        assert chat.exit_code(5) == 0


def test_a_model_cannot_send_commands_to_the_terminal():
    assert printable("\x1b]0;owned\x07 \x9b31m\x7fa\tb\n") == "␛]0;owned␇ \ufffd31m␡a\tb\n"
