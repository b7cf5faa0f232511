"""What the server costs and what it bears: one model, the engine alone and behind HTTP, in one run.

    python benchmarks/serving.py overhead builtin --weights int8     tokens/s of one client against the engine alone
    python benchmarks/serving.py clients Qwen/Qwen3-0.6B             eight clients' tokens/s against one's
    python benchmarks/serving.py refusals builtin                    time to the first byte of a 503 when full
    python benchmarks/serving.py cancel 0.6b.gguf                    200 long requests cancelled; a fresh one answers
    python benchmarks/serving.py second-turn builtin                 how much of a second turn's prompt is in the cache
    python benchmarks/serving.py disconnects builtin --seconds 600   clients that leave at random; what stays behind

The server runs in this process, beside the engine as always, and the clients in another. On a machine of few cores they
take from the same cores: so the client of `overhead` sleeps until 16 KiB have come. Contenders take short turns, and
medians of their ratios count. `random_gguf.py` writes models of true shapes.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import multiprocessing
import random
import socket
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from qwen3 import LLM
from qwen3.server.app import application
from qwen3.server.run import HttpServer
from qwen3.server.service import Service, Settings

QUESTION = [{"role": "user", "content": "Tell me about the number 42."}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--weights", default="auto", help="as of qwen3 serve")
    parser.add_argument("--max-context", type=int)
    parser.add_argument("--kv-tokens", type=int, help="of the cache; memory is flat once all of it was in use")
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--clients", type=int, help="default: 8, or 200 that leave")
    parser.add_argument("--seconds", type=float, default=30, help="for how long clients come and leave")
    options = parser.parse_args()
    llm = LLM(options.model, weights=options.weights, max_context=options.max_context, kv_tokens=options.kv_tokens)
    print(f"{options.model}: {llm.storage}, context {llm.max_context:,} tokens")
    MODES[options.mode](llm, options)


# ---- Clients, in a process of their own ---------------------------------------------------------------------------


def request(num_tokens: int, seed: int) -> bytes:
    body = {"messages": QUESTION, "max_tokens": num_tokens, "ignore_eos": True, "seed": seed, "stream": True}
    content = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


async def sleeper(port: int, num_tokens: int) -> float:
    """Seconds from the first token of a stream to its end, of a client that wakes for these and every 16 KiB."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request(num_tokens, 0))
        seen = b""
        while b'_content":"' not in seen and b'"content":"' not in seen:
            piece = connection.recv(1 << 16)
            assert piece, seen
            seen += piece
        first = time.perf_counter()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1 << 14)
        while connection.recv(1 << 16):
            pass
        return time.perf_counter() - first


async def ask(
    port: int, num_tokens: int, seed: int, leave_after: float | None = None
) -> tuple[int, float, float, float]:
    """One streamed request: status, and the times of its start, its first token and its end."""
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(num_tokens, seed))
    first = status = 0
    try:
        async with asyncio.timeout(leave_after):
            status = int((await reader.readline()).split()[1])
            while line := await reader.readline():
                if not first and (status != 200 or b'_content":"' in line or b'"content":"' in line):
                    first = time.perf_counter()
    except TimeoutError:
        pass
    writer.close()
    return status, started, first or time.perf_counter(), time.perf_counter()


async def several(port: int, clients: int, num_tokens: int) -> list[tuple[int, float, float, float]]:
    return await asyncio.gather(*(ask(port, num_tokens, seed) for seed in range(clients)))


async def refused(port: int, full: int, count: int) -> list[tuple[int, float, float, float]]:
    """`full` requests that run, and while they do `count` more, one after another."""
    running = [asyncio.create_task(ask(port, 100_000, seed)) for seed in range(full)]
    await asyncio.sleep(1)
    answers = [await ask(port, 1, 0) for _ in range(count)]
    for task in running:
        task.cancel()
    return answers


async def cancelled(port: int, count: int, num_tokens: int) -> list[tuple[int, float, float, float]]:
    """`count` long requests that end after half a second; then one that must be answered."""
    await asyncio.gather(*(ask(port, num_tokens, seed, 0.5) for seed in range(count)))
    return [await ask(port, 8, 0)]


async def answered(port: int, messages: list[dict[str, str]], num_tokens: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = {"messages": messages, "max_tokens": num_tokens, "temperature": 0}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    return json.loads(connection.getresponse().read())


async def leaving(port: int, clients: int, seconds: float) -> list[tuple[int, float, float, float]]:
    """Clients that come, stay for a random while and come again; then one that must be answered."""
    draw, end = random.Random(0), time.perf_counter() + seconds

    async def one() -> None:
        while time.perf_counter() < end:
            await ask(port, draw.randrange(1, 2000), draw.randrange(1000), draw.expovariate(0.2))

    await asyncio.gather(*(one() for _ in range(clients)))
    return [await ask(port, 8, 0)]


def run_clients(pipe: Connection) -> None:
    while (order := pipe.recv()) is not None:
        work, arguments = order
        pipe.send(asyncio.run(work(*arguments)))


# ---- The server, in this one --------------------------------------------------------------------------------------


class Running:
    """A server and its clients."""

    def __init__(self, service: Service, port: int, pipe: Connection) -> None:
        self._service, self._port, self._pipe = service, port, pipe

    def __call__(self, work: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Run clients against the server, and give back what they saw."""
        self._pipe.send((work, (self._port, *arguments)))
        return self._pipe.recv()

    def in_engine_thread(self, work: Callable[[], Any]) -> Any:
        """Have the engine thread do something else, between two requests."""
        done: Future[Any] = Future()
        self._service._worker.call(lambda: done.set_result(work()))
        return done.result()


@contextmanager
def serving(llm: LLM, **settings: Any) -> Iterator[Running]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    service = Service(Settings(**settings))
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=run_clients, args=(theirs,), daemon=True)
    process.start()
    run = Running(service, port, ours)
    with HttpServer(service, application(service), listener):
        service.attach(llm)
        try:
            run(several, 1, 8)  # the first of everything
            yield run
            deadline = time.monotonic() + 5
            while service.num_open and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(1)  # the engine hears of it between two steps
            load = llm.load
            held = f"{load.running} running, {load.waiting} waiting, {load.cache_used:.2%} of the cache"
            print(f"left behind: {service.num_open} requests; {held}")
        finally:
            ours.send(None)


def rate(answers: list[tuple[int, float, float, float]], num_tokens: int) -> float:
    """Tokens a second of all together, from the first token of any to the end of the last."""
    assert {status for status, *_ in answers} == {200}
    return len(answers) * num_tokens / (max(end for *_, end in answers) - min(first for _, _, first, _ in answers))


def alone(llm: LLM, num_tokens: int) -> float:
    """Seconds from the first token of the same answer to its end, without a server."""
    params = replace(llm.defaults(), max_tokens=num_tokens, ignore_eos=True, seed=0)
    first = 0.0
    for _ in llm.chat(QUESTION, params=params):
        first = first or time.perf_counter()
    return time.perf_counter() - first


# ---- Modes --------------------------------------------------------------------------------------------------------


def overhead(llm: LLM, options: argparse.Namespace) -> None:
    engine, served = [], []
    with serving(llm) as run:
        for turn in range(2 * options.turns + 2):
            if turn % 2:
                served.append(run(sleeper, options.tokens))
            else:
                engine.append(run.in_engine_thread(lambda: alone(llm, options.tokens)))
    engine, served = engine[1:], served[1:]
    ratios = [there / here - 1 for here, there in zip(engine, served, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    speeds = (options.tokens / statistics.median(times) for times in (engine, served))
    print("tokens/s: engine alone {:.1f}, served {:.1f}".format(*speeds))
    print(f"{len(ratios)} turns: overhead {median:+.1%}, half of them {low:+.1%} to {high:+.1%}; aim <= 3%")


def clients(llm: LLM, options: argparse.Namespace) -> None:
    count, shares = options.clients or 8, []
    with serving(llm) as run:
        for _ in range(options.turns):
            one = rate(run(several, 1, options.tokens), options.tokens)
            all_of_them = rate(run(several, count, options.tokens), options.tokens)
            shares.append(all_of_them / one)
            print(f"1 client {one:8.1f} tokens/s, {count} clients {all_of_them:8.1f}: {all_of_them / one:.2f} x")
    print(f"median {statistics.median(shares):.2f} x; aim >= 2.5 x for 8")


def refusals(llm: LLM, options: argparse.Namespace) -> None:
    count = options.clients or 8
    with serving(llm, max_requests=count) as run:
        answers = run(refused, count, 200)
    times = sorted(first - started for status, started, first, _ in answers if status == 503)
    median, p99 = (times[int(len(times) * share)] * 1000 for share in (0.5, 0.99))
    print(f"{len(times)} of {len(answers)} refused; first byte: median {median:.1f} ms, p99 {p99:.1f} ms; aim < 50 ms")


def cancel(llm: LLM, options: argparse.Namespace) -> None:
    if llm.max_context < 11_000:
        raise SystemExit(f"answers of 10,000 tokens do not fit its context of {llm.max_context:,}: take another model")
    with serving(llm) as run:
        ((status, started, _, end),) = run(cancelled, options.clients or 200, 10_000)
    print(f"a fresh request: {status} after {end - started:.2f} s; aim < 5 s")


def second_turn(llm: LLM, options: argparse.Namespace) -> None:
    messages = [{"role": "user", "content": "12 + 30 = 42, " * 40 + "and 17 + 25?"}]
    with serving(llm) as run:
        answer = run(answered, messages, options.tokens)["choices"][0]["message"]["content"]
        while llm.has_idle_work:  # nobody waits, so the engine reads ahead
            time.sleep(0.1)
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And 18 + 25?"}]
        usage = run(answered, messages, 1)["usage"]
    length, cached = usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
    print(f"of the second turn's {length} tokens {cached} were in the cache: {cached / length:.1%}; aim >= 90%")


def disconnects(llm: LLM, options: argparse.Namespace) -> None:
    with serving(llm) as run:
        run(leaving, options.clients or 200, options.seconds / 10)  # until all of the cache has been in use
        with watched_memory(every=min(10, options.seconds / 20)) as samples:
            ((status, started, _, end),) = run(leaving, options.clients or 200, options.seconds)
    print("MiB:", " ".join(f"{mib:.1f}" for _, mib in samples))
    times, sizes = np.array(samples)[len(samples) // 5 :].T
    slope = np.polyfit(times / 60, sizes, 1)[0]
    print(f"last {times[-1] - times[0]:.0f} s: {sizes[0]:.1f} to {sizes[-1]:.1f} MiB, slope {slope:+.3f} MiB a minute")
    print(f"a fresh request: {status} after {end - started:.2f} s; aim < 5 s")


@contextmanager
def watched_memory(every: float) -> Iterator[list[tuple[float, float]]]:
    """Times in seconds, and this process's resident memory in MiB."""
    samples, ended = [], threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            samples.append((time.perf_counter(), resident_mib()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def resident_mib() -> float:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


MODES = {
    "overhead": overhead,
    "clients": clients,
    "refusals": refusals,
    "cancel": cancel,
    "second-turn": second_turn,
    "disconnects": disconnects,
}

if __name__ == "__main__":
    main()
