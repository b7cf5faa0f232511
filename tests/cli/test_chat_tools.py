"""The question before a tool runs shows all that will run."""

import pytest

from qwen3.agent import Tool
from qwen3.cli.chat_screen import printable
from qwen3.cli.chat_tools import Approval

SHELL = Tool("shell", "Runs a command.", {}, lambda arguments: "", "here")


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("ls" + " " * 300 + "; rm -rf ~", "ls [300 times]; rm -rf ~"),
        ("ls" + "\u2800" * 2 + "; rm -rf ~", r"ls\u2800\u2800; rm -rf ~"),
        ("echo \u202e~ fr- mr ;\u202c hi", r"echo \u202e~ fr- mr ;\u202c hi"),
        ("a" * 9_000 + "; rm -rf ~; " + "a" * 9_000, "a[9000 times]; rm -rf ~; a[9000 times]"),
        ("ab" * 4_500 + "; rm -rf ~", "; rm -rf ~"),
        ("ab" * 4_500, "[5,015 CHARACTERS ARE NOT SHOWN]"),
        ("größer 日本", "größer 日本"),
    ],
)
def test_nothing_hides_in_the_question(command, shown):
    questions = []
    approval = Approval(lambda question: (questions.append(question), "n")[1])
    assert not approval(SHELL, {"command": command})
    assert shown in questions[0]


def test_text_that_turns_its_direction_is_not_sent_to_a_terminal():
    assert printable("a\u202eb\u2066c\u200dd") == "a\ufffdb\ufffdc\u200dd"
