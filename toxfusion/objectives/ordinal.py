"""Losses of graded findings: CORAL and CORN, and an optional penalty where a higher dose scores lower."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toxfusion.distributed.ranks import gather_rows, global_mean


def _steps(labels: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of grades [B] or [B, T].

    Known bool [B, T, 1], exceeded [B, T, K - 1] (y > k), reached [B, T, K - 1] (y > k - 1).
    """
    grades = labels.reshape(logits.shape[:2])[..., None].float()
    known = grades.isfinite()
    grades = torch.where(known, grades, 0.0)
    if ((grades < 0) | (grades > logits.shape[-1])).any():
        raise ValueError(
            f"grades run from {float(grades.min())} to {float(grades.max())}, the head from 0 to {logits.shape[-1]}; "
            "set n_grades to the number of grades"
        )
    step = torch.arange(logits.shape[-1], device=logits.device)
    return known, (grades > step).float(), grades >= step


class Coral(nn.Module):
    """-sum_k [y_k log s(l_k) + (1 - y_k) log(1 - s(l_k))], y_k = 1 where y > k; mean over graded samples.

    Cao, Mirjalili and Raschka, Pattern Recognition Letters 2020.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits [B, T, K - 1]; labels [B] or [B, T], grade 0..K - 1 or NaN."""
        logits = logits.float()
        known, exceeded, _ = _steps(labels, logits)
        terms = F.binary_cross_entropy_with_logits(logits, exceeded, reduction="none")
        return global_mean(torch.where(known, terms, 0.0).sum(), known.sum())


class Corn(nn.Module):
    """Cross-entropy of y > k among those with y > k - 1, over all such (sample, step) pairs.

    Chain rule at prediction.

    Shi, Cao and Raschka, Pattern Analysis and Applications 2023.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """As `Coral.forward`."""
        logits = logits.float()
        known, exceeded, reached = _steps(labels, logits)
        counted = known & reached
        terms = F.binary_cross_entropy_with_logits(logits, exceeded, reduction="none")
        return global_mean(torch.where(counted, terms, 0.0).sum(), counted.sum())


class DoseMonotonicity(nn.Module):
    """Mean over pairs of the same series of relu(score at the lower dose - score at the higher dose).

    Off by default: responses can fall where animals of the top dose die early."""

    def forward(self, scores: Tensor, dose: Tensor, series: Tensor) -> Tensor:
        """scores [B]; dose [B] mg/kg; series int64 [B], code of compound and time, the same on all ranks."""
        all_scores, all_dose, all_series = (gather_rows(t) for t in (scores.float(), dose, series))
        rising = (series[:, None] == all_series) & (dose[:, None] < all_dose)
        excess = (scores.float()[:, None] - all_scores).relu()
        return global_mean((excess * rising).sum(), rising.sum())
