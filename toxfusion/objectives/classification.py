"""Losses of classification and regression with labels that may be missing (NaN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toxfusion.distributed.ranks import gather_rows, global_mean
from toxfusion.models.heads import CompoundLogits

MAX_POSITIVE_WEIGHT = 20.0


def positive_weights(labels: Tensor) -> Tensor:
    """min(n- / n+, 20) of each column of training labels [N, L] (1, 0, NaN).

    1 where a column has no positive.
    """
    positive = (labels == 1).sum(0).float()
    negative = (labels == 0).sum(0).float()
    weight = (negative / positive.clamp(min=1)).clamp(max=MAX_POSITIVE_WEIGHT)
    return torch.where((positive > 0) & (negative > 0), weight, 1.0)


class MaskedBCE(nn.Module):
    """Binary cross-entropy over the labels that are there, any shape: mean over all of them, of all ranks.

    Args:
        pos_weight: weight of positives, [L] or None.
    """

    pos_weight: Tensor | None

    def __init__(self, pos_weight: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, logits: Tensor, labels: Tensor, keep: Tensor | None = None) -> Tensor:
        """logits, labels [B] or [B, L]; labels 0, 1 or NaN. keep: bool [B], samples that count."""
        known = labels.isfinite()
        if keep is not None:
            known = known & keep.reshape(-1, *[1] * (labels.dim() - 1))
        terms = F.binary_cross_entropy_with_logits(
            logits.float(),
            torch.where(known, labels.float(), 0.0),
            pos_weight=self.pos_weight,
            reduction="none",
        )
        return global_mean(torch.where(known, terms, 0.0).sum(), known.sum())


class CompoundBCE(nn.Module):
    """Binary cross-entropy over compounds: each compound counts once, however many samples it has.

    Args:
        pos_weight: weight of positive compounds, a scalar tensor or None.
    """

    pos_weight: Tensor | None

    def __init__(self, pos_weight: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, output: CompoundLogits, compound: Tensor, labels: Tensor, is_control: Tensor) -> Tensor:
        """Compare pooled logits with the compounds' labels.

        Args:
            output: of `CompoundHead` in training mode: already pooled over all ranks.
            compound: int64 [B]. labels: [B], the compound's label 0, 1 or NaN on each sample. is_control:
                bool [B].

        Raises:
            ValueError: where samples of one compound carry different labels.
        """
        compound, labels, treated = (gather_rows(t) for t in (compound, labels.float(), ~is_control))
        known = (compound == output.compound[:, None]) & treated & labels.isfinite()
        high = torch.where(known, labels, -torch.inf).amax(1)
        low = torch.where(known, labels, torch.inf).amin(1)
        labelled = known.any(1)
        mixed = labelled & (high != low)
        if mixed.any():
            raise ValueError(
                f"compound code {int(output.compound[mixed][0])} carries label {float(low[mixed][0])} on one sample "
                f"and {float(high[mixed][0])} on another; all its samples must carry one label"
            )
        terms = F.binary_cross_entropy_with_logits(
            output.logits, torch.where(labelled, high, 0.0), pos_weight=self.pos_weight, reduction="none"
        )
        return torch.where(labelled, terms, 0.0).sum() / labelled.sum().clamp(min=1)


class CrossEntropy(nn.Module):
    """Cross-entropy of exclusive classes over the samples that have one."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits [B, C]; labels [B], class index as float, NaN = none."""
        known = labels.isfinite()
        target = torch.where(known, labels, 0.0).long()
        terms = F.cross_entropy(logits.float(), target, reduction="none")
        return global_mean(torch.where(known, terms, 0.0).sum(), known.sum())


class MaskedRegression(nn.Module):
    """Huber loss of standardised values over those that were measured (NaN = not)."""

    def __init__(self, *, delta: float = 1.0) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """predicted, target [B, L]."""
        known = target.isfinite()
        terms = F.huber_loss(
            predicted.float(), torch.where(known, target.float(), 0.0), delta=self.delta, reduction="none"
        )
        return global_mean(torch.where(known, terms, 0.0).sum(), known.sum())
