"""Supervised fine-tuning: DILI of compounds, injury of dose groups and the labels of samples, as one loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from toxfusion.data.batch import Batch
from toxfusion.data.sampling import seed_draws
from toxfusion.distributed.ranks import rank
from toxfusion.models.heads import (
    CompoundHead,
    MultiClassHead,
    MultiLabelHead,
    OrdinalHead,
    Pooling,
    RegressionHead,
    SurvivalHead,
)
from toxfusion.models.network import Network
from toxfusion.objectives.classification import (
    CompoundBCE,
    CrossEntropy,
    MaskedBCE,
    MaskedRegression,
    positive_weights,
)
from toxfusion.objectives.ordinal import Coral, Corn
from toxfusion.objectives.survival import CoxEfron, DiscreteSurvival
from toxfusion.study.vocabulary import N_GRADES
from toxfusion.tasks.tasks import Tasks
from toxfusion.training.optimization import Optimization, is_logged


class FinetuningModule(L.LightningModule):
    """The network with heads.

    Args:
        network: pretrained or at its random start.
        tasks: which heads there are.
        width: W of the fused vector.
        labels: labels of the training samples ("lesions" [n, L], ...); the weights of rare lesions come from them.
        weights: task -> weight in the loss.
        compound_pooling, group_pooling: how logits of samples become one of the compound, and of the dose group.
        network_lr_share: learning rate of the network as a share of that of the heads; 0 freezes the network.
        contract: what the checkpoint carries beside the weights; see ``toxfusion.training.run.contract``.
    """

    survival_edges: Tensor

    def __init__(
        self,
        network: Network,
        tasks: Tasks,
        *,
        width: int,
        labels: Mapping[str, Tensor],
        weights: Mapping[str, float],
        compound_pooling: Pooling,
        group_pooling: Pooling,
        network_lr_share: float,
        optimization: Optimization,
        seed: int,
        contract: dict[str, Any],
    ) -> None:
        super().__init__()
        self.network, self.tasks, self.task_weights = network, tasks, dict(weights)
        self.network_lr_share, self.optimization = network_lr_share, optimization
        self.seed, self.contract = seed, contract
        self.heads = nn.ModuleDict()
        if tasks.dili:
            self.heads["dili"] = CompoundHead(width, pooling=compound_pooling)
        if tasks.injury:
            self.heads["injury"] = CompoundHead(width, pooling=group_pooling)
        if tasks.lesions:
            self.heads["lesions"] = MultiLabelHead(width, len(tasks.lesions))
            self.lesion_loss = MaskedBCE(positive_weights(labels["lesions"]))
        if tasks.severity:
            self.heads["severity"] = OrdinalHead(width, N_GRADES, method=tasks.severity_loss)
            self.severity_loss = Coral() if tasks.severity_loss == "coral" else Corn()
        self.unit_loss = CompoundBCE()
        if tasks.survival is not None:
            self.heads["survival"] = SurvivalHead(width, tasks.survival.n_bins)
            edges = torch.tensor(tasks.survival.edges, dtype=torch.float32)
            self.register_buffer("survival_edges", edges, persistent=False)
            self.hazard_loss, self.cox_loss = DiscreteSurvival(alpha=tasks.survival.alpha), CoxEfron()
        if tasks.subtype is not None:
            self.heads["subtype"] = MultiClassHead(width, len(tasks.subtype.classes))
            self.subtype_loss = CrossEntropy()
        if tasks.biochemistry is not None:
            self.heads["biochemistry"] = RegressionHead(width, len(tasks.biochemistry.analytes))
            self.biochemistry_loss = MaskedRegression()
        if network_lr_share == 0:
            network.requires_grad_(False)

    def losses(self, vector: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Loss of each task from the fused vectors [B, W] of a batch; tasks without a label in it give 0."""
        out: dict[str, Tensor] = {}
        for task, codes in (("dili", batch.compound), ("injury", batch.group)):
            if task in self.heads:
                pooled = self.heads[task](vector, codes, batch.is_control)
                out[task] = self.unit_loss(pooled, codes, batch.labels[task], batch.is_control)
        if "lesions" in self.heads:
            out["lesions"] = self.lesion_loss(self.heads["lesions"](vector), batch.labels["lesions"])
        if "severity" in self.heads:
            out["severity"] = self.severity_loss(self.heads["severity"](vector), batch.labels["severity"])
        if self.tasks.survival is not None:
            time, event = batch.labels["survival"].unbind(1)
            risk = self.heads["survival"](vector)
            if self.tasks.survival.method == "cox":
                out["survival"] = self.cox_loss(risk, time, event)
            else:
                # Bin j holds edges[j - 1] <= time < edges[j].
                bins = torch.bucketize(time.nan_to_num(), self.survival_edges, right=True)
                known = torch.where(time.isfinite(), bins.float(), torch.nan)
                out["survival"] = self.hazard_loss(risk, known, event)
        if "subtype" in self.heads:
            out["subtype"] = self.subtype_loss(self.heads["subtype"](vector), batch.labels["subtype"])
        if "biochemistry" in self.heads:
            predicted = self.heads["biochemistry"](vector)
            out["biochemistry"] = self.biochemistry_loss(predicted, batch.labels["biochemistry"])
        return out

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        seed_draws(self.device, self.seed, "finetune", batch.step, rank())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        fused = self.network(batch).fused
        if is_logged(self.trainer):
            self.log("monitor/gate_slide", fused.gate[:, 0].detach().mean(), batch_size=len(batch))
        return self._log(self.losses(fused.vector, batch), "train", len(batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._log(self.losses(self.network(batch).fused.vector, batch), "valid", len(batch))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return self.optimization.configure(self, {"network.": self.network_lr_share})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["contract"] = self.contract

    @torch.inference_mode()
    def score_samples(
        self, vectors: Tensor, *, compound: Sequence[str], group: Sequence[str], is_control: np.ndarray
    ) -> dict[str, Any]:
        """Probabilities, the expected grade, risks and values.

        Args:
            vectors: float32 [n, W], fused vectors of all samples of a part, so that compounds and groups are whole.

        Returns:
            "dili": compound -> probability; "injury": group_id -> probability (of units with a treated sample);
            "lesions": float [n, L]; "severity": float [n], 0 to 4; "survival": float [n], higher = earlier
            (Cox: log risk; discrete: minus the sum over bins of S at their ends); "survival_curve": float
            [n, bins], those S, for discrete hazards; "subtype": float [n, classes], sums to 1; "biochemistry":
            float [n, analytes], standardised.
        """
        self.eval()
        self.heads.to(vectors.device)
        controls = torch.from_numpy(np.ascontiguousarray(is_control))
        out: dict[str, Any] = {}
        for task, names in (("dili", compound), ("injury", group)):
            if task in self.heads:
                codes, unique = pd.factorize(pd.Series(list(names), dtype=object), sort=True)
                pooled = self.heads[task](vectors, torch.from_numpy(codes.astype(np.int64)), controls)
                scores = pooled.logits.sigmoid().double().tolist()
                out[task] = {str(unique[c]): p for c, p in zip(pooled.compound.tolist(), scores, strict=True)}
        if "lesions" in self.heads:
            out["lesions"] = self.heads["lesions"](vectors).sigmoid().double().numpy()
        if "severity" in self.heads:
            head = cast(OrdinalHead, self.heads["severity"])
            out["severity"] = head.expected_grade(head(vectors))[:, 0].double().numpy()
        if self.tasks.survival is not None:
            found = self.heads["survival"](vectors).double()
            if self.tasks.survival.method == "discrete":
                curve = F.logsigmoid(-found).cumsum(1).exp()
                out["survival_curve"], found = curve.numpy(), -curve.sum(1)
            out["survival"] = found.numpy()
        if "subtype" in self.heads:
            out["subtype"] = self.heads["subtype"](vectors).double().softmax(1).numpy()
        if "biochemistry" in self.heads:
            out["biochemistry"] = self.heads["biochemistry"](vectors).double().numpy()
        return out

    def _log(self, losses: dict[str, Tensor], part: str, size: int) -> Tensor:
        total = torch.stack([self.task_weights[k] * v for k, v in losses.items()]).sum()
        values = {f"{part}/{k}": v.detach() for k, v in losses.items()} | {f"{part}/loss": total.detach()}
        if part == "valid" or is_logged(self.trainer):
            self.log_dict(values, batch_size=size, sync_dist=part == "valid", on_step=part == "train")
        return total
