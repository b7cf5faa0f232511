"""Health, readiness, metrics, version, properties; and text to tokens and back."""

import json
import threading

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import HELLO, HTTP, chat, client_of, running, serving, wait_until

from qwen3 import __version__
from qwen3.server import limits
from qwen3.server.app import application
from qwen3.server.service import Service, Settings


def post(url, path, body):
    return HTTP.post(url + path, content=json.dumps(body), headers={"content-type": "application/json"})


def metrics(url):
    families = text_string_to_metric_families(HTTP.get(f"{url}/metrics").text)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_metrics_count_what_was_answered(scripted):
    with serving(scripted) as url:
        client = client_of(url)
        answers = [chat(client, extra_body={"unheard": 1, "of": 2}), chat(client, max_tokens=3)]
        list(chat(client, stream=True))
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="other", messages=HELLO)
        found = metrics(url)
        usages = [answers[0].usage, answers[1].usage, answers[0].usage]
        assert found["qwen3_prompt_tokens_total",] == sum(usage.prompt_tokens for usage in usages)
        assert found["qwen3_generated_tokens_total",] == sum(usage.completion_tokens for usage in usages)
        assert found["qwen3_reasoning_tokens_total",] > 0
        assert found["qwen3_generations_finished_total", "stop"] == 2
        assert found["qwen3_generations_finished_total", "length"] == 1
        assert found["qwen3_unknown_request_fields_total",] == 2
        assert found["qwen3_time_to_first_token_seconds_count",] == 3
        assert found["qwen3_engine_step_seconds_count",] > 3
        assert ("qwen3_inter_token_seconds_count",) in found
        assert found["qwen3_http_responses_total", "POST", "200"] == 3
        assert found["qwen3_http_responses_total", "POST", "404"] == 1
        assert found["qwen3_requests_open",] == 0


def test_the_cache_is_among_the_metrics_of_a_real_engine(builtin, builtin_url):
    chat(client_of(builtin_url), [{"role": "user", "content": "12 + 30 = 42, " * 20}], max_tokens=2)
    found = metrics(builtin_url)
    assert 0 <= found["qwen3_cache_used_ratio",] <= 1
    assert found["qwen3_requests_running",] == found["qwen3_requests_waiting",] == 0


def test_version_properties_and_the_models_other_path(scripted, scripted_url):
    assert HTTP.get(f"{scripted_url}/version").json() == {"version": __version__}
    props = HTTP.get(f"{scripted_url}/props").json()
    assert props["default_generation_settings"]["n_ctx"] == scripted.max_context
    assert HTTP.get(f"{scripted_url}/models").json() == HTTP.get(f"{scripted_url}/v1/models").json()


def test_paths_without_the_version_are_the_same_endpoints(scripted_url):
    client = openai.OpenAI(base_url=scripted_url, api_key="none", max_retries=0)
    assert chat(client).choices[0].message.content == "Hello, world. 😀"
    assert client.completions.create(model="builtin", prompt="Once").choices[0].text


def test_tokens_and_their_text(scripted, scripted_url):
    text = "Ünïcödé 媽 🤗 <|im_end|>"
    expected = scripted.tokenizer.encode(text)
    tokens = post(scripted_url, "/tokenize", {"content": text}).json()
    assert tokens == {"tokens": expected, "count": len(expected), "max_model_len": scripted.max_context}
    assert post(scripted_url, "/detokenize", {"tokens": expected}).json() == {"content": text}
    plain = post(scripted_url, "/tokenize", {"prompt": text, "parse_special": False, "add_special": True}).json()
    assert plain["tokens"] == scripted.tokenizer.encode(text, control=False)
    pieces = post(scripted_url, "/tokenize", {"content": text, "with_pieces": True}).json()["tokens"]
    assert [piece["id"] for piece in pieces] == expected
    data = [piece["piece"] for piece in pieces]
    assert b"".join(bytes(each) if isinstance(each, list) else each.encode() for each in data).decode() == text
    assert any(isinstance(each, list) for each in data)


def test_tokens_are_counted_up_to_the_limit_and_ids_are_the_models(scripted, scripted_url, monkeypatch):
    text = {"content": "one two three", "parse_special": False}
    chats = {"messages": HELLO}
    count = post(scripted_url, "/tokenize", text).json()["count"]
    monkeypatch.setattr(limits, "IDS", count)
    assert post(scripted_url, "/tokenize", text).json()["count"] == count
    monkeypatch.setattr(limits, "IDS", count - 1)
    for path, body in (
        ("/tokenize", text),
        ("/tokenize", chats),
        ("/v1/chat/completions/render", chats),
        ("/v1/messages/count_tokens", chats),
    ):
        response = post(scripted_url, path, body)
        assert response.status_code == 400
        assert f"tokens, and {count - 1} are allowed" in response.json()["error"]["message"]
    past = scripted.config.vocab_size
    assert post(scripted_url, "/detokenize", {"tokens": [past - 1]}).status_code == 200
    response = post(scripted_url, "/detokenize", {"tokens": [past]})
    assert response.status_code == 400
    assert f"{past} is not an id below {past}" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "options", [{}, {"enable_thinking": False}, {"tools": [{"type": "function", "function": {"name": "f"}}]}]
)
def test_the_rendered_prompt_is_the_one_that_is_answered(scripted, scripted_url, options):
    body = {"messages": [{"role": "developer", "content": "Be brief."}, *HELLO]} | options
    rendered = post(scripted_url, "/v1/chat/completions/render", body).json()
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    prompt = scripted.render_chat(messages, options.get("tools"), options.get("enable_thinking", True))
    assert (rendered["prompt"], rendered["tokens"]) == (prompt.text, prompt.ids)
    usage = post(scripted_url, "/v1/chat/completions", body).json()["usage"]
    assert usage["prompt_tokens"] == rendered["count"] == len(prompt.ids)
    assert post(scripted_url, "/apply-template", body).json() == {"prompt": prompt.text}
    if "enable_thinking" not in options:
        assert post(scripted_url, "/tokenize", body).json()["tokens"] == prompt.ids


def test_nothing_is_ready_while_the_model_is_loading(scripted):
    service = Service(Settings())
    with running(application(service)) as url:
        for path in ("/health", "/ready", "/v1/models"):
            response = HTTP.get(url + path)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert response.json()["error"]["message"] == "the model is loading"
        assert post(url, "/v1/chat/completions", {"messages": HELLO}).status_code == 503
        assert HTTP.get(f"{url}/version").status_code == 200
        service.attach(scripted)
        assert HTTP.get(f"{url}/ready").json() == {"status": "ready"}
        assert post(url, "/v1/chat/completions", {"messages": HELLO}).status_code == 200


def test_health_says_when_the_engine_has_not_moved(scripted, monkeypatch):
    goes_on, step = threading.Event(), scripted._engine.step
    monkeypatch.setattr(scripted._engine, "step", lambda: goes_on.wait(20) and step())
    with serving(scripted, stall_seconds=0.05) as url:
        assert HTTP.get(f"{url}/health").status_code == 200
        body = {"messages": HELLO, "stream": True}
        with HTTP.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            wait_until(lambda: HTTP.get(f"{url}/health").status_code == 503)
            assert "has not moved" in HTTP.get(f"{url}/health").text
            goes_on.set()
            response.read()
        wait_until(lambda: HTTP.get(f"{url}/health").status_code == 200)
