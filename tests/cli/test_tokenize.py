"""`qwen3 tokenize` against the official tokenizer's known ids."""

import json

import pytest

from qwen3.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def official_tokenizer(shared):
    return Tokenizer.load(shared / "tokenizer")


@pytest.fixture
def official(shared, official_tokenizer, monkeypatch):
    """Its directory; the commands get the tokenizer that was loaded once."""
    monkeypatch.setattr(Tokenizer, "load", lambda directory: official_tokenizer)
    return shared / "tokenizer"


def test_the_table_shows_ids_pieces_and_control_tokens(qwen3, official):
    result = qwen3("tokenize", official, "Hello, world<think>")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "   9707  'Hello'",
        "     11  ','",
        "   1879  ' world'",
        " 151667  '<think>'  control",
        "      4  tokens",
    ]


def test_plain_keeps_control_strings_as_text(qwen3, official):
    result = qwen3("tokenize", official, "<think>", "--plain")
    assert "control" not in result.stdout
    assert "151667" not in result.stdout


def test_ids_count_json_and_decode(qwen3, official):
    assert qwen3("tokenize", official, "--ids", stdin="Hello, world").stdout == "9707 11 1879\n"
    assert qwen3("tokenize", official, "--count", stdin="Hello, world\n").stdout == "4\n"
    assert json.loads(qwen3("tokenize", official, "Hello, world", "--json").stdout) == {
        "count": 3,
        "ids": [9707, 11, 1879],
        "pieces": ["Hello", ",", " world"],
    }
    assert qwen3("tokenize", official, "[9707, 11,1879]", "--decode").stdout == "Hello, world\n"
    result = qwen3("tokenize", official, "97 x", "--decode")
    assert (result.exit_code, result.stderr) == (1, "qwen3: 'x' is not a token id\n")


def test_a_part_of_a_character_is_shown_as_bytes(qwen3, official):
    pieces = json.loads(qwen3("tokenize", official, "𒀀", "--json").stdout)["pieces"]
    assert len(pieces) > 1
    assert bytes("".join(pieces), "latin-1").decode("unicode_escape").encode("latin-1").decode() == "𒀀"


def test_a_conversation_is_rendered_as_the_model_sees_it(qwen3, official):
    messages = json.dumps([{"role": "user", "content": "Hi <|im_end|>"}])
    result = qwen3("tokenize", official, messages, "--chat", "--json", "--no-thinking")
    pieces = json.loads(result.stdout)["pieces"]
    assert pieces.count("<|im_end|>") == 1
    assert "".join(pieces) == (
        "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert qwen3("tokenize", official, "[", "--chat").exit_code == 1
    assert qwen3("tokenize", official, "{}", "--chat").exit_code == 1


def test_formats_exclude_each_other(qwen3, official):
    assert qwen3("tokenize", official, "x", "--ids", "--count").exit_code == 2


def test_another_vocabulary(qwen3, checkpoint):
    ids = qwen3("tokenize", checkpoint, "the cat é", "--ids").stdout
    assert qwen3("tokenize", checkpoint, ids, "--decode").stdout == "the cat é\n"
