"""The mixing law is recovered from runs that follow it, and the proposal finds its optimum."""

import numpy as np
import pytest

from qwen3.train.data.errors import DataError
from qwen3.train.data.mixture import fit, propose, weights

FLOOR = np.array([1.6, 2.1])
BIAS = np.array([0.2, 0.1])
SLOPES = np.array([[-1.5, 0.3, -0.2], [0.4, -1.2, -0.1]])


def true_losses(shares):
    return FLOOR + np.exp(BIAS + shares @ SLOPES.T)


def proxies(count, noise, seed=0):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(3), count)
    return shares, true_losses(shares) + rng.normal(0, noise, (count, 2))


def test_the_law_is_recovered_and_predicts_unseen_mixtures():
    fitted = fit(*proxies(40, 0.002))
    unseen, losses = proxies(200, 0.0, seed=1)
    assert np.abs(fitted.predict(unseen) - losses).max() < 0.01
    assert (fitted.held_out_error_T < 0.005).all()


def test_the_proposal_is_near_the_true_optimum_and_keeps_its_bound():
    fitted = fit(*proxies(40, 0.002))
    natural = np.array([0.2, 0.2, 0.6])
    grid = np.array([[a, b, 1 - a - b] for a in np.arange(0, 1, 0.01) for b in np.arange(0, 1 - a, 0.01)])
    allowed = grid[(grid <= 4 * natural).all(1)]
    best = allowed[np.argmin(true_losses(allowed).mean(1))]
    proposed = propose(fitted, natural, [1, 1])
    assert proposed.sum() == pytest.approx(1)
    assert true_losses(proposed[None]).mean() - true_losses(best[None]).mean() < 0.015
    assert true_losses(proposed[None]).mean() < true_losses(natural[None]).mean() - 0.05
    bounded = propose(fitted, natural, [1, 0], most_repeats=1.5)
    assert (bounded <= 1.5 * natural + 1e-9).all()
    assert bounded[0] > natural[0]
    assert np.array_equal(propose(fitted, natural, [1, 1]), proposed)


def test_proposed_shares_become_factors_of_rules():
    made = weights(["domain=code", "domain!=code"], [0.3, 0.7], [10, 90])
    assert [rule for rule, _ in made] == ["domain=code", "domain!=code"]
    assert [factor for _, factor in made] == pytest.approx([3.0, 0.7 / 0.9])


@pytest.mark.parametrize(
    ("shares", "losses", "reason"),
    [
        (np.eye(3), np.ones((3, 1)), "3 proxy runs cannot fit 3 groups"),
        (np.full((6, 2), 0.6), np.ones((6, 1)), "must add up to 1"),
        (np.full((6, 2), 0.5), np.full((6, 1), np.nan), "finite losses"),
    ],
)
def test_runs_that_say_nothing_are_refused(shares, losses, reason):
    with pytest.raises(DataError, match=reason):
        fit(shares, losses)
