"""Point metrics against hand-worked values and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from toxfusion.evaluation import metrics, statistics
from toxfusion.evaluation.statistics import Statistic

LABEL = np.array([0, 0, 1, 1, 0, 1])
SCORE = np.array([0.1, 0.4, 0.35, 0.8, 0.35, 0.9])


def _whole(statistic: Statistic, n: int) -> float:
    """The statistic of all n units, each once."""
    return float(statistic(np.ones((1, n)))[0])


def _kappa(grade: np.ndarray, called: np.ndarray) -> float:
    n = len(grade)
    return _whole(statistics.kappa_statistic(grade, called, np.arange(n), n), n)


def test_auroc_by_hand() -> None:
    # 9 pairs; 0.35 beats 0.1, ties with 0.35 (one half), loses to 0.4; 0.8 and 0.9 win all three.
    assert metrics.auroc(LABEL, SCORE).value == pytest.approx((1.5 + 3 + 3) / 9)


def test_auroc_agrees_with_scikit_learn_under_ties() -> None:
    rng = np.random.default_rng(0)
    label, score = rng.integers(0, 2, 300), np.round(rng.random(300), 1)
    assert metrics.auroc(label, score).value == pytest.approx(sk.roc_auc_score(label, score))


def test_unlabelled_rows_do_not_count() -> None:
    label = np.append(LABEL, [np.nan, np.nan]).astype(float)
    score = np.append(SCORE, [0.99, 0.01])
    assert metrics.auroc(label, score) == metrics.auroc(LABEL, SCORE)


@pytest.mark.parametrize("label", [np.ones(4), np.zeros(4), np.full(4, np.nan)])
def test_one_class_is_nan_with_a_reason(label: np.ndarray) -> None:
    for measure in (
        metrics.auroc(label, SCORE[:4]),
        metrics.choose_threshold(label, SCORE[:4]),
        metrics.sensitivity_at_specificity(label, SCORE[:4], 0.9),
    ):
        assert not measure.defined
        assert "labelled unit" in measure.reason


def test_nan_score_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        metrics.auroc(LABEL, np.where(LABEL == 1, np.nan, 0.5))


def test_threshold_separates_by_hand() -> None:
    label, score = np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.5, 0.9])
    # Cuts at 0.35 (2/3 + 1) and 0.75 (1 + 1/2): the first is better.
    assert metrics.choose_threshold(label, score).value == pytest.approx(0.35)


def test_calls_by_hand() -> None:
    label, called = np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 0, 1])
    balanced, matthews = (
        _whole(s, 5) for s in statistics.confusion_statistics(label, called, np.arange(5), 5)
    )
    assert balanced == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert matthews == pytest.approx((2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2))


def test_threshold_of_specificity_by_hand() -> None:
    label, score = np.array([0, 0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.6, 0.5, 0.9])
    # Three of four negatives lie below the midpoint of 0.3 and 0.5, all four below that of 0.6 and 0.9.
    assert metrics.threshold_of_specificity(label, score, 0.75).value == pytest.approx(0.4)
    assert metrics.threshold_of_specificity(label, score, 0.76).value == pytest.approx(0.75)
    # A negative on top: only a threshold above every score keeps it out.
    above = metrics.threshold_of_specificity(label, np.array([0.1, 0.2, 0.3, 0.95, 0.5, 0.9]), 0.9).value
    assert 0.95 < above < 0.9501
    assert metrics.threshold_of_specificity(np.zeros(4), score[:4], 0.75).defined
    assert (
        "no labelled unit is negative" in metrics.threshold_of_specificity(np.ones(3), score[:3], 0.9).reason
    )


def test_sensitivity_at_specificity_by_hand() -> None:
    negatives = np.arange(20) / 20
    label = np.concatenate([np.zeros(20), np.ones(4)])
    score = np.concatenate([negatives, [0.86, 0.91, 0.97, 0.2]])
    assert metrics.sensitivity_at_specificity(label, score, 0.95).value == pytest.approx(0.5)
    assert metrics.sensitivity_at_specificity(label, score, 0.90).value == pytest.approx(0.75)


def test_brier_by_hand() -> None:
    assert metrics.brier(np.array([1, 0]), np.array([0.7, 0.4])).value == pytest.approx((0.09 + 0.16) / 2)


def test_ece_by_hand() -> None:
    # Two bins of two: scores 0.1, 0.3 with labels 0, 1 and 0.6, 0.8 with labels 1, 1.
    label, score = np.array([0, 1, 1, 1]), np.array([0.1, 0.3, 0.6, 0.8])
    expected = 0.5 * abs(0.5 - 0.2) + 0.5 * abs(1.0 - 0.7)
    assert metrics.expected_calibration_error(label, score, n_bins=2).value == pytest.approx(expected)


def test_ece_does_not_depend_on_the_order_of_ties() -> None:
    label, score = np.array([0, 1] * 20), np.full(40, 0.5)
    assert metrics.expected_calibration_error(label, score).value == pytest.approx(0)
    assert metrics.expected_calibration_error(np.sort(label), score).value == pytest.approx(0)


def test_quadratic_kappa_by_hand_and_at_its_limits() -> None:
    grade, called = np.array([0.0, 0, 4, 4]), np.array([0.0, 4, 4, 4])
    # Observed 16/4; expected by chance (1/4 * 1/2 + 3/4 * 1/2) * 16 = 8: kappa = 1 - 4/8.
    assert _kappa(grade, called) == pytest.approx(0.5)
    assert _kappa(grade, grade) == pytest.approx(1)
    assert np.isnan(_kappa(np.zeros(3), np.zeros(3)))


def test_cutoffs_call_each_grade_as_often_as_it_occurs() -> None:
    grade, expected = np.array([0, 0, 0, 0, 1, 2, 2, 0]), np.array([0.1, 0.2, 0.3, 0.2, 0.35, 0.4, 0.6, 0.5])
    cutoffs = metrics.choose_cutoffs(grade, expected)
    # Three of eight have grade 1 or more, two of them grade 2, none a higher one.
    np.testing.assert_allclose(cutoffs, [0.375, 0.45, np.inf, np.inf])
    assert metrics.as_grade(expected, cutoffs).tolist() == [0, 0, 0, 0, 0, 1, 2, 2]
    # Only the order counts, and a NaN grade not at all.
    stretched = metrics.choose_cutoffs(np.append(grade, np.nan), np.append(expected**3, 9.0))
    assert metrics.as_grade(expected**3, stretched).tolist() == [0, 0, 0, 0, 0, 1, 2, 2]


def test_cutoffs_of_ties_and_of_nothing() -> None:
    # One score for all: three of four have a grade, so all are called; with one of four, none is.
    tied = np.full(4, 0.5)
    assert metrics.choose_cutoffs(np.array([0, 1, 1, 1]), tied).tolist() == [0.5, np.inf, np.inf, np.inf]
    assert metrics.choose_cutoffs(np.array([0, 0, 0, 1]), tied).tolist() == [np.inf] * 4
    empty = metrics.choose_cutoffs(np.array([np.nan]), np.array([0.3]))
    assert np.isnan(empty).all()
    assert np.isnan(metrics.as_grade(np.array([1.0, 2.0]), empty)).all()
