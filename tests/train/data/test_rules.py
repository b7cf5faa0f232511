"""One condition means the same for a document and for a column."""

import numpy as np
import pytest

from qwen3.train.data.errors import DataError
from qwen3.train.data.rules import Rule


@pytest.mark.parametrize("text", ["language=en,de", "language!=und"])
def test_a_word_and_a_column_of_words_are_judged_alike(text):
    rule = Rule.parse(f" {text.replace(',', ' , ')} ")
    assert str(rule) == text
    words = ["en", "und", "de", "fr"]
    assert rule.mask(np.arange(4), words).tolist() == [rule.holds(word) for word in words]


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("a>=2", [2, 3]),
        ("a>=2.5", [3]),
        ("a<0.1", [-1, 0]),
        ("a<=0.1", [-1, 0, 0.1]),
        ("a>-1", [0, 0.1, 2, 3]),
        ("a=2", [2]),
        ("a=2.0,0.1", [0.1, 2]),
        ("a!=2", [-1, 0, 0.1, 3]),
        ("a!=2,3", [-1, 0, 0.1]),
    ],
)
def test_a_number_and_a_column_of_numbers_are_judged_alike(text, passing):
    rule, numbers = Rule.parse(text), [-1, 0, 0.1, 2, 3]
    assert str(rule) == text
    assert [number for number in numbers if rule.holds(number)] == passing
    assert np.array(numbers)[rule.mask(np.array(numbers, np.float32), None)].tolist() == passing
    whole = [number for number in numbers if number != 0.1]
    assert rule.mask(np.array(whole, np.int32), None).tolist() == [number in passing for number in whole]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("education", "not a condition"), ("Education>2", "not a condition"), ("a>=b", "compares numbers"), ("", "not a")],
)
def test_what_is_no_condition_is_refused(text, reason):
    with pytest.raises(DataError, match=reason):
        Rule.parse(text)


def test_words_and_numbers_are_not_mixed():
    with pytest.raises(DataError, match="is a word"):
        Rule.parse("language>2").holds("en")
    with pytest.raises(DataError, match="is a word"):
        Rule.parse("language>2").mask(np.zeros(3, int), ["en"])
    with pytest.raises(DataError, match="is a number"):
        Rule.parse("education=high").holds(2.0)
    with pytest.raises(DataError, match="is a number"):
        Rule.parse("education=high").mask(np.zeros(3, np.float32), None)
