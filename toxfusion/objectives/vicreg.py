"""VICReg between two embeddings of the same samples, and consistency of predictions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toxfusion.distributed.ranks import gather_rows, global_mean
from toxfusion.models.precision import at_least_float32, full_precision


@dataclass(frozen=True)
class VICRegTerm:
    """loss and its three parts, scalars, before weighting."""

    loss: Tensor
    invariance: Tensor
    variance: Tensor
    covariance: Tensor


class VICReg(nn.Module):
    """Invariance (mean square), variance (hinge on the deviation at 1) and covariance (squared, off the diagonal).

    Bardes, Ponce and LeCun, ICLR 2022; weights 25, 25, 1. Deviations and covariances are over N - 1 rows of
    all ranks.
    """

    def __init__(
        self, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0, eps: float = 1e-4
    ) -> None:
        super().__init__()
        self.weights = (invariance, variance, covariance)
        self.eps = eps

    @full_precision
    def forward(self, first: Tensor, second: Tensor, valid: Tensor | None = None) -> VICRegTerm:
        """first, second [B, D]; valid bool [B], samples that have both."""
        if valid is None:
            valid = torch.ones(len(first), dtype=torch.bool, device=first.device)
        kept = gather_rows(valid)
        # Rows of all ranks: the loss is the same on each, so that its mean over ranks is the loss itself.
        first, second = (gather_rows(at_least_float32(vectors)) for vectors in (first, second))
        weight = kept[:, None].to(first.dtype)
        count = weight.sum()
        invariance = ((first - second).square().mean(1, keepdim=True) * weight).sum() / count.clamp(min=1)
        parts = [self._spread(vectors, weight, count) for vectors in (first, second)]
        variance = (parts[0][0] + parts[1][0]) / 2
        covariance = parts[0][1] + parts[1][1]
        terms = (invariance, variance, covariance)
        loss = sum((w * t for w, t in zip(self.weights, terms, strict=True)), torch.zeros_like(invariance))
        return VICRegTerm(loss, invariance.detach(), variance.detach(), covariance.detach())

    def _spread(self, vectors: Tensor, weight: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        centred = (vectors - (vectors * weight).sum(0) / count.clamp(min=1)) * weight
        covariance = centred.T @ centred / (count - 1).clamp(min=1)
        variance = covariance.diagonal()
        off_diagonal = covariance.square().sum() - variance.square().sum()
        return F.relu(1 - (variance + self.eps).sqrt()).mean(), off_diagonal / vectors.shape[1]


class Consistency(nn.Module):
    """Symmetric KL between Bernoulli predictions of two views.

    1/2 (p - q) (logit p - logit q), a mean over entries.
    """

    def forward(self, first: Tensor, second: Tensor, valid: Tensor) -> Tensor:
        """first, second: logits [B, L] of the same labels from two views; valid bool [B]."""
        first, second = first.float(), second.float()
        terms = 0.5 * (first.sigmoid() - second.sigmoid()) * (first - second)
        return global_mean((terms.mean(1) * valid).sum(), valid.sum())
