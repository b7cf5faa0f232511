"""`qwen3 serve`: a model behind an OpenAI-compatible HTTP interface."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from qwen3.cli import options
from qwen3.cli.serve_ray import check_ray, parse_count, serve_on_ray

if TYPE_CHECKING:
    from qwen3.server.run import HttpServer
    from qwen3.server.service import Service

_KEY_VARIABLE = "QWEN3_API_KEY"
_SERVER, _ACCESS, _REPLICAS = "Server", "Access", "Many machines"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def serve(
    model: options.Model = "builtin",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all of them.", rich_help_panel=_SERVER)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0 takes one that is free.", rich_help_panel=_SERVER)
    ] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="What clients call the model; several may be given, the first is in answers. Default: its own name.",
            rich_help_panel=_SERVER,
            show_default=False,
        ),
    ] = None,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Running and waiting; more are told to come back.", rich_help_panel=_SERVER)
    ] = 256,
    max_wait: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds for which a request may have to wait for its first token; where it would be about more, it "
            "is told to come back.",
            rich_help_panel=_SERVER,
            show_default=False,
        ),
    ] = None,
    speculate: Annotated[
        bool,
        typer.Option(
            "--speculate/--no-speculate",
            help="Guess tokens of texts that repeat themselves: faster, and the same tokens.",
            rich_help_panel=_SERVER,
        ),
    ] = True,
    shutdown_timeout: Annotated[
        int,
        typer.Option(
            min=0, help="Seconds that running requests have to end after Ctrl-C or SIGTERM.", rich_help_panel=_SERVER
        ),
    ] = 30,
    keep_alive: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds of silence after which a stream gets a comment.", rich_help_panel=_SERVER),
    ] = 15,
    emit_reasoning: Annotated[
        bool,
        typer.Option(
            "--emit-reasoning",
            help="Reasoning also as 'reasoning', for clients that know only that.",
            rich_help_panel=_SERVER,
        ),
    ] = False,
    log_level: Annotated[
        LogLevel,
        typer.Option(help="info has a line for each request; no level has prompts.", rich_help_panel=_SERVER),
    ] = LogLevel.WARNING,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar=_KEY_VARIABLE,
            help="What clients must send as their key; any of several fits. Prefer the variable, with spaces between: "
            "other users see a command's options.",
            rich_help_panel=_ACCESS,
            show_default=False,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name by which clients may call this server. Default: on this machine's own address its own names, "
            "else any.",
            rich_help_panel=_ACCESS,
            show_default=False,
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Web pages from this origin may use the server, e.g. https://example.org; * for any.",
            rich_help_panel=_ACCESS,
            show_default=False,
        ),
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Serve replicas of the model on a Ray cluster.", rich_help_panel=_REPLICAS)
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="The cluster, such as HOST:6379 or auto. Default: one that is this machine alone.",
            rich_help_panel=_REPLICAS,
            show_default=False,
        ),
    ] = None,
    replicas: Annotated[
        str,
        typer.Option(help="Their number, or a range such as 1-4 that follows the requests.", rich_help_panel=_REPLICAS),
    ] = "2",
    replica_cpus: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="CPUs of each, and threads of its kernels. Default: an equal share.",
            rich_help_panel=_REPLICAS,
            show_default=False,
        ),
    ] = None,
    dtype: options.Dtype = None,
    weights: options.Weights = "auto",
    cache_packed: options.CachePacked = False,
    kv: options.Kv = None,
    device: options.Device = "cpu",
    max_context: options.MaxContext = None,
    kv_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of all running requests and remembered prompts together. Default: what memory gives.",
            rich_help_panel="Model",
            show_default=False,
        ),
    ] = None,
    yarn: options.Yarn = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
) -> None:
    """Serve a model to OpenAI and Anthropic clients, and a chat page to browsers.

    POST /v1/chat/completions, /v1/completions, /v1/responses and /v1/messages, streamed or not; GET / is the page;
    /v1/models, /health, /ready, /metrics; /openapi.json has them all. While the model loads, the server answers 503.
    Ctrl-C and SIGTERM let running requests end; a second Ctrl-C ends them, a third ends the server at once.

    Examples:

    \b
      qwen3 serve
      qwen3 serve Qwen/Qwen3-4B --port 8080 --weights int4 --max-context 16384
      QWEN3_API_KEY=secret qwen3 serve Qwen/Qwen3-4B --host 0.0.0.0 --name qwen3
      qwen3 serve Qwen/Qwen3-4B --ray --replicas 2-8 --ray-address auto
    """
    if any(find_spec(package) is None for package in ("fastapi", "uvicorn", "prometheus_client")):
        raise ImportError("serving needs packages that are not installed: pip install 'qwen3[serve]'")
    if any(not key.isascii() or not key.isprintable() or not key for key in api_key or ()):
        raise typer.BadParameter("a key has printable ASCII characters, at least one", param_hint="--api-key")
    if not api_key and _KEY_VARIABLE in os.environ:
        raise typer.BadParameter("it is set and has no key: give it one, or unset it", param_hint=_KEY_VARIABLE)
    if ray:
        check_ray()
    count = parse_count(replicas)
    # Before the model: an address that is taken should not cost the time to load one.
    listener = _bind(host, port)
    # Here and not at the top: they come with the packages for serving, and later ones with torch.
    from qwen3.server.guard import allowed_hosts, is_loopback

    if not api_key and not is_loopback(host):
        print(f"Anyone who reaches {host} can use this server: give it --api-key.", file=sys.stderr)
    hosts = allowed_hosts(host)
    if allowed_host:
        hosts = (hosts or frozenset()) | {name.lower() for name in allowed_host}
    access = {"api_keys": api_key or (), "hosts": hosts, "cors_origins": cors_origin or ()}
    llm_options = {
        "dtype": dtype,
        "weights": weights,
        "cache_packed": cache_packed,
        "kv": kv,
        "device": device,
        "max_context": max_context,
        "kv_tokens": kv_tokens,
        "speculate": speculate,
        "yarn": yarn,
        "revision": revision,
        "offline": offline,
    }
    settings = {
        "names": name or (),
        "max_wait": max_wait,
        "keep_alive": keep_alive,
        "emits_reasoning": emit_reasoning,
    }
    if ray:
        from qwen3.server.ray_app import Replicas

        port = listener.getsockname()[1]
        listener.close()  # Ray binds it anew
        gpus = 0 if device == "cpu" else 1
        wanted = Replicas(*count, replica_cpus, gpus, max_requests, shutdown_timeout)
        serve_on_ray(model, llm_options, access | settings, wanted, host=host, port=port, address=ray_address)
        return
    from qwen3.server.app import application
    from qwen3.server.logs import log_to_stderr
    from qwen3.server.run import HttpServer
    from qwen3.server.service import Service, Settings

    log_to_stderr(log_level)
    service = Service(Settings(max_requests=max_requests, **settings))
    app = application(service, **access)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with HttpServer(service, app, listener) as server:
        service.attach(options.load_llm(model, **llm_options))
        _print_address(service, host, listener.getsockname()[1], has_key=bool(api_key))
        _serve_until_interrupted(server, service, shutdown_timeout)
    print("Stopped.", file=sys.stderr)


def _serve_until_interrupted(server: HttpServer, service: Service, shutdown_timeout: int) -> None:
    try:
        server.wait()
    except KeyboardInterrupt:
        if service.num_open:
            print(
                f"Waiting up to {shutdown_timeout} s for {service.num_open} requests; Ctrl-C ends them.",
                file=sys.stderr,
            )
        try:
            server.drain(shutdown_timeout)
        except KeyboardInterrupt:
            # Before the server ends: its clients are to hear that their answers do.
            server.end_answers()


def _bind(host: str, port: int) -> socket.socket:
    """A socket on the address, not yet listening. Raises OSError naming the address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise OSError(f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port") from error
    return listener


def _print_address(service: Service, host: str, port: int, *, has_key: bool) -> None:
    llm, name = service.llm, service.names[0]
    page = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    url = f"{page}v1"
    request = {"model": name, "messages": [{"role": "user", "content": "What is 17 + 25?"}]}
    key = " -H 'Authorization: Bearer KEY'" if has_key else ""
    cache = f"; the cache holds {llm.cache_tokens:,}, for all requests together"
    print(f"{name}: {llm.storage}, context {llm.max_context:,} tokens{cache}")
    print(f"Serving {url}, and a chat page at {page}. Ctrl-C to stop. Try:")
    print(f"  curl {url}/chat/completions -H 'Content-Type: application/json'{key} -d '{json.dumps(request)}'")
    sys.stdout.flush()
