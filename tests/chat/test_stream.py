"""Ids to events: the same for every way of cutting the stream, faithful to the template, nothing lost."""

import json
from dataclasses import replace
from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3.chat import (
    ChatFormat,
    Content,
    ForeignTemplate,
    Message,
    Reasoning,
    StreamParser,
    StreamState,
    ToolCall,
    ToolCallDelta,
    fold,
    render,
    start_state,
)

USER = {"role": "user", "content": "Hi"}
PIECES = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", "<tool_response>", "\n", "\n\n", " ", "the"),
    *('\n{"name": "f", "arguments":', ' {"a": "}\\""', "</tool_call>"),
    *("END", "EN", "D", "😀", '{"name": "f", "arguments": {"a": 1}}', '\n{"name": "g"}\n', '{"name": ', "}"),
)


def parse(tokenizer, text, start=StreamState.START, **options) -> Message:
    parser = StreamParser(tokenizer, start, **options)
    return fold(parser.feed(tokenizer.encode(text)) + parser.finish())


def streamed(tokenizer, chunks, start, **options):
    """Events of a stream in chunks, neighbours of a kind joined, and what the parser says at the end."""
    parser = StreamParser(tokenizer, start, **options)
    events = [event for chunk in chunks for event in parser.feed(chunk)] + parser.finish()
    joined = []
    for (kind, _), run in groupby(events, key=lambda event: (type(event), getattr(event, "index", None))):
        run = list(run)
        if kind is ToolCallDelta:
            assert all(event.arguments for event in run[1:])
            joined.append(replace(run[0], arguments="".join(event.arguments for event in run)))
        else:
            joined += run if kind is ToolCall else [kind("".join(event.text for event in run))]
    assert all(event.text for event in events if isinstance(event, Reasoning | Content))
    return joined, parser.stopped, parser.state, parser.num_reasoning_tokens


# Any cutting of the stream


@settings(max_examples=300)
@given(
    pieces=st.lists(st.one_of(st.sampled_from(PIECES), st.integers(0, 260)), max_size=25),
    cuts=st.lists(st.integers(0, 80), max_size=10),
    start=st.sampled_from(StreamState),
    stop=st.lists(st.sampled_from(["END", "ND", "\n\n", "the", "e E", "</think>"]), max_size=2),
    options=st.sampled_from([{}, {"streams_calls": True, "tool_names": ["f"]}, {"parallel_calls": False}]),
)
def test_any_cutting_of_a_stream_gives_the_same_events(tokenizer, pieces, cuts, start, stop, options):
    """Pieces are text, control tokens, and single bytes: half characters too."""
    ids = [id for piece in pieces for id in ([piece] if isinstance(piece, int) else tokenizer.encode(piece))]
    bounds = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    whole = streamed(tokenizer, [ids], start, stop=stop, **options)
    assert streamed(tokenizer, [ids[a:b] for a, b in pairwise(bounds)], start, stop=stop, **options) == whole
    assert streamed(tokenizer, [[id] for id in ids], start, stop=stop, **options) == whole


@given(ids=st.lists(st.integers(0, 290), max_size=40))
def test_a_plain_completion_is_the_decoded_text(tokenizer, ids):
    ids = [id for id in ids if id not in tokenizer.special_ids]
    parser = StreamParser(tokenizer, StreamState.RAW)
    message = fold(parser.feed(ids) + parser.finish())
    assert (message.reasoning, message.tool_calls) == ("", ())
    assert message.content == tokenizer.decode(ids)


@given(
    text=st.text("ab\n", max_size=20), stops=st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3)
)
def test_the_first_stop_string_to_be_complete_ends_the_content(tokenizer, text, stops):
    ends = (text[:end] for end in range(1, len(text) + 1))
    expected = next((text for text in ends if text.endswith(tuple(stops))), None)
    parser = StreamParser(tokenizer, StreamState.RAW, stop=stops)
    content = fold([event for id in tokenizer.encode(text) for event in parser.feed([id])] + parser.finish()).content
    if expected is None:
        assert (content, parser.stopped) == (text, None)
    else:
        longest = max((stop for stop in stops if expected.endswith(stop)), key=len)
        assert (content, parser.stopped) == (expected.removesuffix(longest), longest)


# Back into the template

WORDS = st.lists(st.sampled_from(["the", " ", "\n", "\n\n", "x", "😀", "<", "<think>", "<tool_call>"]), max_size=6)
CALLS = st.lists(
    st.tuples(st.sampled_from(["f", "g"]), st.dictionaries(st.sampled_from("abc"), st.integers() | WORDS, max_size=2)),
    max_size=2,
)


@given(reasoning=WORDS.map("".join), content=WORDS.map("".join), calls=CALLS, thinks=st.booleans())
def test_a_parsed_answer_renders_back_to_the_same_tokens(tokenizer, reasoning, content, calls, thinks):
    if content and not content.strip("\n"):
        content = ""  # newlines alone belong to the format
    answer = {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning if thinks else "",
        "tool_calls": [{"name": name, "arguments": arguments} for name, arguments in calls],
    }
    whole = tokenizer.encode_spans(render([USER, answer], add_generation_prompt=False).spans)
    prompt = render([USER], thinking=True)
    generated = whole[len(tokenizer.encode_spans(prompt.spans)) :]
    parser = StreamParser(tokenizer, prompt)
    # As in generation: the newline after <|im_end|> is not generated.
    message = fold(parser.feed(generated[:-1]) + parser.finish())
    again = render([USER, message.to_dict()], add_generation_prompt=False)
    assert tokenizer.encode_spans(again.spans) == whole
    assert [json.loads(call.arguments) for call in message.tool_calls] == [arguments for _, arguments in calls]


def test_arguments_are_kept_as_the_model_wrote_them(tokenizer):
    message = parse(tokenizer, '<tool_call>\n{"name": "f", "arguments": {"a":1,  "é": "\\u00e9"}}\n</tool_call>')
    assert message.tool_calls[0].arguments == '{"a":1,  "é": "\\u00e9"}'


# The start state


@pytest.mark.parametrize(
    ("options", "state"),
    [
        ({}, StreamState.START),
        ({"thinking": False}, StreamState.CONTENT),
        ({"format": ChatFormat.THINKING_2507}, StreamState.REASONING),
        ({"format": ChatFormat.INSTRUCT_2507}, StreamState.START),
        ({"add_generation_prompt": False}, StreamState.START),
        (
            {"format": ForeignTemplate("<think></think>A<|endoftext|>[INST]{{ messages[0].content }}")},
            StreamState.START,
        ),
        ({"format": ForeignTemplate("[INST]{{ messages[0].content }}<think>\n")}, StreamState.REASONING),
    ],
)
def test_the_start_state_is_read_off_the_prompt(options, state):
    earlier = {"role": "assistant", "content": "<think>\nx\n</think>\n\ny"}
    assert start_state(render([USER, earlier, USER], **options)) is state


@pytest.mark.parametrize(
    ("last", "state"),
    [
        ({"content": "To be"}, StreamState.CONTENT),
        ({"content": "", "reasoning_content": "So"}, StreamState.REASONING),
    ],
)
@pytest.mark.parametrize("format", [ChatFormat.HYBRID, ChatFormat.THINKING_2507])
def test_an_open_message_is_continued_where_it_stands(tokenizer, last, state, format):
    rendered = render([USER, {"role": "assistant", **last}], format=format, continue_final_message=True)
    assert start_state(rendered) is state
    message = parse(tokenizer, "\n\nthe", rendered)
    assert message.content + message.reasoning == "\n\nthe"


def test_an_answer_that_instruct_2507_continues_is_content():
    rendered = render(
        [USER, {"role": "assistant", "content": "To be"}],
        format=ChatFormat.INSTRUCT_2507,
        continue_final_message=True,
    )
    assert start_state(rendered) is StreamState.CONTENT


# Channels

CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "start", "reasoning", "content"),
    [
        ("<think>\nR\n</think>\n\nA<|im_end|>", StreamState.START, "R", "A"),
        ("\n<think>\n\n</think>\n\nA", StreamState.START, "", "A"),
        ("R\n</think>\n\nA", StreamState.REASONING, "R", "A"),
        ("A\n\nB\n", StreamState.CONTENT, "", "A\n\nB\n"),
        ("A", StreamState.START, "", "A"),
        ("</think>\n\nA", StreamState.START, "", "A"),
        ("<think>\n\nR\n\n\nR\n\n", StreamState.START, "R\n\n\nR", ""),
        ("<think><think>R</think>A</think>B<think>", StreamState.START, "<think>R", "A</think>B<think>"),
        (f"<think>R{CALL}</think>A", StreamState.START, f"R{CALL}", "A"),
        ("A<|im_end|><|endoftext|>B", StreamState.CONTENT, "", "AB"),
        ("<think>a</think><tool_call>b", StreamState.RAW, "", "<think>a</think><tool_call>b"),
    ],
)
def test_text_lands_in_its_channel(tokenizer, text, start, reasoning, content):
    assert parse(tokenizer, text, start) == Message(reasoning, content)


@pytest.mark.parametrize(
    ("text", "content", "num_calls"),
    [
        (f"A\n{CALL}", "A", 1),
        (f"A\n\n{CALL}", "A\n", 1),
        (f"\n{CALL}\n{CALL}\n", "", 2),
        (f"{CALL}\n\nA", "\n\nA", 1),
        (CALL.removesuffix("</tool_call>"), "", 1),
        (CALL.removesuffix("</tool_call>") + CALL, "", 2),
    ],
)
def test_newlines_around_tool_calls_belong_to_the_format(tokenizer, text, content, num_calls):
    message = parse(tokenizer, text)
    assert (message.content, len(message.tool_calls)) == (content, num_calls)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "prose",
        "{",
        "[" * 100_000,
        '{"arguments": {}}',
        '{"name": 1, "arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "x"}',
        '{"name": "f", "arguments": "[]"}',
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "\\ud800", "arguments": {}}',
        '{"name": "f", "arguments": {}} {}',
        '{"name": "f<think>", "arguments": {}',
    ],
)
@pytest.mark.parametrize("closing", ["</tool_call>", ""])
def test_a_malformed_call_comes_back_whole_as_content(tokenizer, body, closing):
    text = f"A\n<tool_call>\n{body}\n{closing}"
    assert parse(tokenizer, text) == Message(content=text)


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "f"}', "{}"),
        ('{"name": "f", "arguments": null}', "{}"),
        ('{"arguments": {"é": 1}, "name": "f"}', '{"é": 1}'),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"name": "f", "arguments": {"a": "<think>"}, "id": 1}', '{"a": "<think>"}'),
    ],
)
def test_arguments_are_always_the_json_text_of_an_object(tokenizer, body, arguments):
    message = parse(tokenizer, f"<tool_call>{body}</tool_call>")
    assert message.tool_calls == (ToolCall(0, "call_0", "f", arguments),)


def test_a_call_to_a_tool_that_was_not_offered_is_content(tokenizer):
    assert parse(tokenizer, CALL, tool_names=["g"]) == Message(content=CALL)
    assert parse(tokenizer, CALL, tool_names=["f"], call_id_prefix="call_7_").tool_calls[0].id == "call_7_0"


def test_tags_spelt_out_in_letters_are_text(tokenizer):
    ids = tokenizer.encode("<think>x</think><tool_call>", control=False)
    parser = StreamParser(tokenizer, StreamState.START)
    assert fold(parser.feed(ids) + parser.finish()) == Message(content="<think>x</think><tool_call>")


# Calls whose arguments are valid by construction

HEADER = '<tool_call>\n{"name": "f", "arguments":'


@pytest.mark.parametrize(
    ("arguments", "closing"),
    [
        ("{}", "}\n</tool_call>"),
        ('{"a": {"b": "}\\"{\\\\"}, "c": [{}]}', "}\n</tool_call>"),
        ('{"a": "ü', ""),
        ("", ""),
        ('{"a": 1}', ""),
        ('{"a": 1}', "}"),
    ],
)
def test_a_call_in_pieces_adds_up_to_its_arguments_also_where_it_is_cut_short(tokenizer, arguments, closing):
    parser = StreamParser(tokenizer, StreamState.CONTENT, tool_names=["f"], streams_calls=True)
    ids = tokenizer.encode(f"A\n{HEADER} {arguments}{closing}")
    events = [event for id in ids for event in parser.feed([id])] + parser.finish()
    first = next(event for event in events if isinstance(event, ToolCallDelta))
    assert first == ToolCallDelta(0, "call_0", "f", "")
    assert fold(events) == Message(content="A", tool_calls=(ToolCall(0, "call_0", "f", arguments),))


def test_a_call_comes_in_pieces_only_after_the_exact_header_of_an_offered_tool(tokenizer):
    for call in (CALL.replace("\n{", "{"), CALL.replace('":', '" :'), CALL.replace('"f"', '"g"')):
        parser = StreamParser(tokenizer, StreamState.CONTENT, tool_names=["f"], streams_calls=True)
        events = parser.feed(tokenizer.encode(call)) + parser.finish()
        assert not any(isinstance(event, ToolCallDelta) for event in events)


def test_without_parallel_calls_the_answer_is_over_after_the_first(tokenizer):
    for streams in (False, True):
        parser = StreamParser(
            tokenizer, StreamState.CONTENT, tool_names=["f"], streams_calls=streams, parallel_calls=False
        )
        ids = tokenizer.encode(f"<tool_call>no call</tool_call>{CALL}\n{CALL}")
        message = fold([event for id in ids for event in parser.feed([id])] + parser.finish())
        assert message.content == "<tool_call>no call</tool_call>"
        assert (len(message.tool_calls), parser.is_over, parser.stopped) == (1, True, None)


# Streaming itself


def test_text_comes_as_soon_as_it_is_certain(tokenizer):
    parser = StreamParser(tokenizer, StreamState.START, stop=["END"])

    def feed(text):
        return parser.feed(tokenizer.encode(text))

    assert feed("<think>\n") == []
    assert feed("th") == [Reasoning("th")]
    assert feed("e\n") == [Reasoning("e")]
    assert feed("\nx") == [Reasoning("\n\nx")]
    assert feed("\n</think>\n\n") == []
    assert feed("A E") == [Content("A ")]
    assert feed("Nx\n") == [Content("ENx")]
    assert parser.finish() == [Content("\n")]


def test_stop_strings_do_not_fire_in_reasoning_or_calls(tokenizer):
    call = CALL.replace("{}", '{"a": "END"}')
    parser = StreamParser(tokenizer, StreamState.START, stop=["END", "\n\n"])
    events = parser.feed(tokenizer.encode(f"<think>\nEND\n\nR</think>\n\nA\n{call}B END C"))
    assert fold(events).content == "AB "
    assert fold(events).reasoning == "END\n\nR"
    assert len(fold(events).tool_calls) == 1
    assert parser.stopped == "END"
    assert parser.feed(tokenizer.encode("more")) == parser.finish() == []


def test_reasoning_tokens_are_counted_without_the_tags(tokenizer):
    parser = StreamParser(tokenizer, StreamState.START)
    parser.feed(tokenizer.encode("<think>\nthe<tool_call></think>\n\nthe"))
    assert parser.num_reasoning_tokens == 3


@pytest.mark.parametrize("stop", ["END", [""]])
def test_stop_must_be_a_list_of_strings_with_text(tokenizer, stop):
    with pytest.raises(ValueError, match="stop must be a list of strings"):
        StreamParser(tokenizer, StreamState.START, stop=stop)
