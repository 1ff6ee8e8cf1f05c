"""Cluster bootstrap over compounds, vectorised over draws: intervals, paired differences, Holm's correction.

A statistic is a function from cluster weights, float [draws, clusters], to values [draws]; the weights of
ones give its point value, a row of a resampling gives one draw. Two methods are compared on the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from toxfusion.evaluation.metrics import N_GRADES, labelled

Statistic = Callable[[np.ndarray], np.ndarray]
IntervalMethod = Literal["percentile", "bca"]
DRAWS = 2000
_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Resampling:
    """Bootstrap draws of clusters.

    Attributes:
        clusters: names, sorted, [C].
        weights: float64 [draws, C], how often each cluster is in each draw.
    """

    clusters: tuple[str, ...]
    weights: np.ndarray

    @property
    def varies(self) -> bool:
        """Whether draws differ at all: with one cluster (a stratum) they do not, and say nothing of uncertainty."""
        return bool((self.weights != 1).any())

    def codes(self, of_units: Sequence[str] | np.ndarray) -> np.ndarray:
        """int [n], the column of each unit's cluster; raises KeyError for a cluster that is not resampled."""
        column = {name: i for i, name in enumerate(self.clusters)}
        return np.array([column[str(name)] for name in of_units], dtype=np.int64)


@dataclass(frozen=True)
class Interval:
    """A value, its 95 % interval, and how many draws were undefined (one class only)."""

    value: float
    low: float
    high: float
    draws: int
    undefined_draws: int


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference with a two-sided bootstrap p-value for "no difference"."""

    p: float


def resample(
    clusters: Sequence[str] | np.ndarray,
    *,
    strata: Sequence[float] | np.ndarray | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Resampling:
    """Draw clusters with replacement; the same clusters, strata and seed give the same draws in any order of
    rows.

    Args:
        clusters: [n], the compound of each unit (repeats are one cluster).
        strata: [n], for example the class of a compound-level task: each stratum keeps its number of
            clusters. A cluster must lie in one stratum.
        draws: number of draws.

    Raises:
        ValueError: no cluster, or a cluster in two strata.
    """
    units = np.asarray(clusters, dtype=str)
    names, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    if len(names) == 0:
        raise ValueError("nothing to resample: there is no labelled unit.")
    of_unit = np.zeros(len(units)) if strata is None else np.asarray(strata, dtype=np.float64)
    of_cluster = of_unit[first]
    if (of_unit != of_cluster[inverse]).any():
        name = units[of_unit != of_cluster[inverse]][0]
        raise ValueError(f"compound {name!r} lies in two strata; strata are for labels of compounds only.")
    rng = np.random.default_rng(seed)
    weights = np.zeros((draws, len(names)))
    for stratum in np.unique(of_cluster):
        members = np.flatnonzero(of_cluster == stratum)
        weights[:, members] = rng.multinomial(
            len(members), np.full(len(members), 1 / len(members)), size=draws
        )
    return Resampling(tuple(names.tolist()), weights)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is not above 0."""
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, numerator / safe, np.nan)


def auroc_statistic(
    label: np.ndarray,
    score: np.ndarray,
    codes: np.ndarray,
    n_clusters: int,
    stratum: np.ndarray | None = None,
) -> Statistic:
    """AUROC with mid-rank ties as a ratio of two quadratic forms in the cluster weights.

    With M[c, d] the number of pairs (a positive of cluster c, a negative of cluster d) in the right order,
    ties one half, and P[c, d] the number of all such pairs, AUROC(w) = w M w' / w P w'. This is exact for
    every draw and costs C^2 a draw whatever the number of units.

    Args:
        label, score: [n]; rows without a label are left out.
        codes: int [n], cluster of each unit, < ``n_clusters``.
        stratum: [n], for example dose level x time: only pairs within a stratum count, which is the mean of
            the within-stratum AUROCs weighted by their numbers of pairs.
    """
    y, s, cluster = labelled(label, score, codes)
    cluster = cluster.astype(np.int64)
    keep = ~np.isnan(np.asarray(label, dtype=np.float64))
    strata = np.zeros(len(y), dtype=np.int64)
    if stratum is not None:
        strata = np.unique(np.asarray(stratum)[keep], return_inverse=True)[1]
    ordered = np.zeros((n_clusters, n_clusters))
    pairs = np.zeros((n_clusters, n_clusters))
    for k in np.unique(strata):
        _count_pairs(y[strata == k], s[strata == k], cluster[strata == k], ordered, pairs)

    def statistic(weights: np.ndarray) -> np.ndarray:
        right = np.einsum("dc,dc->d", weights @ ordered, weights)
        return ratio(right, np.einsum("dc,dc->d", weights @ pairs, weights))

    return statistic


def _count_pairs(
    y: np.ndarray, s: np.ndarray, cluster: np.ndarray, ordered: np.ndarray, pairs: np.ndarray
) -> None:
    """Add the pairs of one stratum to ``ordered`` and ``pairs`` (float [C, C])."""
    n_clusters = len(pairs)
    scores, of_positive = s[y == 1], cluster[y == 1]
    positives = np.bincount(of_positive, minlength=n_clusters)
    for c in np.unique(cluster[y == 0]):
        negative = np.sort(s[(y == 0) & (cluster == c)])
        below = np.searchsorted(negative, scores, side="left") + np.searchsorted(
            negative, scores, side="right"
        )
        ordered[:, c] += np.bincount(of_positive, weights=below / 2, minlength=n_clusters)
        pairs[:, c] += positives * len(negative)


def auprc_statistic(label: np.ndarray, score: np.ndarray, codes: np.ndarray, n_clusters: int) -> Statistic:
    """Average precision, sum over distinct scores of (recall step) x precision, with weighted units."""
    y, s, cluster = labelled(label, score, codes)
    order = np.argsort(-s, kind="stable")
    y, s, cluster = y[order], s[order], cluster[order].astype(np.int64)
    last_of_tie = np.flatnonzero(np.append(np.diff(s) != 0, True)) if len(s) else np.zeros(0, dtype=int)

    def statistic(weights: np.ndarray) -> np.ndarray:
        step = max(1, _CELLS_AT_ONCE // max(len(y), 1))
        return np.concatenate([_draws(weights[i : i + step]) for i in range(0, len(weights), step)])

    def _draws(weights: np.ndarray) -> np.ndarray:
        unit = weights[:, cluster]
        called = np.cumsum(unit, axis=1)[:, last_of_tie]
        hits = np.cumsum(unit * y, axis=1)[:, last_of_tie]
        if hits.shape[1] == 0:
            return np.full(len(weights), np.nan)
        precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
        area = (np.diff(hits, axis=1, prepend=0.0) * precision).sum(axis=1)
        defined = (hits[:, -1] > 0) & (hits[:, -1] < called[:, -1])
        return np.where(defined, ratio(area, hits[:, -1]), np.nan)

    return statistic


def _per_cluster(values: np.ndarray, cluster: np.ndarray, n_clusters: int) -> np.ndarray:
    return np.bincount(cluster.astype(np.int64), weights=values.astype(np.float64), minlength=n_clusters)


def mean_statistic(values: np.ndarray, codes: np.ndarray, n_clusters: int) -> Statistic:
    """Mean over units of ``values`` [n]; NaN values are left out. Brier score and absolute error are such
    means.
    """
    v, cluster = labelled(values, codes)
    total, count = _per_cluster(v, cluster, n_clusters), _per_cluster(np.ones_like(v), cluster, n_clusters)
    return lambda weights: ratio(weights @ total, weights @ count)


def confusion_statistics(
    label: np.ndarray, called: np.ndarray, codes: np.ndarray, n_clusters: int
) -> tuple[Statistic, Statistic]:
    """Balanced accuracy and Matthews correlation of calls (1 or 0) made with a threshold from validation."""
    y, c, cluster = labelled(label, called, codes)
    cells = np.stack(
        [_per_cluster((y == a) & (c == b), cluster, n_clusters) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))],
        axis=1,
    )

    def balanced(weights: np.ndarray) -> np.ndarray:
        tp, fn, fp, tn = (weights @ cells).T
        return (ratio(tp, tp + fn) + ratio(tn, tn + fp)) / 2

    def matthews(weights: np.ndarray) -> np.ndarray:
        tp, fn, fp, tn = (weights @ cells).T
        one_class = (tp + fn == 0) | (tn + fp == 0)
        scale = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        value = np.divide(tp * tn - fp * fn, scale, out=np.zeros_like(scale), where=scale > 0)
        return np.where(one_class, np.nan, value)

    return balanced, matthews


def kappa_statistic(grade: np.ndarray, called: np.ndarray, codes: np.ndarray, n_clusters: int) -> Statistic:
    """Quadratic kappa over grades 0..4: 1 - sum w O / sum w E, w = (i - j)^2 (Cohen 1968).

    Undefined where a graded unit is not called (NaN): without it, other units would be compared.
    """
    if np.isnan(called[~np.isnan(grade)]).any():
        return lambda weights: np.full(len(weights), np.nan)
    y, c, cluster = labelled(grade, called, codes)
    i, j = np.meshgrid(np.arange(N_GRADES), np.arange(N_GRADES), indexing="ij")
    penalty = ((i - j) ** 2).astype(np.float64)
    cells = np.stack(
        [
            _per_cluster((y == a) & (c == b), cluster, n_clusters)
            for a, b in zip(i.ravel(), j.ravel(), strict=True)
        ],
        axis=1,
    )

    def statistic(weights: np.ndarray) -> np.ndarray:
        observed = (weights @ cells).reshape(-1, N_GRADES, N_GRADES)
        total = observed.sum(axis=(1, 2))
        by_chance = np.einsum("di,dj,ij->d", observed.sum(axis=2), observed.sum(axis=1), penalty)
        disagreement = np.einsum("dij,ij->d", observed, penalty) * total
        return 1 - ratio(disagreement, by_chance)

    return statistic


def class_statistics(
    label: np.ndarray, called: np.ndarray, codes: np.ndarray, n_clusters: int
) -> tuple[Statistic, Statistic, Statistic]:
    """Accuracy, balanced accuracy and macro-F1 of exclusive classes.

    Balanced accuracy is the mean recall of the classes that occur; macro-F1 the mean of 2 TP / (2 TP + FP + FN) of
    those that occur or are called, both in the draw at hand.

    Args:
        label, called: [n], class as a number; a NaN label is left out.
    """
    y, c, cluster = labelled(label, called, codes)
    names = np.unique([*y, *c])
    hits, true, claimed = (
        np.stack([_per_cluster(which(k), cluster, n_clusters) for k in names], axis=1)
        if len(names)
        else np.zeros((n_clusters, 0))
        for which in (lambda k: (y == k) & (c == k), lambda k: y == k, lambda k: c == k)
    )

    def accuracy(weights: np.ndarray) -> np.ndarray:
        return ratio((weights @ hits).sum(axis=1), (weights @ true).sum(axis=1))

    def mean_over_classes(found: np.ndarray, of: np.ndarray) -> np.ndarray:
        return ratio(np.nan_to_num(ratio(found, of)).sum(axis=1), (of > 0).sum(axis=1).astype(np.float64))

    def balanced(weights: np.ndarray) -> np.ndarray:
        return mean_over_classes(weights @ hits, weights @ true)

    def macro_f1(weights: np.ndarray) -> np.ndarray:
        return mean_over_classes(2 * (weights @ hits), weights @ true + weights @ claimed)

    return accuracy, balanced, macro_f1


def spearman_statistic(label: np.ndarray, score: np.ndarray, codes: np.ndarray, n_clusters: int) -> Statistic:
    """Spearman's rank correlation: Pearson's of the weighted mid-ranks of each draw, O(n) a draw (Spearman 1904).

    NaN where labels or scores do not vary.
    """
    y, s, cluster = labelled(label, score, codes)
    cluster = cluster.astype(np.int64)

    def ranker(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        kinds, inverse = np.unique(values, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        starts = np.searchsorted(inverse[order], np.arange(len(kinds)))

        def ranks(unit: np.ndarray) -> np.ndarray:
            size = np.add.reduceat(unit[:, order], starts, axis=1)
            return (np.cumsum(size, axis=1) - size / 2)[:, inverse]

        return ranks

    rank_y, rank_s = ranker(y), ranker(s)

    def statistic(weights: np.ndarray) -> np.ndarray:
        step = max(1, _CELLS_AT_ONCE // max(len(y), 1))
        return np.concatenate([_draws(weights[i : i + step]) for i in range(0, len(weights), step)])

    def _draws(weights: np.ndarray) -> np.ndarray:
        if len(y) == 0:
            return np.full(len(weights), np.nan)
        unit = weights[:, cluster]
        total = unit.sum(axis=1, keepdims=True)
        # The mid-ranks of a draw have the mean total / 2, whatever the ties.
        a, b = rank_y(unit) - total / 2, rank_s(unit) - total / 2
        together, aa, bb = ((unit * x).sum(axis=1) for x in (a * b, a * a, b * b))
        return ratio(together, np.sqrt(aa * bb))

    return statistic


def r2_statistic(label: np.ndarray, score: np.ndarray, codes: np.ndarray, n_clusters: int) -> Statistic:
    """1 - sum (y - s)^2 / sum (y - mean y)^2, with the mean of the draw; NaN where labels do not vary."""
    y, s, cluster = labelled(label, score, codes)
    # About the mean of all units, so that the difference of squares below loses no digits.
    y, s = (y - y.mean(), s - y.mean()) if len(y) else (y, s)
    columns = [_per_cluster(v, cluster, n_clusters) for v in (np.ones_like(y), y, y**2, (y - s) ** 2)]

    def statistic(weights: np.ndarray) -> np.ndarray:
        n, total, square, residual = (weights @ column for column in columns)
        spread = square - ratio(total**2, n)
        return 1 - ratio(residual, np.where(spread > 1e-12 * square, spread, 0.0))

    return statistic


def mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """Macro average: in each draw the mean of those that are defined in it; NaN where none is."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        values = np.stack([s(weights) for s in statistics])
        defined = ~np.isnan(values)
        return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0).astype(np.float64))

    return statistic


def oracle_share_statistic(method: Statistic, oracle: Statistic) -> Statistic:
    """(AUROC - 0.5) / (oracle AUROC - 0.5); NaN in draws whose oracle is not above chance."""
    return lambda weights: ratio(method(weights) - 0.5, oracle(weights) - 0.5)


def interval(
    statistic: Statistic,
    resampling: Resampling,
    *,
    method: IntervalMethod = "percentile",
    confidence: float = 0.95,
) -> Interval:
    """Point value and bootstrap interval; no interval (NaN) where every draw is the whole sample.

    Args:
        method: ``percentile``, or ``bca``, bias-corrected and accelerated with a jackknife over clusters
            (Efron 1987).
    """
    n_clusters = len(resampling.clusters)
    value = float(statistic(np.ones((1, n_clusters)))[0])
    drawn = statistic(resampling.weights)
    defined = drawn[~np.isnan(drawn)]
    n_undefined = len(drawn) - len(defined)
    if np.isnan(value) or len(defined) == 0 or not resampling.varies:
        return Interval(value, float("nan"), float("nan"), len(drawn), n_undefined)
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca":
        tails = _bca_tails(statistic, value, defined, tails, n_clusters)
    low, high = np.quantile(defined, tails)
    return Interval(value, float(low), float(high), len(drawn), n_undefined)


def mean_over_clusters(values: np.ndarray, clusters: Sequence[str] | np.ndarray) -> Interval:
    """Mean of values, float [n], with the percentile interval over their clusters, [n]; NaN for no value."""
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    drawn = resample(clusters)
    codes = drawn.codes(np.asarray(clusters, dtype=str))
    return interval(mean_statistic(values, codes, len(drawn.clusters)), drawn)


def share_interval(
    hits: np.ndarray, codes: np.ndarray, resampling: Resampling, *, method: IntervalMethod = "percentile"
) -> tuple[Interval, str]:
    """A share of units with its interval, and what to know of it.

    Where no unit or every unit is a hit, all draws agree and a bootstrap interval has no width. It is then the exact
    binomial one (Clopper & Pearson 1934) with compounds, not units, as the trials, and the text says so.

    Args:
        hits: [n], 1 or 0; NaN is left out.
        codes: int [n], cluster of each unit.
    """
    found = interval(mean_statistic(hits, codes, len(resampling.clusters)), resampling, method=method)
    n = len(np.unique(codes[~np.isnan(hits)]))
    if found.value not in (0.0, 1.0):
        return found, ""
    exact = stats.binomtest(round(found.value) * n, n).proportion_ci(method="exact")
    text = f"interval: exact binomial over {n} compounds, as no draw differs"
    return replace(found, low=float(exact.low), high=float(exact.high)), text


def _bca_tails(
    statistic: Statistic, value: float, defined: np.ndarray, tails: np.ndarray, n_clusters: int
) -> np.ndarray:
    below = ((defined < value).mean() + (defined <= value).mean()) / 2
    below = np.clip(below, 1 / (2 * len(defined)), 1 - 1 / (2 * len(defined)))
    bias = stats.norm.ppf(below)
    left_out = statistic(np.ones((n_clusters, n_clusters)) - np.eye(n_clusters))
    pulled = np.nanmean(left_out) - left_out
    spread = np.nansum(pulled**2)
    acceleration = np.nansum(pulled**3) / (6 * spread**1.5) if spread > 0 else 0.0
    z = bias + stats.norm.ppf(tails)
    return stats.norm.cdf(bias + z / (1 - acceleration * z))


def paired_difference(
    first: Statistic, second: Statistic, resampling: Resampling, *, confidence: float = 0.95
) -> Difference:
    """first - second on the same draws, percentile interval and two-sided p.

    p = 2 min(P(d <= 0), P(d >= 0)) over the draws, with one draw added to each count so that it is never 0
    (Davison & Hinkley 1997), at most 1. It is NaN where the difference is undefined or the draws cannot differ.
    """

    def difference(weights: np.ndarray) -> np.ndarray:
        return first(weights) - second(weights)

    found = interval(difference, resampling, confidence=confidence)
    drawn = difference(resampling.weights)
    drawn = drawn[~np.isnan(drawn)]
    p = float("nan")
    if len(drawn) and not np.isnan(found.low):
        fewer = min((drawn <= 0).sum(), (drawn >= 0).sum())
        p = min(1.0, 2 * (int(fewer) + 1) / (len(drawn) + 1))
    return Difference(found.value, found.low, found.high, found.draws, found.undefined_draws, p)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down corrected p-values (Holm 1979); NaN stays NaN and does not count as a test."""
    raw = np.asarray(p, dtype=np.float64)
    out = np.full(len(raw), np.nan)
    tested = np.flatnonzero(~np.isnan(raw))
    order = tested[np.argsort(raw[tested], kind="stable")]
    factors = len(order) - np.arange(len(order))
    out[order] = np.minimum(np.maximum.accumulate(raw[order] * factors), 1.0)
    return out
