"""`qwen3 serve --ray`: replicas of the server on a Ray cluster."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from qwen3.server.ray_app import Replicas


def check_ray() -> None:
    if find_spec("ray") is None or find_spec("ray.serve") is None:
        raise ImportError("--ray needs a package that is not installed: pip install 'qwen3[ray]'")


def parse_count(text: str) -> tuple[int, int]:
    """The least and the most of '2' or '1-4'. Raises a usage error."""
    low, dash, high = text.partition("-")
    try:
        least, most = int(low), int(high if dash else low)
    except ValueError:
        least, most = 0, 0
    if not 1 <= least <= most:
        raise typer.BadParameter("a number of replicas such as 2, or a range such as 1-4", param_hint="--replicas")
    return least, most


def serve_on_ray(
    model: str,
    llm_options: Mapping[str, Any],
    app_options: Mapping[str, Any],
    replicas: Replicas,
    *,
    host: str,
    port: int,
    address: str | None,
) -> None:
    """Serve until Ctrl-C or SIGTERM; the rest is as in `deployed`."""
    from qwen3.server.ray_app import deployed

    # A replica is not started in this directory.
    model = str(Path(model).resolve()) if Path(model).exists() else model
    where = f"the cluster at {address}" if address else "this machine"
    print(f"Starting replicas on {where}; where they wait for room, 'ray status' says for what.", file=sys.stderr)
    with (
        suppress(KeyboardInterrupt),
        deployed(model, llm_options, app_options, replicas, host=host, port=port, address=address) as started,
    ):
        # Ray has taken it for itself.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        count = f"{started.minimum} to {started.maximum}" if started.minimum < started.maximum else started.maximum
        print(f"{model}: {count} replicas of {started.cpus} CPUs")
        print(f"Serving http://{f'[{host}]' if ':' in host else host}:{port}/v1, Ctrl-C to stop.", flush=True)
        threading.Event().wait()
    print("Stopped.", file=sys.stderr)
