"""Concordance and Brier score under censoring, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import r2_score

from tests.evaluation.censored import integrated_brier, uno_c
from toxfusion.evaluation import statistics
from toxfusion.evaluation.survival import (
    Censoring,
    concordance_statistic,
    curve_on_grid,
    harrell_c,
)

NAN = float("nan")


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_censoring_by_hand_and_events_leave_before_the_censored() -> None:
    """At risk of censoring: 5 at time 1; at time 2 one event leaves first, so 1 of 3; 1 of 1 at time 4."""
    censoring = Censoring.fit(array(1, 2, 2, 3, 4), array(0, 1, 0, 1, 0))
    np.testing.assert_allclose(
        censoring.at(array(0.5, 1, 1.5, 2, 3.9, 4, 9)), [1, 0.8, 0.8, 1.6 / 3, 1.6 / 3, 0, 0]
    )
    np.testing.assert_allclose(censoring.before(array(1, 2, 4)), [1, 0.8, 1.6 / 3])


def test_harrell_by_hand() -> None:
    """Events at 1 and 3, censored at 2 and 4: pairs (1,2), (1,3), (1,4), (3,4); the risks tie once."""
    time, event = array(1, 2, 3, 4), array(1, 0, 1, 0)
    assert harrell_c(time, event, array(4, 3, 2, 1)).value == 1.0
    assert harrell_c(time, event, array(1, 2, 3, 4)).value == 0.0
    assert harrell_c(time, event, array(4, 4, 2, 3)).value == pytest.approx((0.5 + 1 + 1 + 0) / 4)


def test_ties_in_time_count_only_against_the_censored() -> None:
    """Two events at 2 are no pair; the one censored at 2 outlived both."""
    measure = harrell_c(array(2, 2, 2), array(1, 1, 0), array(3, 1, 2))
    assert measure.value == pytest.approx(1 / 2)
    assert np.isnan(harrell_c(array(2, 2), array(1, 1), array(3, 1)).value)


def test_units_without_time_or_event_do_not_count() -> None:
    whole = harrell_c(array(1, 2, 3), array(1, 1, 0), array(2, 3, 1))
    more = harrell_c(array(1, 2, NAN, 3, 4), array(1, 1, 1, 0, NAN), array(2, 3, 9, 1, 9))
    assert more.value == whole.value == pytest.approx(2 / 3)
    assert "no comparable pair" in harrell_c(array(1, 2), array(0, 0), array(1, 2)).reason


def test_uno_by_hand() -> None:
    """G is 1 before 2 and 2/3 after (one of three left at 2). The event at 3 weighs (3/2)^2 = 9/4."""
    time, event, risk = array(1, 2, 3, 4), array(1, 0, 1, 1), array(1, 0, 3, 2)
    # pairs: (1: 2, 3, 4) weight 1, one of three right; (3: 4) weight 9/4, right.
    assert uno_c(time, event, time, event, risk, 4.0) == pytest.approx((1 + 9 / 4) / (3 + 9 / 4))
    assert uno_c(time, event, time, event, risk, 3.0) == pytest.approx(1 / 3)


def test_uno_without_censoring_is_harrell_and_says_when_nothing_is_known() -> None:
    rng = np.random.default_rng(0)
    time, risk = rng.exponential(size=50), rng.normal(size=50)
    event = np.ones(50)
    assert uno_c(time, event, time, event, risk, 99.0) == pytest.approx(harrell_c(time, event, risk).value)
    with np.errstate(invalid="ignore"):
        gone = uno_c(array(1, 2), array(0, 0), array(3, 4), array(1, 1), array(1, 2), 5.0)
    assert np.isnan(gone)


def test_integrated_brier_by_hand() -> None:
    """No censoring; S = 1/2 throughout is 1/4, the truth is 0 but for the step that the trapezoid rule shares."""
    time, event = array(1.5, 2.5), array(1, 1)
    times = np.linspace(0, 3, 3001)[:-1]
    half = np.full((2, len(times)), 0.5)
    assert integrated_brier(time, event, time, event, times, half) == pytest.approx(0.25)
    truth = (times < time[:, None]).astype(float)
    assert integrated_brier(time, event, time, event, times, truth) == pytest.approx(0.0, abs=1e-3)
    never = np.ones((2, len(times)))
    # 1 from the event on: (1.5 + 0.5) of 3 for two units.
    assert integrated_brier(time, event, time, event, times, never) == pytest.approx(1 / 3, abs=1e-3)


def test_integrated_brier_weighs_against_censoring() -> None:
    """G is 1 before 1 and 1/2 from then on (one of two censored at 1); S = 0.6 at both times."""
    train_time, train_event = array(1, 3), array(0, 1)
    time, event, times = array(2, 0.5), array(1, 0), array(0.25, 1.75)
    measure = integrated_brier(train_time, train_event, time, event, times, np.full((2, 2), 0.6))
    # Unit 1 outlives both: 0.16 / 1 and 0.16 / 0.5. Unit 2 is censored before 1.75: 0.16 and 0.
    assert measure == pytest.approx((np.mean([0.16, 0.32]) + np.mean([0.16, 0.0])) / 2)


def test_draws_of_clusters_equal_the_metric_on_repeated_units() -> None:
    rng = np.random.default_rng(1)
    n, n_clusters = 60, 7
    time, event = rng.integers(1, 15, n).astype(float), rng.integers(0, 2, n).astype(float)
    risk, codes = rng.integers(0, 9, n).astype(float), rng.integers(0, n_clusters, n)
    statistic = concordance_statistic(time, event, risk, event, codes, n_clusters)
    weights = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=5).astype(float)
    for value, draw in zip(statistic(weights), weights, strict=True):
        units = np.repeat(np.arange(n), draw[codes].astype(int))
        assert value == pytest.approx(harrell_c(time[units], event[units], risk[units]).value)


def test_pairs_of_two_strata_do_not_count() -> None:
    time, event, risk = array(1, 2, 1, 2), array(1, 1, 1, 1), array(9, 8, 2, 1)
    codes, fold = np.zeros(4, np.int64), np.array(["0", "0", "1", "1"])
    ones = np.ones((1, 1))
    assert concordance_statistic(time, event, risk, event, codes, 1, fold)(ones) == pytest.approx([1.0])
    assert concordance_statistic(time, event, risk, event, codes, 1)(ones) == pytest.approx([3 / 4])


def test_the_curve_of_bins_is_linear_between_their_ends() -> None:
    times, curve = curve_on_grid(array(2, 4), 8.0, np.array([[0.8, 0.6, 0.2]]))
    at = dict(zip(times.round(6), curve[0], strict=True))
    assert (at[0.0], at[2.0], at[4.0]) == (1.0, 0.8, 0.6)
    assert at[1.04] == pytest.approx(0.896)
    assert at[6.0] == pytest.approx(0.4)
    assert times.max() < 8.0


def test_spearman_and_r2_of_draws_equal_scipy_and_sklearn() -> None:
    rng = np.random.default_rng(2)
    label, codes = rng.integers(0, 8, 40).astype(float), rng.integers(0, 6, 40)
    score = np.round(label + rng.normal(0, 3, 40))
    weights = rng.multinomial(6, np.full(6, 1 / 6), size=5).astype(float)
    ranked = statistics.spearman_statistic(label, score, codes, 6)(weights)
    explained = statistics.r2_statistic(label, score, codes, 6)(weights)
    for k, draw in enumerate(weights):
        units = np.repeat(np.arange(40), draw[codes].astype(int))
        assert ranked[k] == pytest.approx(spearmanr(label[units], score[units]).statistic)
        assert explained[k] == pytest.approx(r2_score(label[units], score[units]))
    assert np.isnan(statistics.r2_statistic(np.ones(3), np.zeros(3), np.zeros(3), 1)(np.ones((1, 1))))
    assert np.isnan(
        statistics.spearman_statistic(np.ones(3), array(1, 2, 3), np.zeros(3), 1)(np.ones((1, 1)))
    )


def test_metrics_of_classes_by_hand() -> None:
    """Classes 0, 0, 1, 2; called 0, 1, 1, 1: recalls 1/2, 1, 0; F1 2/3, 1/2, 0."""
    label, called, codes = array(0, 0, 1, 2, NAN), array(0, 1, 1, 1, 0), np.zeros(5)
    measured = [float(s(np.ones((1, 1)))[0]) for s in statistics.class_statistics(label, called, codes, 1)]
    assert measured == pytest.approx([2 / 4, 1 / 2, (2 / 3 + 1 / 2) / 3])
