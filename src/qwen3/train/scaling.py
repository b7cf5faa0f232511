"""Scaling laws: sweeps to run, laws fitted to what came out, predictions for a target.

    loss            L(N, D) = E + A / N^a + B / D^b         (Hoffmann et al., arXiv 2203.15556, section 3.3)
    learning rate   c N^p D^q        batch  c D^q tokens    (the forms of Step Law, arXiv 2503.04715)

N are non-embedding parameters, those that one token meets in a mixture of experts; D tokens seen. Dense and sparse
models and the stages of training are fitted apart. Confidence intervals are percentiles over bootstrap samples of the
runs. The loss is fitted as in the paper, Huber's loss on the logarithm from many starts, by Levenberg and Marquardt's
method for all starts and samples at once. The public laws to compare with are `step_law` and `deepseek`.

Legend: S starts or samples, R runs, P the five parameters log E, log A, log B, a, b.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qwen3.train.step_law import learning_rate as step_law_rate

HUBER = 1e-3
SAMPLES = 200


class ScalingError(ValueError):
    """Runs that cannot be fitted or a law that cannot answer; the message says what is missing."""


@dataclass(frozen=True)
class Run:
    """What one training run of a sweep came to. `loss` is held-out, in nats; batch in tokens."""

    parameters: float
    tokens: float
    learning_rate: float
    batch: float
    loss: float
    kind: str = "dense"
    stage: str = "general"


@dataclass(frozen=True)
class Interval:
    """A value and its 95% confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LossLaw:
    """The five constants, and those of the bootstrap samples, [S, 5] as log E, log A, log B, a, b."""

    constants: tuple[float, ...]
    samples: np.ndarray

    def __call__(self, parameters: float, tokens: float) -> Interval:
        """The loss of a model of so many parameters after so many tokens."""
        every_SP = np.vstack([self.constants, self.samples])
        losses = np.exp(_log_loss(every_SP, np.log([parameters]), np.log([tokens])))[:, 0]
        return _interval(losses[0], losses[1:])

    @property
    def named(self) -> dict[str, Interval]:
        """E, A, B, a and b."""
        scale = [np.exp, np.exp, np.exp, float, float]
        return {
            name: _interval(float(turn(self.constants[p])), turn(self.samples[:, p]) if p < 3 else self.samples[:, p])
            for p, (name, turn) in enumerate(zip("EABab", scale, strict=True))
        }


@dataclass(frozen=True)
class PowerLaw:
    """scale N^of_parameters D^of_tokens; an exponent that the runs could not tell is 0."""

    scale: float
    of_parameters: float
    of_tokens: float
    samples: np.ndarray
    """[S, 3] of the bootstrap, the scale as its logarithm."""

    def __call__(self, parameters: float, tokens: float) -> Interval:
        inputs = np.array([1.0, np.log(parameters), np.log(tokens)])
        value = self.scale * parameters**self.of_parameters * tokens**self.of_tokens
        return _interval(value, _exp(self.samples @ inputs))

    @property
    def named(self) -> dict[str, Interval]:
        values = (self.scale, self.of_parameters, self.of_tokens)
        samples = (_exp(self.samples[:, 0]), self.samples[:, 1], self.samples[:, 2])
        names = ("scale", "exponent of parameters", "exponent of tokens")
        return {name: _interval(*each) for name, *each in zip(names, values, samples, strict=True)}


@dataclass(frozen=True)
class Laws:
    """What one kind of model in one stage follows; None where the sweep does not tell."""

    loss: LossLaw | None
    learning_rate: PowerLaw | None
    batch: PowerLaw | None


# ---- Public laws ----------------------------------------------------------------------------------------------


def step_law(parameters: float, tokens: float) -> tuple[float, float]:
    """Learning rate and batch in tokens (arXiv 2503.04715), the batch not rounded."""
    return step_law_rate(parameters, tokens), 0.58 * tokens**0.571


def deepseek(parameters: float, tokens: float) -> tuple[float, float]:
    """Learning rate and batch in tokens by compute (arXiv 2401.02954), C = 6 N D."""
    compute = 6 * parameters * tokens
    return 0.3118 * compute**-0.125, 0.2920 * compute**0.3271


# ---- Fits -----------------------------------------------------------------------------------------------------


def fit(runs: Sequence[Run], seed: int = 0) -> Laws:
    """The laws of runs of one kind and stage. Of the runs of one size and number of tokens the best one counts for the
    loss. ScalingError where there are too few for any law."""
    best = [min(same, key=lambda run: run.loss) for same in _clusters(runs)]
    random = np.random.default_rng(seed)
    sizes, lengths = len({run.parameters for run in best}), len({run.tokens for run in best})
    loss = fit_loss(best, random) if len(best) >= 6 and sizes >= 3 and lengths >= 3 else None
    rates = optima(runs, "learning_rate")
    batches = optima(runs, "batch")
    made = Laws(
        loss,
        _power_law(rates, random) if len(rates) >= 2 else None,
        _power_law(batches, random, by_parameters=False) if len(batches) >= 2 else None,
    )
    if made == Laws(None, None, None):
        raise ScalingError(
            f"{len(runs)} runs of {sizes} sizes and {lengths} numbers of tokens fit no law: the loss needs 3 sizes and "
            "3 numbers of tokens in 6 pairs; a rate or batch needs 3 values of it for each of 2 pairs"
        )
    return made


def fit_loss(runs: Sequence[Run], random: np.random.Generator) -> LossLaw:
    """The loss law of runs that each did as well as their size and tokens can."""
    log_n, log_d, log_loss = (np.log([getattr(run, name) for run in runs]) for name in ("parameters", "tokens", "loss"))
    if not np.isfinite(log_loss).all():
        raise ScalingError("a loss is not a number above 0: leave out the runs that failed")
    floors = log_loss.min() + np.log([0.3, 0.6, 0.9])
    starts_SP = np.array(
        [
            # So that each term is about a third of the smallest loss where the data are.
            (floor, log_loss.min() - 1 + a * log_n.mean(), log_loss.min() - 1 + b * log_d.mean(), a, b)
            for floor, a, b in itertools.product(floors, (0.2, 0.35, 0.6), (0.2, 0.35, 0.6))
        ]
    )
    ones = np.ones((len(starts_SP), len(runs)))
    found_SP, errors_S = _minimise(starts_SP, ones, log_n, log_d, log_loss)
    best = found_SP[np.argmin(errors_S)]
    weights_SR = random.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), SAMPLES).astype(float)
    samples_SP, _ = _minimise(np.tile(best, (SAMPLES, 1)), weights_SR, log_n, log_d, log_loss)
    return LossLaw(tuple(best.tolist()), samples_SP)


def _log_loss(constants_SP: np.ndarray, log_n: np.ndarray, log_d: np.ndarray) -> np.ndarray:
    """[S, R]"""
    return np.logaddexp.reduce(_terms(constants_SP, log_n, log_d), axis=0)


def _terms(constants_SP: np.ndarray, log_n: np.ndarray, log_d: np.ndarray) -> np.ndarray:
    """[3, S, R] logarithms of the three terms."""
    e, a, b, alpha, beta = (column[:, None] for column in constants_SP.T)
    return np.stack([e + 0 * log_n, a - alpha * log_n, b - beta * log_d])


def _minimise(
    constants_SP: np.ndarray, weights_SR: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_loss: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Least Huber loss of the logarithms, from each start under its own weights; constants [S, P] and losses [S].

    Levenberg-Marquardt steps on the squares reweighted by Huber's influence, each kept only if the loss fell.
    """

    def errors(constants: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        residual_SR = _log_loss(constants, log_n, log_d) - log_loss
        size = np.abs(residual_SR)
        huber = np.where(size <= HUBER, residual_SR**2 / 2, HUBER * (size - HUBER / 2))
        return residual_SR, (weights_SR * huber).sum(1)

    damping_S = np.full(len(constants_SP), 1e-3)
    residual_SR, error_S = errors(constants_SP)
    for _ in range(400):
        terms = _terms(constants_SP, log_n, log_d)
        share = np.exp(terms - np.logaddexp.reduce(terms, axis=0))
        jacobian_SRP = np.stack([*share, -share[1] * log_n, -share[2] * log_d], axis=-1)
        influence_SR = weights_SR * np.minimum(1, HUBER / np.maximum(np.abs(residual_SR), 1e-12))
        weighted = jacobian_SRP * influence_SR[..., None]
        curvature = np.einsum("srp,srq->spq", weighted, jacobian_SRP)
        slope = np.einsum("srp,sr->sp", weighted, residual_SR)
        diagonal = np.einsum("spp->sp", curvature)
        damped = curvature + np.eye(5) * (damping_S[:, None] * diagonal + 1e-15)[:, None, :]
        trial_SP = constants_SP - np.linalg.solve(damped, slope[..., None])[..., 0]
        trial_residual, trial_error = errors(trial_SP)
        better = trial_error < error_S
        is_falling = (trial_error < error_S * (1 - 1e-10)).any()
        constants_SP = np.where(better[:, None], trial_SP, constants_SP)
        residual_SR = np.where(better[:, None], trial_residual, residual_SR)
        error_S = np.where(better, trial_error, error_S)
        damping_S = np.clip(np.where(better, damping_S / 3, damping_S * 4), 1e-12, 1e12)
        if not is_falling and (better | (damping_S >= 1e10)).all():
            break
    return constants_SP, error_S


def optima(runs: Sequence[Run], of: str) -> list[tuple[float, float, float]]:
    """(parameters, tokens, best value of `of`) for each size and number of tokens for which 3 values or more were tried
    with the same value of the other choice; of several such rows the one with the best run.

    The vertex of a parabola in log-log through the best run and its neighbours. A best run at the edge of what was
    tried says only that the optimum lies beyond, and is left out.
    """
    other = "batch" if of == "learning_rate" else "learning_rate"
    found = []
    for same in _clusters(runs):
        rows: dict[int, list[Run]] = {}
        for run in same:
            # Whole sequences and steps make values that were meant to be equal differ a little.
            rows.setdefault(round(50 * np.log(getattr(run, other))), []).append(run)
        tried = [_best(row, lambda run: getattr(run, of)) for row in rows.values()]
        tried = [row for row in tried if len(row) >= 3]
        if not tried:
            continue
        row = min(tried, key=lambda row: min(run.loss for run in row))
        row.sort(key=lambda run: getattr(run, of))
        best = min(range(len(row)), key=lambda number: row[number].loss)
        if 0 < best < len(row) - 1:
            x, y = (np.log([getattr(run, name) for run in row[best - 1 : best + 2]]) for name in (of, "loss"))
            second, first, _ = np.polyfit(x - x[1], y, 2)
            found.append((row[best].parameters, row[best].tokens, float(np.exp(x[1] - first / (2 * second)))))
    return found


def _clusters(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of one size whose tokens lie within 10%."""
    found: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: (run.parameters, run.tokens)):
        if found and found[-1][0].parameters == run.parameters and run.tokens <= 1.1 * found[-1][0].tokens:
            found[-1].append(run)
        else:
            found.append([run])
    return found


def _power_law(
    points: Sequence[tuple[float, float, float]], random: np.random.Generator, *, by_parameters: bool = True
) -> PowerLaw:
    logs = np.log(np.array(points))
    inputs = np.column_stack([np.ones(len(points)), logs[:, 0] * by_parameters, logs[:, 1]])
    # An axis along which the points do not vary by themselves gets the exponent 0.
    used = [0]
    for axis in (2, 1):
        if np.linalg.matrix_rank(inputs[:, [*used, axis]]) > len(used):
            used.append(axis)

    def solve(rows: np.ndarray) -> np.ndarray:
        out = np.zeros(3)
        out[used] = np.linalg.lstsq(inputs[rows][:, used], logs[rows, 2], rcond=None)[0]
        return out

    def draw() -> np.ndarray:
        # A sample that says less than the points do would answer for another law.
        while True:
            rows = random.integers(0, len(points), len(points))
            if np.linalg.matrix_rank(inputs[rows][:, used]) == len(used):
                return rows

    whole = solve(np.arange(len(points)))
    samples = np.array([solve(draw()) for _ in range(SAMPLES)])
    return PowerLaw(float(np.exp(whole[0])), float(whole[1]), float(whole[2]), samples)


def _best(runs: Sequence[Run], key: Callable[[Run], object]) -> list[Run]:
    """The run of least loss for each key."""
    found: dict[object, Run] = {}
    for run in runs:
        if key(run) not in found or run.loss < found[key(run)].loss:
            found[key(run)] = run
    return list(found.values())


def _exp(samples: np.ndarray) -> np.ndarray:
    """As far as floats go: a sample of runs that lie almost on a line has exponents of any size."""
    return np.exp(np.minimum(samples, 700.0))


def _interval(value: float, samples: np.ndarray) -> Interval:
    low, high = np.percentile(samples, (2.5, 97.5))
    return Interval(float(value), float(low), float(high))


def groups(runs: Sequence[Run]) -> Mapping[tuple[str, str], list[Run]]:
    """Runs by kind and stage."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.kind, run.stage), []).append(run)
    return found
