"""Metrics of the validation part for the log of a training, by torchmetrics, where the scores are.

They show how a training goes. What a run is worth is said by ``toxfusion.evaluation``, whose values these agree with.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    multiclass_cohen_kappa,
)

from toxfusion.study.vocabulary import N_GRADES


def metrics_of(family: str, label: Tensor, score: Tensor) -> dict[str, Tensor]:
    """Metrics of one task on its labelled units.

    Args:
        family: of measurement; see ``toxfusion.evaluation.families``.
        label, score: [n]; units without a label (NaN) are passed over.

    Returns:
        Name -> number where the scores are: "auroc" and "auprc" of two classes, "quadratic_kappa" of grades (the score
        rounded), "spearman" of values. Empty where the units leave it undefined, and for survival.
    """
    known = label.isfinite()
    label, score = label[known], score[known]
    if len(label) < 2 or label.min() == label.max():
        return {}
    if family in ("binary", "classes"):
        of_class = label.long()
        return {"auroc": binary_auroc(score, of_class), "auprc": binary_average_precision(score, of_class)}
    if family == "ordinal":
        grade = score.round().clamp(0, N_GRADES - 1).long()
        kappa = multiclass_cohen_kappa(grade, label.long(), num_classes=N_GRADES, weights="quadratic")
        return {"quadratic_kappa": kappa}
    if family == "value":
        return {"spearman": spearman_corrcoef(score, label)}
    return {}


def table_metrics(table: pd.DataFrame, device: torch.device) -> dict[str, Tensor]:
    """Metrics of each headline of a predictions table, the mean over its tasks.

    Args:
        table: predictions of one part.
        device: where the metrics are taken.

    Returns:
        "<headline>_<metric>" -> number on that device.
    """
    values: dict[str, list[Tensor]] = {}
    for (headline, family, _), of_task in table.groupby(["headline", "family", "task"]):
        label, score = (
            torch.from_numpy(of_task[c].to_numpy(np.float32)).to(device) for c in ("label", "score")
        )
        for metric, value in metrics_of(str(family), label, score).items():
            values.setdefault(f"{headline}_{metric}", []).append(value.float())
    return {name: torch.stack(of_tasks).mean() for name, of_tasks in values.items()}
