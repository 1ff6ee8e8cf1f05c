"""Averages of weights over the last steps: what is validated, chosen and kept of a stage that uses them."""

from __future__ import annotations

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights(WeightAveraging):
    """An exponential moving average of the weights, with a time constant that is a share of the stage.

    A single step of a small batch moves a score more than what it has learned does; the average follows what is
    learned. As the learning rate falls to nothing, it ends where the weights end. Buffers are not averaged.

    Args:
        share: time constant as a share of the steps, above 0 and up to 1.
        steps: of the stage.
        device: of the weights in training.
    """

    def __init__(self, share: float, steps: int, device: torch.device) -> None:
        decay = 1 - 1 / max(1.0, share * steps)
        super().__init__(device=device, use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))
