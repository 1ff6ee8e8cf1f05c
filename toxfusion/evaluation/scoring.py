"""From a predictions table to metrics with intervals, task by task, beside the oracle of a virtual study.

Thresholds and temperatures come from the validation rows of the same fold; test rows are only scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from toxfusion.evaluation import bootstrap, calibration, metrics
from toxfusion.evaluation.bootstrap import DRAWS, IntervalMethod, Resampling, Statistic
from toxfusion.evaluation.metrics import Measure
from toxfusion.evaluation.predictions import (
    PredictionsError,
    average_seeds,
    is_binary,
    is_biochemistry,
    is_lesion,
    is_subtype,
    pool,
)
from toxfusion.evaluation.survival import concordance_statistic

LESIONS = "lesions"
SUBTYPE = "subtype"
BIOCHEMISTRY = "biochemistry"
HEADLINES = ("dili", "injury", LESIONS, "severity", "survival", SUBTYPE, BIOCHEMISTRY)
#: Headlines of several tasks, macro-averaged.
AVERAGED = {LESIONS: is_lesion, SUBTYPE: is_subtype, BIOCHEMISTRY: is_biochemistry}
ORACLE_FILE = "oracles.parquet"
ORACLE_COLUMNS = ("task", "level", "unit_id", "view", "label", "score")
VIEWS = ("both", "slide", "expression")
LEAK_AUROC = 0.90
#: Columns of calls made with a threshold that keeps this specificity on the validation part.
CALLED_AT = {"called_90": 0.90, "called_95": 0.95}
_NO_STRATA = "units span several doses or times, so that there is no stratum to stay in"


def out_of_fold(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Pooled test predictions with what the validation part of each fold decides.

    Args:
        tables: predictions of one method, one or several folds and seeds.

    Returns:
        ``predictions.pool`` of the test part, with columns ``called`` (1, 0 by the threshold of highest balanced
        accuracy; of severity the grade by ``metrics.choose_cutoffs``; NaN without one), ``called_90`` and
        ``called_95`` (1, 0 by the lowest threshold of 90 and 95 % specificity), ``scaled``
        (temperature-scaled probability; NaN without a temperature), ``threshold``, ``temperature``,
        and ``undecided``, the reason of a NaN.

    Raises:
        PredictionsError: as ``predictions.pool``; no test row at all.
    """
    tested = pool(tables)
    if tested.empty:
        raise PredictionsError("no test rows: the run has not scored its test part yet; run its test stage.")
    joined = pd.concat(list(tables), ignore_index=True)
    valid = average_seeds(joined[joined["part"] == "valid"])
    decided = [
        _decide(rows, valid[(valid["task"] == task) & (valid["fold"] == fold)])
        for (task, fold), rows in tested.groupby(["task", "fold"], sort=True)
    ]
    return pd.concat(decided, ignore_index=True)


def _decide(rows: pd.DataFrame, valid: pd.DataFrame) -> pd.DataFrame:
    task, fold = rows["task"].iloc[0], rows["fold"].iloc[0]
    score = rows["score"].to_numpy()
    label, scored = valid["label"].to_numpy(), valid["score"].to_numpy()
    if not is_binary(task):
        nothing, called, undecided = float("nan"), np.full(len(score), np.nan), ""
        if task == "severity":
            called = metrics.as_grade(score, metrics.choose_cutoffs(label, scored))
            if np.isnan(called).any():
                undecided = f"fold {fold}: no cut-offs of grades from validation: no labelled unit"
        return rows.assign(called=called, **dict.fromkeys(CALLED_AT, nothing), scaled=nothing,
                           threshold=nothing, temperature=nothing, undecided=undecided)  # fmt: skip
    threshold = metrics.choose_threshold(label, scored)
    temperature = calibration.fit_temperature(label, scored)
    thresholds = {"called": threshold} | {
        column: metrics.threshold_of_specificity(label, scored, kept) for column, kept in CALLED_AT.items()
    }
    scaled = (
        calibration.scale(score, temperature.value) if temperature.defined else np.full(len(score), np.nan)
    )
    undecided = "" if threshold.defined else f"fold {fold}: {threshold.reason}"
    return rows.assign(
        **{column: np.where(of.defined, score >= of.value, np.nan) for column, of in thresholds.items()},
        scaled=scaled,
        threshold=threshold.value,
        temperature=temperature.value,
        undecided=undecided,
    )


def headline_rows(tested: pd.DataFrame, headline: str) -> pd.DataFrame:
    """The labelled rows of one task, or of all of ``lesions``, ``subtype`` or ``biochemistry``."""
    belongs = AVERAGED.get(headline)
    of_task = tested["task"] == headline if belongs is None else tested["task"].map(belongs).astype(bool)
    return tested[of_task & tested["label"].notna()]


def resampling_of(rows: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> Resampling:
    """Draws of compounds for these rows, within each cohort, and within each class where the label is theirs.

    Rows of several studies have a column ``cohort`` and compounds named by cohort (see ``join_cohorts``).
    """
    own = (
        rows["level"].eq("compound").all()
        and rows["task"].map(is_binary).all()
        and rows["task"].nunique() == 1
    )
    keys = [rows["label"] if own else pd.Series(0.0, rows.index), _cohorts(rows)]
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


def _cohorts(rows: pd.DataFrame) -> pd.Series:
    return rows["cohort"] if "cohort" in rows.columns else pd.Series("", rows.index)


def strata_of(rows: pd.DataFrame) -> np.ndarray | None:
    """str [n], the dose x time stratum of each unit; None where units span several doses or times."""
    if (rows["dose_level"] == "").any() or rows["time_h"].isna().any():
        return None
    return (_cohorts(rows) + " " + rows["dose_level"] + " " + rows["time_h"].astype(str)).to_numpy(dtype=str)


Within = Literal["strata", "folds"]
RowStatistic = Callable[[pd.DataFrame, np.ndarray, int], Statistic]


def _auroc_among(rows: pd.DataFrame, codes: np.ndarray, n: int, stratum: np.ndarray | None) -> Statistic:
    return bootstrap.auroc_statistic(rows["label"].to_numpy(), rows["score"].to_numpy(), codes, n, stratum)


def _auroc(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return _auroc_among(rows, codes, n, _cohorts(rows).to_numpy(dtype=str))


def _auroc_in_strata(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return _auroc_among(rows, codes, n, strata_of(rows))


def _auroc_in_folds(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return _auroc_among(rows, codes, n, (_cohorts(rows) + " " + rows["fold"].astype(str)).to_numpy(dtype=str))


def _auprc(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return bootstrap.auprc_statistic(rows["label"].to_numpy(), rows["score"].to_numpy(), codes, n)


def _balanced(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return bootstrap.confusion_statistics(rows["label"].to_numpy(), rows["called"].to_numpy(), codes, n)[0]


def _matthews(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return bootstrap.confusion_statistics(rows["label"].to_numpy(), rows["called"].to_numpy(), codes, n)[1]


def _brier(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return bootstrap.mean_statistic(((rows["label"] - rows["score"]) ** 2).to_numpy(), codes, n)


def _share(column: str, value: int) -> RowStatistic:
    """Share of the units of class ``value`` that are called so."""

    def make(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
        right = (rows[column] == value).astype(float).where(rows["label"] == value)
        return bootstrap.mean_statistic(right.to_numpy(), codes, n)

    return make


def _kappa(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return bootstrap.kappa_statistic(rows["label"].to_numpy(), rows["called"].to_numpy(), codes, n)


def _absolute_error(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return bootstrap.mean_statistic((rows["label"] - rows["score"]).abs().to_numpy(), codes, n)


def _harrell(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return _concordance(rows, "event", codes, n)


def _uno(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return _concordance(rows, "uno_weight", codes, n)


def _concordance(rows: pd.DataFrame, weight: str, codes: np.ndarray, n: int) -> Statistic:
    """Pairs of one fold only: log risks have no common zero, and the bins of discrete hazards differ."""
    time, event, risk, weights = (
        rows[c].to_numpy(dtype=np.float64) for c in ("label", "event", "score", weight)
    )
    folds = (_cohorts(rows) + " " + rows["fold"].astype(str)).to_numpy(dtype=str)
    return concordance_statistic(time, event, risk, weights, codes, n, folds)


def _brier_term(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return bootstrap.mean_statistic(rows["brier_term"].to_numpy(), codes, n)


def _spearman(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return _by_cohort(bootstrap.spearman_statistic, rows, codes, n)


def _r2(rows: pd.DataFrame, codes: np.ndarray, n: int) -> Statistic:
    return _by_cohort(bootstrap.r2_statistic, rows, codes, n)


def _by_cohort(
    make: Callable[[np.ndarray, np.ndarray, np.ndarray, int], Statistic],
    rows: pd.DataFrame,
    codes: np.ndarray,
    n: int,
) -> Statistic:
    """Mean over cohorts: values of several studies are not set against each other."""
    label, score = rows["label"].to_numpy(), rows["score"].to_numpy()
    cohort = _cohorts(rows).to_numpy(dtype=str)
    found = [make(label[c], score[c], codes[c], n) for c in (cohort == name for name in np.unique(cohort))]
    return found[0] if len(found) == 1 else bootstrap.mean_of(found)


_WITHIN: dict[Within, RowStatistic] = {"strata": _auroc_in_strata, "folds": _auroc_in_folds}
_CALLED: dict[str, RowStatistic] = {"balanced_accuracy": _balanced, "mcc": _matthews}
#: Metric -> the column of calls and the class whose share of right calls it is.
CALLED_SHARES: dict[str, tuple[str, int]] = {
    "sensitivity": ("called", 1),
    "specificity": ("called", 0),
    "validated_sensitivity_90": ("called_90", 1),
    "validated_specificity_90": ("called_90", 0),
    "validated_sensitivity_95": ("called_95", 1),
    "validated_specificity_95": ("called_95", 0),
}
_RANKED: dict[str, RowStatistic] = {"auroc": _auroc, "auprc": _auprc, "brier": _brier}
_GRADED: dict[str, RowStatistic] = {"quadratic_kappa": _kappa, "mean_absolute_error": _absolute_error}
_TIMED: dict[str, RowStatistic] = {"harrell_c": _harrell, "uno_c": _uno, "integrated_brier": _brier_term}
_MEASURED: dict[str, RowStatistic] = {
    "spearman": _spearman,
    "r2": _r2,
    "mean_absolute_error": _absolute_error,
}
_HEADLINE_STATISTICS = {
    "auroc": _auroc,
    "quadratic_kappa": _kappa,
    "harrell_c": _harrell,
    "spearman": _spearman,
}


def headline_metric(headline: str) -> str:
    """The metric a headline or task is compared by: AUROC, and for what is not a class, another one."""
    if headline == BIOCHEMISTRY or is_biochemistry(headline):
        return "spearman"
    return {"severity": "quadratic_kappa", "survival": "harrell_c"}.get(headline, "auroc")


def chance_of(metric: str) -> float:
    """What a score without information gets: 0.5 of AUROC and Harrell's C, 0 of kappa and Spearman."""
    return 0.5 if metric in ("auroc", "harrell_c") else 0.0


def headline_statistic(
    rows: pd.DataFrame, resampling: Resampling, *, within: Within | None = None
) -> Statistic:
    """The statistic of ``headline_metric`` for ``headline_rows``; macro where the rows are of several
    lesions, classes or analytes.

    Args:
        rows: labelled rows of one headline.
        within: compare pairs of one dose x time stratum only ("strata"), or of one fold only ("folds");
            AUROC only.
    """
    made = _HEADLINE_STATISTICS[headline_metric(str(rows["task"].iloc[0]))]
    return _over_tasks(rows, resampling, made if within is None else _WITHIN[within])


def _over_tasks(rows: pd.DataFrame, resampling: Resampling, make: RowStatistic) -> Statistic:
    n = len(resampling.clusters)
    of_task = [
        make(part, resampling.codes(part["compound"].to_numpy()), n) for _, part in rows.groupby("task")
    ]
    return of_task[0] if len(of_task) == 1 else bootstrap.mean_of(of_task)


def read_oracles(truth: Path) -> pd.DataFrame | None:
    """The oracle scores of a virtual study, ``truth/oracles.parquet``; None where there is no such file.

    Raises:
        PredictionsError: a column is missing, or a unit is scored twice in one view.
    """
    path = Path(truth) / ORACLE_FILE
    if not path.is_file():
        return None
    table = pd.read_parquet(path)
    missing = [c for c in ORACLE_COLUMNS if c not in table.columns]
    if missing:
        raise PredictionsError(f"{path}: columns {missing} are missing; oracles have {list(ORACLE_COLUMNS)}.")
    table = table.astype({"task": str, "view": str, "unit_id": str})
    twice = table.duplicated(["task", "view", "unit_id"])
    if twice.any():
        first = table[twice].iloc[0]
        raise PredictionsError(
            f"{path}: unit {first['unit_id']!r} of {first['task']!r}, {first['view']!r}, is twice."
        )
    return table


def with_oracle(rows: pd.DataFrame, oracles: pd.DataFrame, view: str) -> pd.DataFrame:
    """The rows that have an oracle score of this view, the score in column ``oracle``.

    Raises:
        PredictionsError: the oracle's labels are others than those of the rows (permuted labels, or another
            study).
    """
    of_view = oracles.loc[oracles["view"] == view, ["task", "unit_id", "score", "label"]]
    of_view = of_view[of_view["score"].notna()].rename(columns={"score": "oracle", "label": "oracle_label"})
    known = rows.merge(of_view, on=["task", "unit_id"], how="inner")
    other = known["oracle_label"].notna() & (known["oracle_label"] != known["label"])
    if other.any():
        first = known[other].iloc[0]
        raise PredictionsError(
            f"unit {first['unit_id']!r} of task {first['task']!r} has label {first['label']:.0f} in the "
            f"predictions and "
            f"{first['oracle_label']:.0f} in {ORACLE_FILE} ({int(other.sum())} such units): score this run "
            f"without truth."
        )
    return known.drop(columns="oracle_label")


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
        One row per task and metric: task (``dili``, ``injury``, ``lesion:<term>``, ``severity``, ``survival``,
        ``subtype:<class>``, ``biochemistry:<analyte>``, and ``lesions``, ``subtype``, ``biochemistry`` = macro
        over those whose labels differ; ``subtype`` with the metrics of the called class), metric, value, low,
        high (95 %), n (units), n_compounds, prevalence, draws, undefined_draws, reason (why NaN, or what to know).

    Raises:
        PredictionsError: as ``out_of_fold`` and ``with_oracle``.
    """
    tables = [predictions] if isinstance(predictions, pd.DataFrame) else list(predictions)
    tested = out_of_fold(tables)
    oracles = read_oracles(truth) if truth is not None else None
    records: list[dict[str, Any]] = []
    for task in sorted(tested["task"].unique()):
        records += _task_records(task, headline_rows(tested, task), oracles, draws, seed, method)
    for headline in AVERAGED:
        of_all = headline_rows(tested, headline)
        if not of_all.empty:
            records += _macro_records(headline, of_all, oracles, draws, seed, method)
    return pd.DataFrame(records)


def _base(task: str, rows: pd.DataFrame) -> dict[str, Any]:
    binary = rows["task"].map(is_binary).astype(bool).all() and len(rows) > 0
    share = float(rows["label"].mean()) if binary else float("nan")
    return {"task": task, "n": len(rows), "n_compounds": rows["compound"].nunique(), "prevalence": share}


def point_record(base: dict[str, Any], metric: str, measure: Measure) -> dict[str, Any]:
    nothing = float("nan")
    return {**base, "metric": metric, "value": measure.value, "low": nothing, "high": nothing,
            "draws": 0, "undefined_draws": 0, "reason": measure.reason}  # fmt: skip


def interval_record(
    base: dict[str, Any],
    metric: str,
    statistic: Statistic,
    resampling: Resampling,
    method: IntervalMethod,
    reason: str,
) -> dict[str, Any]:
    found = bootstrap.interval(statistic, resampling, method=method)
    note = reason
    if math.isnan(found.value) and not note:
        note = "undefined on these units"
    return {**base, "metric": metric, "value": found.value, "low": found.low, "high": found.high,
            "draws": found.draws, "undefined_draws": found.undefined_draws, "reason": note}  # fmt: skip


def _task_records(
    task: str, rows: pd.DataFrame, oracles: pd.DataFrame | None, draws: int, seed: int, method: IntervalMethod
) -> list[dict[str, Any]]:
    base = _base(task, rows)
    if rows.empty:
        return [point_record(base, headline_metric(task), metrics.undefined("no labelled test unit"))]
    resampling = resampling_of(rows, draws=draws, seed=seed)
    codes, n = resampling.codes(rows["compound"].to_numpy()), len(resampling.clusters)

    def record(metric: str, make: RowStatistic, reason: str = "") -> dict[str, Any]:
        return interval_record(base, metric, make(rows, codes, n), resampling, method, reason)

    undecided = "; ".join(sorted(set(rows["undecided"]) - {""}))
    if task == "survival":
        scored = {k: v for k, v in _TIMED.items() if k != "integrated_brier" or _has_curves(rows)}
        return [record(metric, make) for metric, make in scored.items()]
    if not is_binary(task):
        if task != "severity":
            return [record(metric, make) for metric, make in _MEASURED.items()]
        reasons = {"quadratic_kappa": undecided}
        return [record(metric, make, reasons.get(metric, "")) for metric, make in _GRADED.items()]
    label = rows["label"].to_numpy()
    one_class = metrics.one_class_reason(label)
    found = [record(metric, make, "" if metric == "brier" else one_class) for metric, make in _RANKED.items()]
    found += _within_records(base, rows, resampling, method, one_class)
    for metric, make in _CALLED.items():
        if undecided:
            found.append(point_record(base, metric, metrics.undefined(undecided)))
        else:
            found.append(record(metric, make, one_class))
    found += [share_record(base, metric, rows, resampling, method) for metric in CALLED_SHARES]
    found += [point_record(base, metric, measure) for metric, measure in _points(rows).items()]
    return found + _oracle_records(base, rows, oracles, draws, seed, method)


def share_record(
    base: dict[str, Any], metric: str, rows: pd.DataFrame, resampling: Resampling, method: IntervalMethod
) -> dict[str, Any]:
    """Sensitivity or specificity (``CALLED_SHARES``) of calls made with a threshold from the validation part."""
    column, value = CALLED_SHARES[metric]
    of_class = rows[rows["label"] == value]
    if of_class.empty:
        return point_record(
            base, metric, metrics.undefined(metrics.one_class_reason(rows["label"].to_numpy()))
        )
    if of_class[column].isna().any():
        without = ", ".join(str(f) for f in sorted(of_class.loc[of_class[column].isna(), "fold"].unique()))
        lacking = metrics.undefined(f"no threshold from the validation part of fold {without}")
        return point_record(base, metric, lacking)
    right = (of_class[column] == value).to_numpy(dtype=np.float64)
    codes = resampling.codes(of_class["compound"].to_numpy())
    found, note = bootstrap.share_interval(right, codes, resampling, method=method)
    return {**point_record(base, metric, Measure(found.value, note)), "low": found.low, "high": found.high,
            "draws": found.draws, "undefined_draws": found.undefined_draws}  # fmt: skip


def _has_curves(rows: pd.DataFrame) -> bool:
    return "brier_term" in rows and bool(rows["brier_term"].notna().all())


def _within_records(
    base: dict[str, Any], rows: pd.DataFrame, resampling: Resampling, method: IntervalMethod, reason: str
) -> list[dict[str, Any]]:
    """AUROC inside dose x time strata, and inside folds where there are several."""
    if strata_of(rows) is None:
        found = [point_record(base, "auroc_within_strata", metrics.undefined(_NO_STRATA))]
    else:
        statistic = headline_statistic(rows, resampling, within="strata")
        found = [interval_record(base, "auroc_within_strata", statistic, resampling, method, reason)]
    if rows["fold"].nunique() > 1:
        statistic = headline_statistic(rows, resampling, within="folds")
        found.append(interval_record(base, "auroc_within_folds", statistic, resampling, method, reason))
    return found


def _points(rows: pd.DataFrame) -> dict[str, Measure]:
    label, score, scaled = (rows[c].to_numpy() for c in ("label", "score", "scaled"))
    points = {
        "sensitivity_at_90_specificity": metrics.sensitivity_at_specificity(label, score, 0.90),
        "sensitivity_at_95_specificity": metrics.sensitivity_at_specificity(label, score, 0.95),
        "ece": metrics.expected_calibration_error(label, score),
        "calibration_slope": calibration.slope(label, score),
        "calibration_intercept": calibration.intercept(label, score),
    }
    if np.isnan(scaled).any():
        missing = metrics.undefined("no temperature from the validation part of every fold")
        return {**points, "brier_scaled": missing, "ece_scaled": missing}
    scaled_points = {
        "brier_scaled": metrics.brier(label, scaled),
        "ece_scaled": metrics.expected_calibration_error(label, scaled),
    }
    return {**points, **scaled_points}


def _macro_records(
    headline: str,
    rows: pd.DataFrame,
    oracles: pd.DataFrame | None,
    draws: int,
    seed: int,
    method: IntervalMethod,
) -> list[dict[str, Any]]:
    several = rows.groupby("task")["label"].nunique() > 1
    both = rows[rows["task"].map(several).astype(bool)]
    base = {**_base(headline, both), "n": both["unit_id"].nunique()}
    things = {LESIONS: "lesions", SUBTYPE: "classes", BIOCHEMISTRY: "analytes"}[headline]
    note = f"mean of {several.sum()} of {len(several)} {things}; the others have one " + (
        "value only" if headline == BIOCHEMISTRY else "class only"
    )
    if both.empty:
        lacking = metrics.undefined(f"none of {len(several)} {things} has labels that differ")
        return [point_record(base, headline_metric(headline), lacking)]
    resampling = resampling_of(both, draws=draws, seed=seed)

    def record(metric: str, make: RowStatistic) -> dict[str, Any]:
        statistic = _over_tasks(both, resampling, make)
        return interval_record(base, metric, statistic, resampling, method, note)

    if headline == BIOCHEMISTRY:
        return [record(metric, make) for metric, make in _MEASURED.items()]
    found = [record(metric, make) for metric, make in _RANKED.items()]
    if headline == SUBTYPE:
        found += _class_records(rows, draws, seed, method)
    else:
        columns = {m: ("called", make) for m, make in _CALLED.items()}
        columns |= {m: (column, _share(column, value)) for m, (column, value) in CALLED_SHARES.items()}
        for metric, (column, make) in columns.items():
            if both[column].isna().any():
                lacking = metrics.undefined("no threshold from the validation part of every fold and lesion")
                found.append(point_record(base, metric, lacking))
            else:
                found.append(record(metric, make))
    found += _within_records(base, both, resampling, method, note)
    return found + _oracle_records(base, both, oracles, draws, seed, method)


def called_classes(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each unit's own class, the class of highest probability in column ``called_task``.

    Args:
        rows: labelled rows of the classes of a subtype.
    """
    by_score = rows.sort_values(["score", "task"], kind="stable")
    called = by_score.groupby("unit_id")["task"].last()
    true = rows[rows["label"] == 1]
    return true.assign(called_task=called.reindex(true["unit_id"]).to_numpy())


def _class_records(rows: pd.DataFrame, draws: int, seed: int, method: IntervalMethod) -> list[dict[str, Any]]:
    """Metrics of the called class over all classes."""
    true = called_classes(rows)
    names = {task: float(i) for i, task in enumerate(sorted(rows["task"].unique()))}
    label, guess = true["task"].map(names).to_numpy(), true["called_task"].map(names).to_numpy()
    resampling = resampling_of(true, draws=draws, seed=seed)
    codes = resampling.codes(true["compound"].to_numpy())
    statistics = bootstrap.class_statistics(label, guess, codes, len(resampling.clusters))
    base = {**_base(SUBTYPE, true), "prevalence": float("nan")}
    return [
        interval_record(base, metric, statistic, resampling, method, "")
        for metric, statistic in zip(("accuracy", "balanced_accuracy", "macro_f1"), statistics, strict=True)
    ]


def _oracle_records(
    base: dict[str, Any],
    rows: pd.DataFrame,
    oracles: pd.DataFrame | None,
    draws: int,
    seed: int,
    method: IntervalMethod,
) -> list[dict[str, Any]]:
    if oracles is None:
        return []
    found: list[dict[str, Any]] = []
    for view in VIEWS:
        known = with_oracle(rows, oracles, view)
        if known.empty:
            continue
        resampling = resampling_of(known, draws=draws, seed=seed)
        ours = headline_statistic(known, resampling)
        oracle = headline_statistic(known.assign(score=known["oracle"]), resampling)
        note = (
            ""
            if len(known) == len(rows)
            else f"on the {len(known)} of {len(rows)} rows that the oracle scores"
        )
        share = bootstrap.oracle_share_statistic(ours, oracle)
        found.append(interval_record(base, f"oracle_auroc_{view}", oracle, resampling, method, note))
        found.append(interval_record(base, f"oracle_share_{view}", share, resampling, method, note))
        gap = bootstrap.paired_difference(ours, oracle, resampling)
        above = "lies wholly above the oracle: look for a leak or a fault" if gap.low > 0 else note
        found.append({**point_record(base, f"auroc_minus_oracle_{view}", Measure(gap.value, above)),
                      "low": gap.low, "high": gap.high, "draws": gap.draws,
                      "undefined_draws": gap.undefined_draws})  # fmt: skip
    return found


def as_dict(scores: pd.DataFrame) -> dict[str, dict[str, dict[str, Any]]]:
    """{task: {metric: {value, low, high, n, ...}}} of plain types for metrics.json; NaN becomes None."""
    nested: dict[str, dict[str, dict[str, Any]]] = {}
    for record in scores.to_dict("records"):
        entry = {str(k): _plain(v) for k, v in record.items() if k not in ("task", "metric")}
        nested.setdefault(str(record["task"]), {})[str(record["metric"])] = entry
    return nested


def plain_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries of plain types; NaN becomes None."""
    return [{str(k): _plain(v) for k, v in row.items()} for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value
