"""The tokens that content is made of: their texts, joined, are the content, whatever the parser drops or holds back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3.chat import Content, StreamParser, StreamState, TokenTexts, fold
from qwen3.checkpoint.hub import resolve
from qwen3.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(resolve("builtin"))


def follow(tokenizer, ids, state, stop=(), cuts=()):
    """The content that a parser makes of ids, and its tokens as they are told."""
    parser = StreamParser(tokenizer, state, stop=stop)
    texts = TokenTexts(tokenizer)
    events, tokens = [], []
    for number, id in enumerate(ids):
        texts.before(id, number, parser.state)
        new = parser.feed([id])
        tokens += texts.after(new)
        events += new
        assert fold(events).content.startswith("".join(token.text for token in tokens))
    last = parser.finish()
    return fold(events + last).content, tokens + texts.finish(last)


PLAIN = ["Hello", " wor", "ld", "\n", "\n\n", ".\n", "😀", "é", "\ufffd", "stop", "st", "<", "a b c"]
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_start|>", '{"name": "f", "arguments": {}}']
PIECES = st.sampled_from(PLAIN + TAGS)


@given(st.lists(PIECES, max_size=12), st.sampled_from(StreamState), st.sampled_from([(), ("stop",), ("\n\n", "d")]))
def test_the_texts_joined_are_the_content(tokenizer, pieces, state, stop):
    ids = [id for piece in pieces for id in tokenizer.encode(piece)]
    content, tokens = follow(tokenizer, ids, state, stop)
    assert "".join(token.text for token in tokens) == content
    assert b"".join(token.bytes for token in tokens) == content.encode()
    numbers = [token.owner for token in tokens]
    assert numbers == sorted(set(numbers))


@given(st.lists(st.integers(0, 1100), max_size=30), st.sampled_from(StreamState))
def test_any_ids_whatever_are_followed(tokenizer, ids, state):
    content, tokens = follow(tokenizer, ids, state)
    assert "".join(token.text for token in tokens) == content


def test_a_character_of_several_tokens_comes_with_its_last(tokenizer):
    ids = tokenizer.encode("😀")
    assert len(ids) > 1
    _, tokens = follow(tokenizer, ids, StreamState.RAW)
    assert [token.text for token in tokens] == [""] * (len(ids) - 1) + ["😀"]
    assert b"".join(token.bytes for token in tokens) == "😀".encode()


def test_reasoning_tags_and_calls_have_no_tokens(tokenizer):
    answer = '<think>\nHm.\n</think>\n\nSure.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    content, tokens = follow(tokenizer, tokenizer.encode(answer), StreamState.START)
    assert content == "Sure."
    assert "".join(token.text for token in tokens) == "Sure."


def test_an_unknown_kind_of_event_settles_what_is_held(tokenizer):
    texts = TokenTexts(tokenizer)
    texts.before(tokenizer.encode("a")[0], 0, StreamState.CONTENT)
    assert texts.after([]) == []
    assert [token.text for token in texts.after([Content("a")])] == ["a"]
