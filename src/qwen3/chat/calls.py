"""The text of a tool call: its header, its arguments, and whether it is one at all.

`template` writes calls as `\\n{"name": NAME, "arguments": ARGUMENTS}\\n` between `<tool_call>` and `</tool_call>`, and
that is what the model is trained to write. It knows nothing of token ids.
"""

import json
import re

_CALL_OPENING = re.compile(r'\s*\{\s*"name"\s*:\s*"(?:[^"\\]|\\.)*"\s*,\s*"arguments"\s*:\s*')


def call_header(name: str) -> str:
    """What stands between `<tool_call>` and the arguments, but for the space before these: the tokenizer joins that to
    the arguments' brace, and so the header ends where a token does."""
    return f'\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments":'


CALL_END = "}\n"
"""What stands between the arguments and `</tool_call>`."""


def parse_call(text: str) -> tuple[str, str] | None:
    """Name and arguments (JSON text of an object) of a tool call, or None if `text` is not one.

    Arguments are verbatim where the call is written as the template writes it. None given are `{}`; given as a
    string that holds a JSON object, they are that object.
    """
    try:
        call = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return None
        arguments = call.get("arguments")
        if arguments is None:
            written, arguments = "{}", {}
        elif isinstance(arguments, str):
            written, arguments = arguments, json.loads(arguments, parse_constant=_refuse_constant)
        else:
            written = _verbatim_arguments(text) or json.dumps(arguments, ensure_ascii=False)
        (call["name"] + written).encode()  # JSON can spell half a surrogate pair, which no answer can carry
    except (ValueError, RecursionError):
        return None
    return (call["name"], written) if isinstance(arguments, dict) else None


class ObjectText:
    """Passes on the text of one JSON object, which is known to be valid, and nothing before or after it."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = self._is_escaped = self._is_over = False

    def feed(self, text: str) -> str:
        """The part of `text` that belongs to the object."""
        begin = 0 if self._depth else text.find("{")
        if self._is_over or begin < 0:
            return ""
        for i in range(begin, len(text)):
            self._take(text[i])
            if self._is_over:
                return text[begin : i + 1]
        return text[begin:]

    def _take(self, char: str) -> None:
        if self._is_in_string:
            if self._is_escaped or char == "\\":
                self._is_escaped = not self._is_escaped
            elif char == '"':
                self._is_in_string = False
        elif char == '"':
            self._is_in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            self._is_over = self._depth == 0


def _verbatim_arguments(text: str) -> str | None:
    opening = _CALL_OPENING.match(text)
    if opening is None:
        return None
    _, end = json.JSONDecoder().raw_decode(text, opening.end())
    return text[opening.end() : end] if text[end:].strip() == "}" else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
