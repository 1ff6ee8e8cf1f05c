"""Linear projections in closed form: what two views of the same samples share, and what each has alone.

Everything is solved in float64 from two thin singular value decompositions, so that neither view's covariance is ever
made: views may be wider than there are samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


class ClosedFormError(ValueError):
    """Views that do not go together, or settings under which nothing can be solved."""


@dataclass(frozen=True)
class LinearMap:
    """x -> weight x + bias; weight float64 [d, P], bias float64 [d]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, view: Tensor) -> Tensor:
        """[n, P] -> float64 [n, d]."""
        return view.double() @ self.weight.T + self.bias


@dataclass(frozen=True)
class SharedMaps:
    """Maps of two views to what they share.

    Attributes:
        first, second: to d dimensions each; the mean squared length over the samples they were fitted on is d.
        correlations: float64 [min(d, rank)], regularised canonical correlations, falling.
    """

    first: LinearMap
    second: LinearMap
    correlations: Tensor

    def turned_to(self, other: SharedMaps, first: Tensor, second: Tensor) -> SharedMaps:
        """The same maps in the axes of others: both turned by the orthogonal matrix R that minimises

            |[first(x); second(y)] R - [other.first(x); other.second(y)]|^2    (Schoenemann, 1966)

        Cosines between the two views stay as they are.

        Args:
            first, second: [n, P] and [n, Q], by which the axes are compared.
        """
        own, wanted = (torch.cat([of.first(first), of.second(second)]) for of in (self, other))
        left, _, right = torch.linalg.svd(own.T @ wanted)
        turn = (left @ right).T
        one, two = (LinearMap(turn @ of.weight, turn @ of.bias) for of in (self.first, self.second))
        return replace(self, first=one, second=two)


@dataclass(frozen=True)
class _Decomposed:
    """A standardised view as U diag(s) V^T with weights in U: mean and scale [P], u [n, r], s [r], v [P, r]."""

    mean: Tensor
    scale: Tensor
    u: Tensor
    s: Tensor
    v: Tensor

    def map(self, weight: Tensor, length: float | None = None) -> LinearMap:
        """[P, d] on standardised columns -> a map of raw ones, of mean squared length ``length`` over the samples."""
        if length is not None:
            mean_square = ((self.u * self.s) @ (self.v.T @ weight)).square().sum()
            weight = weight * (length / mean_square.clamp(min=torch.finfo(torch.float64).tiny)).sqrt()
        slopes = (weight / self.scale[:, None]).T
        return LinearMap(slopes, -(slopes @ self.mean))


def shared_maps(
    first: Tensor,
    second: Tensor,
    dim: int,
    *,
    first_ridge: float,
    second_ridge: float,
    power: float = 1.0,
    weights: Tensor | None = None,
) -> SharedMaps:
    """Regularised canonical correlation (Vinod, 1976), each variate times its correlation to a power.

    With X and Y standardised, C their covariances and l the ridges,

        (C_xx + l_x)^(-1/2) C_xy (C_yy + l_y)^(-1/2) = U R V^T
        shared(x) = R^p U^T (C_xx + l_x)^(-1/2) x,    shared(y) = R^p V^T (C_yy + l_y)^(-1/2) y

    Columns of variance 1 make the mean eigenvalue of a covariance 1, which is the unit of the ridges. With p = 0 the
    variates that hold by chance are as loud as those that hold; p = 1 is what the cosine of two vectors needs.

    Args:
        first, second: [n, P] and [n, Q], one row a sample.
        dim: d; dimensions beyond the rank are zero.
        first_ridge, second_ridge: l_x and l_y, above 0.
        power: p.
        weights: [n], of the samples in means and covariances; equal where None.

    Raises:
        ClosedFormError: views of different samples or fewer than three, a value that is not finite, a ridge of 0.
    """
    if len(first) != len(second):
        raise ClosedFormError(f"the views have {len(first)} and {len(second)} samples; they must be the same")
    if min(first_ridge, second_ridge) <= 0:
        raise ClosedFormError(f"ridges {first_ridge} and {second_ridge}: both must be above 0")
    x, y = _decompose(first, weights), _decompose(second, weights)
    whiten_x, whiten_y = (x.s**2 + first_ridge) ** -0.5, (y.s**2 + second_ridge) ** -0.5
    inner = (x.s * whiten_x)[:, None] * (x.u.T @ y.u) * (y.s * whiten_y)
    left, correlations, right = torch.linalg.svd(inner, full_matrices=False)
    kept = correlations[:dim]
    of_x = _widened(x.v * whiten_x @ left[:, :dim] * kept**power, dim)
    of_y = _widened(y.v * whiten_y @ right[:dim].T * kept**power, dim)
    return SharedMaps(x.map(of_x, dim), y.map(of_y, dim), kept)


def principal_map(view: Tensor, dim: int, *, without: Tensor | None = None) -> LinearMap:
    """The leading principal components of a standardised view, in their own proportions.

    Args:
        view: [n, P].
        dim: d; dimensions beyond the rank are zero. The mean squared length of the components is d.
        without: [n, e], linear in the view; components are those of what least squares on it leaves over, so that
            they are uncorrelated with it.

    Raises:
        ClosedFormError: fewer than three samples, or a value that is not finite.
    """
    x = _decompose(view, None)
    if without is None:
        return x.map(_widened(x.v[:, :dim], dim), dim)
    # In the coordinates u s of the view, what is left over is orthogonal to the centred columns of `without`.
    centred = without.double() - without.double().mean(0)
    basis, lengths, _ = torch.linalg.svd(x.u.T @ centred, full_matrices=False)
    basis = basis[:, lengths > lengths.max() * 1e-9] if lengths.numel() else basis
    rest = torch.diag(x.s) - basis @ (basis.T * x.s)
    _, _, axes = torch.linalg.svd(rest, full_matrices=False)
    # rest = (I - B B^T) diag(s) is u^T of the residual view; its rows of V^T span the components.
    leading = axes[:dim].T
    solved = (rest @ leading) / x.s.clamp(min=torch.finfo(torch.float64).tiny)[:, None]
    return x.map(_widened(x.v @ solved, dim), dim)


def _decompose(view: Tensor, weights: Tensor | None) -> _Decomposed:
    view = view.double()
    if len(view) < 3 or not bool(view.isfinite().all()):
        raise ClosedFormError(f"a view of {len(view)} samples: three finite ones are needed at least")
    share = torch.full((len(view),), 1.0 / len(view), dtype=torch.float64, device=view.device)
    if weights is not None:
        share = weights.double() / weights.double().sum()
    mean = share @ view
    centred = view - mean
    scale = (share @ centred.square()).sqrt()
    # A column that does not vary says nothing: it stays 0, whatever its scale.
    constant = scale <= 1e-6 * mean.abs().clamp(min=1e-6)
    scale = scale.masked_fill(constant, 1.0)
    standardised = (centred / scale).masked_fill(constant, 0.0) * share.sqrt()[:, None]
    u, s, vt = torch.linalg.svd(standardised, full_matrices=False)
    kept = s > s.max().clamp(min=1e-12) * 1e-9
    return _Decomposed(mean, scale, u[:, kept], s[kept], vt[kept].T.masked_fill(constant[:, None], 0.0))


def _widened(weight: Tensor, dim: int) -> Tensor:
    """[P, d'] with columns of zeros up to d."""
    return torch.nn.functional.pad(weight, (0, dim - weight.shape[1]))
