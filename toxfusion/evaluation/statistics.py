"""Statistics of weighted clusters: functions from cluster weights, float [draws, clusters], to values [draws].

Weights of ones give the value itself, and one row of a resampling gives one draw (``bootstrap``). Two methods are
compared on the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from toxfusion.evaluation.metrics import labelled
from toxfusion.study.vocabulary import N_GRADES

Statistic = Callable[[np.ndarray], np.ndarray]
_CELLS_AT_ONCE = 4_000_000
_DRAWS_AT_ONCE = 2048


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is not above 0."""
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, numerator / safe, np.nan)


@dataclass(frozen=True)
class PairShare:
    """The share of pairs in the right order, as a ratio of two quadratic forms in the cluster weights.

    With M[c, d] the pairs of units of clusters c and d that are in the right order, ties one half, and P[c, d] all such
    pairs, the share is w M w' / w P w': exact for every draw, at a cost that does not grow with the number of units.

    Attributes:
        right, pairs: float64 [C, C], M and P.
    """

    right: np.ndarray
    pairs: np.ndarray

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Weights float [draws, C] -> float64 [draws]; NaN in a draw without a pair."""
        first, second = np.flatnonzero(self.pairs.any(axis=1)), np.flatnonzero(self.pairs.any(axis=0))
        if len(first) == 0:
            return np.full(len(weights), np.nan)
        # Rare findings lie in few clusters: only these rows enter. One product serves both forms.
        both = np.concatenate([self.right[np.ix_(first, second)], self.pairs[np.ix_(first, second)]]).T
        out = np.empty(len(weights))
        for start in range(0, len(weights), _DRAWS_AT_ONCE):
            drawn = weights[start : start + _DRAWS_AT_ONCE]
            summed = (drawn[:, second] @ both).reshape(len(drawn), 2, len(first))
            hits, total = np.einsum("dkf,df->kd", summed, drawn[:, first])
            out[start : start + len(drawn)] = ratio(hits, total)
        return out

    def __add__(self, other: PairShare) -> PairShare:
        """Pairs of both, over the same clusters."""
        return PairShare(self.right + other.right, self.pairs + other.pairs)


def no_pairs(n_clusters: int) -> PairShare:
    """No pair of any of ``n_clusters`` clusters."""
    return PairShare(np.zeros((n_clusters, n_clusters)), np.zeros((n_clusters, n_clusters)))


def auroc_statistic(
    label: np.ndarray,
    score: np.ndarray,
    codes: np.ndarray,
    n_clusters: int,
    stratum: np.ndarray | None = None,
) -> PairShare:
    """AUROC with mid-rank ties: pairs of a positive and a negative unit.

    Args:
        label, score: [n]; rows without a label are left out.
        codes: int [n], cluster of each unit, < ``n_clusters``.
        stratum: [n], for example the fold: only pairs within a stratum count, which is the mean of the
            within-stratum AUROCs weighted by their numbers of pairs.
    """
    return graded_pairs(label, score, codes, n_clusters, stratum)


def graded_pairs(
    label: np.ndarray,
    score: np.ndarray,
    codes: np.ndarray,
    n_clusters: int,
    stratum: np.ndarray | None = None,
) -> PairShare:
    """Pairs of units of two different grades, right where the higher grade has the higher score.

    Of two grades that is AUROC; of more, Harrell's C without censoring. For few distinct labels: the cost grows with
    their number.

    Args: as `auroc_statistic`.
    """
    y, s, cluster = labelled(label, score, codes)
    cluster = cluster.astype(np.int64)
    keep = ~np.isnan(np.asarray(label, dtype=np.float64))
    strata = np.zeros(len(y), dtype=np.int64)
    if stratum is not None:
        strata = np.unique(np.asarray(stratum)[keep], return_inverse=True)[1]
    pairs = no_pairs(n_clusters)
    order = np.argsort(strata, kind="stable")
    for among in np.split(order, np.flatnonzero(np.diff(strata[order])) + 1):
        grades = np.unique(y[among])
        for grade in grades[1:]:
            # Lower grades are the negatives of this one; higher ones have their own turn.
            held = among[y[among] <= grade]
            _count_pairs(y[held] == grade, s[held], cluster[held], pairs.right, pairs.pairs)
    return pairs


def _count_pairs(
    positive: np.ndarray, s: np.ndarray, cluster: np.ndarray, ordered: np.ndarray, pairs: np.ndarray
) -> None:
    """Add the pairs of one stratum to ``ordered`` and ``pairs`` (float [C, C]); ``positive`` is bool [n]."""
    n_clusters = len(pairs)
    scores, of_positive = s[positive], cluster[positive]
    positives = np.bincount(of_positive, minlength=n_clusters)
    for c in np.unique(cluster[~positive]):
        negative = np.sort(s[~positive & (cluster == c)])
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

    def mean_over_classes(right: np.ndarray, of: np.ndarray) -> np.ndarray:
        return ratio(np.nan_to_num(ratio(right, of)).sum(axis=1), (of > 0).sum(axis=1).astype(np.float64))

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


def grouped_mean(
    make: Callable[[np.ndarray, np.ndarray, np.ndarray, int], Statistic],
    label: np.ndarray,
    score: np.ndarray,
    codes: np.ndarray,
    n_clusters: int,
    group: np.ndarray,
) -> Statistic:
    """A statistic of each group of units (a fold, a study), averaged by the number of units in the draw.

    Units of different groups are never set against each other. In a draw, groups that define no value are left out.

    Args:
        make: (label, score, codes, number of clusters) -> statistic.
        label, score, codes, group: [n].
    """
    names = np.unique(group)
    if len(names) < 2:
        return make(label, score, codes, n_clusters)
    members = [group == name for name in names]
    statistics = [make(label[m], score[m], codes[m], n_clusters) for m in members]
    sizes = np.stack([np.bincount(codes[m & ~np.isnan(label)], minlength=n_clusters) for m in members])

    def statistic(weights: np.ndarray) -> np.ndarray:
        values, size = np.stack([of(weights) for of in statistics]), sizes @ weights.T
        size = np.where(np.isnan(values), 0.0, size)
        return ratio((np.nan_to_num(values) * size).sum(axis=0), size.sum(axis=0))

    return statistic


def oracle_share_statistic(method: Statistic, oracle: Statistic) -> Statistic:
    """(AUROC - 0.5) / (oracle AUROC - 0.5); NaN in draws whose oracle is not above chance."""
    return lambda weights: ratio(method(weights) - 0.5, oracle(weights) - 0.5)
