"""Tools that harm nobody: a calculator and the time."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from qwen3.agent.tools import Tool, ToolFailure

_MAX_LENGTH, _MAX_BITS = 1_000, 10_000
_MAX_ROUNDED_DIGITS = 400  # more than any float has, on either side of the point


def _round(*arguments: int | float) -> int | float:
    """Rounding computes 10 to the number of digits, however many that are."""
    if any(abs(digits) > _MAX_ROUNDED_DIGITS for digits in arguments[1:2]):
        raise ToolFailure(f"round takes at most {_MAX_ROUNDED_DIGITS} digits")
    return round(*arguments)


_CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in "sqrt exp log log2 log10 sin cos tan asin acos atan atan2".split()},
    **{name: getattr(math, name) for name in "degrees radians hypot gcd floor ceil".split()},
    "abs": abs,
    "max": max,
    "min": min,
    "round": _round,
}
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def evaluate(expression: str) -> int | float:
    """The value of an arithmetic expression in Python's notation; `^` is a power too.

    The syntax tree is walked, nothing is executed, and no integer passes through it that has more than 10,000 bits.
    Raises ToolFailure for everything else.
    """
    if len(expression) > _MAX_LENGTH:
        raise ToolFailure(f"an expression has at most {_MAX_LENGTH:,} characters")
    try:
        tree = ast.parse(expression.strip().replace("^", "**"), mode="eval")
        return _value(tree.body)
    except SyntaxError as error:
        raise ToolFailure(f"this is no expression: {error.msg}") from None
    except OverflowError:
        raise ToolFailure("the number is too large") from None
    except (ArithmeticError, ValueError, TypeError) as error:
        raise ToolFailure(str(error)) from None
    except (RecursionError, MemoryError):
        raise ToolFailure("the expression is nested too deeply") from None


def _value(node: ast.AST) -> int | float:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return _bounded(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_value(operand))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            a, b = _value(left), _value(right)
            if isinstance(sign, ast.Pow):
                _check_power(a, b)
            return _bounded(_OPERATORS[type(sign)](a, b))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*map(_value, arguments)))
    raise ToolFailure(
        f"{ast.unparse(node)!r} is not arithmetic; there are numbers, + - * / // % **, parentheses, "
        f"{', '.join([*_CONSTANTS, *_FUNCTIONS])}"
    )


def _check_power(base: int | float, exponent: int | float) -> None:
    """Before it is computed: a power's size is its cost."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > 2 * _MAX_BITS:
        raise ToolFailure("the number is too large")


def _bounded(number: int | float | complex) -> int | float:
    if isinstance(number, complex):
        raise ToolFailure("the result is not a real number")
    if number.bit_length() > _MAX_BITS if isinstance(number, int) else math.isinf(number):
        raise ToolFailure("the number is too large")
    return number


def now(timezone: str | None) -> str:
    """Date, weekday and time in a time zone by its IANA name; None takes this machine's."""
    try:
        moment = datetime.now(ZoneInfo(timezone)) if timezone else datetime.now().astimezone()
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ToolFailure(f"there is no time zone {timezone!r}; names are such as Europe/Zurich or UTC") from None
    return moment.strftime("%A, %Y-%m-%d %H:%M:%S %Z (UTC%z)")


def _text(arguments: dict[str, Any], name: str) -> str | None:
    value = arguments.get(name)
    if value is not None and not isinstance(value, str):
        raise ToolFailure(f"{name} must be a string")
    return value


BUILTIN = (
    Tool(
        name="calculate",
        description="Compute an arithmetic expression exactly as written, such as (3 + 4.5) * 2**10 or sqrt(2).",
        parameters={
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
        call=lambda arguments: str(evaluate(_text(arguments, "expression") or "")),
        source="built in",
    ),
    Tool(
        name="current_time",
        description="The date, weekday and time now.",
        parameters={
            "type": "object",
            "properties": {"timezone": {"type": "string", "description": "Such as Europe/Zurich; default: local."}},
        },
        call=lambda arguments: now(_text(arguments, "timezone")),
        source="built in",
    ),
)
