"""JSON objects from files that are not trusted: one meaning for every input, or a ValueError.

Plain `json.loads` keeps the last of two equal keys, reads NaN, and runs into the recursion limit. Where two readers
of one file could disagree, the file is refused here.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

# The largest official file read this way, the index of Qwen3-235B-A22B, has 3 MB.
_MAX_FILE_BYTES = 64 << 20
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in UTF-8 `data`.

    Raises ValueError for anything else: invalid UTF-8 or JSON, another type, duplicate keys, NaN and Infinity, numbers
    that would be read as these, halves of surrogate pairs, nesting or integers beyond what Python reads.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise ValueError("it is not valid JSON: it is not UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("it holds a lone surrogate, which is half a character") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it does not hold a JSON object")
    return value


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`. Raises ValueError as `parse_object` does, and OSError."""
    if (size := file.stat().st_size) > _MAX_FILE_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than the {_MAX_FILE_BYTES:,} allowed")
    return parse_object(file.read_bytes())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        # `set.add` returns None: the first name already seen is the duplicate.
        duplicate = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"duplicate key {duplicate[:200]!r}")
    return out


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"it holds {number[:40]}, which is beyond all floats")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is not JSON")
