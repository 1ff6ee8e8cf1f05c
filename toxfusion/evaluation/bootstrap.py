"""Cluster bootstrap over compounds, vectorised over draws: intervals, paired differences, Holm's correction.

What is drawn are weights of clusters; ``statistics`` has the functions of such weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import stats

from toxfusion.evaluation.statistics import Statistic, mean_statistic

IntervalMethod = Literal["percentile", "bca"]
DRAWS = 2000
_BLOCK = 1000
"""Draws that share one state of the generator, so that any number of draws begins with the same ones."""
DRAWS_A_TEST = 400
"""Draws for each of m tests: the least p is then 2 / (400 m), a tenth of what Holm's first step asks for at 0.05."""
FEW = 20
"""Draws on the rarer side of zero below which more are made: p then has an error of about a fifth of itself."""


@dataclass(frozen=True)
class Resampling:
    """Bootstrap draws of clusters.

    Attributes:
        clusters: names, sorted, [C].
        weights: float64 [draws, C], how often each cluster is in each draw.
        strata: int [C], clusters are drawn within theirs.
        seed: of the draws.
    """

    clusters: tuple[str, ...]
    weights: np.ndarray
    strata: np.ndarray
    seed: int

    @property
    def varies(self) -> bool:
        """Whether draws differ at all: with one cluster (a stratum) they do not, and say nothing of uncertainty."""
        return bool((self.weights != 1).any())

    def codes(self, of_units: Sequence[str] | np.ndarray) -> np.ndarray:
        """int [n], the column of each unit's cluster; raises KeyError for a cluster that is not resampled."""
        column = {name: i for i, name in enumerate(self.clusters)}
        return np.array([column[str(name)] for name in of_units], dtype=np.int64)

    def beyond(self, draws: int) -> Iterator[np.ndarray]:
        """The draws that follow upon ``weights``, up to ``draws`` in all: float64 [some, C] at a time."""
        for start in range(len(self.weights), draws, _BLOCK):
            stop = min(start + _BLOCK, draws)
            yield _draw(self.strata, start, stop, self.seed)


def _draw(strata: np.ndarray, start: int, stop: int, seed: int) -> np.ndarray:
    """Draws ``start`` to ``stop`` of clusters within strata, float64 [stop - start, C]."""
    blocks = []
    for block in range(start // _BLOCK, -(-stop // _BLOCK)):
        weights = np.empty((_BLOCK, len(strata)))
        for stratum in np.unique(strata):
            members = np.flatnonzero(strata == stratum)
            rng = np.random.default_rng([seed, block, int(stratum)])
            picked = rng.integers(0, len(members), size=(_BLOCK, len(members)))
            picked += np.arange(_BLOCK)[:, None] * len(members)
            counts = np.bincount(picked.ravel(), minlength=_BLOCK * len(members))
            weights[:, members] = counts.reshape(_BLOCK, len(members))
        first = block * _BLOCK
        blocks.append(weights[max(start - first, 0) : stop - first])
    return np.concatenate(blocks) if blocks else np.empty((0, len(strata)))


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
    """A paired difference with a two-sided bootstrap p-value for "no difference".

    Attributes:
        p: NaN where the difference is undefined.
        p_draws: draws behind p: more than ``draws`` where those could not tell it from 0.
        at_floor: no draw lies on the other side of zero: p is an upper bound, 2 / (p_draws + 1).
    """

    p: float
    p_draws: int = 0
    at_floor: bool = False


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
    codes = np.unique(of_cluster, return_inverse=True)[1]
    return _resampling(tuple(names.tolist()), tuple(codes.tolist()), draws, seed)


@lru_cache(maxsize=8)
def _resampling(names: tuple[str, ...], strata: tuple[int, ...], draws: int, seed: int) -> Resampling:
    """Drawn once for all methods that are compared on the same clusters; the weights are read-only."""
    codes = np.array(strata, dtype=np.int64)
    weights = _draw(codes, 0, draws, seed)
    weights.flags.writeable = codes.flags.writeable = False
    return Resampling(names, weights, codes, seed)


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
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    defined = drawn[~np.isnan(drawn)]
    if method == "bca" and not np.isnan(value) and len(defined) and resampling.varies:
        tails = _bca_tails(statistic, value, defined, tails, n_clusters)
    return _summary(value, drawn, resampling, tails)


def _summary(value: float, drawn: np.ndarray, resampling: Resampling, tails: np.ndarray) -> Interval:
    """Quantiles of the defined draws; NaN where there is none, or every draw is the whole sample."""
    defined = drawn[~np.isnan(drawn)]
    n_undefined = len(drawn) - len(defined)
    if np.isnan(value) or len(defined) == 0 or not resampling.varies:
        return Interval(value, float("nan"), float("nan"), len(drawn), n_undefined)
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
    span = interval(mean_statistic(hits, codes, len(resampling.clusters)), resampling, method=method)
    n = len(np.unique(codes[~np.isnan(hits)]))
    if span.value not in (0.0, 1.0):
        return span, ""
    exact = stats.binomtest(round(span.value) * n, n).proportion_ci(method="exact")
    text = f"interval: exact binomial over {n} compounds, as no draw differs"
    return replace(span, low=float(exact.low), high=float(exact.high)), text


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


def draws_for(n_tests: int, draws: int = DRAWS) -> int:
    """Draws with which Holm's correction over ``n_tests`` can fall below 0.05: at least ``draws``."""
    return max(draws, DRAWS_A_TEST * n_tests)


def paired_difference(
    first: Statistic,
    second: Statistic,
    resampling: Resampling,
    *,
    confidence: float = 0.95,
    p_draws: int | None = None,
) -> Difference:
    """first - second on the same draws, percentile interval and two-sided p.

    p = 2 min(P(d <= 0), P(d >= 0)) over the draws, with one draw added to each count so that it is never 0
    (Davison & Hinkley 1997), at most 1. It is NaN where the difference is undefined or the draws cannot differ. Where
    fewer than ``FEW`` draws lie on one side, draws go on until there are as many, or ``p_draws`` in all (sequential
    Monte Carlo p-values, Besag & Clifford 1991): only what is near the floor costs more.

    Args:
        p_draws: the most draws behind p (see `draws_for`); None for those of the resampling.
    """
    n_clusters = len(resampling.clusters)

    def difference(weights: np.ndarray) -> np.ndarray:
        return first(weights) - second(weights)

    value, drawn = float(difference(np.ones((1, n_clusters)))[0]), difference(resampling.weights)
    summary = _summary(value, drawn, resampling, np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    if np.isnan(summary.low):
        return Difference(
            summary.value, summary.low, summary.high, summary.draws, summary.undefined_draws, float("nan")
        )
    below, above, n = (int(x) for x in _sides(drawn))
    for weights in resampling.beyond(p_draws or 0):
        if min(below, above) >= FEW:
            break
        below, above, n = (
            a + int(b) for a, b in zip((below, above, n), _sides(difference(weights)), strict=True)
        )
    p = min(1.0, 2 * (min(below, above) + 1) / (n + 1))
    return Difference(
        summary.value,
        summary.low,
        summary.high,
        summary.draws,
        summary.undefined_draws,
        p,
        n,
        min(below, above) == 0,
    )


def _sides(drawn: np.ndarray) -> tuple[int, int, int]:
    """Draws at or below zero, at or above it, and those that are defined."""
    return int((drawn <= 0).sum()), int((drawn >= 0).sum()), int((~np.isnan(drawn)).sum())


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down corrected p-values (Holm 1979); NaN stays NaN and does not count as a test."""
    raw = np.asarray(p, dtype=np.float64)
    out = np.full(len(raw), np.nan)
    tested = np.flatnonzero(~np.isnan(raw))
    order = tested[np.argsort(raw[tested], kind="stable")]
    factors = len(order) - np.arange(len(order))
    out[order] = np.minimum(np.maximum.accumulate(raw[order] * factors), 1.0)
    return out
