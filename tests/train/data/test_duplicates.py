"""What is the same is found, what resembles is estimated, what differs stays, in however many parts."""

import numpy as np
import pytest

from qwen3.train.data import duplicates
from qwen3.train.data.duplicates import FINGERPRINT, find_duplicates, minima, text_hash


def fingerprints(documents):
    return np.array([(text_hash(str(ids.tolist())), minima(ids)) for ids in documents], FINGERPRINT)


def similarity(a, b):
    a, b = ({tuple(ids[i : i + 5]) for i in range(max(1, len(ids) - 4))} for ids in (a.tolist(), b.tolist()))
    return len(a & b) / len(a | b)


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 2000, rng.integers(3, 600)) for _ in range(120)]
    changed = made[7].copy()
    changed[len(changed) // 2] += 1
    other = np.concatenate([made[8][: len(made[8]) // 2], rng.integers(0, 2000, 200)])
    return [*made, made[5].copy(), changed, other, np.arange(2), np.arange(2)]


def test_equal_and_similar_documents_are_told_from_different_ones(documents):
    equal, similar = find_duplicates([fingerprints(documents)], True, 0.8)
    assert np.flatnonzero(equal).tolist() == [120, 124]
    assert np.flatnonzero(similar).tolist() == [121]


def test_the_answer_does_not_depend_on_the_parts(documents):
    whole = fingerprints(documents)
    expected = find_duplicates([whole], True, 0.8)
    for cuts in ([40], [1, 2, 121], [0, 60, 60]):
        assert np.array_equal(find_duplicates(np.split(whole, cuts), True, 0.8), expected)


def test_each_kind_can_be_left_out(documents):
    parts = [fingerprints(documents)]
    equal, similar = find_duplicates(parts, False, 0.8)
    assert not equal.any()
    assert np.flatnonzero(similar).tolist() == [120, 121, 124]
    equal, similar = find_duplicates(parts, True, 0)
    assert (equal.sum(), similar.sum()) == (2, 0)


@pytest.mark.parametrize("changes", [0, 3, 10, 30, 100])
def test_shared_minima_estimate_the_similarity(changes):
    rng = np.random.default_rng(changes)
    estimates, truths = [], []
    for _ in range(12):
        a = rng.integers(0, 3000, 500)
        b = a.copy()
        b[rng.choice(500, changes, replace=False)] = rng.integers(0, 3000, changes)
        estimates.append((minima(a) == minima(b)).mean())
        truths.append(similarity(a, b))
    assert np.mean(estimates) == pytest.approx(np.mean(truths), abs=0.04)


def test_most_pairs_above_the_bound_share_a_band():
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(60):
        a = rng.integers(0, 3000, 600)
        b = a.copy()
        b[rng.choice(600, 8, replace=False)] = 0  # Similarity about 0.88.
        found += find_duplicates([fingerprints([a, b])], True, 0.8)[1][1]
    assert found >= 52


def test_no_document_is_too_short_for_a_fingerprint():
    assert minima(np.array([7])).shape == (duplicates.NUM_MINIMA,)
    assert not np.array_equal(minima(np.array([7])), minima(np.array([8])))
