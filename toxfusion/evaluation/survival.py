"""Metrics of survival: Harrell's and Uno's concordance and the integrated Brier score under censoring.

The distribution of censoring is always that of training labels. ``event`` is 1 where it happened, 0 = censored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from toxfusion.evaluation.metrics import Measure, undefined
from toxfusion.evaluation.statistics import PairShare, no_pairs

_ROWS_AT_ONCE = 512
GRID = 100
"""Equal steps from 0 to the horizon over which the Brier score of a curve is integrated."""


@dataclass(frozen=True)
class Censoring:
    """Kaplan-Meier estimate of the probability of not being censored yet.

    Attributes:
        times: float64 [K], distinct times of training samples, rising.
        survival: float64 [K], G at each of them; 1 before the first.
    """

    times: np.ndarray
    survival: np.ndarray

    @classmethod
    def fit(cls, time: np.ndarray, event: np.ndarray) -> Censoring:
        """Product over times of 1 - censored / at risk; events at a time leave before the censored ones.

        Args:
            time, event: float [n], of training samples, without NaN.
        """
        time, event = np.asarray(time, np.float64), np.asarray(event, np.float64)
        times, inverse = np.unique(time, return_inverse=True)
        n_events = np.bincount(inverse, weights=event, minlength=len(times))
        n_censored = np.bincount(inverse, weights=1 - event, minlength=len(times))
        left = np.cumsum((n_events + n_censored)[::-1])[::-1] - n_events
        step = np.divide(n_censored, left, out=np.zeros(len(times)), where=left > 0)
        return cls(times, np.cumprod(1 - step))

    def at(self, time: np.ndarray) -> np.ndarray:
        """G(t), censored later than t."""
        return self._look_up(time, "right")

    def before(self, time: np.ndarray) -> np.ndarray:
        """G(t-), not censored earlier than t."""
        return self._look_up(time, "left")

    def _look_up(self, time: np.ndarray, side: str) -> np.ndarray:
        known = np.append(1.0, self.survival)
        if side == "right":
            return known[np.searchsorted(self.times, time, side="right")]
        return known[np.searchsorted(self.times, time, side="left")]


def concordance_statistic(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    weight: np.ndarray,
    codes: np.ndarray,
    n_clusters: int,
    stratum: np.ndarray | None = None,
) -> PairShare:
    """Weighted concordance.

    A pair (i, j) counts where i has an event and j outlives it: time_j > time_i, or time_j = time_i and j is
    censored. It is right where risk_i > risk_j, and half right where they are equal. Pairs are weighted by ``weight``
    of i.

    Args:
        time, event, risk, weight: float [n], without NaN.
        codes: int [n], cluster of each unit, < ``n_clusters``.
        stratum: [n]; only pairs within a stratum count (units of one fold, for example).
    """
    strata = np.zeros(len(time), np.int64)
    if stratum is not None:
        strata = np.unique(stratum, return_inverse=True)[1]
    pairs = no_pairs(n_clusters)
    # Sorted by cluster, sums over the units of one are sums over a slice.
    order = np.lexsort((codes, strata))
    for among in np.split(order, np.flatnonzero(np.diff(strata[order])) + 1):
        starts = np.flatnonzero(np.diff(codes[among], prepend=-1))
        present = codes[among][starts]
        first = among[(event[among] == 1) & (weight[among] > 0)]
        for start in range(0, len(first), _ROWS_AT_ONCE):
            i = first[start : start + _ROWS_AT_ONCE]
            outlives = time[among] > time[i, None]
            outlives |= (time[among] == time[i, None]) & (event[among] == 0)
            ahead = (risk[i, None] > risk[among]) + 0.5 * (risk[i, None] == risk[among])
            for matrix, counted in ((pairs.right, outlives * ahead), (pairs.pairs, outlives.astype(float))):
                by_cluster = np.add.reduceat(counted, starts, axis=1) * weight[i, None]
                np.add.at(matrix, (codes[i][:, None], present), by_cluster)
    return pairs


def within_strata(predictions: pd.DataFrame, group: np.ndarray) -> np.ndarray:
    """Groups [n] in which pairs are made: those given, divided by the stratum where the table names one; str [n]."""
    if "stratum" not in predictions:
        return group
    pairs = zip(group, predictions["stratum"], strict=True)
    return np.array([f"{of_group} {stratum}" for of_group, stratum in pairs], dtype=str)


def harrell_c(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> Measure:
    """Share of comparable pairs whose earlier event has the higher risk, ties one half (Harrell et al., JAMA 1982).

    Args:
        time, event, risk: float [n]; units whose time or event is NaN are left out.
    """
    t, d, r = _known(time, event, risk)
    return _concordance(t, d, r, d)


def uno_weights(censoring: Censoring, time: np.ndarray, event: np.ndarray, tau: float) -> np.ndarray:
    """float64 [n]: 1 / G(t-)^2 of units with an event before ``tau``, else 0; NaN where time or event is.

    Harrell's C with pairs weighted so does not depend on how many are censored (Uno et al., Statistics in Medicine
    2011). Infinite where no training sample was still uncensored.
    """
    counted = (event == 1) & (time < tau)
    with np.errstate(divide="ignore"):
        weight = np.where(counted, censoring.before(np.where(counted, time, 0.0)) ** -2.0, 0.0)
    return np.where(np.isnan(time) | np.isnan(event), np.nan, weight)


def brier_terms(
    censoring: Censoring,
    time: np.ndarray,
    event: np.ndarray,
    times: np.ndarray,
    survival: np.ndarray,
) -> np.ndarray:
    """Time-averaged squared error of each unit's survival curve, weighted against censoring.

    At t the term is S(t)^2 / G(time-) for an event at or before t, (1 - S(t))^2 / G(t) for a unit that outlives t,
    and 0 for one censored before (Graf et al., Statistics in Medicine 1999); the trapezoid rule over ``times``,
    divided by their span.

    Args:
        time, event: float [n].
        times: float [K], rising, K at least 2, before the last training time.
        survival: float [n, K], S at ``times``.

    Returns:
        float64 [n]; NaN where time or event is.
    """
    died = (event[:, None] == 1) & (time[:, None] <= times)
    alive = time[:, None] > times
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = np.where(died, survival**2 / censoring.before(np.nan_to_num(time))[:, None], 0.0)
        kept = np.where(alive, (1 - survival) ** 2 / censoring.at(times), 0.0)
    score = np.trapezoid(lost + kept, times, axis=1) / (times[-1] - times[0])
    return np.where(np.isnan(time) | np.isnan(event), np.nan, score)


def even_grid(horizon: float) -> np.ndarray:
    """float64 [GRID], the times below the horizon at which the Brier score of a curve is taken."""
    return np.linspace(0.0, horizon, GRID, endpoint=False)


def survival_columns(
    train_time: np.ndarray,
    train_event: np.ndarray,
    horizon: float,
    time: np.ndarray,
    event: np.ndarray,
    curve: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, np.ndarray]:
    """The optional columns of survival rows: what the censoring of the training samples makes of each label.

    Args:
        train_time, train_event: float [m], labels of the training samples.
        horizon: a time up to the last of ``train_time``; events before it count for Uno's C.
        time, event: float [n], NaN = no label.
        curve: times [K] and S at them [n, K], where the method has survival curves.

    Returns:
        "event", "uno_weight" and, with a curve, "brier_term", float [n] each.
    """
    censoring = Censoring.fit(train_time, train_event)
    columns = {"event": event, "uno_weight": uno_weights(censoring, time, event, horizon)}
    if curve is not None:
        columns["brier_term"] = brier_terms(censoring, time, event, *curve)
    return columns


def curve_on_grid(edges: np.ndarray, horizon: float, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The survival curve of discrete hazards on an even grid of times below the horizon.

    S is 1 at time 0, ``curve`` at the ends of the bins, and linear between them. The last bin ends at the horizon,
    or, where that lies below the last edge, at that edge.

    Args:
        edges: float [n_bins - 1], inner edges. curve: float [n, n_bins].

    Returns:
        times float64 [GRID], survival float64 [n, GRID].
    """
    times = even_grid(horizon)
    ends = np.array([0.0, *edges, horizon])[: curve.shape[1] + (1 if horizon > edges[-1] else 0)]
    full = np.concatenate([np.ones((len(curve), 1)), curve], axis=1)[:, : len(ends)]
    return times, np.stack([np.interp(times, ends, survival) for survival in full]) if len(full) else full[
        :, :0
    ]


def _known(time: np.ndarray, event: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    arrays = [np.asarray(a, np.float64) for a in (time, event, *others)]
    keep = ~(np.isnan(arrays[0]) | np.isnan(arrays[1]))
    return tuple(a[keep] for a in arrays)


def _concordance(time: np.ndarray, event: np.ndarray, risk: np.ndarray, weight: np.ndarray) -> Measure:
    one = np.zeros(len(time), np.int64)
    value = float(concordance_statistic(time, event, risk, weight, one, 1)(np.ones((1, 1)))[0])
    return undefined("no comparable pair of units") if np.isnan(value) else Measure(value)
