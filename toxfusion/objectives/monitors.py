"""Numbers that tell how a representation fares without labels. No gradient flows through them."""

from __future__ import annotations

import torch
from torch import Tensor

from toxfusion.objectives.contrastive import unit


@torch.no_grad()
def smooth_rank(vectors: Tensor) -> Tensor:
    """exp(-sum p log p), p the singular values over their sum: 1 for a collapsed [N, D], min(N, D) at most.

    Garrido et al., ICML 2023 (RankMe).
    """
    singular = torch.linalg.svdvals(vectors.float())
    p = singular / singular.sum().clamp(min=torch.finfo(torch.float32).tiny)
    return (-torch.special.xlogy(p, p).sum()).exp()


@torch.no_grad()
def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of partners on the sphere, 0 to 4 (Wang and Isola, ICML 2020)."""
    return (unit(first) - unit(second)).square().sum(1).mean()


@torch.no_grad()
def uniformity(vectors: Tensor) -> Tensor:
    """log of the mean of exp(-2 d^2) over pairs on the sphere; 0 where all are equal, lower is more even."""
    if len(vectors) < 2:
        return torch.zeros((), device=vectors.device)
    return torch.nn.functional.pdist(unit(vectors)).square().mul(-2).exp().mean().log()


@torch.no_grad()
def variance_of(vectors: Tensor) -> Tensor:
    """Mean over columns of the variance over rows; near 0 where a private part has become constant."""
    return vectors.float().var(0, unbiased=False).mean()
