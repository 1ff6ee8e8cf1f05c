"""Fine-tuned weights scored at a validation, from the vectors that its steps have made; nothing is encoded twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from toxfusion.data.batch import Batch
from toxfusion.evaluation.selection import SelectionScore
from toxfusion.training.choice import Score, WeightChoice


class SampleVectors(Metric):
    """The vectors of samples that batches and ranks have seen, each sample once, where they were made."""

    full_state_update = False
    place: list[Tensor]
    vector: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("place", default=[], dist_reduce_fx="cat")
        self.add_state("vector", default=[], dist_reduce_fx="cat")

    def update(self, place: Tensor, vector: Tensor) -> None:
        """Take vectors [B, W] of samples, and the place int64 [B] of each among all samples."""
        self.place.append(place)
        self.vector.append(vector.detach().float())

    def compute(self) -> tuple[Tensor, Tensor]:
        """Places int64 [n], rising, and vectors float32 [n, W] of the samples of all ranks."""
        place, vector = dim_zero_cat(self.place), dim_zero_cat(self.vector)
        order = place.argsort()
        return place[order], vector[order]


class TaskChoice(WeightChoice):
    """Chooses the weights of fine-tuning by what they predict of the validation part.

    Not by the loss: labels are few, and the loss of the validation part rises with the confidence of a network whose
    ranking of samples still gets better. Probabilities are calibrated afterwards.

    Args:
        place: of each validation sample among all samples.
        judge: the score, and metrics to be logged, from the vectors [n, W] of the validation samples, in the order of
            their places; minus the validation loss stands in for a score that is no number.
    """

    def __init__(
        self,
        path: Path,
        patience: int | None,
        *,
        place: dict[str, int],
        judge: Callable[[Tensor], tuple[Score, dict[str, Tensor]]],
    ) -> None:
        super().__init__(path, patience)
        self.place, self.judge, self.vectors = place, judge, SampleVectors()

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.vectors.reset()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *args: Any
    ) -> None:
        """Take the vectors that the validation step of the module returned."""
        place = torch.tensor([self.place[sample] for sample in batch.sample_ids], device=outputs.device)
        self.vectors.update(place, outputs)

    def score(self, trainer: L.Trainer, module: L.LightningModule) -> Score:
        score, metrics = self.judge(self.vectors.compute()[1])
        if math.isnan(score.value):
            score = super().score(trainer, module)
        module.log_dict({f"valid/{name}": value for name, value in metrics.items()}, sync_dist=True)
        logged = {"valid/score": score.value, "valid/score_error": score.error}
        module.log_dict(
            {name: value for name, value in logged.items() if math.isfinite(value)}, sync_dist=True
        )
        return score

    def restored(self, state: dict[str, Any]) -> Score:
        return SelectionScore.from_state(state) if "influence" in state else super().restored(state)
