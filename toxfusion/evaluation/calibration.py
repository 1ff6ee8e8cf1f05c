"""Calibration of probabilities: temperature from the validation part, slope, intercept and reliability
curve.
"""

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
_LOG_TEMPERATURE = (-3.0, 3.0)
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


def fit_temperature(label: np.ndarray, score: np.ndarray) -> Measure:
    """The temperature T that minimises the log loss of sigmoid(logit / T) (Guo et al. 2017).

    Args:
        label, score: [n], of the validation part only.

    Returns:
        T between e^-3 and e^3; undefined when the labels are of one class.
    """
    y, s = labelled(label, score)
    if reason := one_class_reason(y):
        return undefined(f"no temperature from validation: {reason}")
    z = logit(s)
    signed = np.where(y == 1, -z, z)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, signed / np.exp(log_temperature)).mean())

    found = optimize.minimize_scalar(loss, bounds=_LOG_TEMPERATURE, method="bounded")
    return Measure(float(np.exp(found.x)))


def scale(score: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """sigmoid(logit(score) / T), [n]; the order of the scores stays."""
    return special.expit(logit(score) / temperature)


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
    found = optimize.minimize(_loss, np.array([0.0, 1.0]), args=(y, z), jac=_gradient, method="BFGS")
    if abs(found.x[1]) > _STEEPEST_SLOPE or _separated(y, z):
        return undefined("scores separate the classes, so that the slope has no finite estimate")
    return Measure(float(found.x[1]))


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
