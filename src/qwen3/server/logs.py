"""The log: lines in which nothing that a client sent can pass for something else."""

from __future__ import annotations

import logging
import sys


class EscapingFormatter(logging.Formatter):
    """Control characters become escapes, so that a path or a name ends no line and drives no terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return _escaped(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return _escaped(super().format(record), keep="\n")  # of tracebacks


def _escaped(text: str, keep: str = "") -> str:
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


def log_to_stderr(level: str) -> None:
    """Send the server's log, and uvicorn's, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EscapingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("qwen3", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())
