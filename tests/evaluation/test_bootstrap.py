"""The cluster bootstrap: exact statistics in every draw, agreement with scipy, coverage, paired
differences.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from toxfusion.evaluation import bootstrap, metrics, statistics


def _clustered(seed: int, n_clusters: int = 12, each: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(n_clusters), each)
    label = rng.integers(0, 2, len(cluster)).astype(float)
    score = np.round(rng.normal(size=len(cluster)) + label + rng.normal(size=n_clusters)[cluster], 1)
    return label, score, cluster


def _drawn_rows(weights: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [np.flatnonzero(cluster == c) for c, w in enumerate(weights) for _ in range(int(w))]
    )


def test_every_statistic_equals_the_metric_on_the_drawn_rows() -> None:
    label, score, cluster = _clustered(0)
    called, grade = (score > 0.5).astype(float), np.clip(np.round(score) + 1, 0, 4)
    true_grade = np.clip(label * 2 + (cluster % 3 == 0), 0, 4)
    resampling = bootstrap.resample(cluster, draws=20, seed=1)
    codes = resampling.codes(cluster)
    balanced, matthews = statistics.confusion_statistics(label, called, codes, 12)
    cases = [
        (statistics.auroc_statistic(label, score, codes, 12), sk.roc_auc_score, label, score),
        (statistics.auprc_statistic(label, score, codes, 12), sk.average_precision_score, label, score),
        (balanced, sk.balanced_accuracy_score, label, called),
        (matthews, sk.matthews_corrcoef, label, called),
        (
            statistics.kappa_statistic(true_grade, grade, codes, 12),
            lambda a, b: sk.cohen_kappa_score(a, b, labels=range(5), weights="quadratic"),
            true_grade,
            grade,
        ),
        (
            statistics.mean_statistic((label - score) ** 2, codes, 12),
            lambda a, b: ((a - b) ** 2).mean(),
            label,
            score,
        ),
    ]
    for statistic, metric, truth, predicted in cases:
        values = statistic(resampling.weights)
        for weights, value in zip(resampling.weights, values, strict=True):
            units = _drawn_rows(weights, codes)
            assert value == pytest.approx(metric(truth[units], predicted[units]))


def test_within_strata_auroc_is_the_pair_weighted_mean() -> None:
    label, score, cluster = _clustered(2)
    stratum = np.arange(len(label)) % 3
    statistic = statistics.auroc_statistic(label, score, cluster, 12, stratum)
    total, pairs = 0.0, 0
    for k in range(3):
        y, s = label[stratum == k], score[stratum == k]
        n = int(y.sum() * (1 - y).sum())
        total, pairs = total + n * float(sk.roc_auc_score(y, s)), pairs + n
    assert statistic(np.ones((1, 12)))[0] == pytest.approx(total / pairs)


def test_a_score_that_only_knows_the_stratum_is_at_chance_within_strata() -> None:
    stratum = np.repeat([0, 1], 40)
    label = np.tile([0, 0, 0, 1], 20)
    label[40:] = 1 - label[40:]
    codes = np.arange(80) % 8
    inside = statistics.auroc_statistic(label, stratum, codes, 8, stratum)(np.ones((1, 8)))[0]
    across = statistics.auroc_statistic(label, stratum, codes, 8)(np.ones((1, 8)))[0]
    assert inside == pytest.approx(0.5)
    assert across == pytest.approx(0.75)


def test_compound_level_draws_keep_both_classes() -> None:
    label = np.array([1.0] * 3 + [0.0] * 9)
    names = np.array([f"c{i}" for i in range(12)])
    resampling = bootstrap.resample(names, strata=label, draws=500)
    assert (resampling.weights[:, resampling.codes(names[:3])].sum(axis=1) == 3).all()
    assert (resampling.weights.sum(axis=1) == 12).all()
    free = bootstrap.resample(names, draws=500)
    statistic = statistics.auroc_statistic(label, np.arange(12.0), free.codes(names), 12)
    names_sorted = np.array(free.clusters)
    positive = np.isin(names_sorted, names[:3])
    expected = int(
        ((free.weights[:, positive].sum(axis=1) == 0) | (free.weights[:, ~positive].sum(axis=1) == 0)).sum()
    )
    assert expected > 0
    assert bootstrap.interval(statistic, free).undefined_draws == expected


def test_a_compound_of_two_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="'a'"):
        bootstrap.resample(["a", "a", "b"], strata=[0, 1, 1])


def test_draws_do_not_depend_on_the_order_of_rows() -> None:
    names = np.array(["b", "a", "c", "a"])
    first, second = bootstrap.resample(names, seed=3), bootstrap.resample(names[::-1], seed=3)
    assert first.clusters == second.clusters
    np.testing.assert_array_equal(first.weights, second.weights)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_interval_agrees_with_scipy_where_units_are_independent(method: str) -> None:
    values = np.random.default_rng(5).exponential(size=60)
    resampling = bootstrap.resample(np.arange(60), draws=20000, seed=0)
    statistic = statistics.mean_statistic(values, resampling.codes(np.arange(60)), 60)
    ours = bootstrap.interval(statistic, resampling, method=method)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method=method, rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.012)
    assert ours.high == pytest.approx(theirs.high, abs=0.012)


def test_a_share_of_none_or_all_has_the_exact_interval_of_its_compounds() -> None:
    cluster = np.repeat(np.arange(10), 3)
    resampling = bootstrap.resample(cluster, draws=100)
    codes = resampling.codes(cluster)
    none, text = bootstrap.share_interval(np.zeros(30), codes, resampling)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 10))  # (1 - p)^10 = 0.025
    assert "10 compounds" in text
    everything = bootstrap.share_interval(np.ones(30), codes, resampling)[0]
    assert (everything.low, everything.high) == (pytest.approx(0.025 ** (1 / 10)), 1)
    some, text = bootstrap.share_interval((cluster < 4).astype(float), codes, resampling)
    assert some == bootstrap.interval(statistics.mean_statistic((cluster < 4), codes, 10), resampling)
    assert text == ""


def test_clusters_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    cluster = np.repeat(np.arange(20), 10)
    effect = rng.normal(size=20)
    label = (effect[cluster] > 0).astype(float)
    score = rng.normal(size=20)[cluster] + label
    by_cluster, by_row = bootstrap.resample(cluster), bootstrap.resample(np.arange(200))
    wide = bootstrap.interval(
        statistics.auroc_statistic(label, score, by_cluster.codes(cluster), 20), by_cluster
    )
    narrow = bootstrap.interval(
        statistics.auroc_statistic(label, score, by_row.codes(np.arange(200)), 200), by_row
    )
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_coverage_of_the_compound_level_interval() -> None:
    true = stats.norm.cdf(1 / np.sqrt(2))
    label = np.repeat([0.0, 1.0], 30)
    covered = 0
    for seed in range(200):
        score = np.random.default_rng(seed).normal(size=60) + label
        resampling = bootstrap.resample(np.arange(60), strata=label, draws=400, seed=seed)
        interval = bootstrap.interval(
            statistics.auroc_statistic(label, score, resampling.codes(np.arange(60)), 60), resampling
        )
        covered += interval.low <= true <= interval.high
    assert 0.89 <= covered / 200 <= 0.99


def test_identical_methods_differ_by_exactly_nothing() -> None:
    label, score, cluster = _clustered(6)
    resampling = bootstrap.resample(cluster)
    statistic = statistics.auroc_statistic(label, score, resampling.codes(cluster), 12)
    difference = bootstrap.paired_difference(statistic, statistic, resampling)
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_a_better_method_has_a_small_p_and_a_positive_interval() -> None:
    rng = np.random.default_rng(7)
    label = np.repeat([0.0, 1.0], 40)
    good, noise = label + 0.4 * rng.normal(size=80), rng.normal(size=80)
    resampling = bootstrap.resample(np.arange(80), strata=label)
    codes = resampling.codes(np.arange(80))
    first, second = (statistics.auroc_statistic(label, s, codes, 80) for s in (good, noise))
    difference = bootstrap.paired_difference(first, second, resampling)
    back = bootstrap.paired_difference(second, first, resampling)
    assert difference.low > 0.2
    assert difference.p < 0.01
    assert (back.value, back.low, back.p) == (
        -difference.value,
        pytest.approx(-difference.high),
        difference.p,
    )


def test_more_draws_begin_with_the_same_ones() -> None:
    few, many = (
        bootstrap.resample(np.arange(30), strata=np.arange(30) % 2, draws=n, seed=3) for n in (700, 3500)
    )
    np.testing.assert_array_equal(many.weights[:700], few.weights)
    np.testing.assert_array_equal(np.concatenate([few.weights, *few.beyond(3500)]), many.weights)
    assert (many.weights[:, many.strata == 0].sum(axis=1) == 15).all()
    assert many.weights.mean() == 1
    assert many.weights.var() == pytest.approx(
        14 / 15, abs=0.02
    )  # of a multinomial count of 15 draws from 15


def test_draws_follow_the_number_of_tests_so_that_holm_can_pass() -> None:
    """Fifty comparisons at the floor of p: corrected, 2,000 draws left them at 0.05, and now at 0.005."""
    rng = np.random.default_rng(7)
    label = np.repeat([0.0, 1.0], 40)
    resampling = bootstrap.resample(np.arange(80), strata=label)
    codes = resampling.codes(np.arange(80))
    scores = label + 0.4 * rng.normal(size=80), rng.normal(size=80), label + 0.4 * rng.normal(size=80)
    good, noise, like = (statistics.auroc_statistic(label, s, codes, 80) for s in scores)
    few = bootstrap.paired_difference(good, noise, resampling)
    assert (few.p, few.p_draws, few.at_floor) == (2 / 2001, 2000, True)
    assert bootstrap.holm([few.p] * 50).min() > 0.049
    draws = bootstrap.draws_for(50)
    sure = bootstrap.paired_difference(good, noise, resampling, p_draws=draws)
    assert (sure.p, sure.p_draws, sure.at_floor) == (2 / (draws + 1), draws, True)
    assert bootstrap.holm([sure.p] * 50).max() < 0.01
    assert (sure.low, sure.high) == (few.low, few.high)
    # What is far from the floor needs no more draws.
    close = bootstrap.paired_difference(good, like, resampling, p_draws=draws)
    assert (close.p_draws, close.at_floor) == (2000, False)
    assert bootstrap.draws_for(1) == bootstrap.DRAWS


def test_permuted_labels_are_at_chance() -> None:
    rng = np.random.default_rng(8)
    inside = 0
    for _ in range(20):
        label = rng.permutation(np.repeat([0.0, 1.0], 25))
        score = np.arange(50.0)
        resampling = bootstrap.resample(np.arange(50), strata=label, draws=500)
        codes = resampling.codes(np.arange(50))
        interval = bootstrap.interval(statistics.auroc_statistic(label, score, codes, 50), resampling)
        inside += interval.low <= 0.5 <= interval.high
    assert inside >= 17


def test_macro_leaves_out_what_a_draw_cannot_define() -> None:
    label, score, cluster = _clustered(9)
    never = np.zeros_like(label)
    defined = statistics.auroc_statistic(label, score, cluster, 12)
    hollow = statistics.auroc_statistic(never, score, cluster, 12)
    weights = bootstrap.resample(cluster, draws=50).weights
    np.testing.assert_allclose(statistics.mean_of([defined, hollow])(weights), defined(weights))
    assert np.isnan(statistics.mean_of([hollow])(weights)).all()


def test_oracle_share_by_hand() -> None:
    share = statistics.oracle_share_statistic(
        lambda w: np.array([0.6, 0.6, 0.6]), lambda w: np.array([0.7, 0.5, 0.4])
    )
    np.testing.assert_allclose(share(np.ones((3, 1))), [0.5, np.nan, np.nan])


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(
        bootstrap.holm([0.04, 0.01, np.nan, 0.03, 0.9]), [0.09, 0.04, np.nan, 0.09, 0.9]
    )
    assert len(bootstrap.holm([])) == 0


def test_two_thousand_draws_of_a_whole_study() -> None:
    label, score, cluster = _clustered(10, n_clusters=150, each=20)
    resampling = bootstrap.resample(cluster)
    assert resampling.weights.shape == (2000, 150)
    interval = bootstrap.interval(
        statistics.auroc_statistic(label, score, resampling.codes(cluster), 150), resampling
    )
    assert interval.low < metrics.auroc(label, score).value < interval.high


def test_one_compound_gives_no_interval_and_no_p_value() -> None:
    """Every draw is the whole sample: an interval of no width would look like certainty."""
    label, score, _ = _clustered(2)
    resampling = bootstrap.resample(np.zeros(len(label), dtype=int), draws=50)
    codes = resampling.codes(np.zeros(len(label), dtype=int))
    first, second = (statistics.auroc_statistic(label, s, codes, 1) for s in (score, -score))
    difference = bootstrap.paired_difference(first, second, resampling)
    assert difference.value == pytest.approx(2 * sk.roc_auc_score(label, score) - 1)
    assert np.isnan([difference.low, difference.high, difference.p]).all()
    assert np.isnan(bootstrap.interval(first, resampling, method="bca").low)
