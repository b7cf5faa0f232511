"""Servers on real sockets, and an engine that says what it is told in place of a model."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager

import httpx
import numpy as np
import openai
import uvicorn

from qwen3.engine.engine import Load
from qwen3.engine.request import FinishReason, Request, TokenLogprob
from qwen3.server.app import make_app
from qwen3.tokenizer import Tokenizer

HTTP = httpx.Client(timeout=30)
"""A new client for each request would cost more than the request."""
ENDLESS, PONDERS, FAILS = "endless", "ponders", "fails"
HELLO = [{"role": "user", "content": "hello"}]
TOOL_ANSWER = (
    "<think>\nThe user wants the weather.\n</think>\n\nLet me look.\n"
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich", "days": 2}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
)
PLAIN_ANSWER = "<think>\nThey greet.\n</think>\n\nHello, world. 😀"

SCRIPTS = {"weather": TOOL_ANSWER, "endless": ENDLESS, "fails": FAILS, "silent": "At last.", "ponder": PONDERS}


def script(prompt: str) -> str:
    question = prompt.rpartition("<|im_start|>user\n")[2]
    for word, answer in SCRIPTS.items():
        if word in question:
            return answer
    is_closed = prompt.endswith("</think>\n\n") or "<|im_start|>" not in prompt
    return PLAIN_ANSWER.rpartition("\n\n")[2] if is_closed else PLAIN_ANSWER


@contextmanager
def serving(llm, grace=1, **options):
    """The base URL of a server for this model."""
    with running(make_app(llm, **options), grace) as url:
        yield url


@contextmanager
def running(app, grace=1):
    """The base URL of a server in a thread; it has shut down in the end, for which answers have `grace` seconds."""
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="on", timeout_graceful_shutdown=grace)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10 + grace)
        assert not thread.is_alive()


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def client_of(url: str, key: str = "none", is_strict: bool = True) -> openai.OpenAI:
    """OpenAI's client, without retries; strict means that an answer outside its schema is an error."""
    return openai.OpenAI(
        base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=10, _strict_response_validation=is_strict
    )


def chat(client, messages=HELLO, **options):
    return client.chat.completions.create(model="builtin", messages=messages, **options)


class ScriptedEngine:
    """Each step gives every running request the next token of its script, which is `script(prompt)`; of ENDLESS there
    is always one more, 5 ms later; PONDERS thinks likewise until its think block is closed for it, and then answers; a
    step with FAILS in it raises. Where a request's rules do not allow the token, it takes the most likely of those that
    they do by an order of its own; a token that was forced is not said again."""

    def __init__(self, tokenizer: Tokenizer, script: Callable[[str], str]) -> None:
        self._tokenizer, self._script = tokenizer, script
        self.running: dict[Request, list[int]] = {}
        self.num_steps = 0
        self.has_idle_work, self.backlog_seconds = False, 0.0

    def add(self, request: Request) -> None:
        script = self._script(self._tokenizer.decode(request.prompt_ids))
        ids = [] if script in (ENDLESS, PONDERS, FAILS) else [*self._tokenizer.encode(script), self._tokenizer.eos_id]
        self.running[request] = ids
        request.script = script

    def remember(self, prompt, cache_salt="") -> None:
        """It computes nothing, and so nothing ahead."""

    @property
    def load(self) -> Load:
        return Load(len(self.running), 0, 0.0)

    def abort(self, request: Request, reason: FinishReason = FinishReason.ABORT) -> None:
        if not request.is_finished:
            request.finish_reason = reason
        self.running.pop(request, None)

    def step(self) -> None:
        self.num_steps += 1
        for request, ids in list(self.running.items()):
            if request.script == FAILS:
                raise RuntimeError("secret details of the failure")
            if request.script == SCRIPTS["silent"] and not request.generated_ids:
                time.sleep(0.2)
            if request.script in (ENDLESS, PONDERS) and not ids:
                time.sleep(0.005)
                ids += self._go_on(request)
            before = len(request.generated_ids)
            request.accept(TokenLogprob(self._choose(ids, request.mask()), 0.0))
            for forced in request.generated_ids[before + 1 :]:
                if ids and ids[0] == forced:
                    ids.pop(0)
            if request.is_finished:
                self.running.pop(request)

    def _go_on(self, request: Request) -> list[int]:
        """What comes next where a script has no end of its own."""
        encode = self._tokenizer.encode
        if request.script == ENDLESS:
            return encode("again ")[:1]
        if not request.generated_ids:
            return encode("<think>")
        is_closed = self._tokenizer.control_ids["</think>"] in request.generated_ids
        return [*encode("So."), self._tokenizer.eos_id] if is_closed else encode("Hm. ")[:1]

    def _choose(self, ids: list[int], mask: np.ndarray | None) -> int:
        if mask is None:
            return ids.pop(0)
        allowed = np.unpackbits(mask, bitorder="little")
        if ids and allowed[ids[0]]:
            return ids.pop(0)
        preferred = [self._tokenizer.eos_id, *(self._tokenizer.encode(char)[0] for char in '"}]:, 0')]
        return next((id for id in preferred if allowed[id]), int(allowed.argmax()))
