"""From a predictions table to metrics with intervals, task by task, beside the oracle of a virtual study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from toxfusion.evaluation import bootstrap, calibration, metrics, statistics
from toxfusion.evaluation.bootstrap import DRAWS, IntervalMethod, Resampling
from toxfusion.evaluation.families import FAMILIES, RowStatistic, family_of
from toxfusion.evaluation.metrics import Measure
from toxfusion.evaluation.oracles import VIEWS, read_oracles, with_oracle
from toxfusion.evaluation.out_of_fold import (
    Pairing,
    has_strata,
    headline_rows,
    headline_statistic,
    headlines_of,
    is_averaged,
    labels_differ,
    out_of_fold,
    over_tasks,
    resampling_of,
)
from toxfusion.evaluation.records import CALLED_SHARES, Record, interval_record, point_record, share_record
from toxfusion.study.vocabulary import members_of

_NO_STRATA = "units span several doses or times, so that there is no stratum to stay in"
_NO_THRESHOLD = "no threshold from the validation part of every fold"


@dataclass(frozen=True)
class _Bootstrap:
    """How intervals are drawn."""

    draws: int
    seed: int
    method: IntervalMethod

    def of(self, predictions: pd.DataFrame) -> Resampling:
        return resampling_of(predictions, draws=self.draws, seed=self.seed)


def score_run(
    predictions: pd.DataFrame | Sequence[pd.DataFrame],
    truth: Path | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    method: IntervalMethod = "percentile",
) -> pd.DataFrame:
    """Metrics of one method over every task of its predictions.

    Args:
        predictions: one table, or those of several folds and seeds, which are pooled and averaged first.
        truth: the folder ``truth/`` of a virtual study, for the oracle rows.
        draws, seed, method: of the bootstrap over compounds.

    Returns:
        One row per task and metric: task (those of the table, and each headline that several are averaged into, over
        those whose labels differ), family, headline, metric, value, low, high (95 %), n (units), n_compounds,
        prevalence, draws, undefined_draws, reason (why NaN, or what to know). The headline metric ranks units as
        `Pairing` says; beside it stands the other number, ``<metric>_pooled`` or ``<metric>_within_folds``.

    Raises:
        PredictionsError: as ``out_of_fold`` and ``with_oracle``.
    """
    tested = out_of_fold([predictions] if isinstance(predictions, pd.DataFrame) else list(predictions))
    oracles = read_oracles(truth) if truth is not None else None
    how = _Bootstrap(draws, seed, method)
    records: list[Record] = []
    for task in sorted(tested["task"].unique()):
        of_task = tested[tested["task"] == task]
        records += _TaskScores(task, of_task[of_task["label"].notna()], of_task, how).records(oracles)
    for headline in headlines_of(tested):
        of_headline = headline_rows(tested, headline)
        if len(of_headline) and is_averaged(of_headline):
            records += _macro_records(headline, of_headline, oracles, how)
    return pd.DataFrame(records)


def headline_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``score_run`` that hold the headline metric of a headline."""
    metric = scores["family"].map(lambda name: FAMILIES[name].metric)
    return scores[(scores["task"] == scores["headline"]) & (scores["metric"] == metric)]


def _base(task: str, labelled: pd.DataFrame, like: pd.DataFrame) -> Record:
    """What every row of a task says; ``like`` has its family and headline, ``labelled`` may be empty."""
    two_class = family_of(like).two_class and len(labelled) > 0
    return {"task": task, "family": like["family"].iloc[0], "headline": like["headline"].iloc[0], "n": len(labelled),
            "n_compounds": labelled["compound"].nunique(),
            "prevalence": float(labelled["label"].mean()) if two_class else float("nan")}  # fmt: skip


@dataclass(frozen=True)
class _TaskScores:
    """The metrics of one task, of its labelled predictions; ``every`` holds the unlabelled too."""

    task: str
    labelled: pd.DataFrame
    every: pd.DataFrame
    how: _Bootstrap

    def records(self, oracles: pd.DataFrame | None) -> list[Record]:
        labelled, family = self.labelled, family_of(self.every)
        base = _base(self.task, labelled, self.every)
        if labelled.empty:
            return [point_record(base, family.metric, metrics.undefined("no labelled test unit"))]
        resampling, pairing = self.how.of(labelled), Pairing.of(labelled)
        codes, groups = resampling.codes(labelled["compound"].to_numpy()), pairing.groups(labelled)
        undecided = "; ".join(sorted(set(labelled["undecided"]) - {""}))
        one_class = metrics.one_class_reason(labelled["label"].to_numpy()) if family.two_class else ""

        def record(metric: str, make: RowStatistic, reason: str = "") -> Record:
            statistic = make(labelled, codes, len(resampling.clusters), groups)
            return interval_record(base, metric, statistic, resampling, self.how.method, reason)

        scored = []
        for metric, make in family.measures.items():
            if metric == "integrated_brier" and not _has_curves(labelled):
                continue
            reason = undecided if metric == "quadratic_kappa" else "" if metric == "brier" else one_class
            if metric == family.metric:
                reason = reason or pairing.reason
            scored.append(record(metric, make, reason))
        scored += _beside(base, labelled, resampling, pairing, self.how, one_class)
        for metric, make in family.called.items():
            lacking = point_record(base, metric, metrics.undefined(undecided))
            scored.append(lacking if undecided else record(metric, make, one_class))
        if not family.two_class:
            return scored
        scored += [
            share_record(base, metric, labelled, resampling, self.how.method) for metric in CALLED_SHARES
        ]
        scored += [point_record(base, metric, measure) for metric, measure in _points(labelled).items()]
        return scored + _oracle_records(base, labelled, oracles, pairing, self.how)


def _has_curves(predictions: pd.DataFrame) -> bool:
    return "brier_term" in predictions and bool(predictions["brier_term"].notna().all())


def _beside(
    base: Record,
    labelled: pd.DataFrame,
    resampling: Resampling,
    pairing: Pairing,
    how: _Bootstrap,
    reason: str,
) -> list[Record]:
    """The headline metric with the other choice of pairs, where folds are several, and inside dose x time strata."""
    family, scored = family_of(labelled), []

    def record(name: str, of: Pairing, in_strata: bool) -> Record:
        statistic = headline_statistic(labelled, resampling, of, in_strata=in_strata)
        return interval_record(base, f"{family.metric}_{name}", statistic, resampling, how.method, reason)

    if pairing.several:
        scored.append(record("pooled" if pairing.pairs == "folds" else "within_folds", pairing.other, False))
    if not family.two_class:
        return scored
    if has_strata(labelled):
        return [*scored, record("within_strata", pairing, True)]
    return [*scored, point_record(base, f"{family.metric}_within_strata", metrics.undefined(_NO_STRATA))]


def _points(labelled: pd.DataFrame) -> dict[str, Measure]:
    label, score, calibrated = (labelled[c].to_numpy() for c in ("label", "score", "calibrated"))
    points = {
        "sensitivity_at_90_specificity": metrics.sensitivity_at_specificity(label, score, 0.90),
        "sensitivity_at_95_specificity": metrics.sensitivity_at_specificity(label, score, 0.95),
        "ece": metrics.expected_calibration_error(label, score),
        "calibration_slope": calibration.slope(label, score),
        "calibration_intercept": calibration.intercept(label, score),
    }
    if np.isnan(calibrated).any():
        missing = metrics.undefined("no calibration from the validation part of every fold")
        return {**points, "brier_calibrated": missing, "ece_calibrated": missing}
    return points | {
        "brier_calibrated": metrics.brier(label, calibrated),
        "ece_calibrated": metrics.expected_calibration_error(label, calibrated),
    }


def _macro_records(
    headline: str, labelled: pd.DataFrame, oracles: pd.DataFrame | None, how: _Bootstrap
) -> list[Record]:
    family, both = family_of(labelled), labels_differ(labelled)
    base = {**_base(headline, both, labelled), "n": both["unit_id"].nunique()}
    n, n_all, members = both["task"].nunique(), labelled["task"].nunique(), members_of(headline)
    kinds = "class" if family.two_class else "value"
    note = f"mean of {n} of {n_all} {members}; the others have one {kinds} only"
    if both.empty:
        lacking = metrics.undefined(f"none of {n_all} {members} has labels that differ")
        return [point_record(base, family.metric, lacking)]
    resampling, pairing = how.of(both), Pairing.of(both)
    groups = pairing.groups(both)

    def record(metric: str, make: RowStatistic) -> Record:
        statistic = over_tasks(both, resampling, make, groups)
        return interval_record(base, metric, statistic, resampling, how.method, note)

    scored = [
        record(metric, make)
        for metric, make in family.measures.items()
        if metric != "integrated_brier" or _has_curves(both)
    ]
    if labelled["family"].iloc[0] == "classes":
        scored += _class_records(labelled, how)
    elif family.called:
        columns = {m: ("called", make) for m, make in family.called.items()}
        columns |= {m: (column, _share(column, value)) for m, (column, value) in CALLED_SHARES.items()}
        for metric, (column, make) in columns.items():
            if both[column].isna().any():
                lacking = metrics.undefined(f"{_NO_THRESHOLD} and task")
                scored.append(point_record(base, metric, lacking))
            else:
                scored.append(record(metric, make))
    scored += _beside(base, both, resampling, pairing, how, note)
    return scored + (_oracle_records(base, both, oracles, pairing, how) if family.two_class else [])


def _share(column: str, value: int) -> RowStatistic:
    """Share of the units of class ``value`` that are called so."""

    def make(predictions: pd.DataFrame, codes: np.ndarray, n: int, group: np.ndarray) -> statistics.Statistic:
        right = (predictions[column] == value).astype(float).where(predictions["label"] == value)
        return statistics.mean_statistic(right.to_numpy(), codes, n)

    return make


def called_classes(labelled: pd.DataFrame) -> pd.DataFrame:
    """The rows of each unit's own class, the class of highest probability in column ``called_task``.

    Args:
        labelled: labelled predictions of the classes of a subtype.
    """
    by_score = labelled.sort_values(["score", "task"], kind="stable")
    called = by_score.groupby("unit_id")["task"].last()
    true = labelled[labelled["label"] == 1]
    return true.assign(called_task=called.reindex(true["unit_id"]).to_numpy())


def _class_records(labelled: pd.DataFrame, how: _Bootstrap) -> list[Record]:
    """Metrics of the called class over all classes."""
    true = called_classes(labelled)
    names = {task: float(i) for i, task in enumerate(sorted(labelled["task"].unique()))}
    label, guess = true["task"].map(names).to_numpy(), true["called_task"].map(names).to_numpy()
    resampling = how.of(true)
    codes = resampling.codes(true["compound"].to_numpy())
    of_class = statistics.class_statistics(label, guess, codes, len(resampling.clusters))
    base = {**_base(str(labelled["headline"].iloc[0]), true, labelled), "prevalence": float("nan")}
    return [
        interval_record(base, metric, statistic, resampling, how.method, "")
        for metric, statistic in zip(("accuracy", "balanced_accuracy", "macro_f1"), of_class, strict=True)
    ]


def _oracle_records(
    base: Record, labelled: pd.DataFrame, oracles: pd.DataFrame | None, pairing: Pairing, how: _Bootstrap
) -> list[Record]:
    if oracles is None:
        return []
    scored: list[Record] = []
    for view in VIEWS:
        known = with_oracle(labelled, oracles, view)
        if known.empty:
            continue
        resampling = how.of(known)
        ours = headline_statistic(known, resampling, pairing)
        oracle = headline_statistic(known.assign(score=known["oracle"]), resampling, pairing)
        fewer = f"on the {len(known)} of {len(labelled)} rows that the oracle scores"
        note = "" if len(known) == len(labelled) else fewer
        share = statistics.oracle_share_statistic(ours, oracle)
        scored.append(interval_record(base, f"oracle_auroc_{view}", oracle, resampling, how.method, note))
        scored.append(interval_record(base, f"oracle_share_{view}", share, resampling, how.method, note))
        gap = bootstrap.paired_difference(ours, oracle, resampling)
        above = "lies wholly above the oracle: look for a leak or a fault" if gap.low > 0 else note
        scored.append({**point_record(base, f"auroc_minus_oracle_{view}", Measure(gap.value, above)),
                      "low": gap.low, "high": gap.high, "draws": gap.draws,
                      "undefined_draws": gap.undefined_draws})  # fmt: skip
    return scored
