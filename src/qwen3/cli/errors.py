"""Errors of users as one line on stderr and an exit code, in place of a traceback.

Code 1 for what is wrong with input, files, memory or a missing optional package; 130 for Ctrl-C; 141 for a closed pipe.
(Wrong usage, code 2, is typer's own.)
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

USER_ERRORS = (ValueError, OSError, ImportError, MemoryError, FloatingPointError)
"""What bad input, files and machines raise; anything else is a mistake of this program and keeps its traceback."""


@contextmanager
def errors_in_one_line(*, debug: bool) -> Iterator[None]:
    """Print a user's error and exit; with `debug`, let it through with its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        if debug:
            raise
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader has gone: what is still buffered must not raise again when Python flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except USER_ERRORS as error:
        if debug:
            raise
        print(f"qwen3: {describe(error)}", file=sys.stderr)
        raise SystemExit(1) from None


def describe(error: Exception) -> str:
    """The message for a user; never empty."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
