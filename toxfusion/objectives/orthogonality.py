"""Losses that keep shared and private parts apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from toxfusion.distributed.ranks import gather_rows
from toxfusion.models.precision import at_least_float32, full_precision
from toxfusion.objectives.contrastive import unit


class OrthogonalityError(ValueError):
    """A form of the term that does not exist, or does not fit the widths."""


@dataclass(frozen=True)
class OrthogonalityTerm:
    """loss: scalar. floor.

    What independent parts would give at this batch size, to be read beside the loss.
    """

    loss: Tensor
    floor: Tensor


class Orthogonality(nn.Module):
    """Penalise what two parts of the same samples have in common.

    form="cosine": mean over the batch of cos^2(a, b), equal widths; independent parts give about 1 / d.
    form="cross_correlation": ||C||_F^2 / (d_a d_b), C the batch correlation of standardised a and b;
    independent parts give 1 / (B - 1), B over all ranks. Squared, since a raw dot product is least at -1.
    """

    def __init__(self, *, form: Literal["cosine", "cross_correlation"] = "cross_correlation") -> None:
        super().__init__()
        if form not in ("cosine", "cross_correlation"):
            raise OrthogonalityError(f"form={form!r} is neither cosine nor cross_correlation")
        self.form = form

    @full_precision
    def forward(self, first: Tensor, second: Tensor, valid: Tensor | None = None) -> OrthogonalityTerm:
        """first [B, d_a], second [B, d_b] of the same samples; valid bool [B], samples that have both."""
        if valid is None:
            valid = torch.ones(len(first), dtype=torch.bool, device=first.device)
        weight = gather_rows(valid)[:, None]
        first, second = gather_rows(first), gather_rows(second)
        count = weight.sum()
        if self.form == "cosine":
            if first.shape[1] != second.shape[1]:
                raise OrthogonalityError(
                    f"cosine needs equal widths, these are {first.shape[1]} and {second.shape[1]}"
                )
            square = (unit(first) * unit(second)).sum(1, keepdim=True).square()
            loss = (square * weight).sum() / count.clamp(min=1)
            return OrthogonalityTerm(loss, torch.tensor(1.0 / first.shape[1], device=loss.device))
        correlation = standardise(first, weight).T @ standardise(second, weight) / count.clamp(min=1)
        return OrthogonalityTerm(correlation.square().mean(), 1.0 / (count - 1).clamp(min=1).float())


def standardise(vectors: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Mean 0 and deviation 1 (over N, not N - 1) of the columns of [N, d] over rows of weight 1.

    Other rows are 0.
    """
    vectors = torch.where(weight, at_least_float32(vectors), 0.0)
    count = weight.sum().clamp(min=1)
    centred = torch.where(weight, vectors - vectors.sum(0) / count, 0.0)
    return centred / (centred.square().sum(0) / count + eps**2).sqrt()
