"""Style branch of MIRROR (IEEE TMI 2025).

A variational bottleneck and prototypes that both modalities share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toxfusion.distributed.ranks import gather_rows, global_mean
from toxfusion.models.precision import at_least_float32, full_precision


@dataclass(frozen=True)
class Style:
    """What the branch says of one modality: mean and log_variance [B, Z], scores [B, n_prototypes]."""

    mean: Tensor
    log_variance: Tensor
    scores: Tensor


class StyleBranch(nn.Module):
    """MLP to a latent's mean and log-variance, a draw of it, back to the width, cosine scores of prototypes.

    One branch serves both modalities. Prototypes start orthogonal and have length 1, the drawn vector too.
    Without prototypes (0) there is no way back to the width either, and scores are [B, 0].
    """

    def __init__(
        self, width: int, *, latent: int = 32, hidden: int | None = None, n_prototypes: int = 64
    ) -> None:
        super().__init__()
        hidden = hidden or width
        self.encode = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 2 * latent))
        self.decode = nn.Linear(latent, width) if n_prototypes else None
        self.prototypes = nn.Parameter(torch.empty(n_prototypes, width)) if n_prototypes else None
        if self.prototypes is not None:
            nn.init.orthogonal_(self.prototypes)

    def forward(self, vector: Tensor, generator: torch.Generator | None = None) -> Style:
        """vector [B, W]; in eval mode the mean stands for the draw.

        Args:
            generator: of the draw, on the CPU; torch's own where None.
        """
        mean, log_variance = at_least_float32(self.encode(vector)).chunk(2, 1)
        log_variance = log_variance.clamp(-10.0, 10.0)
        if self.decode is None or self.prototypes is None:
            return Style(mean, log_variance, mean.new_zeros(len(mean), 0))
        latent = mean
        if self.training:
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            latent = mean + noise * (log_variance / 2).exp()
        return Style(mean, log_variance, self._scores(self.decode(latent), self.prototypes))

    @full_precision
    def _scores(self, drawn: Tensor, prototypes: Tensor) -> Tensor:
        drawn, prototypes = at_least_float32(drawn), at_least_float32(prototypes)
        return F.normalize(drawn, dim=1) @ F.normalize(prototypes, dim=1).T


def style_kl(mean: Tensor, log_variance: Tensor, present: Tensor) -> Tensor:
    """1/2 sum_k (e^v + mu^2 - 1 - v), the mean over samples where ``present`` (bool [B]), of all ranks."""
    terms = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(1)
    return global_mean((terms * present).sum(), present.sum())


class StyleKL(nn.Module):
    """KL of the style latents from a unit normal, both modalities added."""

    def forward(self, slide: Style, expression: Style, has_slide: Tensor, has_expression: Tensor) -> Tensor:
        return style_kl(slide.mean, slide.log_variance, has_slide) + style_kl(
            expression.mean, expression.log_variance, has_expression
        )


@dataclass(frozen=True)
class ClusterTerm:
    """loss = kl - entropy_weight * entropy. kl: symmetric, batch mean. entropy.

    Of the mean assignment, in nats.
    """

    loss: Tensor
    kl: Tensor
    entropy: Tensor


class PrototypeClustering(nn.Module):
    """1/2 [KL(p_e || p_s) + KL(p_s || p_e)] of prototype assignments, minus the entropy of their mean.

    Probabilities by log_softmax at ``temperature``. The uniform assignment makes the KL zero for nothing, as
    does one prototype for all; a low temperature works against the first, the entropy term against the
    second. The source has temperature 1 and no entropy term.
    """

    def __init__(self, *, temperature: float = 0.1, entropy_weight: float = 1.0) -> None:
        super().__init__()
        self.temperature, self.entropy_weight = temperature, entropy_weight

    def forward(self, slide_scores: Tensor, expression_scores: Tensor, paired: Tensor) -> ClusterTerm:
        """Scores [B, n_prototypes] of both modalities; paired bool [B], samples with both."""
        log_s = (slide_scores / self.temperature).log_softmax(1)
        log_e = (expression_scores / self.temperature).log_softmax(1)
        both_ways = 0.5 * ((log_s.exp() - log_e.exp()) * (log_s - log_e)).sum(1)
        kl = global_mean((both_ways * paired).sum(), paired.sum())
        weight = gather_rows(paired)[:, None]
        assigned = gather_rows(0.5 * (log_s.exp() + log_e.exp()))
        mean = (assigned * weight).sum(0) / weight.sum().clamp(min=1)
        entropy = -torch.special.xlogy(mean, mean.clamp(min=torch.finfo(mean.dtype).tiny)).sum()
        return ClusterTerm(kl - self.entropy_weight * entropy, kl, entropy)
