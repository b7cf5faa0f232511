"""One condition means the same for a document and for a column."""

import numpy as np
import pytest

from qwen3.train.data.errors import DataError
from qwen3.train.data.rules import Rule


@pytest.mark.parametrize("text", ["education>=2", "a<0.1", "a<=0.1", "a>-1", "language=en,de", "language!=und"])
def test_a_document_and_a_column_are_judged_alike(text):
    rule = Rule.parse(f" {text.replace(',', ' , ')} ")
    assert str(rule) == text
    if isinstance(rule.operand, tuple):
        words = ["en", "und", "de", "fr"]
        assert rule.mask(np.arange(4), words).tolist() == [rule.holds(word) for word in words]
    else:
        column = np.array([-1, 0, 0.1, 2, 3], np.float32)
        assert rule.mask(column, None).tolist() == [rule.holds(value) for value in column.tolist()]


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
    with pytest.raises(DataError, match="is a number"):
        Rule.parse("education=2").mask(np.zeros(3, np.float32), None)
