"""`qwen3 chat` without a terminal: a message a line, answers to stdout, the rest to stderr."""

import json

import pytest

from qwen3.checkpoint.hub import resolve
from qwen3.checkpoint.safetensors import CheckpointError


def test_each_line_is_answered_on_stdout_with_the_reasoning_on_stderr(fake_qwen3, fake_llm):
    result = fake_qwen3("chat", stdin="12+30\nand 1+1 /no_think\n")
    assert result.exit_code == 0
    assert result.stdout == "It is 42.\nIt is 2.\n"
    assert result.stderr == "I add 12 and 30 . \n"
    assert len(fake_llm.calls[1]["messages"]) == 3


def test_options_reach_the_model(fake_qwen3, fake_llm):
    fake_qwen3("chat", "--system", "S", "--no-thinking", "--thinking-budget", 5, "--seed", 3, "--top-k", 2, stdin="1")
    call = fake_llm.calls[0]
    assert call["messages"][0] == {"role": "system", "content": "S"}
    assert (call["thinking"], call["budget"]) == (False, 5)
    assert (call["params"].seed, call["params"].top_k, call["params"].temperature) == (3, 2, 0.7)


def test_hidden_thinking_is_not_shown(fake_qwen3):
    result = fake_qwen3("chat", "--hide-thinking", stdin="1+1")
    assert (result.stdout, result.stderr) == ("It is 2.\n", "")


def test_an_error_is_said_the_conversation_goes_on_and_the_exit_code_tells(fake_qwen3):
    result = fake_qwen3("chat", "--hide-thinking", stdin="overflow\n/nope\n/load nowhere.json\n2+2\n")
    assert result.exit_code == 1
    assert result.stdout == "It is 4.\n"
    context, command, file = result.stderr.splitlines()
    for part in ("120 tokens", "holds 100", "/undo", "/reset", "--max-context"):
        assert part in context
    assert "/nope" in command
    assert file == "nowhere.json: No such file or directory"


@pytest.mark.parametrize(
    ("stdin", "parts"),
    [
        ("cut 1+1", ["cut short: max_tokens is 8"]),
        ("/help", ["/retry", "/budget N|none", "Alt-Enter"]),
        ("1+1\n/expand", ["I add 1 and 1 .\n"]),
        ("/system S\n/system", ["system message: S"]),
        ("/budget 7\n/budget", ["thinking budget: 7 tokens"]),
        ("/params top_k 3", ["top_k              3  (set here)", "temperature        0.6\n"]),
        ("1+1\n/undo", ["taken back: 1+1"]),
        ("1+1\n/stats", ["1 finished, 8 tokens, 6 of them thinking", "18 of 100", "16.0 tokens/s"]),
    ],
)
def test_commands_say_what_they_did(fake_qwen3, stdin, parts):
    result = fake_qwen3("chat", stdin=stdin)
    assert result.exit_code == 0
    assert all(part in result.stderr for part in parts)


def test_commands_change_the_conversation(fake_qwen3, fake_llm):
    stdin = "1+1\n/retry\n/no_think\n2+2\n/think hard 3+3\n/undo\n/budget 3\n/reset\n/think\n4+4\n/exit\n5+5\n"
    result = fake_qwen3("chat", stdin=stdin)
    calls = [(len(call["messages"]), call["thinking"], call["budget"]) for call in fake_llm.calls]
    assert calls == [(1, True, None), (1, True, None), (3, False, None), (5, False, None), (1, True, 3)]
    assert fake_llm.calls[3]["messages"][-1]["content"] == "/think hard 3+3"
    assert result.stdout.splitlines() == ["It is 2.", "It is 2.", "It is 4.", "It is 6.", "It is 8."]


TOOLS = """
from dataclasses import dataclass

@dataclass
class Point:
    x: int

def double(point: Point) -> int:
    "Twice x."
    return _times(2, point.x)

def _times(a, b):
    return a * b
"""


def test_the_functions_of_a_file_are_tools_and_calls_go_to_stderr(fake_qwen3, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(TOOLS)
    question = 'use double {"point": {"x": 4}}\n/tools\n'
    result = fake_qwen3("chat", "--tools", file, "--tools", "builtin", "--yes", stdin=question)
    assert result.exit_code == 0
    assert result.stdout == "It gave 8.\n"
    told, *shown = result.stderr.splitlines()
    assert told == f"running {file} for the functions in it"
    assert shown == [
        "A tool.",
        '[calls double({"point": {"x": 4}})]',
        "[double gave: 8]",
        "calculate(expression)  Compute an arithmetic expression exactly as written, such as (3 + 4.5) * 2**10 or "
        "sqrt(2).  [built in]",
        "current_time(timezone)  The date, weekday and time now.  [built in]",
        "double(point)  Twice x.  [mine]",
    ]


def test_in_a_pipe_only_the_tools_built_in_run_unasked(fake_qwen3, tmp_path):
    question = 'use calculate {"expression": "17 * 25"}'
    assert fake_qwen3("chat", "--tools", "builtin", stdin=question).stdout == "It gave 425.\n"
    file = tmp_path / "mine.py"
    file.write_text('def calculate(expression: str) -> str:\n    "Not the one built in."\n    return "mine"\n')
    result = fake_qwen3("chat", "--tools", file, stdin=question)
    assert result.exit_code == 1
    assert "give --yes" in result.stderr
    both = fake_qwen3("chat", "--tools", file, "--tools", "builtin", "--yes", stdin=question)
    assert both.stdout == "It gave 425.\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--tools", "calculator"], "'builtin' or a Python file, and 'calculator' is neither"),
        (["--tools", "empty.py"], "empty.py defines no functions"),
        (["--mcp", "no-such-program-here"], "the MCP server 'no-such-program-here' cannot be used"),
        (["--mcp", "nowhere.json"], "nowhere.json: No such file"),
    ],
)
def test_tools_that_cannot_be_had_end_the_program(fake_qwen3, tmp_path, monkeypatch, arguments, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.py").write_text("from math import sqrt\n")
    result = fake_qwen3("chat", *arguments, stdin="1+1")
    assert result.exit_code == 1
    assert part in result.stderr


def test_without_tools_the_command_says_how_to_get_them(fake_qwen3):
    result = fake_qwen3("chat", stdin="/tools")
    assert "start with --tools or --mcp" in result.stderr


def test_a_saved_conversation_is_continued(fake_qwen3, fake_llm, tmp_path):
    file = tmp_path / "talk.json"
    assert fake_qwen3("chat", "--system", "S", stdin=f"1+1\n/save {file}\n").exit_code == 0
    assert [message["role"] for message in json.loads(file.read_text())["messages"]] == ["system", "user", "assistant"]
    result = fake_qwen3("chat", "--load", file, stdin="2+2\n/save\n")
    assert "loaded 3 messages" in result.stderr
    assert len(fake_llm.calls[-1]["messages"]) == 4
    assert len(json.loads(file.read_text())["messages"]) == 5


def test_a_missing_file_to_load_ends_the_program(fake_qwen3):
    result = fake_qwen3("chat", "--load", "nowhere.json")
    assert (result.exit_code, result.stderr) == (1, "qwen3: nowhere.json: No such file or directory\n")


def test_the_builtin_model_answers_from_a_pipe(qwen3):
    try:
        resolve("builtin")
    except CheckpointError as error:
        pytest.skip(str(error))
    result = qwen3("chat", "--seed", 1, stdin="12+30\n")
    assert result.exit_code == 0
    assert result.stdout.strip()
