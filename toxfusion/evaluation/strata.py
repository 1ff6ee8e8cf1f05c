"""Scores inside each dose level, time and batch, and false positives among vehicle controls, with intervals and counts.

A method may be right on average and wrong where it matters: at low doses, at early times, in one batch. Thresholds are
those of the whole validation part, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from toxfusion.evaluation import bootstrap, metrics
from toxfusion.evaluation.bootstrap import DRAWS, IntervalMethod
from toxfusion.evaluation.families import family_of
from toxfusion.evaluation.out_of_fold import (
    Pairing,
    headline_rows,
    headline_statistic,
    headlines_of,
    is_averaged,
    labels_differ,
    out_of_fold,
    resampling_of,
)
from toxfusion.evaluation.records import interval_record, point_record, share_record

BY = ("dose_level", "time_h", "batch")
CONTROLS = "is_control"
_FALSE_POSITIVES = {"false_positive_rate": "called", "false_positive_rate_90": "called_90"}
SMALL = 10
"""A stratum of fewer compounds, or of fewer units of either class, is named small."""
COLUMNS = ("task", "headline", "by", "stratum", "metric", "value", "low", "high", "n", "n_positive", "n_compounds",
           "small", "draws", "undefined_draws", "reason")  # fmt: skip


def score_strata(
    predictions: pd.DataFrame | Sequence[pd.DataFrame],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    method: IntervalMethod = "percentile",
) -> pd.DataFrame:
    """The headline metric of every task in each stratum, and the false-positive rate among vehicle controls.

    Args:
        predictions: one table, or those of several folds and seeds, which are pooled and averaged first.
        draws, seed, method: of the bootstrap over compounds.

    Returns:
        Columns ``COLUMNS``: task, headline (the group it is averaged into, or itself),
        by (``dose_level``, ``time_h``, ``batch``, or ``is_control``; a column of one value is left
        out), stratum (its value), metric, value, low, high (95 %), n (units), n_positive (of two classes; summed over
        lesions), n_compounds, small (see ``SMALL``), draws, undefined_draws, reason. The metric is
        the headline metric of the family, of a two-class task also ``sensitivity`` and ``specificity``, and of controls
        ``false_positive_rate`` and, by the threshold of 90 % specificity, ``false_positive_rate_90``. An averaged
        headline (lesions) is the macro average, and of controls the animals with any task called among those that have
        none.

    Raises:
        PredictionsError: as ``out_of_fold.out_of_fold``.
    """
    tested = out_of_fold([predictions] if isinstance(predictions, pd.DataFrame) else list(predictions))
    averaged = [h for h in headlines_of(tested) if is_averaged(tested[tested["headline"] == h])]
    tasks = [*sorted(tested["task"].unique()), *averaged]
    records: list[dict[str, Any]] = []
    for task in tasks:
        of_task = headline_rows(tested, task)
        if of_task.empty:
            continue
        for by in (by for by in BY if of_task[by].nunique(dropna=False) > 1):
            records += _by_stratum(task, of_task, by, draws, seed, method)
    for task, calls in _control_calls(tested).items():
        for metric, column in _FALSE_POSITIVES.items():
            if column == "called" or not calls["family"].eq("ordinal").any():
                records.append(_false_positives(task, calls, metric, column, draws, seed, method))
    return pd.DataFrame(records, columns=list(COLUMNS))


def _by_stratum(
    task: str, labelled: pd.DataFrame, by: str, draws: int, seed: int, method: IntervalMethod
) -> list[dict[str, Any]]:
    """Units that span several values of ``by`` are in no stratum; how many is said."""
    spanning = labelled[by].isna() | (labelled[by] == "")
    family, pairing = family_of(labelled), Pairing.of(labelled)
    metric, averaged = family.metric, is_averaged(labelled) and task == labelled["headline"].iloc[0]
    scored = []
    if n := int(spanning.sum()):
        lacking = metrics.undefined(f"{n} of {len(labelled)} units span several, and are in no stratum")
        scored.append(point_record(_base(task, by, "", labelled[spanning]), metric, lacking))
    for value, inside in labelled[~spanning].groupby(by, sort=True):
        base = _base(task, by, f"{value:g}" if isinstance(value, float) else str(value), inside)
        ranked = labels_differ(inside)
        resampling = resampling_of(inside, draws=draws, seed=seed)
        if ranked.empty:
            reason = metrics.one_class_reason(inside["label"].to_numpy()) if family.two_class else ""
            scored.append(point_record(base, metric, metrics.undefined(reason or "labels do not differ")))
        else:
            n, n_all = ranked["task"].nunique(), inside["task"].nunique()
            note = f"mean of {n} of {n_all}" if averaged else ""
            of_ranked = resampling_of(ranked, draws=draws, seed=seed)
            statistic = headline_statistic(ranked, of_ranked, pairing)
            scored.append(interval_record(base, metric, statistic, of_ranked, method, note))
        if family.two_class and not averaged:
            scored += [
                share_record(base, m, inside, resampling, method) for m in ("sensitivity", "specificity")
            ]
    return scored


def _base(task: str, by: str, stratum: str, predictions: pd.DataFrame) -> dict[str, Any]:
    binary = len(predictions) > 0 and family_of(predictions).two_class
    n, n_compounds = predictions["unit_id"].nunique(), predictions["compound"].nunique()
    positive = predictions["label"].sum() if binary else float("nan")
    few = n_compounds < SMALL or (binary and min(positive, len(predictions) - positive) < SMALL)
    headline = predictions["headline"].iloc[0] if len(predictions) else task
    return {"task": task, "headline": headline, "by": by, "stratum": stratum, "n": n, "n_positive": positive,
            "n_compounds": n_compounds, "small": bool(few)}  # fmt: skip


def _control_calls(tested: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """{task: vehicle controls without the finding}, of tasks that call one.

    Of two-class tasks that are averaged, also {headline: controls without any finding, called where one task is}.
    """
    calling = tested["family"].isin(("binary", "classes", "ordinal"))
    controls = tested[calling & tested["is_control"]]
    by_task = {
        str(task): of_task for task, of_task in controls[controls["label"] == 0].groupby("task", sort=True)
    }
    several = controls[(controls["family"] == "binary") & (controls["task"] != controls["headline"])]
    for headline, of_task in several.groupby("headline", sort=True):
        without = of_task.groupby("unit_id")["label"].max() == 0
        free = of_task[of_task["unit_id"].map(without).astype(bool)]
        # A task without a threshold calls nothing, and an animal that others call is called all the same.
        calls = list(_FALSE_POSITIVES.values())
        first = free.drop_duplicates("unit_id").set_index("unit_id", drop=False)
        first[calls] = free.groupby("unit_id")[calls].max()
        by_task[str(headline)] = first
    return by_task


def _false_positives(
    task: str, calls: pd.DataFrame, metric: str, column: str, draws: int, seed: int, method: IntervalMethod
) -> dict[str, Any]:
    base = {**_base(task, CONTROLS, "vehicle control", calls), "n_positive": float("nan")}
    base["small"] = base["n_compounds"] < SMALL
    if calls.empty or calls[column].isna().any():
        return point_record(
            base, metric, metrics.undefined("no threshold from the validation part of every fold")
        )
    resampling = resampling_of(calls, draws=draws, seed=seed)
    called = (calls[column] >= 1).to_numpy(dtype=np.float64)
    span, note = bootstrap.share_interval(
        called, resampling.codes(calls["compound"].to_numpy()), resampling, method=method
    )
    return {**point_record(base, metric, metrics.Measure(span.value, note)), "low": span.low, "high": span.high,
            "draws": span.draws, "undefined_draws": span.undefined_draws}  # fmt: skip
