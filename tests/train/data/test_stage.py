"""What a step sees is a function of its number, in exact shares, and every token is predicted once a pass."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from qwen3.train.data import stage as stages
from qwen3.train.data.errors import DataError
from qwen3.train.data.stage import HELD_OUT, TRAINED, Pool, Stage, StageData, general, long_context, reasoning

SMALL = Stage("small", 128, 1024)


def test_the_same_step_is_the_same_whatever_was_asked_before(dataset):
    one, other = StageData(dataset, SMALL), StageData(dataset, SMALL)
    digests = [one.digest(step) for step in range(6)]
    assert [other.digest(step) for step in reversed(range(6))] == digests[::-1]
    assert len(set(digests)) == 6
    assert StageData(dataset, SMALL, seed=1).digest(0) != digests[0]
    assert StageData(dataset, replace(SMALL, name="else")).digest(0) != digests[0]


def test_a_batch_of_another_size_goes_through_the_same_documents(dataset):
    small, large = StageData(dataset, SMALL), StageData(dataset, replace(SMALL, tokens_per_step=4096))
    assert large.counts("record", 0, 3) == small.counts("record", 0, 12)


def test_every_token_but_a_documents_first_is_a_target_once_a_pass(dataset):
    data = StageData(dataset, replace(SMALL, sequence_length=32))
    documents = np.flatnonzero(dataset.where((TRAINED,)))
    total = int(dataset.lengths[documents].sum())
    steps = -(-total // SMALL.tokens_per_step)
    targets: Counter[tuple[int, int]] = Counter()
    for step in range(steps):
        rows = data.rows(step)
        for document, first, last in zip(rows.documents, rows.first, rows.last, strict=True):
            end = min(last, dataset.lengths[document] - 1)
            targets.update((document, token) for token in range(first + 1, end + 1))
    repeated = [token for token, count in targets.items() if count > 1]
    assert set(targets) >= {(d, t) for d in documents for t in range(1, dataset.lengths[d])}
    # Only the last step reaches into the next pass.
    assert len(repeated) <= steps * SMALL.tokens_per_step - total


def test_arrays_say_what_follows_each_token_in_its_document(dataset):
    data = StageData(dataset, SMALL)
    for step in range(3):
        rows, arrays = data.rows(step), data.arrays(step, np.arange(data.num_rows))
        at = 0
        for document, first, last in zip(rows.documents, rows.first, rows.last, strict=True):
            ids = [*dataset.document(document).tolist(), None]
            here = slice(at, at + last - first)
            assert arrays.tokens_T[here].tolist() == ids[first:last]
            assert arrays.positions_T[here].tolist() == list(range(last - first))
            expected = ids[first + 1 : last + 1]
            weights = arrays.loss_weight_T[here].tolist()
            assert weights == [float(id is not None) for id in expected]
            got = [target if weight else None for target, weight in zip(arrays.targets_T[here], weights, strict=True)]
            assert got == expected
            at += last - first
        assert at == SMALL.tokens_per_step == len(arrays.tokens_T) == sum(arrays.lengths)


def test_pools_have_their_exact_share_of_every_step(dataset):
    pools = (Pool(0.7, ("source=notes",)), Pool(0.3, ("source=tales",)))
    data = StageData(dataset, replace(SMALL, pools=pools))
    for step in range(5):
        assert data.counts("source", step, step + 1) == {"notes": 717, "tales": 307}
    assert data.counts("source", 0, 5) == {"notes": 5 * 717, "tales": 5 * 307}
    there = dataset.manifest.counts["source"]["notes"].tokens
    assert data.epochs("source", 0, 5)["notes"] == 5 * 717 / there


def test_weights_change_how_often_documents_come(dataset):
    data = StageData(dataset, replace(SMALL, weights=(("source=notes", 3.0), ("tokens>600", 0.0))))
    tokens = {
        word: int(dataset.lengths[dataset.where((TRAINED, f"source={word}", "tokens<=600"))].sum())
        for word in ("notes", "tales")
    }
    counts = data.counts("source", 0, 400)
    assert counts["notes"] / counts["tales"] == pytest.approx(3 * tokens["notes"] / tokens["tales"], rel=0.02)
    assert all(dataset.lengths[document] <= 600 for step in range(20) for document in data.rows(step).documents)


def test_long_context_has_three_quarters_from_documents_longer_than_half(dataset):
    stage = long_context(512, 8192)
    assert [pool.where for pool in stage.pools] == [("tokens>256",), ("tokens>=64", "tokens<=256")]
    assert [pool.where for pool in long_context().pools] == [("tokens>16384",), ("tokens>=4096", "tokens<=16384")]
    data = StageData(dataset, stage)
    long, packed_long = 0, 0
    for step in range(20):
        rows = data.rows(step)
        sizes, lengths = rows.last - rows.first, dataset.lengths[rows.documents]
        assert sizes[lengths > 256].sum() == 6144
        assert sizes[(lengths >= 64) & (lengths <= 256)].sum() == 2048
        long, packed_long = long + 6144, packed_long + int(sizes[sizes > 256].sum())
    # As packed, some pieces of long documents are shorter, for the cuts.
    assert packed_long / long > 0.6


def test_no_stage_sees_what_is_held_out(dataset):
    held_out = set(dataset.column("hash")[dataset.where((HELD_OUT,))].tolist())
    assert 0 < len(held_out) < 20
    own = replace(SMALL, where=("source=tales",))
    for stage in (general(128, 1024), reasoning(128, 1024), own):
        data = StageData(dataset, stage)
        seen = {dataset.column("hash")[document] for step in range(150) for document in data.rows(step).documents}
        assert held_out.isdisjoint(seen)


def test_an_evaluation_draws_held_out_documents_by_the_stages_own_rules(dataset):
    rules = {
        "where": replace(SMALL, where=("source=tales",)),
        "pool": replace(SMALL, pools=(Pool(1, ("source=tales",)),)),
        "weights": replace(SMALL, weights=(("source=notes", 0.0),)),
    }
    expected = set(np.flatnonzero(dataset.where((HELD_OUT, "source=tales"))).tolist())
    for stage in rules.values():
        data = StageData(dataset, stage, held_out=True)
        assert {document for step in range(50) for document in data.rows(step).documents.tolist()} == expected
    assert len(expected) < dataset.where((HELD_OUT,)).sum()
    with pytest.raises(DataError, match="passes the rules source=nobody, bucket<10"):
        StageData(dataset, replace(SMALL, where=("source=nobody",)), held_out=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokens_per_step": 1000}, "no whole number of rows"),
        ({"row_tokens": 64}, "no whole number of rows"),
        ({"where": ("source=nobody",)}, "no document of .* passes the rules source=nobody"),
        ({"pools": (Pool(1, ("mood>1",)),)}, "no label 'mood'"),
        ({"weights": (("source=tales", -1.0),)}, "is no weight"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(dataset, change, reason):
    with pytest.raises(DataError, match=reason):
        StageData(dataset, replace(SMALL, **change))


def test_rows_may_hold_several_sequences(dataset):
    data = StageData(dataset, replace(SMALL, row_tokens=512))
    rows = data.rows(0)
    assert len(rows) == 2
    assert (rows.last - rows.first).max() <= 128


def test_stages_are_known_by_name():
    assert {name: make().name for name, make in stages.STAGES.items()} == {name: name for name in stages.STAGES}
