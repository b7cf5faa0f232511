"""What the server costs and what it bears: one model, the engine alone and behind HTTP, in one run.

    python benchmarks/serving.py overhead builtin --weights int8     tokens/s of one client against the engine alone
    python benchmarks/serving.py clients Qwen/Qwen3-0.6B             eight clients' tokens/s against one's
    python benchmarks/serving.py refusals builtin                    time to the first byte of a 503 when full
    python benchmarks/serving.py cancel builtin                      200 long requests cancelled; a fresh one answers
    python benchmarks/serving.py disconnects builtin --seconds 600   clients that leave at random; what stays behind

The server runs in this process, beside the engine as always, and the clients in another: on a machine of few cores they
take from the same cores, as a proxy beside the server would. Contenders take turns; medians count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import socket
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from qwen3 import LLM, SamplingParams
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
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--clients", type=int, help="default: 8, or 200 that leave")
    parser.add_argument("--seconds", type=float, default=30, help="for how long clients come and leave")
    options = parser.parse_args()
    llm = LLM(options.model, weights=options.weights, max_context=options.max_context)
    print(f"{options.model}: {llm.storage}, context {llm.max_context:,} tokens")
    MODES[options.mode](llm, options)


# ---- Clients, in a process of their own ---------------------------------------------------------------------------


async def ask(
    port: int, num_tokens: int, seed: int, leave_after: float | None = None
) -> tuple[int, float, float, float]:
    """One streamed request: status, and the times of its start, its first token and its end."""
    body = {"messages": QUESTION, "max_tokens": num_tokens, "ignore_eos": True, "seed": seed, "stream": True}
    content = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
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

Clients = Callable[..., Any]


@contextmanager
def serving(llm: LLM, **settings: Any) -> Iterator[Clients]:
    """A function that runs clients against a server for `llm`, and gives back what they saw."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    service = Service(Settings(**settings))
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=run_clients, args=(theirs,), daemon=True)
    process.start()

    def clients(work: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        ours.send((work, (port, *arguments)))
        return ours.recv()

    with HttpServer(service, application(service), listener):
        service.attach(llm)
        try:
            clients(several, 1, 8)  # the first of everything
            yield clients
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
    params = SamplingParams(temperature=0.6, top_p=0.95, top_k=20, max_tokens=num_tokens, ignore_eos=True, seed=0)
    first = 0.0
    for _ in llm.chat(QUESTION, params=params):
        first = first or time.perf_counter()
    return num_tokens / (time.perf_counter() - first)


# ---- Modes --------------------------------------------------------------------------------------------------------


def overhead(llm: LLM, options: argparse.Namespace) -> None:
    shares = []
    alone(llm, options.tokens)
    for _ in range(options.turns):
        engine = alone(llm, options.tokens)
        with serving(llm) as clients:
            served = rate(clients(several, 1, options.tokens), options.tokens)
        shares.append(served / engine)
        print(f"engine {engine:8.1f} tokens/s, served {served:8.1f}: {1 - served / engine:+.1%} overhead")
    print(f"median overhead {1 - statistics.median(shares):+.1%}; aim <= 3%")


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
    with serving(llm) as run:
        ((status, started, _, end),) = run(cancelled, options.clients or 200, 10_000)
    print(f"a fresh request: {status} after {end - started:.2f} s; aim < 5 s")


def disconnects(llm: LLM, options: argparse.Namespace) -> None:
    with serving(llm) as run:
        run(leaving, options.clients or 200, 5)
        before = resident_mib()
        ((status, started, _, end),) = run(leaving, options.clients or 200, options.seconds)
        print(f"memory {before:,.0f} MiB after 5 s, {resident_mib():,.0f} MiB after {options.seconds:.0f} s more")
    print(f"a fresh request: {status} after {end - started:.2f} s; aim < 5 s")


def resident_mib() -> float:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


MODES = {
    "overhead": overhead,
    "clients": clients,
    "refusals": refusals,
    "cancel": cancel,
    "disconnects": disconnects,
}

if __name__ == "__main__":
    main()
