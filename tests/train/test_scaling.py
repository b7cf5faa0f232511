"""Laws recovered from made-up runs whose law is known, and held-out predictions."""

import itertools
import warnings

import numpy as np
import pytest

from qwen3.train.scaling import PowerLaw, Run, ScalingError, deepseek, fit, fit_loss, groups, optima, step_law

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28
SIZES, LENGTHS = np.geomspace(1e6, 3e8, 6), np.geomspace(1e8, 1e10, 6)


def loss(parameters, tokens):
    return E + A / parameters**ALPHA + B / tokens**BETA


def rate(parameters, tokens):
    return 20 * parameters**-0.6 * tokens**0.25


def batch(tokens):
    return 0.7 * tokens**0.55


def sweep(noise, seed=0, sizes=SIZES, lengths=LENGTHS, kind="dense"):
    """Five rates and five batches around the best of each, which cost the loss as parabolas in the logarithm do."""
    random = np.random.default_rng(seed)
    runs = []
    for n, d in itertools.product(sizes, lengths):
        for lr, b in [(x, 1) for x in (0.4, 0.7, 1.1, 2, 3)] + [(1, x) for x in (0.3, 0.6, 1.2, 2.5, 4)]:
            worse = 1 + 0.02 * np.log(lr) ** 2 + 0.015 * np.log(b) ** 2
            value = loss(n, d) * worse * np.exp(noise * random.standard_normal())
            runs.append(Run(n, d, rate(n, d) * lr, batch(d) * b, value, kind))
    return runs


@pytest.mark.parametrize("seed", range(3))
def test_exponents_come_back_within_three_hundredths_under_noise(seed):
    random = np.random.default_rng(seed)
    pairs = itertools.product(SIZES, LENGTHS)
    runs = [Run(n, d, 1, 1, loss(n, d) * np.exp(0.003 * random.standard_normal())) for n, d in pairs]
    law = fit_loss(runs, random)
    assert law.named["a"].value == pytest.approx(ALPHA, abs=0.03)
    assert law.named["b"].value == pytest.approx(BETA, abs=0.03)
    # Held out: ten times the largest size, ten times the most tokens.
    assert law(3e9, 1e11).value == pytest.approx(loss(3e9, 1e11), rel=0.015)
    assert law.named["a"].low < law.named["a"].value < law.named["a"].high


def test_without_noise_the_law_is_exact():
    runs = [Run(n, d, 1, 1, loss(n, d)) for n, d in itertools.product(SIZES[::2], LENGTHS[::2])]
    values = [each.value for each in fit_loss(runs, np.random.default_rng(0)).named.values()]
    assert values == pytest.approx([E, A, B, ALPHA, BETA], rel=1e-3)


def test_a_sweep_gives_all_three_laws():
    laws = fit(sweep(0.0002))
    assert laws.learning_rate.of_parameters == pytest.approx(-0.6, abs=0.03)
    assert laws.learning_rate.of_tokens == pytest.approx(0.25, abs=0.03)
    assert laws.batch.of_tokens == pytest.approx(0.55, abs=0.03)
    assert laws.batch.of_parameters == 0
    target = laws.learning_rate(3e9, 1e11)
    assert target.value == pytest.approx(rate(3e9, 1e11), rel=0.5)
    assert target.low < target.value < target.high
    assert laws.loss(3e9, 1e11).value == pytest.approx(loss(3e9, 1e11), rel=0.015)


def test_a_best_value_at_the_edge_of_a_sweep_is_no_optimum():
    runs = [Run(1e6, 1e8, lr, 1, 3 - lr) for lr in (0.1, 0.2, 0.3)]
    assert optima(runs, "learning_rate") == []
    runs.append(Run(1e6, 1e8, 0.4, 1, 3.0))
    assert len(optima(runs, "learning_rate")) == 1


def test_a_sample_of_any_exponents_makes_a_wide_interval_and_no_warning():
    law = PowerLaw(1.0, -0.5, 0.3, np.array([[0.0, -0.5, 0.3], [500.0, 500.0, 500.0]] * 10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 1e300 < law(1e6, 1e9).high < np.inf
        assert 1e200 < law.named["scale"].high < np.inf


def test_kinds_and_stages_are_apart():
    runs = sweep(0, sizes=SIZES[:1], lengths=LENGTHS[:1]) + sweep(0, sizes=SIZES[:1], lengths=LENGTHS[:1], kind="moe")
    assert list(groups(runs)) == [("dense", "general"), ("moe", "general")]


def test_too_few_runs_say_what_is_missing():
    with pytest.raises(ScalingError, match="3 sizes and"):
        fit([Run(1e6, 1e8, 1, 1, 3.0), Run(1e6, 1e9, 1, 1, 2.9)])


def test_the_public_laws_are_as_published():
    # Qwen3-0.6B for 4 x 10^12 tokens, worked out by hand from the papers' constants.
    assert step_law(4.4e8, 4e12) == pytest.approx((1.79 * 6.906e-7 * 7384.6, 0.58 * 1.5644e7), rel=0.02)
    assert deepseek(4.4e8, 4e12) == pytest.approx((0.3118 * 1.056e22**-0.125, 0.2920 * 1.056e22**0.3271), rel=0.001)
