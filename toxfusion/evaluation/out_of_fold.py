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
from toxfusion.evaluation.families import RowStatistic, family_of
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
        _decide(test, of_fold.get(key, valid.iloc[:0]))
        for key, test in tested.groupby(["task", "fold"], sort=True)
    ]
    return pd.concat(decided, ignore_index=True)


def _decide(test: pd.DataFrame, valid: pd.DataFrame) -> pd.DataFrame:
    fold, score = test["fold"].iloc[0], test["score"].to_numpy()
    label, scored = valid["label"].to_numpy(), valid["score"].to_numpy()
    if not family_of(test).two_class:
        called, undecided = np.full(len(score), np.nan), ""
        if family_of(test).metric == "quadratic_kappa":
            called = metrics.as_grade(score, metrics.choose_cutoffs(label, scored))
            if np.isnan(called).any():
                undecided = f"fold {fold}: no cut-offs of grades from validation: no labelled unit"
        nothing = dict.fromkeys((*CALLED_AT, "calibrated", "threshold"), float("nan"))
        return test.assign(called=called, **nothing, undecided=undecided)
    threshold = metrics.choose_threshold(label, scored)
    platt = calibration.fit_platt(label, scored)
    thresholds = {"called": threshold} | {
        column: metrics.threshold_of_specificity(label, scored, kept) for column, kept in CALLED_AT.items()
    }
    return test.assign(
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


def is_averaged(predictions: pd.DataFrame) -> bool:
    """Whether these are predictions of tasks that are averaged into a headline."""
    return bool((predictions["task"] != predictions["headline"]).any())


def resampling_of(predictions: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> Resampling:
    """Draws of compounds for these predictions, within each cohort, and within each class where the label is theirs.

    Rows of several studies have a column ``cohort`` and compounds named by cohort (see ``join_cohorts``).
    """
    own = (
        predictions["level"].eq("compound").all()
        and predictions["task"].nunique() == 1
        and family_of(predictions).two_class
    )
    strata = None
    if own or "cohort" in predictions.columns:
        keys = [predictions["label"] if own else pd.Series(0.0, predictions.index), cohorts_of(predictions)]
        strata = pd.MultiIndex.from_arrays(keys).factorize(sort=True)[0]
    return bootstrap.resample(predictions["compound"].to_numpy(), strata=strata, draws=draws, seed=seed)


def join_cohorts(tested: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rows of ``out_of_fold`` of several studies in one table, column ``cohort`` beside them.

    Compounds and units are named ``cohort/name``; statistics of these compare units of one cohort only.
    """
    named = [
        predictions.assign(
            cohort=name,
            unit_id=name + "/" + predictions["unit_id"],
            compound=name + "/" + predictions["compound"],
        )
        for name, predictions in sorted(tested.items())
    ]
    return pd.concat(named, ignore_index=True)


def cohorts_of(predictions: pd.DataFrame) -> pd.Series:
    """The study of each row; "" where there is one study only."""
    return predictions["cohort"] if "cohort" in predictions.columns else pd.Series("", predictions.index)


def has_strata(predictions: pd.DataFrame) -> bool:
    """Whether every unit is of one dose level and time."""
    return not ((predictions["dose_level"] == "").any() or predictions["time_h"].isna().any())


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
    def of(cls, predictions: pd.DataFrame) -> Pairing:
        """For labelled predictions of one headline, of one study or several."""
        sizes = predictions.groupby([cohorts_of(predictions), "fold"])["unit_id"].nunique()
        several = bool(sizes.groupby(level=0).size().max() > 1)
        mean, family = sizes.mean(), family_of(predictions)
        if several and family.ranked and family.common_scale and mean < TINY_FOLD:
            reason = f"pairs of all folds: {mean:.0f} units a fold, under {TINY_FOLD}, are too few to rank by"
            return cls("pooled", reason, several)
        return cls("folds", several=several and family.ranked and family.common_scale)

    @property
    def other(self) -> Pairing:
        """The other choice, for the number beside the headline."""
        return Pairing("pooled" if self.pairs == "folds" else "folds", several=self.several)

    def groups(self, predictions: pd.DataFrame, *, in_strata: bool = False) -> np.ndarray:
        """str [n], units of one value are ranked with each other.

        Args:
            in_strata: those of one dose level and time only (see `has_strata`).
        """
        group = cohorts_of(predictions).astype(str)
        if self.pairs == "folds":
            group = group + " " + predictions["fold"].astype(str)
        if in_strata:
            group = group + " " + predictions["dose_level"] + " " + predictions["time_h"].astype(str)
        return group.to_numpy(dtype=str)


def headline_statistic(
    predictions: pd.DataFrame, resampling: Resampling, pairing: Pairing, *, in_strata: bool = False
) -> Statistic:
    """The headline metric of the predictions' family; macro where they are of several tasks.

    Args:
        predictions: labelled, of one headline.
        pairing: of the whole headline, so that methods are compared alike.
        in_strata: compare units of one dose level and time only.
    """
    family = family_of(predictions)
    groups = pairing.groups(predictions, in_strata=in_strata)
    return over_tasks(predictions, resampling, family.measures[family.metric], groups)


def over_tasks(
    predictions: pd.DataFrame, resampling: Resampling, make: RowStatistic, groups: np.ndarray
) -> Statistic:
    """Mean over the tasks; ``groups`` as `Pairing.groups`."""
    codes, n = resampling.codes(predictions["compound"].to_numpy()), len(resampling.clusters)
    places = predictions.groupby("task", sort=True).indices
    of_task = [make(predictions.iloc[at], codes[at], n, groups[at]) for at in places.values()]
    return of_task[0] if len(of_task) == 1 else mean_of(of_task)


def labels_differ(predictions: pd.DataFrame) -> pd.DataFrame:
    """The predictions of tasks in which both classes, or two grades, times or values, occur."""
    several = predictions.groupby("task")["label"].nunique() > 1
    return predictions[predictions["task"].map(several).astype(bool)]
