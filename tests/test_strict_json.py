"""JSON that has one meaning, or none."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3.strict_json import parse_object, read_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), VALUES))
def test_any_object_arrives_as_it_was_written(value):
    assert parse_object(json.dumps(value).encode()) == value
    assert parse_object(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary())
def test_any_bytes_are_an_object_or_a_value_error(data):
    with suppress(ValueError):
        assert isinstance(parse_object(data), dict)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"{}x", "not valid JSON"),
        (b"[]", "not hold a JSON object"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "duplicate key 'c'"),
        (b'{"a": NaN}', "holds NaN"),
        (b'{"a": -Infinity}', "holds -Infinity"),
        (b'{"a": [-1e999]}', "holds -1e999, which is beyond all floats"),
        (b'{"a": "\\ud800"}', "lone surrogate"),
        (b'{"\\uDFFF\\ud83d": 1}', "lone surrogate"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    ],
)
def test_what_has_two_readings_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        parse_object(data)


def test_a_file_beyond_any_honest_size_is_not_even_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"1,099,511,627,776 bytes, more than"):
        read_object(tmp_path / "config.json")
