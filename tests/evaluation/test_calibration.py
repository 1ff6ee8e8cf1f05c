"""Platt scaling, slope and intercept of simulated probabilities whose calibration is known."""

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


def test_platt_scaling_undoes_overconfidence_and_a_shift() -> None:
    label, score = _simulated(3.0, shift=-1.0)
    platt = calibration.fit_platt(label, score)
    assert (platt.slope, platt.intercept, platt.reason) == (
        pytest.approx(1 / 3, rel=0.05), pytest.approx(-1.0, abs=0.1), "",
    )  # fmt: skip
    scaled = platt.of(score)
    assert calibration.slope(label, scaled).value == pytest.approx(1.0, abs=1e-3)
    assert calibration.intercept(label, scaled).value == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_array_equal(np.argsort(scaled, kind="stable"), np.argsort(score, kind="stable"))


@pytest.mark.parametrize("prevalence", [0.01, 0.02, 0.05])
def test_weighted_positives_are_brought_back_to_their_prevalence(prevalence: float) -> None:
    """Scores of a loss that weighs positives 20 times: means far above the prevalence, and on it once calibrated."""
    rng = np.random.default_rng(1)
    for n in (100, 400, 2000):
        z = rng.normal(size=n)
        label = np.zeros(n)
        label[np.argsort(z + 2 * rng.normal(size=n))[n - max(1, round(prevalence * n)) :]] = 1
        weight = np.where(label == 1, 20.0, 1.0)
        fitted = LogisticRegression().fit(z[:, None], label, sample_weight=weight)
        score = fitted.predict_proba(z[:, None])[:, 1]
        assert score.mean() > label.mean() + 0.05
        platt = calibration.fit_platt(label, score)
        assert platt.of(score).mean() == pytest.approx(label.mean(), abs=0.02)
        assert ("intercept only" in platt.reason) == (label.sum() < calibration.LEAST_OF_A_CLASS)


def test_few_positives_move_the_intercept_alone_and_none_are_not_impossible() -> None:
    rng = np.random.default_rng(2)
    score = rng.random(60)
    for n_positive in (0, 1, 9):
        label = np.zeros(60)
        label[:n_positive] = 1
        platt = calibration.fit_platt(label, score)
        assert platt.slope == 1.0
        # The mean of a prevalence under Jeffreys' prior.
        assert platt.of(score).mean() == pytest.approx((n_positive + 0.5) / 61)
    nothing = calibration.fit_platt(np.full(3, np.nan), np.full(3, 0.4))
    assert not nothing.defined
    assert "validation" in nothing.reason


def test_scores_that_rank_the_wrong_way_keep_their_order_and_the_prevalence() -> None:
    label, score = _simulated(-1.0, n=500)
    platt = calibration.fit_platt(label, score)
    assert platt.slope == pytest.approx(0.05)
    assert platt.of(score).mean() == pytest.approx(label.mean(), abs=1e-9)


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
    slope = calibration.slope(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.7, 0.9]))
    assert not slope.defined
    assert "separate" in slope.reason


def test_reliability_of_calibrated_scores_lies_on_the_diagonal() -> None:
    curve = calibration.reliability(*_simulated(1.0))
    assert curve.count.sum() == 20000
    assert len(curve.count) == 15
    np.testing.assert_allclose(curve.mean_score, curve.observed, atol=0.05)
