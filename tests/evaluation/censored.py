"""Uno's C and the integrated Brier score of whole units, from the columns that predictions carry."""

from __future__ import annotations

import numpy as np

from toxfusion.evaluation.survival import concordance_statistic, survival_columns


def uno_c(
    train_time: np.ndarray,
    train_event: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    tau: float,
) -> float:
    weight = survival_columns(train_time, train_event, tau, time, event, None)["uno_weight"]
    n = len(time)
    return float(concordance_statistic(time, event, risk, weight, np.arange(n), n)(np.ones((1, n)))[0])


def integrated_brier(
    train_time: np.ndarray,
    train_event: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    times: np.ndarray,
    survival: np.ndarray,
) -> float:
    columns = survival_columns(train_time, train_event, times[-1], time, event, (times, survival))
    return float(columns["brier_term"].mean())
