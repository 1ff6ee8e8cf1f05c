"""Contrastive losses between two sets of embeddings.

InfoNCE, SigLIP and NT-Xent, aware of near-duplicates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toxfusion.distributed.ranks import first_row, gather_rows, global_mean
from toxfusion.models.precision import at_least_float32, full_precision

Duplicates = Literal["keep", "exclude", "soft"]
MAX_SCALE = 100.0


class ContrastError(ValueError):
    """A setting of a contrastive loss that does not exist."""


@dataclass(frozen=True)
class ContrastiveTerm:
    """loss: scalar. scale: 1 / temperature. accuracy.

    Share of rows whose own partner scores best, both directions, local. skipped: rows (both directions, this
    rank) left without a negative, which do not count."""

    loss: Tensor
    scale: Tensor
    accuracy: Tensor
    skipped: Tensor


@dataclass(frozen=True)
class Kin:
    """What makes two samples near-duplicates, so that one is no fair negative of the other.

    group, animal: int64 [B], codes the same on all ranks; -1 = unknown, kin to nobody. is_control: bool [B].
    """

    group: Tensor
    animal: Tensor
    is_control: Tensor

    def gather(self) -> Kin:
        return Kin(gather_rows(self.group), gather_rows(self.animal), gather_rows(self.is_control))

    def related(self, others: Kin) -> Tensor:
        """bool [B, N]: same group, same animal, or both vehicle controls."""
        same_group = (self.group[:, None] == others.group) & (self.group >= 0)[:, None]
        same_animal = (self.animal[:, None] == others.animal) & (self.animal >= 0)[:, None]
        return same_group | same_animal | (self.is_control[:, None] & others.is_control)


def unit(vectors: Tensor) -> Tensor:
    """Rows of length 1, in float32 (float64 stays)."""
    return F.normalize(at_least_float32(vectors), dim=-1)


class Scale(nn.Module):
    """exp of a learned logarithm, held within [1, 100].

    Starts at 1 / temperature and stays there unless learnable.
    """

    def __init__(self, temperature: float, *, learnable: bool) -> None:
        super().__init__()
        if not 1 / MAX_SCALE <= temperature <= 1:
            raise ContrastError(f"temperature={temperature} must lie in [{1 / MAX_SCALE}, 1]")
        log_scale = torch.tensor(-math.log(temperature))
        self.log_scale = nn.Parameter(log_scale, requires_grad=learnable)

    def forward(self) -> Tensor:
        """Scalar. Beyond the limits the value is held but the gradient is not, so that it can come back."""
        held = self.log_scale.clamp(0.0, math.log(MAX_SCALE)).detach()
        return (self.log_scale - self.log_scale.detach() + held).exp()


class InfoNCE(nn.Module):
    """Symmetric InfoNCE: 1/2 [CE(s A B^T, diagonal) + CE(s B A^T, diagonal)], s = 1 / temperature.

    Radford et al., ICML 2021. Every rank scores its rows against the columns of all ranks, in both
    directions. Near- duplicates (`Kin`) are false negatives: "exclude" drops them from the denominator;
    "soft" gives a row the target (1 - soft_weight) on its own partner and soft_weight spread evenly over its
    kin; "keep" leaves them as negatives.
    A row left without any negative carries no information: it is skipped and counted.

    Args:
        temperature: at the start; learned where ``learnable``.
        duplicates: what to do with kin.
        soft_weight: share of the target on kin where ``duplicates`` is "soft".
        normalize: scale embeddings to length 1 (the alignment of MIRROR does not).
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        learnable: bool = True,
        duplicates: Duplicates = "exclude",
        soft_weight: float = 0.5,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        if duplicates not in ("keep", "exclude", "soft"):
            raise ContrastError(f"duplicates={duplicates!r} is none of keep, exclude, soft")
        self.scale = Scale(temperature, learnable=learnable)
        self.duplicates, self.soft_weight, self.normalize = duplicates, soft_weight, normalize

    @full_precision
    def forward(
        self, first: Tensor, second: Tensor, kin: Kin | None = None, valid: Tensor | None = None
    ) -> ContrastiveTerm:
        """Contrast row i of ``first`` with row i of ``second``.

        Args:
            first, second: [B, S], two views of the same B samples.
            kin: near-duplicates; nobody is kin where None.
            valid: bool [B], rows that have both views; the others are neither rows nor columns.
        """
        as_compared = unit if self.normalize else at_least_float32
        first, second = as_compared(first), as_compared(second)
        valid = torch.ones(len(first), dtype=torch.bool, device=first.device) if valid is None else valid
        columns_first, columns_second = gather_rows(first), gather_rows(second)
        column_valid = gather_rows(valid)
        related = self._related(kin, first, column_valid)
        scale = self.scale().to(first.dtype)
        directions = [
            self._direction(scale * first @ columns_second.T, related, valid, column_valid),
            self._direction(scale * second @ columns_first.T, related, valid, column_valid),
        ]
        used = torch.stack([direction.used for direction in directions]).sum()
        # Nothing of the graph may hang on a rank's data: every rank must take part in the backward gather.
        loss = global_mean(torch.stack([direction.total for direction in directions]).sum(), used)
        hits = torch.stack([direction.hits for direction in directions]).sum() / used.clamp(min=1)
        return ContrastiveTerm(loss, scale.detach(), hits, 2 * valid.sum() - used)

    def _related(self, kin: Kin | None, first: Tensor, column_valid: Tensor) -> Tensor:
        """bool [B, N], kin of each row but itself."""
        own = own_columns(first, len(column_valid))
        if kin is None or self.duplicates == "keep":
            return torch.zeros_like(own)
        return kin.related(kin.gather()) & ~own

    def _direction(self, logits: Tensor, related: Tensor, valid: Tensor, column_valid: Tensor) -> _Direction:
        own = own_columns(logits, logits.shape[1])
        related = related & column_valid
        negative = column_valid & ~own & ~related
        used = valid & negative.any(1)
        shown = own | negative | related if self.duplicates == "soft" else own | negative
        log_p = logits.masked_fill(~shown, float("-inf")).log_softmax(1)
        target = own.to(log_p.dtype)
        if self.duplicates == "soft":
            n_kin = related.sum(1, keepdim=True)
            share = self.soft_weight * (n_kin > 0)
            target = target * (1 - share) + related * share / n_kin.clamp(min=1)
        terms = -(target * log_p.masked_fill(~shown, 0.0)).sum(1)
        hits = (logits.masked_fill(~shown, float("-inf")).argmax(1) == own.long().argmax(1)) & used
        return _Direction((terms * used).sum(), used.sum(), hits.sum())


@dataclass(frozen=True)
class _Direction:
    """One direction.

    The sum of the loss over the rows in use, how many they are, how many find their partner.
    """

    total: Tensor
    used: Tensor
    hits: Tensor


def own_columns(vectors: Tensor, n_columns: int) -> Tensor:
    """bool [B, n_columns], True where a gathered column is the row itself."""
    start = first_row(vectors)
    columns = torch.arange(n_columns, device=vectors.device)
    return columns == (start + torch.arange(len(vectors), device=vectors.device))[:, None]


class SigLIP(nn.Module):
    """Pairwise sigmoid loss.

    -sum_ij log sigmoid(y_ij (t z_i g_j + b)) / B, y = 1 on the diagonal, -1 elsewhere.

    Zhai et al., ICCV 2023; t starts at 10 and b at -10. Near-duplicates are left out unless ``duplicates`` is
    "keep".
    """

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        bias: float = -10.0,
        learnable: bool = True,
        duplicates: Literal["keep", "exclude"] = "exclude",
    ) -> None:
        super().__init__()
        if duplicates not in ("keep", "exclude"):
            raise ContrastError(f"duplicates={duplicates!r} is neither keep nor exclude")
        self.scale = Scale(temperature, learnable=learnable)
        self.bias = nn.Parameter(torch.tensor(bias), requires_grad=learnable)
        self.duplicates = duplicates

    @full_precision
    def forward(
        self, first: Tensor, second: Tensor, kin: Kin | None = None, valid: Tensor | None = None
    ) -> ContrastiveTerm:
        """As `InfoNCE.forward`; a row without a negative still counts by its own pair, so none is skipped."""
        first, second = unit(first), unit(second)
        valid = torch.ones(len(first), dtype=torch.bool, device=first.device) if valid is None else valid
        columns, column_valid = gather_rows(second), gather_rows(valid)
        own = own_columns(first, len(columns))
        counted = valid[:, None] & column_valid
        if kin is not None and self.duplicates == "exclude":
            counted = counted & (own | ~kin.related(kin.gather()))
        scale = self.scale().to(first.dtype)
        logits = scale * first @ columns.T + self.bias
        sign = torch.where(own, 1.0, -1.0).to(logits.dtype)
        loss = global_mean(-(F.logsigmoid(sign * logits) * counted).sum(), valid.sum())
        best = logits.masked_fill(~counted, float("-inf")).argmax(1)
        hits = (((best == own.long().argmax(1)) & valid).sum() / valid.sum().clamp(min=1)).detach()
        return ContrastiveTerm(loss, scale.detach(), hits, torch.zeros_like(valid.sum()))


class NTXent(nn.Module):
    """Normalised temperature-scaled cross-entropy of two augmented views of each tile (SimCLR, ICML 2020).

    For each of the 2N views the partner is the other view of the same tile; all other views of all ranks are
    negatives.
    """

    def __init__(self, *, temperature: float = 0.2) -> None:
        super().__init__()
        self.scale = Scale(temperature, learnable=False)

    @full_precision
    def forward(self, first: Tensor, second: Tensor) -> ContrastiveTerm:
        """first, second: [N, S], two views of N tiles."""
        first, second = unit(first), unit(second)
        all_first, all_second = gather_rows(first), gather_rows(second)
        own = own_columns(first, len(all_first))
        scale = self.scale().to(first.dtype)
        partner = torch.cat([own, torch.zeros_like(own)], 1)
        directions = []
        for view, same_view, other_view in (
            (first, all_first, all_second),
            (second, all_second, all_first),
        ):
            within = (scale * view @ same_view.T).masked_fill(own, float("-inf"))
            logits = torch.cat([scale * view @ other_view.T, within], 1)
            directions.append(
                (-logits.log_softmax(1)[partner].sum(), (logits.argmax(1) == own.long().argmax(1)).sum())
            )
        count = torch.tensor(2 * len(first), device=first.device)
        loss = global_mean(torch.stack([total for total, _ in directions]).sum(), count)
        hits = torch.stack([hit for _, hit in directions]).sum() / count.clamp(min=1)
        return ContrastiveTerm(loss, scale.detach(), hits, torch.zeros_like(count))
