"""`qwen3 serve`: a model behind an OpenAI-compatible HTTP interface."""

from __future__ import annotations

import json
import socket
import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from qwen3.cli import options

if TYPE_CHECKING:
    from qwen3.engine.llm import LLM

_SERVER = "Server"


def serve(
    model: options.Model = "builtin",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all of them.", rich_help_panel=_SERVER)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0 takes one that is free.", rich_help_panel=_SERVER)
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="QWEN3_API_KEY",
            help="What clients must send as their key. Prefer the variable: other users see a command's options.",
            rich_help_panel=_SERVER,
            show_default=False,
        ),
    ] = None,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Running and waiting; more are told to come back.", rich_help_panel=_SERVER)
    ] = 256,
    shutdown_timeout: Annotated[
        int,
        typer.Option(min=0, help="Seconds that running requests have to end after Ctrl-C.", rich_help_panel=_SERVER),
    ] = 30,
    dtype: options.Dtype = None,
    weights: options.Weights = "auto",
    cache_packed: options.CachePacked = False,
    kv: options.Kv = None,
    device: options.Device = "cpu",
    max_context: options.MaxContext = None,
    yarn: options.Yarn = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
) -> None:
    """Serve a model to OpenAI clients.

    POST /v1/chat/completions and /v1/completions, streamed or not, GET /v1/models and /health.
    Ctrl-C lets running requests end; a second one does not.

    Examples:

    \b
      qwen3 serve
      qwen3 serve Qwen/Qwen3-4B --port 8080 --weights int4 --max-context 16384
      QWEN3_API_KEY=secret qwen3 serve Qwen/Qwen3-4B --host 0.0.0.0
    """
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise ImportError("serving needs packages that are not installed: pip install 'qwen3[serve]'")
    if api_key is not None and (not api_key or not api_key.isascii() or not api_key.isprintable()):
        raise typer.BadParameter("a key has printable ASCII characters, at least one", param_hint="--api-key")
    # Before the model: an address that is taken should not cost the time to load one.
    listener = _bind(host, port)
    llm = options.load_llm(
        model,
        dtype=dtype,
        weights=weights,
        cache_packed=cache_packed,
        kv=kv,
        device=device,
        max_context=max_context,
        yarn=yarn,
        revision=revision,
        offline=offline,
    )
    import uvicorn

    from qwen3.server.app import make_app
    from qwen3.server.guard import allowed_hosts, is_loopback

    if api_key is None and not is_loopback(host):
        print(f"Anyone who reaches {host} can use this server: give it --api-key.", file=sys.stderr)
    app = make_app(llm, api_key=api_key, hosts=allowed_hosts(host), max_requests=max_requests)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=shutdown_timeout, lifespan="on"
    )
    # From here on connections wait to be accepted, so what is printed is true.
    listener.listen(config.backlog)
    _print_address(llm, host, listener.getsockname()[1], has_key=api_key is not None)
    # uvicorn raises Ctrl-C again after it has shut down, and here that is the way to end.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
    print("Stopped.", file=sys.stderr)


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


def _print_address(llm: LLM, host: str, port: int, *, has_key: bool) -> None:
    from qwen3.server.app import served_name

    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    request = {"model": served_name(llm), "messages": [{"role": "user", "content": "What is 17 + 25?"}]}
    key = " -H 'Authorization: Bearer KEY'" if has_key else ""
    print(f"{served_name(llm)}: {llm.storage}, context {llm.max_context:,} tokens")
    print(f"Serving {url}, Ctrl-C to stop. Try:")
    print(f"  curl {url}/chat/completions -H 'Content-Type: application/json'{key} -d '{json.dumps(request)}'")
    sys.stdout.flush()
