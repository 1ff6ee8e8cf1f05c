"""Families of measurement: what a label and a score of a task are, and by which statistics the task is scored.

A task says its family in the predictions table; nothing here knows which tasks there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from toxfusion.evaluation import statistics
from toxfusion.evaluation.statistics import Statistic
from toxfusion.evaluation.survival import concordance_statistic, within_strata

FamilyName = Literal["binary", "ordinal", "survival", "classes", "value"]
RowStatistic = Callable[[pd.DataFrame, np.ndarray, int, np.ndarray], Statistic]
"""(predictions, cluster of each, number of clusters, str [n]: only those of one such group are ranked) -> statistic."""

METRIC_NAMES = {
    "auroc": "AUROC",
    "quadratic_kappa": "quadratic kappa",
    "harrell_c": "Harrell C",
    "spearman": "Spearman",
}


@dataclass(frozen=True)
class Family:
    """How the tasks of one kind of label are measured.

    Attributes:
        metric: the headline metric, by which methods are compared.
        chance: what a score without information gets.
        measures: metric -> statistic, all with intervals.
        called: metrics of calls made with a threshold from the validation part.
        two_class: labels are 0 and 1 and scores are probabilities.
        ranked: the headline metric compares units with each other, so that it matters which share a fold.
        common_scale: scores of several folds may be set against each other at all (log risks may not).
    """

    metric: str
    chance: float
    measures: Mapping[str, RowStatistic]
    called: Mapping[str, RowStatistic] = field(default_factory=dict)
    two_class: bool = False
    ranked: bool = True
    common_scale: bool = True

    @property
    def metric_name(self) -> str:
        return METRIC_NAMES[self.metric]


def _column(predictions: pd.DataFrame, name: str) -> np.ndarray:
    return predictions[name].to_numpy(dtype=np.float64)


def _label_and(predictions: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    return _column(predictions, "label"), _column(predictions, name)


def _auroc(predictions: pd.DataFrame, codes: np.ndarray, n: int, group: np.ndarray) -> Statistic:
    return statistics.auroc_statistic(*_label_and(predictions, "score"), codes, n, group)


def _auprc(predictions: pd.DataFrame, codes: np.ndarray, n: int, group: np.ndarray) -> Statistic:
    return statistics.auprc_statistic(*_label_and(predictions, "score"), codes, n)


def _brier(predictions: pd.DataFrame, codes: np.ndarray, n: int, group: np.ndarray) -> Statistic:
    label, score = _label_and(predictions, "score")
    return statistics.mean_statistic((label - score) ** 2, codes, n)


def _balanced(predictions: pd.DataFrame, codes: np.ndarray, n: int, group: np.ndarray) -> Statistic:
    return statistics.confusion_statistics(*_label_and(predictions, "called"), codes, n)[0]


def _matthews(predictions: pd.DataFrame, codes: np.ndarray, n: int, group: np.ndarray) -> Statistic:
    return statistics.confusion_statistics(*_label_and(predictions, "called"), codes, n)[1]


def _kappa(predictions: pd.DataFrame, codes: np.ndarray, n: int, group: np.ndarray) -> Statistic:
    return statistics.kappa_statistic(*_label_and(predictions, "called"), codes, n)


def _absolute_error(predictions: pd.DataFrame, codes: np.ndarray, n: int, group: np.ndarray) -> Statistic:
    label, score = _label_and(predictions, "score")
    return statistics.mean_statistic(np.abs(label - score), codes, n)


def _concordance(
    predictions: pd.DataFrame, weight: str, codes: np.ndarray, n: int, group: np.ndarray
) -> Statistic:
    time, event, risk, weights = (_column(predictions, c) for c in ("label", "event", "score", weight))
    return concordance_statistic(time, event, risk, weights, codes, n, within_strata(predictions, group))


def _harrell(predictions: pd.DataFrame, codes: np.ndarray, n: int, group: np.ndarray) -> Statistic:
    return _concordance(predictions, "event", codes, n, group)


def _uno(predictions: pd.DataFrame, codes: np.ndarray, n: int, group: np.ndarray) -> Statistic:
    return _concordance(predictions, "uno_weight", codes, n, group)


def _brier_term(predictions: pd.DataFrame, codes: np.ndarray, n: int, group: np.ndarray) -> Statistic:
    return statistics.mean_statistic(predictions["brier_term"].to_numpy(), codes, n)


def _spearman(predictions: pd.DataFrame, codes: np.ndarray, n: int, group: np.ndarray) -> Statistic:
    return statistics.grouped_mean(
        statistics.spearman_statistic, *_label_and(predictions, "score"), codes, n, group
    )


def _r2(predictions: pd.DataFrame, codes: np.ndarray, n: int, group: np.ndarray) -> Statistic:
    cohort = (
        predictions["cohort"].to_numpy(dtype=str)
        if "cohort" in predictions
        else np.zeros(len(predictions), dtype=str)
    )
    return statistics.grouped_mean(
        statistics.r2_statistic, *_label_and(predictions, "score"), codes, n, cohort
    )


_RANKED: dict[str, RowStatistic] = {"auroc": _auroc, "auprc": _auprc, "brier": _brier}
_CALLED: dict[str, RowStatistic] = {"balanced_accuracy": _balanced, "mcc": _matthews}

FAMILIES: dict[str, Family] = {
    "binary": Family("auroc", 0.5, _RANKED, _CALLED, two_class=True),
    # One class against the rest, each a task of its own; the called class is scored over all of them.
    "classes": Family("auroc", 0.5, _RANKED, _CALLED, two_class=True),
    "ordinal": Family(
        "quadratic_kappa",
        0.0,
        {"quadratic_kappa": _kappa, "mean_absolute_error": _absolute_error},
        ranked=False,
    ),
    "survival": Family(
        "harrell_c",
        0.5,
        {"harrell_c": _harrell, "uno_c": _uno, "integrated_brier": _brier_term},
        common_scale=False,
    ),
    "value": Family(
        "spearman", 0.0, {"spearman": _spearman, "r2": _r2, "mean_absolute_error": _absolute_error}
    ),
}


def family_of(predictions: pd.DataFrame) -> Family:
    """The family of the predictions of one headline."""
    return FAMILIES[str(predictions["family"].iloc[0])]
