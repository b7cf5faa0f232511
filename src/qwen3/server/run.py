"""An application on a socket, in a thread of its own: so that the server answers while the main thread loads a model.

Signals stay with the main thread. What is served, and when to stop, is the caller's matter. The end of the server's
thread is the end of the engine's too, and of all that prepares prompts: the interpreter must not end before, as it
would abort where a thread is in native code.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from types import TracebackType

import uvicorn
from starlette.types import ASGIApp

from qwen3.server.service import Service

# To write their last lines, for answers that were ended.
_GRACE_SECONDS = 2
# Longer than clients keep an idle connection (httpx: 5 s): the server must not close one that is about to be used.
_IDLE_CONNECTION_SECONDS = 75
# A signal that comes just before a wait is noticed only after it.
_WAIT_SECONDS = 0.2


class HttpServer:
    """Serves within a `with` block: from its beginning, also while no model is attached to the service."""

    def __init__(self, service: Service, app: ASGIApp, listener: socket.socket) -> None:
        self._service, self._listener = service, listener
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            timeout_keep_alive=_IDLE_CONNECTION_SECONDS,
            lifespan="on",
            ws="none",
        )
        self._server = uvicorn.Server(config)
        # For the main thread to wait for: a `join` that Ctrl-C interrupts takes the thread for ended from then on.
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def __enter__(self) -> HttpServer:
        self._thread.start()
        while self._thread.is_alive() and not self._server.started:
            time.sleep(0.005)
        return self

    def wait(self) -> None:
        """Return when the server has ended by itself; KeyboardInterrupt ends the waiting."""
        while not self._has_ended.wait(_WAIT_SECONDS):
            pass

    def drain(self, timeout: float) -> None:
        """Refuse new requests and let those that run end, for at most `timeout` seconds; then tell their clients.
        KeyboardInterrupt ends the waiting; another `drain` may then be shorter."""
        draining = asyncio.run_coroutine_threadsafe(self._service.drain(timeout), self._service.loop)
        while not draining.done() and not self._has_ended.is_set():
            wait([draining], _WAIT_SECONDS)

    def end_answers(self) -> None:
        """`drain` without time, which still waits for the engine's step. KeyboardInterrupt ends the process."""
        with _exit_on_interrupt():
            self.drain(0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        with _exit_on_interrupt():
            self.wait()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._server.run([self._listener])
        finally:
            self._has_ended.set()


@contextmanager
def _exit_on_interrupt() -> Iterator[None]:
    """Within, Ctrl-C ends the process at once, as threads still run: nothing is waited for, and nothing cleaned up."""
    try:
        yield
    except KeyboardInterrupt:
        os._exit(130)
