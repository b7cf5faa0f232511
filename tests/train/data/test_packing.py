"""Every row is full, every token is in one row once, and few documents are cut."""

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3.train.data.errors import DataError
from qwen3.train.data.packing import pack, split


def tokens(documents, first, last):
    return sorted(
        (document, token)
        for document, begin, end in zip(documents.tolist(), first.tolist(), last.tolist(), strict=True)
        for token in range(begin, end)
    )


@hypothesis.settings(max_examples=40)
@given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=40), row=st.sampled_from([16, 64, 128]))
def test_rows_are_full_and_hold_every_token_once(lengths, row):
    lengths[-1] += -sum(lengths) % row
    given = (np.arange(len(lengths)), np.zeros(len(lengths), np.int64), np.array(lengths))
    pieces = split(*given, row)
    packed = pack(*pieces, row)
    assert tokens(packed.documents, packed.first, packed.last) == tokens(*given)
    sizes = packed.last - packed.first
    starts = [0, *packed.ends[:-1]]
    assert [int(sizes[start:end].sum()) for start, end in zip(starts, packed.ends, strict=True)] == [row] * len(packed)
    assert packed.cut_tokens <= sum(lengths)


@given(length=st.integers(1, 1000), longest=st.integers(1, 90), first=st.integers(0, 50))
def test_pieces_of_a_long_document_are_all_longer_than_half(length, longest, first):
    documents, begins, ends = split(np.array([4]), np.array([first]), np.array([first + length]), longest)
    assert set(documents.tolist()) == {4}
    assert [first, *ends[:-1]] == begins.tolist()
    assert ends[-1] == first + length
    sizes = ends - begins
    assert sizes.max() <= longest
    if length > longest:
        assert 2 * sizes.min() >= longest
        assert (sizes == longest).sum() >= len(sizes) - 2


def test_documents_that_fit_are_not_cut():
    lengths = np.array([60, 50, 50, 40, 100, 30, 70])
    packed = pack(np.arange(7), np.zeros(7, np.int64), lengths, 100)
    assert packed.cut_tokens == 0
    assert len(packed.documents) == 7


def test_few_documents_are_cut_where_most_are_short():
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(6, 1, 4000).astype(int) + 10, 4096)
    lengths = np.append(lengths, 4096 - lengths.sum() % 4096)
    packed = pack(np.arange(4001), np.zeros(4001, np.int64), lengths, 4096)
    assert packed.cut_tokens / lengths.sum() < 0.005


def test_tokens_that_fill_no_whole_rows_are_refused():
    with pytest.raises(DataError, match="do not fill rows"):
        pack(np.array([0]), np.array([0]), np.array([5]), 10)
