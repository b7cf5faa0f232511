"""What is no answer: refusals, failures, clients that leave; and the small endpoints."""

import contextlib
import json
import socket
import threading
import time

import httpx
import openai
import pytest
from serving import HELLO, HTTP, chat, client_of, serving, wait_until

from qwen3 import text_split
from qwen3.server import bodies
from qwen3.strict_json import parse_object

TOOLS = [{"type": "function", "function": {"name": "weather"}}]
ENDLESS = [{"role": "user", "content": "endless"}]


def post(url, body, path="/v1/chat/completions", **headers):
    content = body if isinstance(body, str) else json.dumps(body)
    return httpx.post(url + path, content=content, headers={"content-type": "application/json", **headers})


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"temperature": 3}, "temperature", "temperature: input should be less than or equal to 2"),
        ({"temperature": "1"}, "temperature", "temperature: input should be a valid number"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens: input should be greater than or equal to 1"),
        ({"seed": 2**63}, "seed", "seed: input should be less"),
        ({"tool_choice": "required"}, None, "tool_choice needs tools"),
        ({"tool_choice": "some"}, "tool_choice", "it must be none, auto, required or"),
        ({"tool_choice": {"function": {"name": "f"}}, "tools": TOOLS}, None, "tool_choice: 'f' is none of the tools"),
        ({"response_format": {"type": "sound"}}, "response_format", "response_format.type: only 'text', 'json_object'"),
        ({"response_format": {"type": "json_schema"}}, None, "response_format.json_schema is missing"),
        ({"structured_outputs": {}}, None, "structured_outputs needs exactly one of"),
        ({"structured_outputs": {"json": "{"}}, None, "structured_outputs.json is not valid JSON"),
        ({"grammar": "a", "json_schema": {}}, None, "the answer has several formats"),
        ({"top_logprobs": 1}, None, "top_logprobs is for logprobs: true"),
        ({"add_generation_prompt": True, "continue_final_message": True}, None, "exclude each other"),
        ({"chat_template": "x"}, "chat_template", "chat_template: the server uses the model's own template"),
        ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs", "chat_template_kwargs.x is not supported"),
        ({"chat_template_kwargs": {"thinking": [1]}}, "chat_template_kwargs", "chat_template_kwargs.thinking: input"),
        ({"functions": []}, "functions", "functions: use tools"),
        ({"stream_options": {"include_usage": True}}, None, "stream_options is for stream: true"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "logit_bias"),
        ({"logit_bias": {"999999": 1}}, None, "token id 999999 is not below the vocabulary's"),
        ({"stop": [""]}, "stop", "stop"),
        ({"tools": [{"type": "function"}]}, "tools", "tools.0: it must be"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools", "tools.0: function.name must be"),
        (
            {"repetition_penalty": 1.1, "repeat_penalty": 1.2},
            None,
            "contradict each other about the repetition penalty",
        ),
        ({"enable_thinking": 1}, "enable_thinking", "enable_thinking: input should be a valid boolean"),
        ({"enable_thinking": True, "reasoning_effort": "none"}, None, "contradict each other about thinking on or off"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, None, "contradict each other about the longest answer"),
        ({"messages": []}, "messages", "messages: list should have at least 1 item"),
        ({"messages": [{"role": "robot"}]}, None, r"messages[0].role must be one of"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, None, "lone surrogate"),
    ],
)
def test_a_faulty_body_is_400_and_names_the_field(scripted_url, change, param, message):
    response = post(scripted_url, {"model": "builtin", "messages": HELLO} | change)
    error = response.json()["error"]
    assert message in error["message"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        '{"messages": [], "messages": []}',
        '{"temperature": NaN}',
        '{"seed": 1' + "0" * 5000 + "}",
        "[" * 9999,
        '{"x":' * 65 + "1" + "}" * 65,
    ],
)
def test_a_body_that_is_no_json_object_is_400(scripted_url, body):
    response = post(scripted_url, body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('"tools": [{"type": "function", "name": "f", "parameters": {"maximum": 1e999}}]', "beyond all floats"),
        ('"metadata": {"a": "\\ud800"}', "lone surrogate"),
    ],
)
@pytest.mark.parametrize("is_streamed", ["true", "false"])
def test_what_the_answer_could_not_repeat_is_400(scripted_url, field, message, is_streamed):
    response = post(scripted_url, f'{{"input": "hello", "stream": {is_streamed}, {field}}}', "/v1/responses")
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize(("size", "is_beside"), [(1000, False), (100_000, True)])
def test_a_large_body_is_read_beside_the_event_loop(scripted_url, monkeypatch, size, is_beside):
    threads = []
    monkeypatch.setattr(
        bodies, "parse_object", lambda data: threads.append(threading.current_thread().name) or parse_object(data)
    )
    assert HTTP.post(f"{scripted_url}/v1/chat/completions", json={"messages": HELLO, "x": "x" * size}).is_success
    assert threads[0].startswith("large-bodies") == is_beside


def test_labels_without_effect_are_accepted(client):
    assert chat(client, user="me", metadata={"a": "b"}, store=False, extra_body={"priority": 1, "cache_salt": "x"})


def test_a_text_too_long_to_be_encoded_at_once_is_beyond_the_context(client, monkeypatch):
    monkeypatch.setattr(text_split, "MAX_PIECE_CHARS", 100)
    with pytest.raises(openai.BadRequestError, match="characters in a row") as info:
        chat(client, [{"role": "user", "content": "न" * 101}])
    assert info.value.code == "context_length_exceeded"


def test_a_prompt_beyond_the_context_is_400_with_both_numbers(scripted, client):
    with pytest.raises(openai.BadRequestError, match=f"the context holds {scripted.max_context}") as info:
        chat(client, [{"role": "user", "content": "12 " * 3 * scripted.max_context}])
    assert info.value.code == "context_length_exceeded"
    # A prompt that is far too long is not encoded to its end.
    least = 100 * scripted.max_context
    with pytest.raises(openai.BadRequestError, match=rf"has at least {least // 10}\d tokens and the context holds"):
        chat(client, [{"role": "user", "content": "7" * least}])
    with pytest.raises(openai.BadRequestError, match=r"has at least \d+ tokens and the context holds"):
        client.completions.create(model="builtin", prompt="a word " * least)


def test_another_model_path_method_or_type_has_its_own_status(scripted_url, client):
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4' here; this server has 'builtin'"):
        client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert post(scripted_url, {}, "/v1/nothing").status_code == 404
    assert httpx.get(f"{scripted_url}/v1/chat/completions").status_code == 405
    assert post(scripted_url, "{}", **{"content-type": "text/plain"}).status_code == 415
    assert post(scripted_url, '"' + "x" * (16 << 20) + '"').status_code == 413


def test_models_and_health(scripted, scripted_url, client):
    assert [model.id for model in client.models.list()] == ["builtin"]
    assert client.models.retrieve("builtin").to_dict()["max_model_len"] == scripted.max_context
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert httpx.get(f"{scripted_url}/health").json()["status"] == "ok"


def test_only_health_is_open_without_the_key(scripted):
    with serving(scripted, api_keys=["other", "secret"]) as url:
        assert httpx.get(f"{url}/health").status_code == 200
        for path in ("/v1/models", "/openapi.json", "/nothing", "/health/", "//health"):
            response = httpx.get(url + path)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        with pytest.raises(openai.AuthenticationError):
            chat(client_of(url, "wrong"))
        assert chat(client_of(url, "secret")).choices


def test_a_page_that_gives_its_name_our_address_is_refused(scripted):
    with serving(scripted, hosts=frozenset({"localhost", "127.0.0.1"})) as url:
        assert httpx.get(f"{url}/v1/models").status_code == 200
        assert httpx.get(f"{url}/v1/models", headers={"host": "evil.example:8000"}).status_code == 403


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_client_that_leaves_stops_the_computation(scripted, scripted_url, is_streamed):
    body = json.dumps({"messages": ENDLESS, "stream": is_streamed}).encode()
    host, port = scripted_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: scripted._engine.running)
    wait_until(lambda: not scripted._engine.running)
    steps = scripted._engine.num_steps
    time.sleep(0.05)
    assert scripted._engine.num_steps == steps
    assert httpx.get(f"{scripted_url}/health").json()["requests"] == 0


def test_a_failed_step_is_a_500_without_details_and_the_server_lives_on(scripted_url, client):
    fails = [{"role": "user", "content": "fails"}]
    with pytest.raises(openai.InternalServerError, match="the engine failed") as info:
        chat(client, fails)
    assert "secret" not in str(info.value)
    with pytest.raises(openai.APIError, match="the engine failed"):
        list(chat(client, fails, stream=True))
    assert chat(client).choices[0].message.content == "Hello, world. 😀"


# To follow it takes too much work, which shows after some characters.
BOMB = {"type": "string", "pattern": "^(.|.{2}|.{3})*(.*[aeiou].{400}){3}z$"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": HELLO, "json_schema": BOMB}),
        ("completions", {"prompt": "hello", "json_schema": BOMB}),
        ("completions", {"prompt": "hello", "n": 2, "json_schema": BOMB}),
        ("responses", {"input": "hello", "text": {"format": {"type": "json_schema", "name": "a", "schema": BOMB}}}),
        (
            "messages",
            {
                "messages": HELLO,
                "max_tokens": 400,
                "output_config": {"format": {"type": "json_schema", "schema": BOMB}},
            },
        ),
    ],
)
def test_an_answer_that_its_grammar_ends_is_an_error_and_not_a_whole_or_cut_one(builtin_url, path, body):
    whole = HTTP.post(f"{builtin_url}/v1/{path}", json=body)
    assert whole.status_code == 400
    assert "the answer cannot go on by its schema" in whole.json()["error"]["message"]
    streamed = HTTP.post(f"{builtin_url}/v1/{path}", json=body | {"stream": True}).text
    last = streamed.removesuffix("data: [DONE]\n\n").rstrip().rpartition("\n\n")[2]
    assert '"error":{' in last
    assert "the answer cannot go on by its schema" in last


def test_more_requests_than_the_limit_are_told_to_come_back(scripted):
    with serving(scripted, max_requests=1) as url:
        client = client_of(url)
        with chat(client, ENDLESS, stream=True) as stream:
            next(stream)
            with pytest.raises(openai.InternalServerError, match="1 requests are running or waiting") as info:
                chat(client)
            assert info.value.status_code == 503
            assert info.value.response.headers["retry-after"] == "1"
        wait_until(lambda: not scripted._engine.running)
        assert chat(client).choices


@pytest.mark.parametrize(("limit", "grace", "is_whole"), [(40, 20, True), (None, 1, False)])
def test_shutting_down_waits_for_answers_that_end_in_time_and_stops_the_others(scripted, limit, grace, is_whole):
    received, has_begun = [], threading.Event()

    def read():
        body = {"messages": ENDLESS, "stream": True, "max_tokens": limit}
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as response,
        ):
            has_begun.set()
            received.extend(response.iter_lines())

    with serving(scripted, grace) as url:
        reader = threading.Thread(target=read)
        reader.start()
        assert has_begun.wait(20)
    reader.join(timeout=20)
    assert not reader.is_alive()
    assert ("data: [DONE]" in received) == is_whole
    assert not scripted._engine.running
