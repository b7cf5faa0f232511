"""The security rules that the server holds, by their names. Those of other parts are tested there:

1 (nothing executes data) in test_architecture, 2 and 5 (configs and files are data) in checkpoint, 9 (memory is
reserved) in engine.
"""

import json
import logging
import socket
import time

import openai
import pytest
from serving import HELLO, HTTP, chat, client_of, serving

from qwen3.server import guard
from qwen3.server.logs import EscapingFormatter
from qwen3.tokenizer import CONTROL_TOKENS


def post(url, body, path="/v1/chat/completions", **headers):
    content = body if isinstance(body, str) else json.dumps(body)
    return HTTP.post(url + path, content=content, headers={"content-type": "application/json", **headers})


def routes(url, **headers):
    paths = HTTP.get(f"{url}/openapi.json", headers=headers).json()["paths"]
    return [(method, path) for path, operations in paths.items() for method in operations]


# Rule 3: text from outside is never control.


@pytest.mark.parametrize("name", CONTROL_TOKENS)
def test_rule_3_user_text_is_never_a_control_token(scripted, scripted_url, name):
    plain = post(scripted_url, {"messages": HELLO}, "/v1/chat/completions/render").json()["tokens"]
    hostile = [{"role": "user", "content": f"hello{name}"}]
    rendered = post(scripted_url, {"messages": hostile}, "/v1/chat/completions/render").json()["tokens"]
    control = set(scripted.tokenizer.control_ids.values())
    assert [id for id in rendered if id in control] == [id for id in plain if id in control]


def test_rule_3_a_request_brings_no_template(scripted_url):
    for field in ({"chat_template": "{{ x }}"}, {"chat_template_kwargs": {"chat_template": "{{ x }}"}}):
        response = post(scripted_url, {"messages": HELLO} | field)
        assert response.status_code == 400
        assert response.json()["error"]["param"] in field


# Rule 4: everything is validated before work; the bounds are test_limits'.


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["temperature", "top_p", "presence_penalty"])
def test_rule_4_numbers_are_finite(scripted_url, field, value):
    body = json.dumps({"messages": HELLO})[:-1] + f', "{field}": {value}}}'
    assert post(scripted_url, body).status_code == 400


def test_rule_4_bias_ids_are_in_the_vocabulary(scripted, scripted_url):
    size = scripted.config.vocab_size
    for id, status in ((size - 1, 200), (size, 400)):
        assert post(scripted_url, {"messages": HELLO, "logit_bias": {id: 1}}).status_code == status


# Rule 7: keys, hosts, content types, origins.


@pytest.fixture(scope="module")
def locked_url(scripted):
    with serving(scripted, api_keys=["first key", "second"]) as url:
        yield url


def test_rule_7_every_path_but_health_needs_a_key(locked_url):
    paths = routes(locked_url, authorization="Bearer second")
    assert len(paths) > 10
    for method, path in [*paths, ("get", "/openapi.json"), ("get", "/"), ("get", "/health/"), ("get", "//health")]:
        response = HTTP.request(method, locked_url + path)
        assert response.status_code == (200 if path == "/health" else 401), path


@pytest.mark.parametrize(
    "path", ["/health/../metrics", "/health%2f..%2fmetrics", "/health;/metrics", "/HEALTH", "/health?/metrics"]
)
def test_rule_7_the_path_that_is_open_is_the_path_that_is_routed(locked_url, path):
    host, port = locked_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert b"qwen3_" not in answer
    assert answer.split()[1] == (b"200" if "?" in path else b"401")


@pytest.mark.parametrize(
    ("headers", "is_let_in"),
    [
        ({"authorization": "Bearer first key"}, True),
        ({"authorization": "bearer second"}, True),
        ({"x-api-key": "second"}, True),
        ({"authorization": "Bearer secon"}, False),
        ({"authorization": "Bearer"}, False),
        ({"authorization": "Basic second"}, False),
        ({"x-api-key": ""}, False),
        ({"x-api-key": "schlüssel".encode()}, False),
        ({"cookie": "key=second"}, False),
        ({}, False),
    ],
)
def test_rule_7_any_of_the_keys_by_either_header(locked_url, headers, is_let_in):
    response = HTTP.get(f"{locked_url}/v1/models", headers=headers)
    assert response.status_code == (200 if is_let_in else 401)


def test_rule_7_keys_are_compared_in_constant_time(locked_url, monkeypatch):
    compared = []
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda given, key: compared.append(key) or False)
    assert HTTP.get(f"{locked_url}/v1/models", headers={"x-api-key": "first key"}).status_code == 401
    assert compared == [b"first key", b"second"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "127.0.0.1.evil"])
def test_rule_7_a_page_that_gives_its_name_our_address_is_refused(scripted, host):
    with serving(scripted, hosts=guard.allowed_hosts("127.0.0.1")) as url:
        assert HTTP.get(f"{url}/health", headers={"host": host}).status_code == 403
        for own in ("localhost", "127.0.0.1:80", "[::1]:8000", "LOCALHOST"):
            assert HTTP.get(f"{url}/health", headers={"host": own}).status_code == 200


def test_rule_7_only_json_is_read(scripted_url):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert post(scripted_url, "{}", **{"content-type": kind}).status_code == 415
    assert post(scripted_url, {"messages": HELLO}, **{"content-type": "Application/JSON; charset=utf-8"}).is_success


PREFLIGHT = {"origin": "https://a.example", "access-control-request-method": "POST"}


def test_rule_7_pages_of_other_origins_are_not_let_in(scripted_url):
    for method in ("GET", "OPTIONS"):
        response = HTTP.request(method, f"{scripted_url}/v1/models", headers=PREFLIGHT)
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_rule_7_pages_of_an_origin_that_is_named_are_let_in_without_opening_anything(scripted):
    with serving(scripted, api_keys=["key"], cors_origins=["https://a.example"]) as url:
        asked = HTTP.options(f"{url}/v1/models", headers=PREFLIGHT)
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, "https://a.example")
        assert "access-control-allow-credentials" not in asked.headers
        refused = HTTP.get(f"{url}/v1/models", headers=PREFLIGHT)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://a.example")
        other = HTTP.options(f"{url}/v1/models", headers=PREFLIGHT | {"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


# Rule 8: nothing is fetched.


def test_rule_8_a_url_in_a_request_is_not_fetched(scripted_url):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.2)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/x"
        part = {"type": "image_url", "image_url": {"url": url}}
        assert post(scripted_url, {"messages": [{"role": "user", "content": [part]}]}).status_code == 400
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": url}}}
        post(scripted_url, {"messages": HELLO, "response_format": schema})
        with pytest.raises(TimeoutError):
            trap.accept()


# Rule 10: logs.


@pytest.fixture
def log_lines():
    """All that the server logs, as it would be written."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(EscapingFormatter("%(name)s: %(message)s").format(record))
    logger = logging.getLogger("qwen3")
    logger.addHandler(handler)
    logger.setLevel("DEBUG")
    yield lines
    logger.removeHandler(handler)
    logger.setLevel("NOTSET")


def test_rule_10_no_level_has_prompts_answers_or_keys(locked_url, log_lines):
    secret = [{"role": "user", "content": "my secret, fails"}]
    client = client_of(locked_url, "second")
    with pytest.raises(openai.InternalServerError):
        chat(client, secret)
    chat(client, [{"role": "user", "content": "my secret"}], extra_body={"unheard_of": "my secret"})
    post(locked_url, {"messages": "my secret"}, authorization="Bearer second")
    HTTP.get(f"{locked_url}/v1/models?q=secret", headers={"authorization": "Bearer second"})
    text = "\n".join(log_lines)
    assert "unheard_of" in text
    assert "POST /v1/chat/completions 200" in text
    for hidden in ("my secret", "q=secret", "second", "Hello"):
        assert hidden not in text


def test_rule_10_what_a_client_sends_ends_no_line_and_drives_no_terminal(scripted_url, log_lines):
    HTTP.get(f"{scripted_url}/a%0d%0afake%1b[31m%e2%80%ae")
    post(scripted_url, {"messages": HELLO, "x\n\x1b[2Jy": 1})
    deadline = time.monotonic() + 5
    while len(log_lines) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)  # the last line is written when the client has its answer
    assert len(log_lines) == 3
    for line in log_lines:
        assert line.isprintable()
    assert "/a\\r\\nfake\\x1b[31m\\u202e" in log_lines[0]


def test_rule_10_a_traceback_keeps_its_lines():
    record = logging.LogRecord("qwen3", logging.ERROR, "", 0, "one\ntwo", (), None)
    record.exc_text = "Traceback:\n  line\x1b[1m"
    assert EscapingFormatter("%(message)s").format(record) == "one\\ntwo\nTraceback:\n  line\\x1b[1m"


# Rule 11: grammars; their bombs are grammar's tests.


def test_rule_11_a_grammar_is_compiled_beside_the_event_loop(scripted, scripted_url, monkeypatch):
    """A request whose preparation hangs does not keep the others."""
    import threading

    is_released, is_hanging = threading.Event(), threading.Event()
    prepare = scripted.prepare_chat

    def slow(*arguments, **options):
        if options["constraint"] is not None:
            is_hanging.set()
            is_released.wait(5)
            raise ValueError("too large")
        return prepare(*arguments, **options)

    monkeypatch.setattr(scripted, "prepare_chat", slow)
    statuses = []
    asking = threading.Thread(
        target=lambda: statuses.append(post(scripted_url, {"messages": HELLO, "json_schema": {}}).status_code)
    )
    asking.start()
    assert is_hanging.wait(5)
    assert HTTP.get(f"{scripted_url}/health").status_code == 200
    assert post(scripted_url, {"messages": HELLO}).status_code == 200
    is_released.set()
    asking.join(5)
    assert statuses == [400]
