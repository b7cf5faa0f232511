"""Messages over several lines."""

import io
from contextlib import suppress
from types import SimpleNamespace

import pytest

from qwen3.cli.chat_input import continued, pipe_reader, unquoted


@pytest.mark.parametrize("text", ["12+30", '"""all of it"""', "```\nx\n```", "a ``` in the middle", 'say """hi"""', ""])
def test_complete_messages_are_sent_at_enter(text):
    assert continued(text) is None


@pytest.mark.parametrize(
    ("text", "longer"),
    [
        ("one\\", "one\n"),
        ("```python", "```python\n"),
        ("```\nx \\", "```\nx \\\n"),
        ('"""one', '"""one\n'),
        ('"""', '"""\n'),
    ],
)
def test_unfinished_messages_go_on_in_a_new_line(text, longer):
    assert continued(text) == longer


def test_triple_quotes_are_not_part_of_the_message():
    assert unquoted(' """\none\ntwo\n""" ') == "one\ntwo"


def _messages(monkeypatch, data):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    read, messages = pipe_reader(), []
    with suppress(EOFError):
        while True:
            messages.append(read())
    return messages


def test_a_pipe_gives_a_message_a_line_and_joins_unfinished_ones(monkeypatch):
    data = b'one\r\n"""a\n\nb"""\nx \\\ny\n\n```\n1 \\\n2\n```\nlast'
    assert _messages(monkeypatch, data) == ["one", "a\n\nb", "x \ny", "", "```\n1 \\\n2\n```", "last"]


def test_what_is_unfinished_when_a_pipe_ends_is_sent_as_it_is(monkeypatch):
    assert _messages(monkeypatch, b'"""a\nb\n') == ["a\nb"]


def test_bytes_that_are_not_utf8_do_not_end_the_conversation(monkeypatch):
    assert _messages(monkeypatch, b"\xff?\n") == ["\ufffd?"]
