"""Events as blocks that open, grow and close; blocks of a history as messages."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from qwen3.chat import Content, Reasoning, ToolCall, ToolCallDelta, fold
from qwen3.server.blocks import BlockStream, Closed, Conversation, Grew, Opened

_texts = st.text(min_size=1, max_size=4)


@st.composite
def answers(draw):
    """Events as the parser makes them: channels in any order, calls whole or in pieces."""
    events = []
    num_calls = 0
    for kind in draw(st.lists(st.sampled_from(["reasoning", "content", "call", "pieces"]), max_size=8)):
        if kind == "reasoning":
            events.append(Reasoning(draw(_texts)))
        elif kind == "content":
            events.append(Content(draw(_texts)))
        elif kind == "call":
            events.append(ToolCall(num_calls, f"call_{num_calls}", "f", '{"a": 1}'))
            num_calls += 1
        else:
            events.append(ToolCallDelta(num_calls, f"call_{num_calls}", "g", draw(st.sampled_from(["", "{"]))))
            events += [ToolCallDelta(num_calls, "", "", piece) for piece in draw(st.lists(_texts, max_size=3))]
            num_calls += 1
    return events


@given(answers())
def test_each_block_opens_grows_to_its_text_and_closes_before_the_next(events):
    stream = BlockStream()
    changes = [change for event in events for change in stream.feed(event)] + list(stream.close())
    texts, is_open = [], False
    for change in changes:
        match change:
            case Opened(block):
                assert not is_open
                assert block.index == len(texts)
                texts.append("")
            case Grew(block, text):
                assert is_open
                assert block.index == len(texts) - 1
                texts[-1] += text
            case Closed(block):
                assert is_open
                assert block.text == texts[-1]
        is_open = not isinstance(change, Closed)
    assert not is_open
    assert [block.text for block in stream.blocks] == texts
    kinds = [block.kind for block in stream.blocks]
    assert all(kind == "call" or kind != before for before, kind in pairwise(kinds))


@given(answers())
def test_blocks_hold_what_the_events_fold_to(events):
    stream = BlockStream()
    for event in events:
        list(stream.feed(event))
    message = fold(events)

    def joined(kind):
        return "".join(block.text for block in stream.blocks if block.kind == kind)

    assert (joined("reasoning"), joined("text")) == (message.reasoning, message.content)
    calls = [(block.id, block.name, block.text) for block in stream.blocks if block.kind == "call"]
    assert calls == [(call.id, call.name, call.arguments) for call in message.tool_calls]


def test_a_whole_call_is_closed_at_once_and_one_in_pieces_when_the_next_block_comes():
    stream = BlockStream()
    kinds = [type(change) for change in stream.feed(ToolCall(0, "a", "f", "{}"))]
    assert kinds == [Opened, Grew, Closed]
    assert [type(change) for change in stream.feed(ToolCallDelta(1, "b", "f", ""))] == [Opened]
    assert [type(change) for change in stream.feed(ToolCallDelta(1, "", "", "{}"))] == [Grew]
    assert [type(change) for change in stream.feed(ToolCallDelta(2, "c", "f", "{}"))] == [Closed, Opened, Grew]


def test_blocks_of_an_assistant_are_one_message_and_reasoning_begins_the_next():
    conversation = Conversation()
    conversation.say("developer", "rules")
    conversation.say("user", "a")
    conversation.say("user", "b")
    conversation.reason("why")
    conversation.say("assistant", "I ")
    conversation.say("assistant", "look.")
    conversation.call("1", "f", "{}")
    conversation.call("2", "g", {})
    conversation.result("1", "one")
    conversation.result("2", "two")
    conversation.reason("so")
    conversation.say("assistant", "c")
    conversation.reason("again")
    assert conversation.messages == [
        {"role": "system", "content": "rules"},
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {
            "role": "assistant",
            "reasoning_content": "why",
            "content": "I look.",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "2", "type": "function", "function": {"name": "g", "arguments": {}}},
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "one"},
        {"role": "tool", "tool_call_id": "2", "content": "two"},
        {"role": "assistant", "reasoning_content": "so", "content": "c"},
        {"role": "assistant", "reasoning_content": "again"},
    ]
