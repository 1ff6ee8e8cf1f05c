"""Values made comparable over groups of samples (cohorts, sites), each standardised by its own training samples.

Pairs of several cohorts speak one language only where what differs between the cohorts, and not between patients, is
taken out of both modalities. What is fitted here is fitted on training samples alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtri

Unseen = Literal["refuse", "pooled"]
Scaling = Literal["deviation", "normal_scores"]
POOLED = ""
"""Name of the entry fitted on all training samples, for groups that have none."""
LEAST_SAMPLES = 2
N_QUANTILES = 101
_ARRAYS = ("mean", "scale", "low", "high", "quantiles")


class GroupError(ValueError):
    """A column without groups, or a group that nothing was fitted on."""


@dataclass(frozen=True)
class Within:
    """Which samples are standardised together.

    Attributes:
        column: of obs, with the groups; None: all samples are one.
        unseen: what becomes of a group with fewer than two training samples: ``refuse``, or ``pooled`` (standardised
            as the training samples of all groups together).
    """

    column: str | None = None
    unseen: Unseen = "refuse"

    def __post_init__(self) -> None:
        if self.unseen not in get_args(Unseen):
            raise GroupError(f"data.within.unseen: {self.unseen!r} is none of {', '.join(get_args(Unseen))}")

    def groups(self, obs: pd.DataFrame) -> np.ndarray | None:
        """str [n], the group of every sample; None where all are one.

        Raises:
            GroupError: the column is missing, or empty for a sample.
        """
        return None if self.column is None else groups_of(obs, self.column, "data.within.column")


def groups_of(obs: pd.DataFrame, column: str, key: str) -> np.ndarray:
    """str [n], the group of every sample by a column of obs, which a key of the configuration names.

    Raises:
        GroupError: the column is missing, or empty for a sample.
    """
    if column not in obs.columns:
        raise GroupError(f"{key}: {column!r} is no column of obs; there are {list(obs.columns)}")
    values = obs[column].astype(object).where(obs[column].notna(), "").astype(str)
    empty = values.index[values == ""]
    if len(empty):
        raise GroupError(
            f"obs column {column!r} is empty at sample {empty[0]!r} ({len(empty)} in all); fill it in, or set {key} to "
            "another column or null"
        )
    return values.to_numpy(object)


@dataclass(frozen=True)
class GroupScaler:
    """Mean and deviation of each group's training samples, feature by feature.

    Attributes:
        within: the column, and what becomes of groups without training samples.
        names: the K groups in sorted order, and ``POOLED`` last.
        mean, scale: float32 [K + 1, D].
        low, high: float32 [K + 1, D], bounds of a value before it is centred; None for none.
        quantiles: float32 [K + 1, Q, D], of each group's training values; None unless values become normal scores.
    """

    within: Within
    names: tuple[str, ...]
    mean: np.ndarray
    scale: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    quantiles: np.ndarray | None = None

    @classmethod
    def fit(
        cls,
        values: np.ndarray,
        groups: np.ndarray,
        *,
        within: Within,
        least_scale: float,
        clip_quantile: float | None = None,
        scaling: Scaling = "deviation",
    ) -> GroupScaler:
        """Fit on training samples.

        Args:
            values: float [n, D]; NaN = not measured (a feature that a group lacks altogether is 0 there).
            groups: str [n].
            least_scale: floor of the deviations.
            clip_quantile: values are held within this quantile of their group and its mirror first.
            scaling: ``normal_scores`` replaces a value by the normal deviate of its rank in its group; no bound then.
        """
        counted = {str(name): int(n) for name, n in pd.Series(groups).value_counts().items()}
        names = (*sorted(name for name, n in counted.items() if n >= LEAST_SAMPLES), POOLED)
        parts = [values if name == POOLED else values[groups == name] for name in names]
        low = high = quantiles = None
        if scaling == "normal_scores":
            at = (np.arange(N_QUANTILES) + 0.5) / N_QUANTILES
            quantiles = np.stack([_quantile(part, at) for part in parts]).astype(np.float32)
        if clip_quantile is not None:
            low = np.stack([_quantile(part, clip_quantile) for part in parts])
            high = np.stack([_quantile(part, 1 - clip_quantile) for part in parts])
            parts = [np.clip(part, a, b) for part, a, b in zip(parts, low, high, strict=True)]
        # A feature that no sample of a group has keeps mean 0 and deviation 1, and is not there when it is applied.
        counts = [np.maximum((~np.isnan(part)).sum(0), 1) for part in parts]
        mean = np.stack([np.nansum(part, 0) / n for part, n in zip(parts, counts, strict=True)])
        square = np.stack(
            [np.nansum((part - m) ** 2, 0) / n for part, m, n in zip(parts, mean, counts, strict=True)]
        )
        scale = np.maximum(np.sqrt(square), least_scale)
        low, high = (None if b is None else np.nan_to_num(b).astype(np.float32) for b in (low, high))
        return cls(within, names, mean.astype(np.float32), scale.astype(np.float32), low, high, quantiles)

    def positions(self, groups: np.ndarray) -> np.ndarray:
        """int64 [n]: where in ``mean`` the group of each sample is.

        Raises:
            GroupError: a group had no two training samples, and ``within.unseen`` is refuse.
        """
        where = {name: i for i, name in enumerate(self.names)}
        unseen = sorted({str(g) for g in groups if g not in where})
        if unseen and self.within.unseen == "refuse":
            raise GroupError(
                f"obs column {self.within.column!r}: {', '.join(map(repr, unseen[:3]))} had fewer than "
                f"{LEAST_SAMPLES} training samples, so that there is nothing to standardise by (known: "
                f"{', '.join(self.names[:-1])}); set data.within.unseen=pooled when the run is trained"
            )
        return np.array([where.get(str(g), len(self.names) - 1) for g in groups], dtype=np.int64)

    def centred(self, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """float64 [n, D]: bounded, less the mean of the group."""
        positions = self.positions(groups)
        return self._bounded(values, positions) - self.mean[positions]

    def standardised(self, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """float64 [n, D]: centred and in deviations of the group, or normal scores; NaN stays NaN."""
        positions = self.positions(groups)
        if self.quantiles is None:
            return (self._bounded(values, positions) - self.mean[positions]) / self.scale[positions]
        out = np.full(values.shape, np.nan)
        for position in np.unique(positions):
            of_group = positions == position
            out[of_group] = _normal_scores(values[of_group], self.quantiles[position].astype(np.float64))
        return out

    def features(self, chosen: np.ndarray) -> GroupScaler:
        """The same for some of the features, int64 [d]."""
        kept = {n: v[..., chosen] for n in _ARRAYS if (v := getattr(self, n)) is not None}
        return replace(self, **kept)

    def state(self) -> dict[str, Any]:
        """Tensors and plain types, for a checkpoint."""
        arrays = {n: torch.from_numpy(v.copy()) for n in _ARRAYS if (v := getattr(self, n)) is not None}
        return {
            "column": self.within.column,
            "unseen": self.within.unseen,
            "names": list(self.names),
            **arrays,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> GroupScaler:
        arrays = {n: state[n].numpy() for n in _ARRAYS if n in state}
        return cls(Within(state["column"], state["unseen"]), tuple(state["names"]), **arrays)

    def _bounded(self, values: np.ndarray, positions: np.ndarray) -> np.ndarray:
        if self.low is None or self.high is None:
            return np.asarray(values, np.float64)
        return np.clip(np.asarray(values, np.float64), self.low[positions], self.high[positions])


def _quantile(values: np.ndarray, at: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Quantiles over samples, of the values that are there; NaN where there is none."""
    absent = np.isnan(values)
    if not absent.any():
        return np.quantile(values, at, axis=0)
    there = ~absent.all(0)
    out = np.full((*np.shape(at), values.shape[1]), np.nan)
    out[..., there] = np.nanquantile(values[:, there], at, axis=0)
    return out


def _normal_scores(values: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """The normal deviate of each value's place among quantiles [Q, D]; equal quantiles share the middle of theirs."""
    at = (np.arange(len(quantiles)) + 0.5) / len(quantiles)
    out = np.full(values.shape, np.nan)
    for column in range(values.shape[1]):
        known, grid = ~np.isnan(values[:, column]), quantiles[:, column]
        if np.isnan(grid[0]):
            continue
        asked = values[known, column].astype(
            np.float32
        )  # as the quantiles are kept: an equal value stays equal
        last = np.interp(asked, grid, at)
        first = 1 - np.interp(-asked, -grid[::-1], 1 - at[::-1])
        out[known, column] = ndtri((first + last) / 2)
    return out
