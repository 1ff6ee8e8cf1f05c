"""What a validation part is worth: the score that chooses weights, and that a sweep maximises."""

from __future__ import annotations

import math
from collections.abc import Callable

import lightning as L
import pandas as pd
from lightning.pytorch.callbacks import Callback
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from toxfusion.evaluation.survival import harrell_c
from toxfusion.training.stage import LEAST_LOSS, Monitor


def validation_objective(table: pd.DataFrame) -> float:
    """Mean over tasks of the validation part, 0.5 = chance; NaN when none is defined.

    AUROC of binary tasks with both classes, Harrell's C of survival, and (1 + Spearman's rho) / 2 of serum chemistry.
    """
    values = []
    valid = table[(table["part"] == "valid") & table["label"].notna()]
    for (_, family), rows in valid.groupby(["task", "family"]):
        label, score = rows["label"], rows["score"]
        if family in ("binary", "classes") and label.nunique() == 2:
            values.append(roc_auc_score(label, score))
        elif family == "survival":
            c = harrell_c(label.to_numpy(), rows["event"].to_numpy(), score.to_numpy())
            values += [c.value] if c.defined else []
        elif family == "value" and min(label.nunique(), score.nunique()) > 1:
            values.append((1 + spearmanr(label, score).statistic) / 2)
    return float(sum(values) / len(values)) if values else math.nan


class ValidationScore(Callback):
    """Logs valid/score, by which the best weights of fine-tuning are chosen.

    Not the loss: labels are few, and the loss of the validation part rises with the confidence of a network whose
    ranking of samples still gets better. Probabilities are calibrated afterwards.

    Args:
        score: of the validation part; where it is NaN, minus the validation loss stands in.
    """

    MONITOR = Monitor("valid/score", "max")

    def __init__(self, score: Callable[[], float]) -> None:
        self.score = score

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        score = self.score()
        if math.isnan(score):
            score = -float(trainer.callback_metrics[LEAST_LOSS.name])
        pl_module.log(self.MONITOR.name, score, sync_dist=True)
