"""Every limit of the table: a request at it is taken, and one beyond it is refused and says so."""

import asyncio
import json
import time

import pytest
from serving import HELLO, HTTP

from qwen3.server import limits
from qwen3.server.app import make_app
from qwen3.server.chat_schema import ChatRequest
from qwen3.server.completions_schema import CompletionRequest, TokenizeRequest
from qwen3.server.messages_schema import MessagesRequest
from qwen3.server.responses_schema import ResponsesRequest
from qwen3.server.schemas import StructuredOutputs

ENDLESS_CHAT = [{"role": "user", "content": "endless"}]


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def tools(count, name_chars=1):
    return [{"type": "function", "function": {"name": f"{i:0{name_chars}}"}} for i in range(count)]


def schema(size):
    """A schema of that many bytes."""
    empty = len(json.dumps({"title": ""}))
    return {"title": "x" * (size - empty)}


# By the limit's name: the schema that holds it, and a request's fields from the limit's value.
FIELDS = {
    "LABEL_CHARS": (ChatRequest, lambda n: {"cache_salt": "x" * n}),
    "IDLE_LABEL_CHARS": (ChatRequest, lambda n: {"user": "x" * n}),
    "MESSAGES": (ChatRequest, lambda n: {"messages": HELLO * n}),
    "CONTENT_PARTS": (
        ChatRequest,
        lambda n: {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * n}]},
    ),
    "TOOL_CALLS": (ChatRequest, lambda n: {"messages": [{"role": "assistant", "tool_calls": [{}] * n}]}),
    "TOOLS": (ChatRequest, lambda n: {"tools": tools(n)}),
    "TOOL_NAME_CHARS": (ChatRequest, lambda n: {"tools": tools(1, n)}),
    "SCHEMA_BYTES": (ChatRequest, lambda n: {"json_schema": schema(n)}),
    "GUIDED_CHOICES": (ChatRequest, lambda n: {"structured_outputs": {"choice": ["a"] * n}}),
    "CHOICES": (ChatRequest, lambda n: {"n": n}),
    "PROMPTS": (CompletionRequest, lambda n: {"prompt": ["a"] * n}),
    "SEQUENCES": (CompletionRequest, lambda n: {"prompt": ["a"] * (-(-n // 32)), "n": 32}),
    "IDS": (CompletionRequest, lambda n: {"prompt": [1] * n}),
    "STOPS": (ChatRequest, lambda n: {"stop": ["a"] * n}),
    "STOP_CHARS": (ChatRequest, lambda n: {"stop": "a" * n}),
    "STOP_TOKEN_IDS": (ChatRequest, lambda n: {"stop_token_ids": [1] * n}),
    "LOGIT_BIASES": (ChatRequest, lambda n: {"logit_bias": {str(i): 1.0 for i in range(n)}}),
    "LOGIT_BIAS": (ChatRequest, lambda n: {"logit_bias": {"1": n}}),
    "TEMPERATURE": (ChatRequest, lambda n: {"temperature": n}),
    "PENALTY": (ChatRequest, lambda n: {"presence_penalty": n}),
    "REPETITION_PENALTY": (ChatRequest, lambda n: {"repetition_penalty": n}),
    "TOP_LOGPROBS": (ChatRequest, lambda n: {"logprobs": True, "top_logprobs": n}),
    "TOKENS": (ChatRequest, lambda n: {"min_tokens": n}),
    "PRIORITY": (ChatRequest, lambda n: {"priority": -n}),
}
# Where a limit holds for more than one field, or either way.
MORE_FIELDS = [
    ("LABEL_CHARS", ChatRequest, lambda n: {"model": "x" * n}),
    ("IDLE_LABEL_CHARS", ChatRequest, lambda n: {"safety_identifier": "x" * n}),
    ("IDLE_LABEL_CHARS", ChatRequest, lambda n: {"prompt_cache_key": "x" * n}),
    ("IDLE_LABEL_CHARS", ResponsesRequest, lambda n: {"user": "x" * n}),
    ("IDLE_LABEL_CHARS", ResponsesRequest, lambda n: {"safety_identifier": "x" * n}),
    ("IDLE_LABEL_CHARS", MessagesRequest, lambda n: {"metadata": {"user_id": "x" * n}}),
    ("CONTENT_PARTS", TokenizeRequest, FIELDS["CONTENT_PARTS"][1]),
    ("LOGIT_BIAS", ChatRequest, lambda n: {"logit_bias": {"1": -n}}),
    ("PENALTY", ChatRequest, lambda n: {"presence_penalty": -n}),
    ("PENALTY", ChatRequest, lambda n: {"frequency_penalty": n}),
    ("PENALTY", ChatRequest, lambda n: {"frequency_penalty": -n}),
    ("TOKENS", ChatRequest, lambda n: {"thinking_budget": n}),
    ("PRIORITY", ChatRequest, lambda n: {"priority": n}),
]
BASES = {
    ChatRequest: {"messages": HELLO},
    CompletionRequest: {"prompt": "a"},
    ResponsesRequest: {"input": "a"},
    MessagesRequest: {"messages": HELLO, "max_tokens": 1},
    TokenizeRequest: {"messages": HELLO},
}
ELSEWHERE = {
    "BODY_BYTES",
    "BODY_SECONDS",
    "CONTEXTS",  # test_pages
    "JSON_DEPTH",
    "PENDING_EVENTS",
    "REPETITION_PENALTY_MIN",
    "REQUEST_ID_CHARS",
}


def test_every_limit_of_the_table_has_a_test():
    assert {name for name in vars(limits) if name.isupper()} == FIELDS.keys() | ELSEWHERE


@pytest.mark.parametrize(("name", "kind", "fields"), [*((name, *case) for name, case in FIELDS.items()), *MORE_FIELDS])
def test_the_limit_is_taken_and_more_is_refused(name, kind, fields):
    limit = getattr(limits, name)
    kind.model_validate(BASES[kind] | fields(limit))
    with pytest.raises(ValueError, match="1 validation error"):
        kind.model_validate(BASES[kind] | fields(limit + 1))


def test_a_repetition_penalty_below_the_least_is_refused():
    ChatRequest.model_validate({"messages": HELLO, "repetition_penalty": limits.REPETITION_PENALTY_MIN})
    with pytest.raises(ValueError, match="repetition_penalty"):
        ChatRequest.model_validate({"messages": HELLO, "repetition_penalty": limits.REPETITION_PENALTY_MIN / 2})


@pytest.mark.parametrize("field", ["json", "regex", "grammar"])
def test_each_form_of_a_grammar_has_the_limit(field):
    with pytest.raises(ValueError, match=field):
        StructuredOutputs.model_validate({field: "x" * (limits.SCHEMA_BYTES + 1)})


def post(url, content, **headers):
    headers = {"content-type": "application/json", **headers}
    return HTTP.post(f"{url}/v1/chat/completions", content=content, headers=headers)


def test_json_of_the_limits_depth_is_taken_and_deeper_json_is_refused(scripted_url):
    def body(depth):
        return json.dumps({"messages": HELLO, "x": nested(depth - 1)})

    assert post(scripted_url, body(limits.JSON_DEPTH)).status_code == 200
    response = post(scripted_url, body(limits.JSON_DEPTH + 1))
    assert response.status_code == 400
    assert f"more than {limits.JSON_DEPTH} levels" in response.json()["error"]["message"]


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_body_of_the_limit_is_read_and_a_larger_one_is_413(scripted_url, is_announced):
    def content(size):
        body = json.dumps({"messages": HELLO, "x": ""})
        body = body[:-2] + "x" * (size - len(body)) + body[-2:]
        return body if is_announced else iter([body.encode()])

    assert post(scripted_url, content(limits.BODY_BYTES)).status_code == 200
    assert post(scripted_url, content(limits.BODY_BYTES + 1)).status_code == 413


def test_a_body_that_does_not_come_is_408(scripted_url, monkeypatch):
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)

    def dripping():
        yield b'{"messages":'
        for _ in range(20):
            time.sleep(0.05)
            yield b" "

    assert post(scripted_url, dripping()).status_code == 408


def test_a_request_id_of_the_limit_is_kept_and_a_longer_one_replaced(scripted_url):
    for size, is_kept in ((limits.REQUEST_ID_CHARS, True), (limits.REQUEST_ID_CHARS + 1, False)):
        id = "a" * size
        response = HTTP.get(f"{scripted_url}/version", headers={"x-request-id": id})
        assert (response.headers["x-request-id"] == id) == is_kept


def test_an_answer_that_is_not_read_is_aborted_at_the_limit(scripted, monkeypatch):
    """Backpressure: neither the memory grows nor the engine waits."""
    monkeypatch.setattr(limits, "PENDING_EVENTS", 8)
    body = json.dumps({"messages": ENDLESS_CHAT, "stream": True}).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "http_version": "1.1",
    }
    scope |= {"headers": [(b"content-type", b"application/json")], "asgi": {"version": "3.0", "spec_version": "2.3"}}
    sent = []

    async def client():
        is_stuck, is_read = asyncio.Event(), asyncio.Event()
        requests = asyncio.Queue()
        requests.put_nowait({"type": "http.request", "body": body, "more_body": False})

        async def send(message):
            sent.append(message.get("body", b""))
            if len(sent) == 3:
                is_stuck.set()
                await is_read.wait()

        answering = asyncio.create_task(make_app(scripted)(scope, requests.get, send))
        await is_stuck.wait()
        while scripted._engine.running:
            await asyncio.sleep(0.01)
        is_read.set()
        await answering

    asyncio.run(asyncio.wait_for(client(), 10))
    assert b"the client reads its answer too slowly" in sent[-3]
    assert b"".join(sent).count(b'"content":') < 20
