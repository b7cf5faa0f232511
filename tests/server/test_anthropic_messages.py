"""Anthropic's Messages: the wire on events that are written down, and the endpoints as the `anthropic` client sees
them."""

import json
from types import SimpleNamespace
from typing import Literal

import anthropic
import pydantic
import pytest
from serving import HTTP, serving

from qwen3.chat import Content, Reasoning, ToolCall, ToolCallDelta
from qwen3.engine.request import Finished, FinishReason, Usage
from qwen3.server.anthropic_messages import MessagesWire, messages
from qwen3.server.messages_schema import MessagesRequest

USAGE = Usage(
    prompt_tokens=7, completion_tokens=5, reasoning_tokens=2, prefill_seconds=0, decode_seconds=0, cached_tokens=4
)
TOOLS = [{"name": name, "input_schema": {"type": "object", "properties": {}}} for name in ("weather", "now")]
THINKING = {"type": "enabled", "budget_tokens": 500}
HELLO = [{"role": "user", "content": "hello"}]
WEATHER = [{"role": "user", "content": "weather"}]
CALL = ToolCall(0, "call_0", "f", '{"a": 1}')
PIECES = [ToolCallDelta(1, "call_1", "g", ""), ToolCallDelta(1, "", "", '{"b": [2'), ToolCallDelta(1, "", "", "]}")]
ANSWERS = {
    "nothing": [],
    "text": [Content("a"), Content("b")],
    "thinking": [Reasoning("r"), Reasoning("s"), Content("a")],
    "only thinking": [Reasoning("r")],
    "calls": [Reasoning("r"), Content("a"), CALL, *PIECES],
    "text after a call": [CALL, Content("a"), Content("b")],
}


def request(**body):
    return MessagesRequest.model_validate({"messages": HELLO, "max_tokens": 5} | body)


def wire(**body):
    wire = MessagesWire("msg_1", request(**body), "m", "req")
    wire.generations = [SimpleNamespace(finished=Finished(None, Usage(7, 0, 0, 0, 0)))]
    return wire


def streamed(wire, events):
    """The stream's messages, as a client reads them."""
    text = (wire.opening() + wire.encode([(0, event) for event in events]) + wire.closing()).decode()
    messages = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        messages.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {messages[-1]['type']}"
    return messages


def folded(events):
    """The message that the events add up to."""
    message, arguments, is_open = events[0]["message"], "", False
    for event in events[1:]:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
                is_open, arguments = True, ""
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(message["content"]) - 1
                block, delta = message["content"][-1], event["delta"]
                match delta["type"]:
                    case "input_json_delta":
                        arguments += delta["partial_json"]
                    case "signature_delta":
                        block["signature"] = delta["signature"]
                    case kind:
                        block[kind.removesuffix("_delta")] += delta[kind.removesuffix("_delta")]
            case "content_block_stop":
                is_open = False
                if message["content"][-1]["type"] == "tool_use":
                    message["content"][-1]["input"] = json.loads(arguments)
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
    assert not is_open
    return message


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.TOOL_CALLS, FinishReason.LENGTH])
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_stream_folds_to_the_answer(answer, reason):
    events = [*ANSWERS[answer], Finished(reason, USAGE)]
    sent = streamed(wire(), events)
    assert [event["type"] for event in sent[:2]] == ["message_start", "ping"]
    assert [event["type"] for event in sent[-2:]] == ["message_delta", "message_stop"]
    assert folded(sent) == wire().whole([events])


def test_the_events_of_a_tool_turn_are_anthropics_in_their_order():
    kinds = [event.get("delta", event)["type"] for event in streamed(wire(), ANSWERS["calls"])]
    assert kinds == [
        *("message_start", "ping"),
        *("content_block_start", "thinking_delta", "signature_delta", "content_block_stop"),
        *("content_block_start", "text_delta", "content_block_stop"),
        *("content_block_start", "input_json_delta", "content_block_stop"),
        *("content_block_start", "input_json_delta", "input_json_delta"),
    ]


def test_a_call_cut_short_has_what_was_complete_of_its_input():
    finished = Finished(FinishReason.LENGTH, USAGE)
    (block,) = wire().whole([[*PIECES[:2], finished]])["content"]
    assert (block["type"], block["input"]) == ("tool_use", {"b": [2]})


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ('{"a": [1e999, 1.5]}', {"a": [None, 1.5]}),
        ('{"a": "x\\ud800y"}', {"a": "x?y"}),
        ('{"a": 1e999, "b": "cut', {"a": None}),
        ('{"a": "😀", "b": "\\ud83d\\ude00"}', {"a": "😀", "b": "😀"}),
        ('{"a": ' + "9" * 5000 + "}", {}),
        ('{"a": ' + "[" * 5000, {}),
        ("", {}),
    ],
)
def test_whatever_the_model_writes_as_arguments_is_json_in_the_answer(arguments, value):
    events = [ToolCallDelta(0, "call_1", "f", arguments), Finished(FinishReason.LENGTH, USAGE)]
    message = json.dumps(wire().whole([events]), allow_nan=False, ensure_ascii=False).encode()
    assert json.loads(message)["content"][0]["input"] == value


@pytest.mark.parametrize(
    ("finished", "reason"),
    [
        (Finished(FinishReason.STOP, USAGE), "end_turn"),
        (Finished(FinishReason.TOOL_CALLS, USAGE), "tool_use"),
        (Finished(FinishReason.LENGTH, USAGE), "max_tokens"),
        (Finished(FinishReason.STOP, USAGE, "END"), "stop_sequence"),
    ],
)
def test_the_reason_why_it_stopped(finished, reason):
    message = wire().whole([[finished]])
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, finished.stop_string)


def test_a_full_context_is_told_from_max_tokens():
    message = wire(max_tokens=6).whole([[Finished(FinishReason.LENGTH, USAGE)]])
    assert message["stop_reason"] == "model_context_window_exceeded"


def test_tokens_from_the_cache_are_counted_apart():
    usage = wire().whole([[Finished(FinishReason.STOP, USAGE)]])["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (3, 4, 5)
    assert usage["output_tokens_details"]["thinking_tokens"] == 2


def test_thinking_that_is_not_to_be_shown_is_a_block_without_text():
    thinking = {"type": "adaptive", "display": "omitted"}
    events = [*ANSWERS["thinking"], Finished(FinishReason.STOP, USAGE)]
    whole = wire(thinking=thinking).whole([events])
    assert whole["content"][0]["thinking"] == ""
    assert folded(streamed(wire(thinking=thinking), events))["content"] == whole["content"]


# ---- Requests


def test_blocks_are_the_conversation_in_chats_form():
    body = request(
        system=[
            {"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "brief."},
        ],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "r", "signature": "?"},
                    {"type": "redacted_thinking", "data": "?"},
                    {"type": "text", "text": "c"},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {"z": 1}},
                    {"type": "tool_use", "id": "2", "name": "g", "input": {}},
                    {"type": "tool_use", "id": "3", "name": "g", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "1", "content": "done"},
                    {"type": "tool_result", "tool_use_id": "2", "content": [{"type": "text", "text": t} for t in "xy"]},
                    {"type": "tool_result", "tool_use_id": "3", "is_error": True, "content": "no such city"},
                    {"type": "text", "text": "and?"},
                ],
            },
        ],
    )
    calls = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id, name, arguments in (("1", "f", {"z": 1}), ("2", "g", {}), ("3", "g", {}))
    ]
    assert messages(body) == [
        {"role": "system", "content": "Be\n\nbrief."},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "reasoning_content": "r", "content": "c", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
        {"role": "tool", "tool_call_id": "2", "content": "xy"},
        {"role": "tool", "tool_call_id": "3", "content": "Error: no such city"},
        {"role": "user", "content": "and?"},
    ]


@pytest.fixture(scope="module")
def claude(scripted_url):
    return client_of(scripted_url)


def client_of(url, key="none"):
    """Anthropic's client, without retries; an answer outside its schema is an error."""
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=10, _strict_response_validation=True)


def ask(client, messages=HELLO, **options):
    return client.messages.create(**{"model": "builtin", "max_tokens": 1000, "messages": messages} | options)


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
RESULT_OF_IMAGE = {"type": "tool_result", "tool_use_id": "1", "content": [IMAGE]}
USE = {"type": "tool_use", "id": "1", "name": "f", "input": {}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "'image' is not supported"),
        ({"messages": [{"role": "user", "content": [RESULT_OF_IMAGE]}]}, "only 'text' is supported, not 'image'"),
        ({"messages": [{"role": "user", "content": [USE]}]}, "'tool_use' is not supported, only 'text', 'tool_result'"),
        ({"messages": [*HELLO, {"role": "assistant", "content": [USE]}]}, "its tool_use needs a tool_result after it"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "a"}], "thinking": THINKING}, "with thinking on"),
        ({"messages": []}, "messages: list should have at least 1 item"),
        ({"max_tokens": 0}, "max_tokens: input should be greater than or equal to 1"),
        ({"max_tokens": 500, "thinking": THINKING}, "max_tokens must be greater than thinking.budget_tokens"),
        ({"thinking": {"type": "enabled"}}, "thinking.enabled.budget_tokens is missing"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type: only 'custom' is supported"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool"}}, "tool_choice.tool.name is missing"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"extra_body": {"mcp_servers": [{"url": "x"}]}}, "mcp_servers: this server calls no others"),
    ],
)
def test_what_cannot_be_done_here_is_refused_by_name(claude, change, message):
    with pytest.raises(anthropic.BadRequestError) as info:
        ask(claude, **change)
    body = info.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert message in body["error"]["message"]


# ---- The real client


def test_an_answer_without_thinking_unless_it_is_asked_for(claude):
    answer = ask(claude)
    (block,) = answer.content
    assert (block.type, block.text) == ("text", "Hello, world. 😀")
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert [block.type for block in ask(claude, thinking={"type": "disabled"}).content] == ["text"]


@pytest.mark.parametrize("thinking", [THINKING, {"type": "adaptive"}])
def test_thinking_comes_first_and_is_signed(claude, thinking):
    answer = ask(claude, thinking=thinking)
    first, second = answer.content
    assert (first.type, first.thinking, second.text) == ("thinking", "They greet.", "Hello, world. 😀")
    assert first.signature
    assert 0 < answer.usage.output_tokens_details.thinking_tokens < answer.usage.output_tokens


def test_thinking_ends_at_its_budget(claude):
    first, *_ = ask(claude, thinking={"type": "enabled", "budget_tokens": 1}).content
    assert "Considering the limited time by the user" in first.thinking
    assert "greet" not in first.thinking


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"thinking": THINKING},
        {"messages": WEATHER, "tools": TOOLS, "thinking": THINKING},
        {"stop_sequences": ["world"]},
        {"max_tokens": 3},
    ],
)
def test_the_clients_stream_adds_up_to_the_unstreamed_answer(claude, options):
    options = {"model": "builtin", "max_tokens": 1000, "messages": HELLO} | options
    whole = claude.messages.create(**options)
    with claude.messages.stream(**options) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()
    assert "" not in texts
    assert final.to_dict() | {"id": None, "stop_details": None} == whole.to_dict() | {"id": None, "stop_details": None}


def test_a_stop_sequence_is_named_and_a_limit_told(claude):
    stopped = ask(claude, stop_sequences=["nothing", "world"])
    assert (stopped.content[0].text, stopped.stop_reason, stopped.stop_sequence) == (
        "Hello, ",
        "stop_sequence",
        "world",
    )
    cut = ask(claude, max_tokens=3)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)


def test_the_reasoning_of_a_multi_step_tool_turn_is_kept(scripted, claude):
    first = ask(claude, WEATHER, tools=TOOLS, thinking=THINKING)
    assert first.stop_reason == "tool_use"
    uses = [block for block in first.content if block.type == "tool_use"]
    assert [(use.name, use.input) for use in uses] == [("weather", {"city": "Zürich", "days": 2}), ("now", {})]
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"} for use in uses]
    history = [
        *WEATHER,
        {"role": "assistant", "content": [block.to_dict() for block in first.content]},
        {"role": "user", "content": results},
    ]
    prompt = scripted.render_chat(messages(request(messages=history, tools=TOOLS))).text
    assert "<think>\nThe user wants the weather.\n</think>\n\nLet me look.\n<tool_call>" in prompt
    assert '{"name": "weather", "arguments": {"city": "Zürich", "days": 2}}' in prompt
    assert prompt.count("<tool_response>\nsunny\n</tool_response>") == 2
    assert ask(claude, history, tools=TOOLS, thinking=THINKING).stop_reason == "end_turn"


@pytest.mark.parametrize("thinking", [{"type": "disabled"}, THINKING])
def test_a_tool_that_must_be_used_streams_its_input(claude, thinking):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [TOOLS[0], TOOLS[1] | {"input_schema": schema | {"additionalProperties": False}}]
    choice = {"type": "tool", "name": "now", "disable_parallel_tool_use": True}
    options = {"model": "builtin", "max_tokens": 600, "messages": HELLO}
    with claude.messages.stream(**options, tools=tools, tool_choice=choice, thinking=thinking) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        message = stream.get_final_message()
    use = message.content[-1]
    assert (message.stop_reason, use.name, use.input) == ("tool_use", "now", json.loads("".join(pieces)))
    assert list(use.input) == ["city"]
    assert len(pieces) > 2


class Amount(pydantic.BaseModel):
    value: int
    unit: Literal["apples", "pears"]


def test_an_answer_is_parsed_into_the_clients_type(claude):
    answer = claude.messages.parse(model="builtin", max_tokens=50, messages=HELLO, output_format=Amount)
    assert isinstance(answer.parsed_output, Amount)


def test_a_tool_that_is_not_offered_cannot_be_asked_for(claude):
    with pytest.raises(anthropic.BadRequestError, match="tool_choice 'other' needs a tool to call"):
        ask(claude, tools=TOOLS, tool_choice={"type": "tool", "name": "other"})


def test_the_answer_goes_on_from_what_the_last_message_says(scripted, claude):
    begun = [*HELLO, {"role": "assistant", "content": "I say: "}]
    prompt = scripted.render_chat(messages(request(messages=begun)), continue_final_message=True)
    assert prompt.text.endswith("</think>\n\nI say: ")
    answer = ask(claude, begun)
    assert answer.content[0].text.endswith("Hello, world. 😀")
    counted = claude.messages.count_tokens(model="builtin", messages=begun).input_tokens
    assert counted == answer.usage.input_tokens == len(prompt.ids)


@pytest.mark.parametrize("options", [{}, {"tools": TOOLS}, {"system": "Be brief."}, {"thinking": THINKING}])
def test_counted_tokens_are_those_of_the_prompt(claude, options):
    counted = claude.messages.count_tokens(model="builtin", messages=HELLO, **options)
    assert counted.input_tokens == ask(claude, **options).usage.input_tokens


def test_tokens_beyond_the_context_are_counted_all_the_same(scripted, claude):
    text = "12 " * 3 * scripted.max_context
    counted = claude.messages.count_tokens(model="builtin", messages=[{"role": "user", "content": text}])
    assert counted.input_tokens > scripted.max_context


def test_a_failure_is_a_500_or_the_streams_last_event(claude):
    fails = [{"role": "user", "content": "fails"}]
    with pytest.raises(anthropic.InternalServerError) as info:
        ask(claude, fails)
    assert info.value.body["error"]["type"] == "api_error"
    with pytest.raises(anthropic.APIStatusError, match="the engine failed") as info:
        list(ask(claude, fails, stream=True))
    assert info.value.body["error"]["type"] == "api_error"


def test_errors_have_anthropics_form_also_those_from_before_the_body_is_read(scripted, scripted_url, claude):
    with pytest.raises(anthropic.NotFoundError, match="there is no model 'claude' here") as info:
        ask(claude, model="claude")
    assert info.value.body["request_id"] == info.value.request_id
    with serving(scripted, api_keys=["secret"]) as url:
        with pytest.raises(anthropic.AuthenticationError) as info:
            ask(client_of(url, "wrong"))
        assert info.value.body["error"]["type"] == "authentication_error"
        assert ask(client_of(url, "secret")).content
    url, is_json = f"{scripted_url}/v1/messages", {"content-type": "application/json"}
    too_large = '"' + "x" * (16 << 20) + '"'
    for response, status, kind in (
        (HTTP.get(url), 405, "invalid_request_error"),
        (HTTP.post(url, content="{}", headers={"content-type": "text/plain"}), 415, "invalid_request_error"),
        (HTTP.post(url, content=too_large, headers=is_json), 413, "request_too_large"),
        (HTTP.post(f"{url}/nothing", json={}), 404, "not_found_error"),
        (HTTP.post(f"{url}/count_tokens", json={}), 400, "invalid_request_error"),
    ):
        body = response.json()
        assert (response.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)


def test_a_full_server_is_overloaded_in_anthropics_words(scripted):
    with serving(scripted, max_requests=1) as url:
        client = client_of(url)
        with ask(client, [{"role": "user", "content": "endless"}], stream=True) as stream:
            next(iter(stream))
            with pytest.raises(anthropic.InternalServerError) as info:
                ask(client)
    assert (info.value.status_code, info.value.body["error"]["type"]) == (529, "overloaded_error")


def test_the_builtin_model_answers_a_sum(builtin_url):
    question = [{"role": "user", "content": "What is 17 + 25?"}]
    answer = ask(client_of(builtin_url), question, thinking={"type": "adaptive"}, extra_body={"temperature": 0})
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert "42" in answer.content[1].text
