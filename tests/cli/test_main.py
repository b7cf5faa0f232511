"""The list of commands is quick, and errors are one line with the right exit code."""

import os
import subprocess
import sys

import pytest

from qwen3 import __version__
from qwen3.cli import options
from qwen3.cli.main import COMMANDS

RUN = "from qwen3.cli.main import main; main()"


def _run(*arguments, code=RUN, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
    )


def test_help_lists_every_command_and_loads_nothing_heavy():
    heavy = "torch transformers huggingface_hub tokenizers numpy typer rich prompt_toolkit jinja2"
    check = f"{RUN}; import sys; sys.exit(' '.join(sys.modules.keys() & set({heavy!r}.split())) or 0)"
    result = _run("--help", code=check)
    assert (result.returncode, result.stderr) == (0, "")
    for command in COMMANDS:
        assert f"\n  {command} " in result.stdout


def test_help_takes_less_than_three_tenths_of_a_second():
    seconds = []
    for _ in range(3):
        # The processor's time: the wall clock of a busy machine says nothing about this program.
        before = os.times()
        _run("--help")
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))
    assert min(seconds) < 0.3


def test_no_arguments_and_help_after_an_option_print_the_same_list():
    assert _run().stdout == _run("--help").stdout == _run("--debug", "--help").stdout


def test_version():
    assert _run("--version").stdout == _run("--debug", "--version").stdout == f"qwen3 {__version__}\n"


def test_each_command_explains_itself_without_loading_torch():
    code = """
import sys
from qwen3.cli.app import app
for command in sys.argv[1:]:
    app([command, "--help"], standalone_mode=False, prog_name="qwen3")
    print("\\nend")
print("torch" in sys.modules)
"""
    result = _run(*COMMANDS, code=code)
    assert result.stderr == ""
    *texts, torch_loaded = result.stdout.split("\nend\n")
    assert torch_loaded == "False\n"
    for command, text in zip(COMMANDS, texts, strict=True):
        assert f"Usage: qwen3 {command} " in text
    # Paragraphs are broken where the terminal ends, and not where the source does.
    assert "gives one object: text, reasoning, tool_calls," in texts[list(COMMANDS).index("generate")]


def test_unknown_command_is_a_usage_error_that_names_the_known_ones(qwen3):
    result = qwen3("chit")
    assert result.exit_code == 2
    assert "chit" in result.stderr
    assert all(command in result.stderr for command in COMMANDS)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("temperature is wrong"), "qwen3: temperature is wrong\n"),
        (FileNotFoundError(2, "No such file", "x/config.json"), "qwen3: x/config.json: No such file\n"),
        (ImportError("needs qwen3[train]"), "qwen3: needs qwen3[train]\n"),
        (MemoryError(), "qwen3: MemoryError\n"),
    ],
)
def test_errors_are_one_line_and_code_1_and_debug_shows_where(qwen3, monkeypatch, error, line):
    def fail(model, **settings):
        raise error

    monkeypatch.setattr(options, "load_llm", fail)
    result = qwen3("chat")
    assert (result.exit_code, result.stderr, result.stdout) == (1, line, "")
    assert qwen3("--debug", "chat").exception is error
    monkeypatch.setenv("QWEN3_DEBUG", "1")
    assert qwen3("chat").exception is error


def test_mistakes_of_our_own_keep_their_traceback(qwen3, monkeypatch):
    monkeypatch.setattr(options, "load_llm", lambda model, **settings: {}["nothing"])
    assert isinstance(qwen3("chat").exception, KeyError)


def test_ctrl_c_is_code_130_without_a_traceback(qwen3, monkeypatch):
    def interrupt(model, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(options, "load_llm", interrupt)
    result = qwen3("chat")
    assert (result.exit_code, result.stderr) == (130, "")


def test_impossible_sampling_is_refused_before_the_model_is_loaded(qwen3, monkeypatch):
    monkeypatch.setattr(options, "load_llm", lambda model, **settings: pytest.fail("loaded"))
    for command in ("chat", "generate"):
        result = qwen3(command, "--top-p", "1.5", stdin="x")
        assert (result.exit_code, result.stderr) == (1, "qwen3: top_p 1.5 is not a number above 0 to 1\n")
