"""The mixture fitted on small proxy models: shares of groups that were tried, losses that came out, shares to use.

Each held-out loss is modelled as floor + exp(bias + slopes . shares), linear regression on log(loss - floor) with the
floor searched over a grid: the mixing law of Ye et al. (arXiv 2403.16952). The proposal is found as in RegMix (Liu et
al., arXiv 2407.01492): predict many random mixtures around the natural one and average the best. Running the proxies is
the trainer's job; this module knows only their numbers.

Legend: R proxy runs, G groups, T held-out targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwen3.train.data.errors import DataError

_FLOORS = np.linspace(0, 0.98, 99)
_RIDGE = 1e-6


@dataclass(frozen=True)
class MixtureFit:
    """What the proxy runs say of any mixture."""

    floor_T: np.ndarray
    bias_T: np.ndarray
    slopes_TG: np.ndarray
    held_out_error_T: np.ndarray
    """Root mean square error in nats of each run's loss as predicted by a fit to the other runs."""

    def predict(self, shares_RG: np.ndarray) -> np.ndarray:
        """[R, T] losses in nats."""
        return self.floor_T + np.exp(self.bias_T + shares_RG @ self.slopes_TG.T)


def fit(shares_RG: np.ndarray, losses_RT: np.ndarray) -> MixtureFit:
    """Fit the law to proxy runs. Needs two runs more than groups, with shares that add up to 1."""
    shares_RG, losses_RT = np.asarray(shares_RG, float), np.asarray(losses_RT, float)
    runs, groups = shares_RG.shape
    if runs < groups + 2:
        raise DataError(f"{runs} proxy runs cannot fit {groups} groups: make at least {groups + 2}")
    if (shares_RG < 0).any() or not np.allclose(shares_RG.sum(1), 1, atol=1e-6):
        raise DataError("the shares of a proxy run must not be negative and must add up to 1")
    if losses_RT.shape[0] != runs or not (np.isfinite(losses_RT) & (losses_RT > 0)).all():
        raise DataError("each proxy run needs finite losses above 0")
    made = [_fit_one(shares_RG, losses_R) for losses_R in losses_RT.T]
    errors = []
    for losses_R, (floor, _) in zip(losses_RT.T, made, strict=True):
        residuals = [
            _predict(floor, _regress(np.delete(shares_RG, run, 0), np.delete(losses_R, run), floor), shares_RG[run])
            - losses_R[run]
            for run in range(runs)
        ]
        errors.append(np.sqrt(np.mean(np.square(residuals))))
    coefficients = np.array([each for _, each in made])
    return MixtureFit(np.array([floor for floor, _ in made]), coefficients[:, 0], coefficients[:, 1:], np.array(errors))


def propose(
    fitted: MixtureFit,
    natural_G: Sequence[float],
    importance_T: Sequence[float],
    most_repeats: float = 4.0,
    num_candidates: int = 100_000,
    num_best: int = 100,
    seed: int = 0,
) -> np.ndarray:
    """[G] shares with the least weighted mean of predicted losses, among mixtures that use no group more than
    `most_repeats` times its natural share (that many epochs, when the data as a whole are seen once)."""
    natural = np.asarray(natural_G, float) / np.sum(natural_G)
    importance = np.asarray(importance_T, float) / np.sum(importance_T)
    random = np.random.default_rng(seed)
    concentrations = np.exp(random.uniform(0.0, np.log(50), num_candidates))[:, None]
    drawn = random.standard_gamma(concentrations * natural)
    candidates = drawn / np.maximum(drawn.sum(1, keepdims=True), 1e-300)
    candidates = candidates[(candidates <= most_repeats * natural + 1e-9).all(1)]
    candidates = np.concatenate([natural[None], candidates])
    losses = fitted.predict(candidates) @ importance
    return candidates[np.argsort(losses, kind="stable")[:num_best]].mean(0)


def weights(
    rules: Sequence[str], proposed_G: Sequence[float], natural_G: Sequence[float]
) -> tuple[tuple[str, float], ...]:
    """`Stage.weights` that turn natural shares into proposed ones; `rules` say which documents are in which group."""
    natural = np.asarray(natural_G, float) / np.sum(natural_G)
    return tuple((rule, float(share / own)) for rule, share, own in zip(rules, proposed_G, natural, strict=True))


def _fit_one(shares_RG: np.ndarray, losses_R: np.ndarray) -> tuple[float, np.ndarray]:
    """Floor and coefficients (bias first) of the least squared error in nats."""
    floors = _FLOORS * losses_R.min()
    tried = [(floor, _regress(shares_RG, losses_R, floor)) for floor in floors]
    errors = [np.square(_predict(*each, shares_RG) - losses_R).sum() for each in tried]
    return tried[int(np.argmin(errors))]


def _regress(shares_RG: np.ndarray, losses_R: np.ndarray, floor: float) -> np.ndarray:
    # Shares add up to 1, so bias and slopes are not separate; the ridge picks the smallest of equal answers.
    inputs = np.column_stack([np.ones(len(shares_RG)), shares_RG])
    left = inputs.T @ inputs + _RIDGE * np.eye(inputs.shape[1])
    return np.linalg.solve(left, inputs.T @ np.log(losses_R - floor))


def _predict(floor: float, coefficients: np.ndarray, shares: np.ndarray) -> np.ndarray:
    return floor + np.exp(coefficients[0] + shares @ coefficients[1:])
