"""Heads on the fused vector [B, W]. They give logits or values; losses are in toxfusion.objectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toxfusion.distributed.ranks import gather_rows
from toxfusion.models.precision import full_precision

Pooling = Literal["mean", "max", "noisy_or", "attention"]
LOGIT_LIMIT = 80.0  # exp(-80) is still a normal float32


class HeadError(ValueError):
    """A head that does not exist."""


def _head(width: int, n_outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, n_outputs))


@dataclass(frozen=True)
class CompoundLogits:
    """compound int64 [C], codes in rising order; logits float32 [C]."""

    compound: Tensor
    logits: Tensor


class CompoundHead(nn.Module):
    """Logit of each sample, pooled over the treated samples of a compound; vehicle controls never enter.

    In training the samples of all ranks are pooled, so that a compound may lie on two of them.

    Args:
        pooling: "mean" or "max" of logits, "noisy_or" (1 - prod(1 - p_i), in log space), or "attention"
            (learned weights that sum to 1 over the samples of a compound).
    """

    def __init__(self, width: int, *, pooling: Pooling = "mean", dropout: float = 0.1) -> None:
        super().__init__()
        if pooling not in ("mean", "max", "noisy_or", "attention"):
            raise HeadError(f"pooling={pooling!r} is none of mean, max, noisy_or, attention")
        self.pooling = pooling
        self.head = _head(width, 1, dropout)
        self.score = (
            nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, 1, bias=False))
            if pooling == "attention"
            else None
        )

    def forward(self, vector: Tensor, compound: Tensor, is_control: Tensor) -> CompoundLogits:
        """vector [B, W], compound int64 [B], is_control bool [B]; C is 0 where no sample is treated."""
        own = self.head(vector)[:, 0].float()
        scores = torch.zeros_like(own) if self.score is None else self.score(vector)[:, 0].float()
        logits, treated = own, ~is_control
        if self.training:
            logits, scores, compound, treated = (gather_rows(t) for t in (own, scores, compound, treated))
        codes, pooled = pool_compounds(logits, scores, compound, treated, self.pooling)
        return CompoundLogits(codes, pooled)


@full_precision
def pool_compounds(
    logits: Tensor, scores: Tensor, compound: Tensor, treated: Tensor, pooling: Pooling
) -> tuple[Tensor, Tensor]:
    """Pool sample logits [N] to the compounds that have a treated sample: codes [C] and logits [C].

    scores [N] weigh the samples of a compound by softmax where pooling is "attention".
    """
    codes = torch.unique(compound[treated])
    member = (compound == codes[:, None]) & treated
    if pooling == "mean":
        return codes, (member.to(logits.dtype) @ logits) / member.sum(1)
    if pooling == "attention":
        weights = scores.masked_fill(~member, float("-inf")).softmax(1)
        return codes, weights @ logits
    if pooling == "max":
        return codes, logits.masked_fill(~member, float("-inf")).amax(1)
    log_none = member.to(logits.dtype) @ F.logsigmoid(-logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT))
    return codes, torch.log(-torch.expm1(log_none)) - log_none


class BinaryHead(nn.Module):
    """One logit a sample, float32 [B]."""

    def __init__(self, width: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.head = _head(width, 1, dropout)

    def forward(self, vector: Tensor) -> Tensor:
        return self.head(vector)[:, 0].float()


class MultiLabelHead(nn.Module):
    """A logit for each lesion, float32 [B, n_labels]."""

    def __init__(self, width: int, n_labels: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.head = _head(width, n_labels, dropout)

    def forward(self, vector: Tensor) -> Tensor:
        return self.head(vector).float()


class MultiClassHead(nn.Module):
    """Logits of exclusive classes, float32 [B, n_classes]."""

    def __init__(self, width: int, n_classes: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.head = _head(width, n_classes, dropout)

    def forward(self, vector: Tensor) -> Tensor:
        return self.head(vector).float()


class RegressionHead(nn.Module):
    """Values in standardised units, such as log ALT and log AST, float32 [B, n_outputs]."""

    def __init__(self, width: int, n_outputs: int = 1, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.head = _head(width, n_outputs, dropout)

    def forward(self, vector: Tensor) -> Tensor:
        return self.head(vector).float()


class OrdinalHead(nn.Module):
    """Logits of exceeding each grade, float32 [B, n_targets, n_grades - 1].

    "coral": logit of P(y > k) = w h + b_k, one w for all k (Cao et al., 2020); the thresholds fall with k by
    construction, so that no grade has a negative probability. "corn": logit of P(y > k | y > k - 1) (Shi et al.,
    2023).
    """

    def __init__(
        self,
        width: int,
        n_grades: int,
        *,
        n_targets: int = 1,
        method: Literal["coral", "corn"] = "coral",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if method not in ("coral", "corn") or n_grades < 2:
            raise HeadError(f"method={method!r} must be coral or corn and n_grades={n_grades} at least 2")
        self.method, self.n_targets, self.n_steps = method, n_targets, n_grades - 1
        self.head = _head(width, n_targets * (1 if method == "coral" else self.n_steps), dropout)
        if method == "coral":
            # b_0 is the bias of the last layer; each further threshold lies softplus(drop) lower.
            self.drop = nn.Parameter(torch.zeros(n_targets, self.n_steps - 1))

    def forward(self, vector: Tensor) -> Tensor:
        out = self.head(vector).float()
        if self.method == "corn":
            return out.unflatten(1, (self.n_targets, self.n_steps))
        fall = F.pad(F.softplus(self.drop).cumsum(1), (1, 0))
        return out[:, :, None] - fall

    def exceedance(self, logits: Tensor) -> Tensor:
        """P(y > k) [B, n_targets, n_grades - 1] from the logits."""
        if self.method == "corn":
            return F.logsigmoid(logits).cumsum(-1).exp()
        return logits.sigmoid()

    def expected_grade(self, logits: Tensor) -> Tensor:
        """sum_k P(y > k), [B, n_targets], in 0..n_grades - 1."""
        return self.exceedance(logits).sum(-1)


class SurvivalHead(nn.Module):
    """Logits of the hazard in each time bin, float32 [B, n_bins]; where n_bins is None, a Cox log risk [B]."""

    def __init__(self, width: int, n_bins: int | None = 4, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.n_bins = n_bins
        self.head = _head(width, n_bins or 1, dropout)

    def forward(self, vector: Tensor) -> Tensor:
        out = self.head(vector).float()
        return out[:, 0] if self.n_bins is None else out
