"""The optimiser and its schedule, shared by all stages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn


def is_logged(trainer: L.Trainer) -> bool:
    """Whether loggers get the values of the training step that is running: one in ``log_every_n_steps``.

    Steps of a small network are short: those that nobody sees spend no time on values and monitors.
    """
    return (trainer.global_step + 1) % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Optimization:
    """AdamW with linear warm-up and cosine decay to a tenth of a percent.

    Attributes:
        lr: peak learning rate.
        weight_decay: on matrices only; biases, norms and embeddings of one dimension have none.
        warmup: share of the steps spent warming up, 0 to 1.
        steps: optimiser steps of the whole stage.
    """

    lr: float
    weight_decay: float
    warmup: float
    steps: int

    def configure(
        self, module: nn.Module, lr_shares: Mapping[str, float] | None = None
    ) -> OptimizerLRSchedulerConfig:
        """What ``LightningModule.configure_optimizers`` returns.

        Args:
            lr_shares: prefix of parameter names -> share of the learning rate they get; 1 for all others.
        """
        shares = lr_shares or {}
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                share = next((s for prefix, s in shares.items() if name.startswith(prefix)), 1.0)
                groups.setdefault((share, parameter.ndim >= 2), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": members,
                    "lr": self.lr * share,
                    "weight_decay": self.weight_decay if decay else 0.0,
                }
                for (share, decay), members in groups.items()
            ],
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def factor(self, step: int) -> float:
        """Learning rate at a step as a share of the peak."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return (step + 1) / warm
        progress = min(1.0, (step - warm) / max(1, self.steps - warm))
        return 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * progress))
