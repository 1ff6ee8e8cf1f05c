"""Temperature, slope and intercept of simulated probabilities whose calibration is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from toxfusion.evaluation import calibration


def _simulated(factor: float, shift: float = 0.0, n: int = 20000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    label = (rng.random(n) < special.expit(z + shift)).astype(float)
    return label, special.expit(factor * z)


def test_temperature_undoes_overconfidence() -> None:
    label, score = _simulated(3.0)
    assert calibration.fit_temperature(label, score).value == pytest.approx(3.0, rel=0.05)
    scaled = calibration.scale(score, 3.0)
    assert calibration.slope(label, scaled).value == pytest.approx(1.0, abs=0.05)
    np.testing.assert_array_equal(np.argsort(scaled, kind="stable"), np.argsort(score, kind="stable"))


def test_temperature_needs_both_classes() -> None:
    found = calibration.fit_temperature(np.ones(5), np.full(5, 0.4))
    assert not found.defined
    assert "validation" in found.reason


def test_slope_agrees_with_an_unpenalised_logistic_regression() -> None:
    label, score = _simulated(2.0, n=500)
    fitted = LogisticRegression(C=1e10, tol=1e-10, max_iter=1000).fit(
        calibration.logit(score)[:, None], label
    )
    assert calibration.slope(label, score).value == pytest.approx(fitted.coef_[0, 0], abs=1e-3)


def test_intercept_finds_scores_that_are_too_low() -> None:
    label, score = _simulated(1.0, shift=0.7)
    assert calibration.intercept(label, score).value == pytest.approx(0.7, abs=0.05)


def test_separated_classes_have_no_slope() -> None:
    found = calibration.slope(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.7, 0.9]))
    assert not found.defined
    assert "separate" in found.reason


def test_reliability_of_calibrated_scores_lies_on_the_diagonal() -> None:
    curve = calibration.reliability(*_simulated(1.0))
    assert curve.count.sum() == 20000
    assert len(curve.count) == 15
    np.testing.assert_allclose(curve.mean_score, curve.observed, atol=0.05)
