"""Test predictions of all folds in one table, with what validation decided; which units are ranked with which.

Thresholds, cut-offs of grades and calibration come from the validation rows of the same fold; test rows are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from toxfusion.evaluation import bootstrap, calibration, metrics
from toxfusion.evaluation.bootstrap import DRAWS, Resampling
from toxfusion.evaluation.families import FAMILIES, RowStatistic, family_of
from toxfusion.evaluation.predictions import PredictionsError, average_seeds, pool
from toxfusion.evaluation.statistics import Statistic, mean_of
from toxfusion.study.vocabulary import in_order

#: Columns of calls made with a threshold that keeps this specificity on the validation part.
CALLED_AT = {"called_90": 0.90, "called_95": 0.95}
TINY_FOLD = 10
"""Units a fold, on average, below which too few pairs lie within folds to rank a method by."""
Pairs = Literal["folds", "pooled"]
"""Units that are ranked with each other: those of one fold, or all of a study."""


def out_of_fold(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Pooled test predictions with what the validation part of each fold decides.

    Args:
        tables: predictions of one method, one or several folds and seeds.

    Returns:
        ``predictions.pool`` of the test part, with columns ``called`` (1, 0 by the threshold of highest balanced
        accuracy; of grades the grade by ``metrics.choose_cutoffs``; NaN without one), ``called_90`` and
        ``called_95`` (1, 0 by the lowest threshold of 90 and 95 % specificity), ``calibrated`` (probability by
        ``calibration.fit_platt``; NaN without a labelled validation unit), ``threshold``, and ``undecided``, the reason
        of a NaN.

    Raises:
        PredictionsError: as ``predictions.pool``; no test row at all.
    """
    tested = pool(tables)
    if tested.empty:
        raise PredictionsError("no test rows: the run has not scored its test part yet; run its test stage.")
    joined = pd.concat(list(tables), ignore_index=True)
    valid = average_seeds(joined[joined["part"] == "valid"])
    of_fold = dict(iter(valid.groupby(["task", "fold"])))
    decided = [
        _decide(rows, of_fold.get(key, valid.iloc[:0]))
        for key, rows in tested.groupby(["task", "fold"], sort=True)
    ]
    return pd.concat(decided, ignore_index=True)


def _decide(rows: pd.DataFrame, valid: pd.DataFrame) -> pd.DataFrame:
    fold, score = rows["fold"].iloc[0], rows["score"].to_numpy()
    label, scored = valid["label"].to_numpy(), valid["score"].to_numpy()
    if not family_of(rows).two_class:
        called, undecided = np.full(len(score), np.nan), ""
        if family_of(rows).metric == "quadratic_kappa":
            called = metrics.as_grade(score, metrics.choose_cutoffs(label, scored))
            if np.isnan(called).any():
                undecided = f"fold {fold}: no cut-offs of grades from validation: no labelled unit"
        nothing = dict.fromkeys((*CALLED_AT, "calibrated", "threshold"), float("nan"))
        return rows.assign(called=called, **nothing, undecided=undecided)
    threshold = metrics.choose_threshold(label, scored)
    platt = calibration.fit_platt(label, scored)
    thresholds = {"called": threshold} | {
        column: metrics.threshold_of_specificity(label, scored, kept) for column, kept in CALLED_AT.items()
    }
    return rows.assign(
        **{column: np.where(of.defined, score >= of.value, np.nan) for column, of in thresholds.items()},
        calibrated=platt.of(score) if platt.defined else np.full(len(score), np.nan),
        threshold=threshold.value,
        undecided="" if threshold.defined else f"fold {fold}: {threshold.reason}",
    )


def headlines_of(table: pd.DataFrame) -> list[str]:
    """The headlines of a predictions table, in the order of tables."""
    return in_order(table["headline"].astype(str))


def headline_rows(tested: pd.DataFrame, name: str) -> pd.DataFrame:
    """The labelled rows of a headline's tasks, or of one task."""
    chosen = (tested["headline"] == name) | (tested["task"] == name)
    return tested[chosen & tested["label"].notna()]


def is_averaged(rows: pd.DataFrame) -> bool:
    """Whether these are rows of tasks that are averaged into a headline."""
    return bool((rows["task"] != rows["headline"]).any())


def resampling_of(rows: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> Resampling:
    """Draws of compounds for these rows, within each cohort, and within each class where the label is theirs.

    Rows of several studies have a column ``cohort`` and compounds named by cohort (see ``join_cohorts``).
    """
    own = rows["level"].eq("compound").all() and rows["task"].nunique() == 1 and family_of(rows).two_class
    strata = None
    if own or "cohort" in rows.columns:
        keys = [rows["label"] if own else pd.Series(0.0, rows.index), cohorts_of(rows)]
        strata = pd.MultiIndex.from_arrays(keys).factorize(sort=True)[0]
    return bootstrap.resample(rows["compound"].to_numpy(), strata=strata, draws=draws, seed=seed)


def join_cohorts(tested: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rows of ``out_of_fold`` of several studies in one table, column ``cohort`` beside them.

    Compounds and units are named ``cohort/name``; statistics of such rows compare units of one cohort only.
    """
    named = [
        rows.assign(cohort=name, unit_id=name + "/" + rows["unit_id"], compound=name + "/" + rows["compound"])
        for name, rows in sorted(tested.items())
    ]
    return pd.concat(named, ignore_index=True)


def cohorts_of(rows: pd.DataFrame) -> pd.Series:
    """The study of each row; "" where there is one study only."""
    return rows["cohort"] if "cohort" in rows.columns else pd.Series("", rows.index)


def has_strata(rows: pd.DataFrame) -> bool:
    """Whether every unit is of one dose level and time."""
    return not ((rows["dose_level"] == "").any() or rows["time_h"].isna().any())


@dataclass(frozen=True)
class Pairing:
    """Which units of a headline are ranked with each other.

    A score that knows nothing but the prevalence of its fold's training part ranks folds against their own prevalence:
    pooled over folds it falls below chance, within folds it is at chance. So pairs are of one fold, unless folds are so
    small that hardly a pair is left.

    Attributes:
        pairs: "folds" or "pooled".
        reason: why they are pooled; "" for pairs within folds.
        several: whether there are several folds at all, so that the other number differs.
    """

    pairs: Pairs
    reason: str = ""
    several: bool = False

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Pairing:
        """For labelled rows of one headline, of one study or several."""
        sizes = rows.groupby([cohorts_of(rows), "fold"])["unit_id"].nunique()
        several = bool(sizes.groupby(level=0).size().max() > 1)
        mean, family = sizes.mean(), family_of(rows)
        if several and family.ranked and family.common_scale and mean < TINY_FOLD:
            reason = f"pairs of all folds: {mean:.0f} units a fold, under {TINY_FOLD}, are too few to rank by"
            return cls("pooled", reason, several)
        return cls("folds", several=several and family.ranked and family.common_scale)

    @property
    def other(self) -> Pairing:
        """The other choice, for the number beside the headline."""
        return Pairing("pooled" if self.pairs == "folds" else "folds", several=self.several)

    def groups(self, rows: pd.DataFrame, *, in_strata: bool = False) -> np.ndarray:
        """str [n], units of one value are ranked with each other.

        Args:
            in_strata: those of one dose level and time only (see `has_strata`).
        """
        group = cohorts_of(rows).astype(str)
        if self.pairs == "folds":
            group = group + " " + rows["fold"].astype(str)
        if in_strata:
            group = group + " " + rows["dose_level"] + " " + rows["time_h"].astype(str)
        return group.to_numpy(dtype=str)


def headline_statistic(
    rows: pd.DataFrame, resampling: Resampling, pairing: Pairing, *, in_strata: bool = False
) -> Statistic:
    """The headline metric of the rows' family; macro where the rows are of several tasks.

    Args:
        rows: labelled rows of one headline.
        pairing: of the whole headline, so that methods are compared alike.
        in_strata: compare units of one dose level and time only.
    """
    family = family_of(rows)
    groups = pairing.groups(rows, in_strata=in_strata)
    return over_tasks(rows, resampling, family.measures[family.metric], groups)


def over_tasks(
    rows: pd.DataFrame, resampling: Resampling, make: RowStatistic, groups: np.ndarray
) -> Statistic:
    """Mean over the tasks of the rows; ``groups`` as `Pairing.groups`."""
    codes, n = resampling.codes(rows["compound"].to_numpy()), len(resampling.clusters)
    places = rows.groupby("task", sort=True).indices
    of_task = [make(rows.iloc[at], codes[at], n, groups[at]) for at in places.values()]
    return of_task[0] if len(of_task) == 1 else mean_of(of_task)


def labels_differ(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of tasks in which both classes, or two grades, times or values, occur."""
    several = rows.groupby("task")["label"].nunique() > 1
    return rows[rows["task"].map(several).astype(bool)]


def chance_of(metric: str) -> float:
    """What a score without information gets in a headline metric."""
    return next(family.chance for family in FAMILIES.values() if family.metric == metric)
