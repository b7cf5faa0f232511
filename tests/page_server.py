"""The chat page before a server that streams what a script says: the page's own routes, and chat completions whose
answer hangs on a word in the last message."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from qwen3.server.calculator import calculator_router
from qwen3.server.pages import page_router
from qwen3.server.service import Service, Settings

RICH = r"""## Binary search

It halves the range at each step, so it needs $O(\log_2 n)$ comparisons. With *n* = 1,000 that is **at most 10**.

```python
def find(values: list[int], wanted: int) -> int | None:
    # Invariant: if it is there, it is in values[low:high].
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < len(values) and values[low] == wanted else None
```

The number of steps follows from the recurrence

$$T(n) = T\left(\frac{n}{2}\right) + 1, \qquad T(n) = \sum_{i=1}^{\lceil \log_2 n \rceil} 1 \le 1 + \log_2 n$$

| search | sorted? | steps |
|:--|:-:|--:|
| linear | no | $n$ |
| binary | yes | $\log_2 n$ |

1. Look at the middle.
2. Go on in the half that can hold it:
   - left, if it is larger;
   - right, if it is smaller.

> It wants *sorted* values. See [the article](https://en.wikipedia.org/wiki/Binary_search).
"""

THOUGHT = (
    "The user asks how binary search works. I should say what it needs, show code, and say why it is fast.\n\n"
    "A sorted list. Halve the range each time. The loop invariant is what people get wrong, so I will write it down.\n"
)

ATTACKS = r"""<script>window.hit = 1</script>
<img src=x onerror="window.hit = 2">
<svg onload="window.hit = 3"><a xlink:href="javascript:window.hit=4">x</a></svg>
<iframe srcdoc="<script>parent.hit = 5</script>"></iframe>

[one](javascript:window.hit=6) [two](data:text/html,<script>hit=7</script>)
[three](vbscript:hit) [four](JaVaScRiPt:hit=8)
[five](&#106;avascript:hit=9) [six](java&#10;script:hit=10) <javascript:hit=11> ![seven](javascript:hit=12)
![eight](http://127.0.0.1:9/pixel.png)
![nine](x "onerror=window.hit=13") [ten](https://example.org" onclick="window.hit=14)

[ref]: javascript:window.hit=15

[eleven][ref]

```html" onmouseover="window.hit=16
<script>window.hit = 17</script>
```

```<img src=x onerror=window.hit=18>
</code></pre><script>window.hit = 19</script>
```

$\href{javascript:window.hit=20}{x}$ $\url{javascript:window.hit=21}$ $\includegraphics{http://127.0.0.1:9/x.png}$
$\style{background:url(http://127.0.0.1:9/y)}{x}$ $\class{x" onclick="window.hit=22}{x}$ $\data{a=b}{x}$

$$\text{<img src=x onerror=window.hit=23>} \htmlData{onclick=window.hit=24}{x} \def\a{\a\a}\a$$

| <script>window.hit = 25</script> | <b onclick=window.hit=26>b</b> |
|:--|--:|
| `</td><script>window.hit=27</script>` | javascript:window.hit=28 |
"""


def chunks(text: str, size: int = 4) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


class Script:
    """The fake server's state: `requests` are the bodies that came, `delay` the seconds between two pieces."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.ended_thinking: list[str] = []
        self.key: str | None = None
        self.delay = 0.0
        self.running = 0

    def answer(self, body: dict[str, Any]) -> Response:
        last = body["messages"][-1]
        text = last["content"]
        if "too long" in text:
            message = "the prompt has 50000 tokens and the context holds 40960"
            return self.error(400, message, "context_length_exceeded")
        if "busy" in text:
            return self.error(503, "256 requests are running or waiting, which is the limit")
        return CountedStream(self, self.stream(body, last))

    @staticmethod
    def error(status: int, message: str, code: str | None = None) -> Response:
        return JSONResponse({"error": {"message": message, "type": "x", "param": None, "code": code}}, status)

    async def stream(self, body: dict[str, Any], last: dict[str, Any]) -> AsyncIterator[str]:
        identity = f"chatcmpl-{len(self.requests)}"
        counts = {"reasoning": 0, "answer": 0}

        def usage() -> dict[str, Any]:
            return {
                "prompt_tokens": 100,
                "completion_tokens": sum(counts.values()),
                "prompt_tokens_details": {"cached_tokens": 80},
                "completion_tokens_details": {"reasoning_tokens": counts["reasoning"]},
            }

        def line(delta: dict[str, Any], reason: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            chunk = {"id": identity, "choices": [choice], "usage": usage()}
            return f"data: {json.dumps(chunk)}\n\n"

        yield ": keep-alive\n\n"
        yield line({"role": "assistant", "content": None})
        text = last["content"]
        if body.get("chat_template_kwargs", {}).get("enable_thinking") and "think" in text:
            for piece in chunks(THOUGHT * (1 + 40 * ("think long" in text))):
                if identity in self.ended_thinking:
                    break
                counts["reasoning"] += 1
                yield line({"reasoning_content": piece})
                await asyncio.sleep(max(self.delay, 0.005))
        reason = "stop"
        if "weather" in text and last["role"] == "user":
            call = {"index": 0, "id": "call_1", "type": "function"}
            yield line({"tool_calls": [call | {"function": {"name": "<b>weather</b>", "arguments": ""}}]})
            for piece in chunks('{"city": "Zürich", "note": "<script>window.hit = 30</script>"}'):
                yield line({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
            reason = "tool_calls"
        else:
            for piece in self.pieces(text, body):
                if piece is None:
                    yield 'data: {"error": {"message": "the engine failed", "type": "server_error"}}\n\n'
                    return
                counts["answer"] += 1
                yield line({"content": piece})
                await asyncio.sleep(self.delay)
            if "break off" in text:
                return
        if "cut short" in text:
            reason = "length"
        yield line({}, reason)
        yield f"data: {json.dumps({'id': identity, 'choices': [], 'usage': usage()})}\n\ndata: [DONE]\n\n"

    def pieces(self, text: str, body: dict[str, Any]):
        if "search" in text:
            yield from chunks(RICH)
        elif "attack" in text:
            yield from chunks(ATTACKS, 7)
        elif "endless" in text:
            while True:
                yield "again "
        elif "20,000" in text:
            for i in range(20_000):
                yield f"word{i} " if i % 40 else f"\n\n### Part {i}\n\n"
        elif "fails" in text:
            yield from ["It begins", None]
        elif "response_format" in body:
            yield from chunks('{"name": "Ada", "age": 36}')
        else:
            yield from chunks(f"You said: {text} (answer {len(self.requests)})")


class CountedStream(StreamingResponse):
    """Counts in `script.running` until its client has all of it or has gone. What it iterates over may end later."""

    def __init__(self, script: Script, pieces: AsyncIterator[str]) -> None:
        super().__init__(pieces, media_type="text/event-stream")
        self._script = script

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._script.running += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._script.running -= 1


@contextmanager
def page_server(llm, script: Script):
    """The base URL of the scripted server, in a thread."""
    app = FastAPI()
    service = Service(Settings())
    service.attach(llm)
    app.include_router(page_router(service))
    app.include_router(calculator_router(service))

    @app.middleware("http")
    async def guard(request: Request, call_next):
        needs_key = script.key and request.url.path.startswith("/v1/")
        if needs_key and request.headers.get("authorization") != f"Bearer {script.key}":
            return script.error(401, "no valid key: send 'Authorization: Bearer KEY'", "invalid_api_key")
        return await call_next(request)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        script.requests.append(await request.json())
        return script.answer(script.requests[-1])

    @app.post("/v1/chat/completions/{identity}/end_thinking")
    async def end_thinking(identity: str) -> dict[str, Any]:
        script.ended_thinking.append(identity)
        return {"id": identity}

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive()
