"""Names to directories, against a local server that speaks the hub's protocol."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants, file_download

from qwen3.checkpoint.hub import resolve
from qwen3.checkpoint.safetensors import CheckpointError

MAIN, OLD = "a" * 40, "b" * 40
FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "model.safetensors": bytes(range(256)) * 4096,
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"template",
    "merges.txt": b"a b",
    "pytorch_model.bin": b"pickle",
    "README.md": b"read me",
    "onnx/model.safetensors": b"another model",
}


@dataclass
class Hub:
    """What the server holds and what it was asked; `num_breaks` times it hangs up at the weights' byte `reach`."""

    files: dict[str, dict[str, bytes]] = field(default_factory=lambda: {MAIN: dict(FILES), OLD: dict(FILES)})
    gets: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    reach: int = 0
    num_breaks: int = 0
    status: int | None = None
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self):
        self.answer(send_body=False)

    def do_GET(self):
        self.answer(send_body=True)

    def answer(self, send_body):
        hub, parts = self.hub, unquote(urlsplit(self.path).path).strip("/").split("/")
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.status is not None:
            error = {401: "RepoNotFound", 403: "GatedRepo"}.get(hub.status, "")
            return self.send(b"", hub.status, {"X-Error-Code": error}, send_body)
        is_api = parts[:2] == ["api", "models"]
        repo, rest = ("/".join(parts[2:4]), parts[4:]) if is_api else ("/".join(parts[:2]), parts[2:])
        if repo != "Qwen/Qwen3-0.6B":
            return self.send(b"", 404, {"X-Error-Code": "RepoNotFound"}, send_body)
        commit = {"main": MAIN, "v1": OLD, MAIN: MAIN, OLD: OLD}.get(rest[1] if len(rest) > 1 else "main")
        if commit is None:
            return self.send(b"", 404, {"X-Error-Code": "RevisionNotFound"}, send_body)
        files = hub.files[commit]
        if not is_api:
            return self.send_file("/".join(rest[2:]), files, commit, send_body)
        if rest[:1] == ["tree"]:
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
        else:
            listing = {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        self.send(json.dumps(listing).encode(), 200, {"Content-Type": "application/json"}, send_body)

    def send_file(self, name, files, commit, send_body):
        data = files[name]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not send_body:
            return self.send(data, 200, headers, False)
        self.hub.gets.append(name)
        status, first = 200, 0
        if requested := self.headers.get("Range"):
            self.hub.ranges.append(requested)
            status, first = 206, int(requested.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        cut = None
        if name == "model.safetensors" and self.hub.num_breaks:
            self.hub.num_breaks -= 1
            cut = max(self.hub.reach - first, 0)
        self.send(data[first:], status, headers, True, cut)

    def send(self, body, status, headers, send_body, cut=None):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body if cut is None else body[:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    state = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": state}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield state
    server.shutdown()
    server.server_close()


def names(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


def test_download_takes_what_a_model_needs_and_never_pickles(hub):
    directory = resolve("Qwen/Qwen3-0.6B")
    assert names(directory) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "merges.txt",
    }
    assert (directory / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_weights_can_be_left_out_and_fetched_later(hub):
    assert "model.safetensors" not in names(resolve("Qwen/Qwen3-0.6B", weights=False))
    assert "model.safetensors" in names(resolve("Qwen/Qwen3-0.6B"))
    assert hub.gets.count("config.json") == 1


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "qwen3-0.6b", "0.6B"])
def test_official_names_need_no_organisation(hub, name):
    assert resolve(name, weights=False) == resolve("Qwen/Qwen3-0.6B", weights=False)


def test_a_second_call_gets_no_file_again(hub):
    first = resolve("Qwen/Qwen3-0.6B")
    hub.gets.clear()
    assert resolve("Qwen/Qwen3-0.6B") == first
    assert hub.gets == []


def test_offline_uses_the_cache_and_asks_nobody(hub):
    first = resolve("Qwen/Qwen3-0.6B")
    hub.tokens.clear()
    assert resolve("Qwen/Qwen3-0.6B", offline=True) == first
    assert hub.tokens == set()


def test_offline_without_the_model_says_how_to_get_it(hub):
    with pytest.raises(CheckpointError, match=r"Qwen/Qwen3-0.6B is not complete .* run once without offline"):
        resolve("Qwen/Qwen3-0.6B", offline=True)


@pytest.mark.parametrize("revision", ["v1", OLD])
def test_a_pinned_revision_is_what_arrives(hub, revision):
    hub.files[OLD]["config.json"] = b"old"
    assert (resolve("Qwen/Qwen3-0.6B", revision=revision) / "config.json").read_bytes() == b"old"
    assert (resolve("Qwen/Qwen3-0.6B") / "config.json").read_bytes() == FILES["config.json"]


def test_a_missing_revision_is_named(hub):
    with pytest.raises(CheckpointError, match="no revision 'v9'"):
        resolve("Qwen/Qwen3-0.6B", revision="v9")


@pytest.fixture
def small_chunks(monkeypatch):
    """Bytes reach the disk in pieces of 512, and nobody waits between attempts."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 512)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)


def test_a_broken_connection_resumes_where_it_stopped(hub, small_chunks):
    hub.reach, hub.num_breaks = 5000, 1
    directory = resolve("Qwen/Qwen3-0.6B")
    assert hub.ranges == ["bytes=4608-"]
    assert (directory / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_after_a_failed_download_only_what_is_missing_is_fetched(hub, small_chunks):
    hub.reach, hub.num_breaks = 5000, 100
    with pytest.raises(CheckpointError, match=r"interrupted.*Run it again"):
        resolve("Qwen/Qwen3-0.6B")
    hub.num_breaks = 0
    hub.gets.clear()
    directory = resolve("Qwen/Qwen3-0.6B")
    assert hub.gets == ["model.safetensors"]
    assert (directory / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_missing_model_is_an_error_that_suggests_one(hub):
    with pytest.raises(CheckpointError, match=r"no model Qwen/Qwen3-8.*did you mean Qwen/Qwen3-"):
        resolve("Qwen/Qwen3-8")


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "HF_TOKEN"), (403, "accepted.*HF_TOKEN"), (503, "status 503|could not be reached")],
)
def test_refusals_say_what_to_do(hub, status, message):
    hub.status = status
    with pytest.raises(CheckpointError, match=message):
        resolve("Qwen/Qwen3-0.6B")


def test_no_network_says_so(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"could not be reached .* local directory"):
        resolve("Qwen/Qwen3-0.6B")


def test_environment_variables_rule_where_models_come_from_and_go_to(hub, tmp_path):
    """In a fresh process, which neither shows a bar on a pipe nor loads torch."""
    program = (
        "import sys; from qwen3.checkpoint.hub import resolve; print(resolve('Qwen/Qwen3-0.6B')); "
        "assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "secret"}
    environment.pop("HF_HUB_OFFLINE", None)

    def run(**variables):
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=True)

    first = run()
    assert Path(first.stdout.strip()).is_relative_to(tmp_path / "home")
    assert "Bearer secret" in hub.tokens
    hub.gets.clear()
    assert run(HF_HUB_OFFLINE="1").stdout == first.stdout
    assert hub.gets == []


def test_a_local_path_is_itself(tmp_path):
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./no-such", "does not exist"),
        ("/no/such/path", "does not exist"),
        ("Qwen3-4", "neither a path nor the name.*did you mean Qwen/Qwen3-4B"),
        ("gpt", "neither a path nor the name of a model$"),
        ("Qwen/a..b", "not the name of a model"),
    ],
)
def test_what_cannot_be_a_model_is_refused_without_asking_anyone(name, message):
    with pytest.raises(CheckpointError, match=message):
        resolve(name)
