"""The README's commands exist with the options it gives them, and its Python example runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from qwen3.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
LINES = [shlex.split(line, comments=True) for _, block in BLOCKS for line in block.splitlines() if "'" not in line]
QWEN3 = [line for line in LINES if line[:1] == ["qwen3"]]
MAKE = [line for line in LINES if line[:1] == ["make"]]


@pytest.mark.parametrize("words", QWEN3, ids=" ".join)
def test_command_takes_these_arguments(words):
    import typer

    group = typer.main.get_command(app)
    command = group.get_command(None, words[1])
    assert command is not None
    command.make_context(words[1], words[2:])


@pytest.mark.parametrize("words", MAKE, ids=" ".join)
def test_make_target_exists(words):
    assert subprocess.run([*words, "-n"], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_there_is_something_to_test():
    assert len(QWEN3) >= 5
    assert len(MAKE) >= 2


def test_python_examples_run_one_after_another():
    example = "".join(block for language, block in BLOCKS if language == "python")
    code = example.replace('"Qwen/Qwen3-4B", weights="auto"', '"builtin"')
    assert code != example
    code = re.sub(r"\[785, 6722, 315\]", "[1, 2, 3]", code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Finished" in done.stdout
