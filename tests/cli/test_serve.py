"""`qwen3 serve` as a program: it says where it is, answers, and ends at Ctrl-C."""

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import httpx
import pytest

from qwen3.cli import options
from qwen3.server.service import Service, Settings


def test_it_prints_a_request_that_works_and_ends_cleanly_at_ctrl_c():
    command = [sys.executable, "-m", "qwen3", "serve", "--port", "0", "--max-context", "512"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            loaded, serving, example = (process.stdout.readline() for _ in range(3))
            assert loaded.startswith("builtin: ")
            assert "context 512 tokens" in loaded
            assert re.search(r"Serving http://127\.0\.0\.1:\d+/v1", serving)
            _, url, _, header, _, body = shlex.split(example)
            headers = dict([header.split(": ")])
            with urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers), timeout=20) as response:
                assert json.load(response)["choices"][0]["message"]["content"]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 0
        assert process.stderr.read() == "Stopped.\n"


def test_a_second_ctrl_c_ends_the_answers_and_says_so_to_their_clients():
    command = [sys.executable, "-m", "qwen3", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = re.search(r"http://\S+/v1", process.stdout.readline() + process.stdout.readline())[0]
            body = {"messages": [{"role": "user", "content": "Tell"}], "n": 32, "ignore_eos": True, "stream": True}
            with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=30) as response:
                lines = response.iter_lines()
                next(lines)
                process.send_signal(signal.SIGINT)
                time.sleep(0.3)
                process.send_signal(signal.SIGINT)
                *_, failure, last = (line for line in lines if line)
            assert "the server is shutting down" in failure
            assert last == "data: [DONE]"
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
        assert "Ctrl-C ends them" in process.stderr.read()


SLOW_SERVER = """
import time
from qwen3.cli.main import main
from qwen3.engine.engine import Engine

Engine.step = lambda engine: time.sleep(30)
main()
"""


def test_a_third_ctrl_c_waits_for_nothing_not_even_the_engine():
    command = [sys.executable, "-c", SLOW_SERVER, "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = re.search(r"http://\S+/v1", process.stdout.readline() + process.stdout.readline())[0]
            body = {"messages": [{"role": "user", "content": "Tell"}], "stream": True}
            with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=30):
                for _ in range(3):
                    process.send_signal(signal.SIGINT)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=1)
                assert process.wait(timeout=5) == 130
        finally:
            process.kill()


@pytest.mark.parametrize("key", ["", " "])
def test_a_key_variable_without_a_key_does_not_open_the_server(qwen3, monkeypatch, key):
    monkeypatch.setattr(options, "load_llm", lambda *model, **settings: pytest.fail("loaded"))
    monkeypatch.setenv("QWEN3_API_KEY", key)
    result = qwen3("serve", "--port", "0", "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "QWEN3_API_KEY: it is set and has no key" in result.stderr


def test_an_address_that_is_taken_is_said_before_a_model_is_loaded(qwen3, monkeypatch):
    monkeypatch.setattr(options, "load_llm", lambda *model, **settings: pytest.fail("loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = qwen3("serve", "--port", port)
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in result.stderr


def test_its_options_reach_the_engine_and_the_service(qwen3, monkeypatch):
    seen = {}

    def attach(service, llm):
        seen.update(vars(service.settings))
        raise ValueError("seen")

    monkeypatch.setattr(options, "load_llm", lambda model, **given: seen.update(given))
    monkeypatch.setattr(Service, "attach", attach)
    given = "--name qwen --max-requests 3 --max-wait 20 --keep-alive 7 --emit-reasoning --kv-tokens 4096 --no-speculate"
    assert qwen3("serve", "--port", "0", *given.split()).stderr == "qwen3: seen\n"
    wanted = {"names": ["qwen"], "max_requests": 3, "max_wait": 20, "keep_alive": 7, "emits_reasoning": True}
    wanted |= {"kv_tokens": 4096, "speculate": False, "stall_seconds": Settings().stall_seconds}
    assert seen.items() >= wanted.items()


def test_without_the_packages_for_serving_it_says_how_to_get_them(qwen3, monkeypatch):
    monkeypatch.setattr("qwen3.cli.serve.find_spec", lambda name: None)
    result = qwen3("serve")
    assert result.exit_code == 1
    assert "pip install 'qwen3[serve]'" in result.stderr


def test_without_ray_it_says_how_to_get_it(qwen3, monkeypatch):
    monkeypatch.setattr("qwen3.cli.serve_ray.find_spec", lambda name: None)
    result = qwen3("serve", "--ray")
    assert result.exit_code == 1
    assert "pip install 'qwen3[ray]'" in result.stderr


@pytest.mark.parametrize("count", ["0", "4-2", "many", "1-", ""])
def test_a_faulty_number_of_replicas_is_wrong_usage(qwen3, count):
    result = qwen3("serve", "--ray", "--replicas", count)
    assert result.exit_code == 2
    assert "1-4" in result.stderr


def test_a_cluster_that_is_not_there_is_one_line(qwen3):
    pytest.importorskip("ray", reason="needs the extra [ray]")
    result = qwen3("serve", "--ray", "--port", "0", "--ray-address", "127.0.0.1:9")
    assert result.exit_code == 1
    assert "qwen3: there is no Ray cluster at 127.0.0.1:9" in result.stderr
