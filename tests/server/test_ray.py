"""A cluster of two replicas of the built-in model on this machine; and the choice between replicas, by itself."""

import asyncio
import json
import socket
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace

import httpx
import pytest
from serving import running, serving

pytest.importorskip("ray", reason="needs the extra [ray]")

from ray.exceptions import RayError
from starlette.routing import Router

from qwen3 import LLM
from qwen3.server.app import serving as make_serving
from qwen3.server.guard import Guard
from qwen3.server.ray_app import Front, Replica, ReplicaError, Replicas, deployed
from qwen3.server.ray_router import PrefixRouter, prefix_keys
from qwen3.server.worker import Unavailable

KEY = {"Authorization": "Bearer secret"}
LLM_OPTIONS = {"weights": "int8", "max_context": 1000}


def chat(text, **options):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 40, **options}


def long_text(word):
    return f"{word} " * 150


@pytest.fixture(scope="module")
def cluster():
    """A client of it, and how to end it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=KEY, timeout=30) as client,
        ExitStack() as stack,
    ):
        stack.enter_context(
            deployed(
                "builtin",
                LLM_OPTIONS,
                {"api_keys": ("secret",), "names": ("small",)},
                Replicas(2, 2, shutdown_timeout=20),
                host="127.0.0.1",
                port=port,
                num_cpus=2,
            )
        )
        yield SimpleNamespace(client=client, end=stack.close)


def replica_of(response):
    return response.headers["x-qwen3-replica"]


def test_both_replicas_answer_and_a_long_prefix_stays_where_it_was(cluster):
    def ask(text):
        response = cluster.client.post("/v1/chat/completions", json=chat(text))
        assert response.status_code == 200
        return replica_of(response)

    homes = {word: ask(long_text(word)) for word in ("red", "green", "blue", "white")}
    assert len(set(homes.values())) == 2
    for word in ("white", "red", "blue", "green"):
        assert ask(long_text(word) + "And now?") == homes[word]


def test_it_gives_the_same_tokens_as_the_plain_server(cluster):
    with (
        serving(LLM("builtin", **LLM_OPTIONS), names=("small",)) as url,
        httpx.Client(base_url=url, timeout=30) as plain,
    ):
        for text in ("12+30", "Which day is after Monday?", long_text("red")):
            for body in (chat(text), chat(text, temperature=1, seed=7)):
                one, other = (
                    client.post("/v1/chat/completions", json=body).json() for client in (plain, cluster.client)
                )
                for name in ("choices", "model"):
                    assert other[name] == one[name]
                assert other["usage"]["completion_tokens"] == one["usage"]["completion_tokens"]


def test_a_streamed_answer_arrives_in_pieces_and_is_the_whole_one(cluster):
    body = chat("12+30", ignore_eos=True, max_tokens=800)
    pieces, text = [], ""
    with cluster.client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
        for piece in response.iter_bytes():
            pieces.append(time.monotonic())
            text += piece.decode()
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
    whole = cluster.client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    for channel in ("content", "reasoning_content"):
        assert "".join(delta.get(channel) or "" for delta in deltas) == (whole.get(channel) or "")
    assert len(pieces) > 5
    # Had it waited for the end somewhere, all would have come at once.
    assert pieces[len(pieces) // 2] - pieces[0] > 0.2 * (pieces[-1] - pieces[0])


def test_a_client_that_leaves_ends_its_request(cluster):
    body = chat("12+30", ignore_eos=True, max_tokens=900, n=8)
    started = time.monotonic()
    assert cluster.client.post("/v1/chat/completions", json=body).json()["usage"]["completion_tokens"] == 8 * 900
    whole = time.monotonic() - started
    with cluster.client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
        pieces = response.iter_bytes()  # an iterator without a name would be closed at once, and the stream with it
        next(pieces)
    left = time.monotonic()
    while True:
        health = cluster.client.get("/health")
        # Ray asks the replica with fewer requests, so this one is met again when it has none.
        if replica_of(health) == replica_of(response) and health.json()["requests"] == 0:
            break
        assert time.monotonic() - left < 0.8 * whole


def test_keys_sizes_and_unknown_paths_are_refused_as_without_ray(cluster):
    client = cluster.client
    assert client.get("/v1/models", headers={"Authorization": "none"}).status_code == 401
    assert client.get("/health", headers={"Authorization": "none"}).status_code == 200
    assert client.get("/v1/models").json()["data"][0]["id"] == "small"
    assert client.get("/nowhere").json()["error"]["type"] == "not_found_error"
    assert client.post("/v1/chat/completions", content=b"{").status_code in (400, 415)
    assert client.post("/v1/chat/completions", json={"prompt": "x" * (17 << 20)}).status_code == 413
    # One, although the proxy and the application both have one to give.
    assert len(client.get("/health", headers={"x-request-id": "mine"}).headers.get_list("x-request-id")) == 1


def test_what_runs_comes_to_its_end_when_the_cluster_is_ended(cluster):
    """The last test of the cluster."""
    body = chat("12+30", ignore_eos=True, max_tokens=400, stream=True)
    text, has_begun = [], threading.Event()

    def ask():
        with cluster.client.stream("POST", "/v1/chat/completions", json=body) as response:
            for piece in response.iter_text():
                text.append(piece)
                has_begun.set()

    asking = threading.Thread(target=ask)
    asking.start()
    assert has_begun.wait(20)
    cluster.end()
    asking.join(20)
    assert "".join(text).endswith("data: [DONE]\n\n")
    assert '"finish_reason":"length"' in "".join(text)


# Without a cluster


def test_a_replica_is_ill_when_its_engine_is_whatever_hosts_it_answers_to(scripted, monkeypatch):
    async def check():
        # Without the class that Ray makes of it.
        replica = Replica.__new__(Replica)
        replica._service, _ = make_serving(scripted, hosts=frozenset({"qwen.example"}), api_keys=("secret",))
        await replica.check_health()
        monkeypatch.setattr(replica._service._worker, "_is_closing", True)
        with pytest.raises(Unavailable, match="the engine is not running"):
            await replica.check_health()
        monkeypatch.undo()
        await replica._service.close()

    asyncio.run(check())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_replica_that_fails_before_its_answer_is_503(path):
    class Failing:
        def remote(self, call):
            return self

        def __aiter__(self):
            return self

        async def __anext__(self):
            raise RayError("gone")

        def cancel(self):
            pass

    front = Front.__new__(Front)
    front._replicas = SimpleNamespace(answer=Failing())
    with running(Guard(Router(default=front))) as url:
        response = httpx.post(f"{url}{path}", json={})
    assert response.status_code == (529 if path == "/v1/messages" else 503)
    assert "another will take the next one" in response.json()["error"]["message"]


def body(text, **fields):
    return json.dumps({"messages": [{"role": "user", "content": text}], **fields}).encode()


def test_the_keys_of_two_prompts_are_equal_as_far_as_their_text_is():
    one, other = prefix_keys(body("a" * 1000 + "x" * 1000)), prefix_keys(body("a" * 1000 + "y" * 1000))
    common = [key for key in one if key in other]
    assert common == list(one[: len(common)])
    assert len(common) == 4  # of 256 characters, the message's own framing among them
    assert len(one) == len(other) > len(common)


@pytest.mark.parametrize("field", ["cache_salt", "tools", "system", "instructions"])
def test_what_comes_before_the_conversation_counts(field):
    assert prefix_keys(body("a" * 600))[0] != prefix_keys(body("a" * 600, **{field: "x"}))[0]


@pytest.mark.parametrize("name", ["messages", "prompt", "input"])
def test_the_prompt_of_each_format_has_keys(name):
    assert prefix_keys(json.dumps({name: "a" * 600}).encode())


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, body("short")])
def test_what_has_no_long_prompt_has_no_keys(data):
    assert prefix_keys(data) == ()


def test_the_number_of_keys_is_bounded():
    assert len(prefix_keys(body("a" * 1_000_000))) == 256


class Choice:
    """A router of three replicas with these queue lengths."""

    def __init__(self, **options):
        self.queues = dict.fromkeys("abc", 0)
        self.replicas = [SimpleNamespace(replica_id=name) for name in "abc"]
        self.router = PrefixRouter.__new__(PrefixRouter)
        self.router._replica_queue_len_cache = self.queues
        self.router.initialize_state(**options)

    def ranks(self, *keys, replicas=None):
        self.request = SimpleNamespace(
            args=[SimpleNamespace(prefix_keys=keys)], routing_context=SimpleNamespace(should_backoff=False)
        )
        ranks = asyncio.run(self.router.choose_replicas(replicas or self.replicas, self.request))
        return [[replica.replica_id for replica in rank] for rank in ranks]

    def route(self, home, *keys):
        self.ranks(*keys)
        self.router.on_request_routed(self.request, home, None)


def test_the_longest_known_prefix_decides_and_the_others_stand_by():
    choice = Choice()
    choice.route("b", b"1", b"2")
    choice.route("c", b"1", b"3")
    assert choice.ranks(b"1", b"2", b"9") == [["b"], ["a", "b", "c"]]
    assert choice.ranks(b"1", b"9")[0] == ["c"]  # the one that had it last
    assert choice.ranks(b"9") == [["a", "b", "c"]]
    assert choice.request.routing_context.should_backoff


def test_a_busy_home_is_left_for_the_others():
    choice = Choice(max_lead=3)
    choice.route("b", b"1")
    choice.queues["b"] = 2
    assert choice.ranks(b"1")[0] == ["b"]
    choice.queues["b"] = 3
    assert choice.ranks(b"1") == [["a", "c", "b"]]
    choice.queues |= {"a": 1, "c": 1}
    assert choice.ranks(b"1")[0] == ["b"]


def test_a_home_that_is_gone_is_forgotten_about():
    choice = Choice()
    choice.route("b", b"1")
    assert choice.ranks(b"1", replicas=choice.replicas[:1]) == [["a"]]


def test_new_conversations_go_around():
    choice = Choice()
    for key in (b"1", b"2", b"3"):
        choice.route(choice.ranks(key)[0][0], key)
    assert {choice.ranks(key)[0][0] for key in (b"1", b"2", b"3")} == {"a", "b", "c"}


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first():
    choice = Choice(max_keys=2)
    choice.route("a", b"1")
    choice.route("b", b"2")
    choice.route("a", b"1")
    choice.route("c", b"3")
    assert len(choice.router._homes) == 2
    assert choice.ranks(b"2") == [choice.ranks(b"9")[0]]
    assert choice.ranks(b"1")[0] == ["a"]


def test_requests_without_a_prompt_go_anywhere():
    assert len(Choice().ranks()) == 1


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:port"])
def test_a_cluster_that_cannot_be_reached_is_said_at_once(address):
    started = time.monotonic()
    with (
        pytest.raises(ConnectionError, match=f"no Ray cluster at {address}"),
        deployed("builtin", {}, {}, Replicas(), host="127.0.0.1", port=1, address=address),
    ):
        pytest.fail("deployed")
    assert time.monotonic() - started < 6
    assert issubclass(ReplicaError, ValueError)  # what the command line shows in one line
