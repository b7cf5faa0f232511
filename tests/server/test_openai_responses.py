"""OpenAI's Responses: the wire on events that are written down, and the endpoint as the `openai` client sees it."""

import json
from typing import Literal

import openai
import pydantic
import pytest
from serving import HTTP, client_of

from qwen3 import SamplingParams
from qwen3.chat import Content, Reasoning, ToolCall, ToolCallDelta
from qwen3.engine.request import Finished, FinishReason, Usage
from qwen3.server.errors import ApiError
from qwen3.server.openai_responses import ResponsesWire, messages
from qwen3.server.responses_schema import ResponsesRequest

USAGE = Usage(prompt_tokens=7, completion_tokens=5, reasoning_tokens=2, prefill_seconds=0, decode_seconds=0)
TOOLS = [
    {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}}
    for name in ("weather", "now")
]
CALL = ToolCall(0, "call_0", "f", '{"a": 1}')
PIECES = [ToolCallDelta(1, "call_1", "g", ""), ToolCallDelta(1, "", "", '{"b"'), ToolCallDelta(1, "", "", ": [2]}")]
ANSWERS = {
    "nothing": [],
    "text": [Content("a"), Content("b")],
    "thinking": [Reasoning("r"), Reasoning("s"), Content("a")],
    "only thinking": [Reasoning("r")],
    "calls": [Reasoning("r"), Content("a"), CALL, *PIECES],
    "text after a call": [CALL, Content("a"), Content("b")],
    "a call cut short": [Content("a"), *PIECES[:2]],
}


def wire(**body):
    return ResponsesWire("resp_1", ResponsesRequest.model_validate({"input": "x"} | body), SamplingParams(), "m")


def streamed(wire, events):
    """The stream's messages, as a client reads them."""
    text = (wire.opening() + wire.encode([(0, event) for event in events]) + wire.closing()).decode()
    messages = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        messages.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {messages[-1]['type']}"
    return messages


def folded(messages):
    """The output that the deltas add up to; each piece must be where its item and part are open."""
    output = []
    for message in messages:
        match message["type"].removeprefix("response."):
            case "output_item.added":
                assert message["output_index"] == len(output)
                assert message["item"]["status"] == "in_progress"
                output.append(message["item"])
            case "content_part.added":
                assert message["content_index"] == len(output[-1]["content"]) == 0
                output[-1]["content"].append(message["part"])
            case "output_text.delta" | "reasoning_text.delta":
                assert message["item_id"] == output[-1]["id"]
                output[-1]["content"][message["content_index"]]["text"] += message["delta"]
            case "function_call_arguments.delta":
                assert message["item_id"] == output[-1]["id"]
                output[-1]["arguments"] += message["delta"]
            case "output_text.done" | "reasoning_text.done":
                assert message["text"] == output[-1]["content"][0]["text"]
            case "function_call_arguments.done":
                assert message["arguments"] == output[-1]["arguments"]
            case "content_part.done":
                assert message["part"] == output[-1]["content"][0]
            case "output_item.done":
                output[-1]["status"] = message["item"]["status"]
                assert message["item"] == output[-1]
    return output


def without_ids(response):
    response = response | {"id": None, "created_at": None, "completed_at": None}
    return response | {"output": [item | {"id": None} for item in response["output"]]}


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.TOOL_CALLS, FinishReason.LENGTH])
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_stream_folds_to_the_answer(answer, reason):
    events = [*ANSWERS[answer], Finished(reason, USAGE)]
    sent = streamed(wire(), events)
    assert [message["sequence_number"] for message in sent] == list(range(len(sent)))
    assert [message["type"] for message in sent[:2]] == ["response.created", "response.in_progress"]
    assert sent[0]["response"] == sent[1]["response"]
    assert (sent[0]["response"]["status"], sent[0]["response"]["output"]) == ("in_progress", [])
    last = sent[-1]["response"]
    assert sent[-1]["type"] == f"response.{last['status']}"
    assert last["output"] == folded(sent)
    assert without_ids(last) == without_ids(wire().whole([events]))
    is_cut = reason is FinishReason.LENGTH
    assert last["status"] == ("incomplete" if is_cut else "completed")
    assert last["incomplete_details"] == ({"reason": "max_output_tokens"} if is_cut else None)
    assert all(item["status"] == "completed" for item in last["output"][:-1])


def test_the_events_of_a_tool_turn_are_openais_in_their_order():
    kinds = [message["type"].removeprefix("response.") for message in streamed(wire(), ANSWERS["calls"])]
    reasoning = ["content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done"]
    text = ["content_part.added", "output_text.delta", "output_text.done", "content_part.done"]
    call = ["function_call_arguments.delta", "function_call_arguments.done"]
    assert kinds == [
        *("created", "in_progress"),
        *("output_item.added", *reasoning, "output_item.done"),
        *("output_item.added", *text, "output_item.done"),
        *("output_item.added", *call, "output_item.done"),
        *("output_item.added", call[0], call[0]),
    ]


def test_a_failure_ends_the_stream_with_what_was_complete():
    stream = wire()
    stream.encode([(0, Reasoning("r")), (0, Content("a"))])
    name, data = stream.failure(ApiError(500, "it broke")).decode().strip().split("\n")
    response = json.loads(data.removeprefix("data: "))["response"]
    assert name == "event: response.failed"
    assert (response["status"], response["error"]) == ("failed", {"code": "server_error", "message": "it broke"})
    assert [item["type"] for item in response["output"]] == ["reasoning"]


def test_the_answer_describes_its_request():
    tool = {"type": "function", "name": "f", "description": "d", "parameters": {}, "strict": True}
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}
    given = {
        "instructions": "i",
        "tools": [tool],
        "tool_choice": choice,
        "text": {"format": schema},
        "metadata": {"k": "v"},
        "max_output_tokens": 9,
        "parallel_tool_calls": False,
    }
    response = streamed(wire(**given, truncation="auto", store=True), [])[0]["response"]
    assert {name: response[name] for name in given} == given
    assert (response["truncation"], response["store"], response["previous_response_id"]) == ("disabled", False, None)


# ---- Requests


def test_items_are_the_conversation_in_chats_form():
    body = ResponsesRequest.model_validate(
        {
            "instructions": "Be brief.",
            "input": [
                {"role": "developer", "content": "rules"},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": t} for t in ("a", "b")]},
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [],
                    "content": [{"type": "reasoning_text", "text": "r"}],
                },
                {"type": "message", "role": "assistant", "id": "m", "content": [{"type": "output_text", "text": "c"}]},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"z": 1}', "id": "fc_1"},
                {"type": "function_call_output", "call_id": "1", "output": "done"},
                {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "s"}]},
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            ],
        }
    )
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"z": 1}'}}
    assert messages(body) == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "rules"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "reasoning_content": "r", "content": "c", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
        {"role": "assistant", "reasoning_content": "s", "content": "no"},
    ]


def test_only_allowed_tools_are_offered():
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "now"}]}
    body = ResponsesRequest.model_validate({"input": "x", "tools": TOOLS, "tool_choice": allowed})
    assert [tool.name for tool in body.offered_tools] == ["now"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"previous_response_id": "resp_1"},
            "previous_response_id: nothing is stored here: send the whole",
        ),
        ({"conversation": "conv_1"}, "conversation: nothing is stored here"),
        ({"prompt": {"id": "p"}}, "prompt: no prompts are stored here"),
        ({"background": True}, "background: only False is supported"),
        ({"top_logprobs": 3}, "top_logprobs: only 0 is supported"),
        ({"include": ["message.output_text.logprobs"]}, "include: message.output_text.logprobs is not supported here"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type: only 'function' is supported"),
        ({"tool_choice": {"type": "file_search"}}, "'file_search'"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "'input_image'"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "'item_reference'"),
        ({"input": [{"role": "robot", "content": "x"}]}, "role: only 'user', 'assistant', 'system' or 'developer'"),
        ({"input": 5}, "input: input should be a valid list"),
        ({"input": []}, "messages is empty"),
        ({"max_output_tokens": 0}, "max_output_tokens: input should be greater than or equal to 1"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort: only 'none'"),
    ],
)
def test_what_cannot_be_done_here_is_refused_by_name(client, change, message):
    with pytest.raises(openai.BadRequestError) as info:
        client.responses.create(**{"model": "builtin", "input": "hello"} | change)
    assert message in info.value.body["message"]


def test_what_clients_send_unasked_changes_nothing(client):
    options = {"store": True, "truncation": "auto", "include": ["reasoning.encrypted_content"], "user": "me"}
    answer = client.responses.create(
        model="builtin", input="hello", **options, prompt_cache_key="k", service_tier="auto"
    )
    assert answer.output_text == "Hello, world. 😀"


# ---- The real client


def test_an_answer_has_reasoning_text_and_counts(client):
    answer = client.responses.create(model="builtin", input="hello")
    reasoning, message = answer.output
    assert (reasoning.type, reasoning.content[0].text) == ("reasoning", "They greet.")
    assert (message.type, answer.output_text, answer.status) == ("message", "Hello, world. 😀", "completed")
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert 0 < usage.output_tokens_details.reasoning_tokens < usage.output_tokens


def test_reasoning_effort_none_turns_thinking_off(client):
    answer = client.responses.create(model="builtin", input="hello", reasoning={"effort": "none"})
    assert [item.type for item in answer.output] == ["message"]


def test_an_answer_that_is_cut_is_incomplete(client):
    answer = client.responses.create(model="builtin", input="hello", max_output_tokens=3)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.output[-1].status == "incomplete"


@pytest.mark.parametrize("options", [{}, {"input": "weather", "tools": TOOLS}, {"reasoning": {"effort": "none"}}])
def test_the_clients_stream_ends_with_the_unstreamed_answer(client, options):
    options = {"model": "builtin", "input": "hello"} | options
    whole = client.responses.create(**options)
    with client.responses.stream(**options) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert events[-1].type == "response.completed"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text == whole.output_text
    streamed = json.loads(final.to_json(), parse_float=str)
    for item in streamed["output"]:  # what the client adds
        item.pop("parsed_arguments", None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    assert without_ids(streamed) == without_ids(json.loads(whole.to_json(), parse_float=str))


def test_a_stream_ends_without_openais_chat_sentinel(scripted_url):
    body = {"input": "hello", "stream": True}
    lines = HTTP.post(f"{scripted_url}/v1/responses", json=body).text.strip().split("\n")
    assert lines[-2] == "event: response.completed"


def test_the_reasoning_of_a_multi_step_tool_turn_is_kept(scripted, client):
    first = client.responses.create(model="builtin", input="weather", tools=TOOLS)
    calls = [item for item in first.output if item.type == "function_call"]
    assert [(call.name, call.arguments) for call in calls] == [
        ("weather", '{"city": "Zürich", "days": 2}'),
        ("now", "{}"),
    ]
    history = [{"role": "user", "content": "weather"}, *(item.to_dict() for item in first.output)]
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
    body = ResponsesRequest.model_validate({"input": history + results, "tools": TOOLS})
    prompt = scripted.render_chat(messages(body)).text
    assert "<think>\nThe user wants the weather.\n</think>\n\nLet me look.\n<tool_call>" in prompt
    assert prompt.count("<tool_response>\nsunny\n</tool_response>") == 2
    assert client.responses.create(model="builtin", input=history + results, tools=TOOLS).status == "completed"


class Amount(pydantic.BaseModel):
    value: int
    unit: Literal["apples", "pears"]


@pytest.mark.parametrize("effort", ["none", "low"])
def test_an_answer_is_parsed_into_the_clients_type(client, effort):
    answer = client.responses.parse(
        model="builtin", input="hello", text_format=Amount, reasoning={"effort": effort}, max_output_tokens=80
    )
    assert isinstance(answer.output_parsed, Amount)


def test_a_json_object_is_one(client):
    text = {"format": {"type": "json_object"}}
    answer = client.responses.create(model="builtin", input="hello", text=text, reasoning={"effort": "none"})
    assert isinstance(json.loads(answer.output_text), dict)


ALLOWED = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "now"}, ALLOWED])
@pytest.mark.parametrize("effort", ["none", "low"])
def test_a_call_that_must_be_made_streams_its_arguments(client, choice, effort):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [TOOLS[0], TOOLS[1] | {"parameters": schema | {"additionalProperties": False}}]
    reasoning, options = {"effort": effort}, {"parallel_tool_calls": False, "max_output_tokens": 100}
    with client.responses.stream(
        model="builtin", input="hello", tools=tools, tool_choice=choice, reasoning=reasoning, **options
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        call = stream.get_final_response().output[-1]
    assert (call.type, call.arguments) == ("function_call", "".join(pieces))
    if choice != "required":
        assert call.name == "now"
        assert list(json.loads(call.arguments)) == ["city"]
        assert len(pieces) > 2


def test_a_failure_is_a_500_or_the_streams_last_event(client):
    with pytest.raises(openai.InternalServerError, match="the engine failed"):
        client.responses.create(model="builtin", input="fails")
    *_, last = client.responses.create(model="builtin", input="fails", stream=True)
    assert last.type == "response.failed"
    assert "the engine failed" in last.response.error.message


def test_the_builtin_model_answers_a_sum(builtin_url):
    client = client_of(builtin_url)
    answer = client.responses.create(model="builtin", input="What is 17 + 25?", temperature=0)
    assert "42" in answer.output_text
    assert answer.output[0].type == "reasoning"
