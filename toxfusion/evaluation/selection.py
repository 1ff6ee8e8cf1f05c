"""The validation score by which checkpoints are chosen, with its error.

Few units of the validation part are positive, and an AUROC of two positives moves by tenths from step to step. So
tasks are not averaged: their pairs are pooled, and a task weighs by the pairs it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from toxfusion.evaluation.statistics import PairShare, graded_pairs, no_pairs
from toxfusion.evaluation.survival import concordance_statistic, within_strata


@dataclass(frozen=True)
class SelectionScore:
    """Share of pairs of validation units that are ranked right, over all tasks; 0.5 = chance.

    Attributes:
        value: NaN where there is no pair.
        clusters: compounds, sorted, [C].
        influence: float64 [C], by how much each compound pulls the share away from its mean, to first order.
        n_pairs: pairs of each task, those without a pair aside.
    """

    value: float
    clusters: tuple[str, ...]
    influence: np.ndarray
    n_pairs: dict[str, float]

    @property
    def error(self) -> float:
        """Standard error over compounds: the root of C / (C - 1) times the sum of squared influences.

        The infinitesimal jackknife (Jaeckel 1972), which is the cluster bootstrap's to first order, without draws. NaN
        where there is no pair, or one compound only.
        """
        return _error(self.influence)

    def gain_over(self, other: SelectionScore) -> tuple[float, float]:
        """This minus another score of the same validation part, and the standard error of that difference.

        The error is paired: where both rank alike, compounds pull both alike, and it is small.

        Raises:
            ValueError: the scores are of other compounds or of other pairs.
        """
        if self.clusters != other.clusters or self.n_pairs != other.n_pairs:
            raise ValueError(
                "the two scores are of different validation units; score the same part both times."
            )
        return self.value - other.value, _error(self.influence - other.influence)

    def state(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        return {"value": self.value, "clusters": list(self.clusters), "influence": self.influence.tolist(),
                "n_pairs": dict(self.n_pairs)}  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> SelectionScore:
        """The score that `state` was taken of."""
        influence = np.array(state["influence"], dtype=np.float64)
        return cls(float(state["value"]), tuple(state["clusters"]), influence, dict(state["n_pairs"]))


def _error(influence: np.ndarray) -> float:
    n = len(influence)
    if n < 2 or np.isnan(influence).any():
        return float("nan")
    return float(np.sqrt((influence**2).sum() * n / (n - 1)))


def standing(scores: Sequence[SelectionScore]) -> int:
    """Place of the first score, or of a later one that gains more over what stood than the error of that gain.

    Scores are of one validation part. One that is no number gains nothing.
    """
    place = 0
    for i, score in enumerate(scores):
        gain, error = score.gain_over(scores[place])
        if gain > error:
            place = i
    return place


def validation_score(table: pd.DataFrame) -> SelectionScore:
    """Score the validation part of a run.

    A pair is of two units of one task, fold, seed and stratum. Of two classes it is a positive and a negative unit; of
    grades and values, two that differ; of survival, an event and a unit that outlives it (Harrell's pairs). Each is
    right where the scores are in the same order, half right where they are equal.

    Args:
        table: predictions table; rows of other parts, and without a label, are passed over.
    """
    labelled = table[(table["part"] == "valid") & table["label"].notna()]
    clusters = tuple(sorted(labelled["compound"].astype(str).unique()))
    place = {name: i for i, name in enumerate(clusters)}
    of_task: dict[str, PairShare] = {}
    for task, part in labelled.groupby("task", sort=True):
        codes = part["compound"].astype(str).map(place).to_numpy(dtype=np.int64)
        of_task[str(task)] = _pairs(part, codes, len(clusters))
    n_pairs = {task: float(pairs.pairs.sum()) for task, pairs in of_task.items()}
    pooled = sum(of_task.values(), no_pairs(len(clusters)))
    total = float(pooled.pairs.sum())
    if total == 0:
        return SelectionScore(float("nan"), clusters, np.full(len(clusters), np.nan), {})
    value = float(pooled.right.sum()) / total
    # d/dw_c of w M w' / w P w' at w = 1.
    excess = pooled.right - value * pooled.pairs
    influence = (excess.sum(axis=0) + excess.sum(axis=1)) / total
    return SelectionScore(value, clusters, influence, {task: n for task, n in n_pairs.items() if n})


def _pairs(predictions: pd.DataFrame, codes: np.ndarray, n_clusters: int) -> PairShare:
    """The pairs of one task, within one fold and seed."""
    label, score = (predictions[c].to_numpy(dtype=np.float64) for c in ("label", "score"))
    group = (predictions["fold"].astype(str) + " " + predictions["seed"].astype(str)).to_numpy(dtype=str)
    family = str(predictions["family"].iloc[0])
    if family == "survival":
        event, strata = predictions["event"].to_numpy(dtype=np.float64), within_strata(predictions, group)
        return concordance_statistic(label, event, score, event, codes, n_clusters, strata)
    if family == "value":
        # A higher value is an earlier event of a score that nobody outlives at the same value.
        one = np.ones(len(label))
        return concordance_statistic(-label, one, score, one, codes, n_clusters, group)
    return graded_pairs(label, score, codes, n_clusters, group)
