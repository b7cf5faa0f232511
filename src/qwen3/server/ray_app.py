"""The server on many machines: replicas of the whole application under Ray Serve.

Ray's proxy takes the connections. Behind it one `Front`, which has no model, reads a request's body and forwards the
request, as it is, to the replica that `PrefixRouter` chooses; the replica runs the same application as `qwen3 serve`
does alone, and what that sends goes back piece by piece. Starting, restarting, health checks, draining and autoscaling
of replicas are Ray's. Of a replica's answers the header X-Qwen3-Replica names it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, HTTPOptions, ProxyLocation, RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import MutableHeaders
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Config
from uvicorn.lifespan.on import LifespanOn

from qwen3.server.errors import ApiError, error_response
from qwen3.server.guard import Guard
from qwen3.server.ray_router import PrefixRouter, prefix_keys

APPLICATION = "qwen3"
_REACH_SECONDS = 5.0
_HEALTH_SECONDS = 10.0
_FRONT_REQUESTS = 10_000
# Of each replica, where their number may change: a batch of eight costs a CPU little more than one request.
_TARGET_REQUESTS = 8
_REPLICA = "replica"
# What of a scope can travel and is the client's; the rest belongs to the server that made it.
_SCOPE = "type http_version method scheme path raw_path query_string root_path headers client server".split()


class ReplicaError(ValueError):
    """Replicas that do not start; the message has the reason."""


@dataclass(frozen=True)
class Call:
    """A request on its way to a replica."""

    scope: Mapping[str, Any]
    body: bytes
    prefix_keys: tuple[bytes, ...] = ()


class Front:
    """The application that the proxy sees: forwards requests and relays answers."""

    def __init__(self, replicas: DeploymentHandle) -> None:
        self._replicas = replicas.options(stream=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive()).get("body", b"") if scope["method"] == "POST" else b""
        keys = prefix_keys(body)
        travelling = {name: scope[name] for name in _SCOPE if name in scope}
        answer = self._replicas.answer.remote(Call(travelling, body, keys))
        has_started = False

        async def relay() -> None:
            nonlocal has_started
            async for message in answer:
                has_started = True
                await send(message)

        async def leave() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        relaying, leaving = asyncio.create_task(relay()), asyncio.create_task(leave())
        try:
            await asyncio.wait({relaying, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if relaying.done():
                relaying.result()
        except (RayError, RayServeException) as error:
            if has_started:
                raise  # closes the connection: a client sees that this is not the end
            failure = ApiError(503, "the replica that had this request failed; another will take the next one")
            failure.__cause__ = error
            await error_response(scope, failure)(scope, receive, send)
        finally:
            relaying.cancel()
            leaving.cancel()
            answer.cancel()


class Replica:
    """One model, and the application that serves it."""

    async def __init__(self, model: str, llm_options: Mapping[str, Any], app_options: Mapping[str, Any]) -> None:
        # Here and not at the top: with them comes torch, which only a replica needs.
        from qwen3.engine.llm import LLM
        from qwen3.server.app import serving

        llm = await asyncio.to_thread(LLM, model, **llm_options)
        self._service, self._app = serving(llm, **app_options)
        self._lifespan = LifespanOn(Config(self._app, lifespan="on", log_config=None))
        await self._lifespan.startup()
        self._name = serve.get_replica_context().replica_id.unique_id.encode()

    async def answer(self, call: Call) -> AsyncIterator[Message]:
        """What the application sends. Closing this is the client's leaving."""
        arriving: asyncio.Queue[Message] = asyncio.Queue()
        arriving.put_nowait({"type": "http.request", "body": call.body, "more_body": False})
        leaving: asyncio.Queue[Message | None] = asyncio.Queue()

        async def run() -> None:
            try:
                await self._app({"asgi": {"version": "3.0"}, **call.scope}, arriving.get, leaving.put)
            finally:
                leaving.put_nowait(None)

        running = asyncio.create_task(run())
        try:
            while (message := await leaving.get()) is not None:
                if message["type"] == "http.response.start":
                    headers = [*message.get("headers", ()), (b"x-qwen3-replica", self._name)]
                    message = {**message, "headers": headers}
                yield message
            await running
        finally:
            arriving.put_nowait({"type": "http.disconnect"})
            running.cancel()

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica that raises."""
        self._service.check_alive()

    async def __del__(self) -> None:
        # Ray calls this when the requests have ended; whoever never started has nothing to end.
        if hasattr(self, "_lifespan"):
            await self._lifespan.shutdown()


@dataclass(frozen=True)
class Replicas:
    """How many replicas, and what each may take."""

    minimum: int = 2
    maximum: int = 2
    """Above `minimum`, Ray starts and ends replicas as requests come and go."""
    cpus: int | None = None
    """Reserved for each, whose kernels use as many threads; None shares out what the cluster has."""
    gpus: int = 0
    max_requests: int = 256
    """Running and waiting in each; more are refused."""
    shutdown_timeout: float = 30.0
    """Seconds that requests have to end when their replica is to end."""


def _application(
    model: str, llm_options: Mapping[str, Any], app_options: Mapping[str, Any], replicas: Replicas
) -> serve.Application:
    """What Ray Serve runs."""
    threads = str(replicas.cpus)
    ending = {"graceful_shutdown_timeout_s": replicas.shutdown_timeout, "graceful_shutdown_wait_loop_s": 0.2}
    scaling: dict[str, Any] = {"num_replicas": replicas.maximum}
    if replicas.minimum < replicas.maximum:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=replicas.minimum,
                max_replicas=replicas.maximum,
                target_ongoing_requests=_TARGET_REQUESTS,
            )
        }
    models = serve.deployment(
        Replica,
        name=_REPLICA,
        # The application itself refuses what is too much, with the words that clients know.
        max_ongoing_requests=2 * replicas.max_requests,
        health_check_period_s=_HEALTH_SECONDS,
        # What is wrong with a model does not mend by loading it again.
        max_constructor_retry_count=1,
        request_router_config=RequestRouterConfig(request_router_class=PrefixRouter),
        ray_actor_options={
            "num_cpus": replicas.cpus,
            "num_gpus": replicas.gpus,
            "runtime_env": {"env_vars": {"QWEN3_THREADS": threads, "OMP_NUM_THREADS": threads}},
        },
        **ending,
        **scaling,
    ).bind(model, dict(llm_options), {**app_options, "max_requests": replicas.max_requests})
    front = serve.deployment(
        serve.ingress(_front)(_Ingress),
        name="front",
        max_ongoing_requests=_FRONT_REQUESTS,
        ray_actor_options={"num_cpus": 0},
        **ending,
    )
    return front.bind(models)


class _Ingress:
    """What `_front` is attached to. Ray starts the deployments that it gets here with it."""

    def __init__(self, models: DeploymentHandle) -> None:
        pass


def _front() -> ASGIApp:
    """Called by Ray in the front's process. Keys and hosts are the replicas' matter, sizes must be checked here."""
    guarded = Guard(Router(default=Front(serve.get_deployment_handle(_REPLICA, APPLICATION))))

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]  # the proxy adds the same
            await send(message)

        await guarded(scope, receive, send_without_id)

    return front


@contextmanager
def deployed(
    model: str,
    llm_options: Mapping[str, Any],
    app_options: Mapping[str, Any],
    replicas: Replicas,
    *,
    host: str,
    port: int,
    address: str | None = None,
    num_cpus: int | None = None,
) -> Iterator[Replicas]:
    """Replicas of the server answer at `host` and `port`: on the cluster at `address`, or on one of this machine alone,
    with `num_cpus` or all of its CPUs, that begins and ends here. In the end running requests may end.

    `llm_options` are those of `LLM`, `app_options` those of `make_app`. Yields the replicas with their CPUs.

    Raises ConnectionError where there is no cluster at `address`, and ReplicaError where the replicas do not start.
    """
    # What is not sent to anybody is not asked about either.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _check_reachable(address)
    is_own = address is None
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if is_own:
            ray.init("local", num_cpus=num_cpus, include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except ConnectionError as error:
        raise ConnectionError(f"there is no Ray cluster at {address}: 'ray start --head' begins one") from error
    try:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        replicas = _with_cpus(replicas, is_own)
        where = ProxyLocation.HeadOnly if is_own else ProxyLocation.EveryNode
        serve.start(proxy_location=where, http_options=HTTPOptions(host=host, port=port))
        try:
            serve.run(_application(model, llm_options, app_options, replicas), name=APPLICATION)
        except RuntimeError as error:
            raise ReplicaError(f"the replicas do not start: {_why_not_started() or error}") from error
        yield replicas
    finally:
        serve.delete(APPLICATION)  # waits for what runs, which the end of the cluster would not
        ray.shutdown()


def _with_cpus(replicas: Replicas, is_own: bool) -> Replicas:
    """`replicas` with their share of the cluster's CPUs. Raises ReplicaError where an own cluster has too few; another
    may grow."""
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cpus = replicas.cpus or max(1, min(max(nodes), sum(nodes) // replicas.maximum))
    if is_own and cpus * replicas.maximum > sum(nodes):
        raise ReplicaError(f"{replicas.maximum} replicas of {cpus} CPUs do not fit in the {sum(nodes)} there are")
    return replace(replicas, cpus=cpus)


def _why_not_started() -> str:
    """The error of the replicas' last start: the end of a traceback that Ray has wrapped in its own words."""
    state = serve.status().applications.get(APPLICATION)
    message = state.deployments[_REPLICA].message.strip() if state and _REPLICA in state.deployments else ""
    return message.splitlines()[-1] if message else ""


def _check_reachable(address: str | None) -> None:
    """Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), _REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(f"there is no Ray cluster at {address}: {error}") from error
