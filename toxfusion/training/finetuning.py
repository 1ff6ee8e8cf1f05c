"""Supervised fine-tuning: every task of a run as one loss on the predictor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from toxfusion.data.batch import Batch
from toxfusion.data.sampling import seed_draws
from toxfusion.distributed.ranks import rank
from toxfusion.models.network import Representation
from toxfusion.models.predictor import Predictor, read_by_heads
from toxfusion.tasks.task_set import TaskSet
from toxfusion.training.head_start import HeadRidge
from toxfusion.training.instances import InstanceTerms
from toxfusion.training.optimization import Optimization, is_logged


class FinetuningModule(L.LightningModule):
    """The losses, the optimiser and the log around a predictor.

    Args:
        predictor: its network is pretrained or at its random start, its heads are those of the tasks.
        tasks: fitted; their weights are those of the losses.
        labels: by task, of the samples that are trained on ([n] or [n, L]); weights of rare lesions come from them.
        network_lr_share: learning rate of the network as a share of that of the heads; 0 freezes the network.
        ridge: penalty on the heads beside the losses of training; None for none.
        contract: what the checkpoint carries beside the weights; see ``toxfusion.training.assemble.contract``.
    """

    def __init__(
        self,
        predictor: Predictor,
        tasks: TaskSet,
        *,
        labels: Mapping[str, Tensor],
        network_lr_share: float,
        optimization: Optimization,
        seed: int,
        contract: dict[str, Any],
        ridge: HeadRidge | None = None,
    ) -> None:
        super().__init__()
        self.ridge = ridge
        self.predictor, self.tasks = predictor, tasks
        self.objectives = nn.ModuleDict(tasks.objectives(labels))
        self.instances = InstanceTerms.of(predictor.network.bag, tasks)
        self.network_lr_share, self.optimization = network_lr_share, optimization
        self.seed, self.contract = seed, contract
        if network_lr_share == 0:
            predictor.network.requires_grad_(False)

    def losses(self, vector: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Loss of each task from what heads read of a batch; tasks without a label in it give 0."""
        return self.tasks.losses(self.objectives, self.predictor.heads, vector, batch)

    def penalised(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each loss with the penalty of its head."""
        if self.ridge is None:
            return losses
        penalties = self.ridge(self.predictor.heads)
        return {task: loss + penalties[task] if task in penalties else loss for task, loss in losses.items()}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum, scalar."""
        return torch.stack([self.tasks[k].weight * v for k, v in losses.items()]).sum()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        seed_draws(self.device, self.seed, "finetune", batch.step, rank())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        said = self.predictor(batch)
        fused = said.fused
        if is_logged(self.trainer):
            self.log("monitor/gate_slide", fused.gate[:, 0].detach().mean(), batch_size=len(batch))
        losses = self.penalised(
            self.losses(read_by_heads(fused.vector, batch.clinical, batch.head_membership), batch)
        )
        return self._log(losses, "train", len(batch), self.clustering(said, batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log the losses; returns what heads read."""
        vector = self.predictor.vector(batch)
        self._log(self.losses(vector, batch), "valid", len(batch))
        return vector

    def clustering(self, said: Representation, batch: Batch) -> Tensor | None:
        """The loss of instance clustering; None for a bag encoder without."""
        if self.instances is None or said.slide is None:
            return None
        return self.instances(said.slide, batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return self.optimization.configure(self, {"predictor.network.": self.network_lr_share})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["contract"] = self.contract

    def _log(
        self, losses: dict[str, Tensor], part: str, size: int, clustering: Tensor | None = None
    ) -> Tensor:
        total = self.total(losses)
        if clustering is not None and self.instances is not None:
            total = (1 - self.instances.weight) * total + self.instances.weight * clustering
            losses = {**losses, "instances": clustering}
        values = {f"{part}/{k}": v.detach() for k, v in losses.items()} | {f"{part}/loss": total.detach()}
        if part == "valid" or is_logged(self.trainer):
            self.log_dict(values, batch_size=size, sync_dist=part == "valid", on_step=part == "train")
        return total
