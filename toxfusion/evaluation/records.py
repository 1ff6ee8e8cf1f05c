"""Rows of metrics: a value with its interval, how many units, and why it is NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from toxfusion.evaluation import bootstrap, metrics
from toxfusion.evaluation.bootstrap import IntervalMethod, Resampling
from toxfusion.evaluation.metrics import Measure
from toxfusion.evaluation.statistics import Statistic

Record = dict[str, Any]

#: Metric -> the column of calls and the class whose share of right calls it is.
CALLED_SHARES: dict[str, tuple[str, int]] = {
    "sensitivity": ("called", 1),
    "specificity": ("called", 0),
    "validated_sensitivity_90": ("called_90", 1),
    "validated_specificity_90": ("called_90", 0),
    "validated_sensitivity_95": ("called_95", 1),
    "validated_specificity_95": ("called_95", 0),
}


def point_record(base: Record, metric: str, measure: Measure) -> Record:
    nothing = float("nan")
    return {**base, "metric": metric, "value": measure.value, "low": nothing, "high": nothing,
            "draws": 0, "undefined_draws": 0, "reason": measure.reason}  # fmt: skip


def interval_record(
    base: Record,
    metric: str,
    statistic: Statistic,
    resampling: Resampling,
    method: IntervalMethod,
    reason: str,
) -> Record:
    span = bootstrap.interval(statistic, resampling, method=method)
    note = reason
    if math.isnan(span.value) and not note:
        note = "undefined on these units"
    return {**base, "metric": metric, "value": span.value, "low": span.low, "high": span.high,
            "draws": span.draws, "undefined_draws": span.undefined_draws, "reason": note}  # fmt: skip


def share_record(
    base: Record, metric: str, predictions: pd.DataFrame, resampling: Resampling, method: IntervalMethod
) -> Record:
    """Sensitivity or specificity (``CALLED_SHARES``) of calls made with a threshold from the validation part."""
    column, value = CALLED_SHARES[metric]
    of_class = predictions[predictions["label"] == value]
    if of_class.empty:
        return point_record(
            base, metric, metrics.undefined(metrics.one_class_reason(predictions["label"].to_numpy()))
        )
    if of_class[column].isna().any():
        without = ", ".join(str(f) for f in sorted(of_class.loc[of_class[column].isna(), "fold"].unique()))
        lacking = metrics.undefined(f"no threshold from the validation part of fold {without}")
        return point_record(base, metric, lacking)
    right = (of_class[column] == value).to_numpy(dtype=np.float64)
    codes = resampling.codes(of_class["compound"].to_numpy())
    span, note = bootstrap.share_interval(right, codes, resampling, method=method)
    return {**point_record(base, metric, Measure(span.value, note)), "low": span.low, "high": span.high,
            "draws": span.draws, "undefined_draws": span.undefined_draws}  # fmt: skip


def as_dict(scores: pd.DataFrame) -> dict[str, dict[str, Record]]:
    """{task: {metric: {value, low, high, n, ...}}} of plain types for metrics.json; NaN becomes None."""
    nested: dict[str, dict[str, Record]] = {}
    for record in scores.to_dict("records"):
        entry = {str(k): _plain(v) for k, v in record.items() if k not in ("task", "metric")}
        nested.setdefault(str(record["task"]), {})[str(record["metric"])] = entry
    return nested


def plain_records(table: pd.DataFrame) -> list[Record]:
    """The rows of a table as dictionaries of plain types; NaN becomes None."""
    return [{str(k): _plain(v) for k, v in record.items()} for record in table.to_dict("records")]


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value
