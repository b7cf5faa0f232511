"""The order of documents is a permutation, and a stream has every document as often as its weight says."""

from itertools import pairwise

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3.train.data.order import Stream, permute


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection_computed_for_each_index_alone(size, key):
    whole = permute(np.arange(size, dtype=np.uint64), size, key)
    assert np.array_equal(np.sort(whole), np.arange(size))
    some = np.array([size - 1, size // 2], np.uint64)
    assert np.array_equal(permute(some, size, key), whole[some.astype(int)])


def test_permute_looks_random():
    size = 10_000
    places = np.stack([permute(np.arange(size, dtype=np.uint64), size, key) for key in range(8)]).astype(int)
    # Fixed points and kept neighbours are Poisson with mean 1, the correlation with the index has deviation 0.01.
    assert (places == np.arange(size)).sum(1).max() <= 6
    assert (np.diff(places) == 1).sum(1).max() <= 6
    correlations = [np.corrcoef(row, np.arange(size))[0, 1] for row in (*places, *(places[0] - places[1:]))]
    assert np.abs(correlations).max() < 0.04


def tokens_of(stream, start, stop):
    documents, first, last = stream.pieces(start, stop)
    return [
        (document, token)
        for document, begin, end in zip(documents, first, last, strict=True)
        for token in range(begin, end)
    ]


@hypothesis.settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(5, 30), min_size=30, max_size=600),
    cuts=st.lists(st.integers(0, 4000), max_size=4),
    weighted=st.booleans(),
)
def test_any_slices_join_to_the_same_stream(lengths, cuts, weighted):
    lengths = np.array(lengths)
    weights = np.where(np.arange(len(lengths)) % 3, 1.0, 0.3) if weighted else np.ones(len(lengths))
    bounds = [0, *sorted(cuts), 4000]
    parts = [tokens_of(Stream(lengths, weights, 5), start, stop) for start, stop in pairwise(bounds) if start < stop]
    whole = tokens_of(Stream(lengths, weights, 5), 0, 4000)
    assert [token for part in parts for token in part] == whole
    assert len(whole) == 4000


def test_a_pass_has_every_document_once_whole_and_the_next_has_another_order():
    lengths = np.random.default_rng(0).integers(1, 50, 1000)
    stream, total = Stream(lengths, np.ones(1000), 7), int(lengths.sum())
    passes = [stream.pieces(number * total, (number + 1) * total) for number in range(3)]
    for documents, first, last in passes:
        assert np.array_equal(np.sort(documents), np.arange(1000))
        assert not first.any()
        assert np.array_equal(last, lengths[documents])
    assert not np.array_equal(passes[0][0], passes[1][0])
    assert np.array_equal(Stream(lengths, np.ones(1000), 7).pieces(0, total)[0], passes[0][0])
    assert not np.array_equal(Stream(lengths, np.ones(1000), 8).pieces(0, total)[0], passes[0][0])


def test_after_any_number_of_passes_a_document_was_seen_as_often_as_its_weight_says():
    rng = np.random.default_rng(1)
    lengths, weights = rng.integers(1, 50, 400), rng.choice([0.1, 0.5, 1.0, 3.7], 400)
    stream = Stream(lengths, weights, 3)
    rates = weights * lengths.sum() / (weights * lengths).sum()
    for passes in (1, 3, 10):
        documents, _, _ = stream.pieces(0, stream.pass_start(passes))
        seen = np.bincount(documents, minlength=400)
        assert np.abs(seen - passes * rates).max() < 1.001
    documents, _, _ = stream.pieces(0, stream.pass_start(50))
    assert np.bincount(documents, minlength=400) == pytest.approx(50 * rates, abs=1.01)


def test_a_position_far_along_costs_no_walk():
    lengths = np.full(1000, 10)
    stream = Stream(lengths, np.where(np.arange(1000) < 500, 1.0, 2.0), 3)
    number = 10**6
    start = stream.pass_start(number)
    assert stream.pass_of(start) == number
    assert stream.pass_of(start - 1) == number - 1
    assert sum(last - first for _, first, last in zip(*stream.pieces(start - 100, start + 100), strict=True)) == 200
