"""Calibration of probabilities: Platt scaling from the validation part, slope, intercept and reliability curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from toxfusion.evaluation.metrics import (
    ECE_BINS,
    Measure,
    equal_mass_bins,
    labelled,
    one_class_reason,
    undefined,
)

_SMALLEST = 1e-6
_SLOPES = (0.05, 20.0)
LEAST_OF_A_CLASS = 10
"""Validation units of the rarer class below which a slope would be noise: the intercept alone is fitted."""
_STEEPEST_SLOPE = 50.0


@dataclass(frozen=True)
class Reliability:
    """A reliability curve: mean score, observed share and number of units of each bin that holds any."""

    mean_score: np.ndarray
    observed: np.ndarray
    count: np.ndarray


def logit(score: np.ndarray) -> np.ndarray:
    """Logits of probabilities, which are first kept 1e-6 away from 0 and 1."""
    return special.logit(np.clip(np.asarray(score, dtype=np.float64), _SMALLEST, 1 - _SMALLEST))


@dataclass(frozen=True)
class Platt:
    """Calibrated probability of a score: sigmoid(intercept + slope logit(score)) (Platt 1999).

    The slope is above 0, so that the order of the scores stays.

    Attributes:
        slope, intercept: NaN where there is no labelled unit.
        reason: why they are NaN, or why the slope was not fitted; "" where both were.
    """

    slope: float
    intercept: float
    reason: str = ""

    @property
    def defined(self) -> bool:
        return not np.isnan(self.intercept)

    def of(self, score: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64 [n]."""
        return special.expit(self.intercept + self.slope * logit(score))


def fit_platt(label: np.ndarray, score: np.ndarray) -> Platt:
    """Slope and intercept of least log loss on the validation part.

    With an intercept the mean of the calibrated probabilities is the prevalence, whatever weights positives had in
    training. Where either class has fewer than ``LEAST_OF_A_CLASS`` units, the slope stays 1 and the intercept alone is
    fitted: a correction of the prior, to the prevalence (k + 1/2) / (n + 1) of Jeffreys' prior, since k may be 0.

    Args:
        label, score: [n], 0, 1 or NaN (left out), and probabilities, of the validation part only.
    """
    y, s = labelled(label, score)
    if len(y) == 0:
        return Platt(float("nan"), float("nan"), "no calibration from validation: no labelled unit")
    z, n_positive = logit(s), int(y.sum())
    rarer = min(n_positive, len(y) - n_positive)
    if rarer < LEAST_OF_A_CLASS:
        shift = _shift(z, (n_positive + 0.5) / (len(y) + 1))
        return Platt(1.0, shift, f"intercept only: {rarer} validation units of the rarer class")
    start = np.array([_shift(z, n_positive / len(y)), 1.0])
    bounds = [(None, None), _SLOPES]
    fit = optimize.minimize(_loss, start, args=(y, z), jac=_gradient, method="L-BFGS-B", bounds=bounds)
    # Of the slope found, the intercept to the last digit: the mean then is the prevalence.
    fitted = float(fit.x[1])
    return Platt(fitted, _shift(fitted * z, n_positive / len(y)))


def _shift(z: np.ndarray, prevalence: float) -> float:
    """The intercept at which the mean of sigmoid(intercept + z) is ``prevalence``, in 0 to 1, both excluded."""
    far = float(np.abs(z).max()) + abs(float(special.logit(prevalence))) + 1.0
    return float(optimize.brentq(lambda a: float(special.expit(a + z).mean()) - prevalence, -far, far))


def slope(label: np.ndarray, score: np.ndarray) -> Measure:
    """Calibration slope b of logit P(y = 1) = a + b logit(score); 1 is ideal, below 1 is overconfident (Cox
    1958).
    """
    y, s = labelled(label, score)
    if reason := one_class_reason(y):
        return undefined(reason)
    z = logit(s)
    if np.ptp(z) == 0:
        return undefined("every score is the same")
    fit = optimize.minimize(_loss, np.array([0.0, 1.0]), args=(y, z), jac=_gradient, method="BFGS")
    if abs(fit.x[1]) > _STEEPEST_SLOPE or _separated(y, z):
        return undefined("scores separate the classes, so that the slope has no finite estimate")
    return Measure(float(fit.x[1]))


def intercept(label: np.ndarray, score: np.ndarray) -> Measure:
    """Calibration in the large: a of logit P(y = 1) = a + logit(score); above 0 means too low scores.

    The slope is kept at 1 (Van Calster et al. 2019).
    """
    y, s = labelled(label, score)
    if reason := one_class_reason(y):
        return undefined(reason)
    z = logit(s)
    return Measure(float(optimize.brentq(lambda a: float((special.expit(a + z) - y).sum()), -40.0, 40.0)))


def _separated(y: np.ndarray, z: np.ndarray) -> bool:
    positive, negative = z[y == 1], z[y == 0]
    return bool(positive.min() >= negative.max() or positive.max() <= negative.min())


def _loss(line: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    at = line[0] + line[1] * z
    return float((np.logaddexp(0.0, at) - y * at).mean())


def _gradient(line: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    residual = special.expit(line[0] + line[1] * z) - y
    return np.array([residual.mean(), (residual * z).mean()])


def reliability(label: np.ndarray, score: np.ndarray, n_bins: int = ECE_BINS) -> Reliability:
    """The reliability curve over equal-mass bins."""
    y, s = labelled(label, score)
    bins = equal_mass_bins(s, n_bins)
    count = np.bincount(bins, minlength=n_bins)
    used = count > 0
    mean_score = np.bincount(bins, weights=s, minlength=n_bins)[used] / count[used]
    observed = np.bincount(bins, weights=y, minlength=n_bins)[used] / count[used]
    return Reliability(mean_score, observed, count[used])
