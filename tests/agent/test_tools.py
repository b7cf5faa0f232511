"""Functions as tools: their schema, their arguments; and the tools built in."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal, Optional

import jsonschema
import pytest
from agents import result_of
from pydantic import Field

from qwen3.agent import BUILTIN, Agent, Tool, ToolDefinitionError, ToolFailure
from qwen3.agent.builtin import evaluate, now


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: float
    title: str = "here"


def draw(
    point: Point,
    color: Color,
    mode: Literal["fast", "slow"] = "fast",
    sizes: list[int] | None = None,
    label: Optional[str] = None,  # noqa: UP045 - both spellings are to be understood
    copy: Annotated[bool, Field(description="Keep it.")] = False,
) -> str:
    """Draw a point.

    It stays there.

    Args:
        point: Where it is,
            in meters: not feet.
        color (Color): Its color.

    Returns:
        Nothing of use.
    """
    return f"{point} {color} {mode} {sizes} {label} {copy}"


def test_a_function_is_described_by_its_docstring_and_hints():
    definition = Tool.of(draw).definition["function"]
    schema = definition["parameters"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert (definition["name"], definition["description"]) == ("draw", "Draw a point.\n\nIt stays there.")
    assert schema["required"] == ["point", "color"]
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert properties["point"]["description"] == "Where it is, in meters: not feet."
    assert properties["color"]["description"] == "Its color."
    assert properties["mode"] == {"enum": ["fast", "slow"], "type": "string", "default": "fast"}
    assert properties["copy"]["description"] == "Keep it."
    assert schema["$defs"]["Point"]["properties"]["title"] == {"type": "string", "default": "here"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"point": {"x": 1}, "color": "red"},
        {"point": {"x": 1.5, "title": "t"}, "color": "blue", "mode": "slow", "sizes": [1, 2], "label": "l"},
    ],
)
def test_what_its_schema_accepts_reaches_the_function_as_its_types(arguments):
    tool = Tool.of(draw)
    jsonschema.validate(arguments, tool.parameters)
    text = tool.call(arguments)
    assert text.startswith("Point(x=")
    assert "Color." in text


@pytest.mark.parametrize("fault", [{"color": "green"}, {"mode": "x"}, {"point": {}}, {"sizes": [1.5]}, {"other": 1}])
def test_what_its_schema_refuses_does_not_reach_it(fault):
    tool = Tool.of(draw)
    arguments = {"point": {"x": 1}, "color": "red"} | fault
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(arguments, tool.parameters)
    with pytest.raises(ToolFailure, match=next(iter(fault))):
        tool.call(arguments)


def test_a_function_that_cannot_be_a_tool_is_refused_with_the_reason():
    def silent(x: int) -> None:
        pass

    def untyped(x) -> None:
        """Does."""

    def many(*x: int) -> None:
        """Does."""

    def odd(x: "Unknown") -> None:  # noqa: F821
        """Does."""

    def strange(x: type(re)) -> None:
        """Does."""

    faults = {
        "no docstring": silent,
        "argument x has no type hint": untyped,
        "no name that the model could give it by": many,
        "a type hint is not defined": odd,
        "module": strange,
        "is no name for a tool": lambda: None,
    }
    for part, function in faults.items():
        with pytest.raises(ToolDefinitionError, match=part):
            Tool.of(function)


def test_tools_of_one_name_are_told_apart_and_the_first_keeps_its_name():
    def make(source):
        return Tool("search", source, {}, lambda arguments: source, source=source)

    tools = Agent(None, [make(""), make("my web"), make("files"), make("files"), make("")]).tools
    assert {name: tool.description for name, tool in tools.items()} == {
        "search": "",
        "my_web_search": "my web",
        "files_search": "files",
        "files_search_2": "files",
        "search_2": "",
    }
    assert all(name == tool.name for name, tool in tools.items())


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(3 + 4.5) * 2**10", 7680.0),
        ("2^10", 1024),
        ("-7 // 2 % 5", 1),
        ("sqrt(2)**2 - 2 < 1", None),
        ("round(pi, 3)", 3.142),
        ("123456789 * 987654321", 121932631112635269),
        ("max(1, 2, 3) - abs(-4)", -1),
        ("1_000 + 1e3", 2000.0),
    ],
)
def test_the_calculator_computes(expression, value):
    if value is None:
        with pytest.raises(ToolFailure, match="not arithmetic"):
            evaluate(expression)
    else:
        assert evaluate(expression) == value


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("__import__('os').system('true')", "not arithmetic"),
        ("(1).__class__", "not arithmetic"),
        ("[x for x in (1, 2)]", "not arithmetic"),
        ("'a' * 9", "not arithmetic"),
        ("True + 1", "not arithmetic"),
        ("x := 1", "no expression"),
        ("1 +", "no expression"),
        ("", "no expression"),
        ("1\n2", "no expression"),
        ("9**9**9**9", "too large"),
        ("2**10000 * 2**10000", "too large"),
        ("10.0**400", "too large"),
        ("1e308 * 10", "too large"),
        ("1 / 0", "division by zero"),
        ("sqrt(-1)", "domain|nonnegative"),
        ("(-8) ** 0.5", "not a real number"),
        ("round(1, 2, 3)", "at most 2 arguments"),
        ("round(1, -10**6)", "at most 400 digits"),
        ("(" * 400 + "1" + ")" * 400, "too deeply|no expression"),
        ("-" * 990 + "1", "too deeply|no expression"),
        ("1" * 1001, "at most 1,000 characters"),
        ("1\0", "null bytes|no expression"),
    ],
)
def test_the_calculator_refuses_what_is_not_arithmetic_or_too_large(expression, part):
    with pytest.raises(ToolFailure, match=part):
        evaluate(expression)


def test_the_clock_knows_time_zones():
    assert re.fullmatch(r"[A-Z]\w+day, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+ \(UTC[+-]\d{4}\)", now(None))
    assert now("UTC").endswith("UTC (UTC+0000)")
    for bad in ("Mars/Olympus", "../../etc/passwd", "\0"):
        with pytest.raises(ToolFailure, match="no time zone"):
            now(bad)


def test_the_tools_built_in_answer_calls():
    calculate, current_time = BUILTIN
    assert result_of(calculate, '{"expression": "17 * 25"}') == ("425", False)
    assert result_of(calculate, "{}")[1]
    assert result_of(calculate, '{"expression": 3}') == ("expression must be a string", True)
    assert "UTC" in result_of(current_time)[0]
