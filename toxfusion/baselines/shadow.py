"""The linear shadow of the method: reduced-rank ridge from pooled tiles to principal components of expression.

A slide is the mean and deviation of its tiles, a profile its first components; ridge maps the one to the other, and a
slide finds its profile by cosine. Whatever a network claims of alignment is claimed beside this. Where there are groups
of samples (cohorts), each gets a map of its own, fitted on the pairs of all groups with its own weighing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from toxfusion.baselines.blocks import BaselineSettings, pooled_tiles, standardised_expression
from toxfusion.data.datamodule import FoldData
from toxfusion.data.group_scaling import GroupScaler, Within
from toxfusion.evaluation.retrieval import ranks

LEAST_SCALE = 1e-6
LEAST_VARIANCE = 1e-12


class ShadowError(ValueError):
    """There are too few pairs to fit or to choose by."""


@dataclass(frozen=True)
class ShadowSettings:
    """What may vary; components and penalties are chosen on the validation part.

    Attributes:
        components: principal components of expression.
        powers: of the singular value that each component is divided by: 0 leaves it its variance, 1 whitens.
        penalties: ridge, in units of the mean eigenvalue of the pooled features.
        own_weight: of a pair of the group that a map is for; 1 for pairs of others.
    """

    components: tuple[int, ...] = (16, 32, 64, 128)
    powers: tuple[float, ...] = (0.0, 0.5, 1.0)
    penalties: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    own_weight: float = 3.0


@dataclass(frozen=True)
class Shadow:
    """The shadow of every sample of a study.

    Attributes:
        slide, expression: float64 [n_samples, K], in one space within a group; NaN where the modality is missing.
        pooled: float64 [n_samples, 2 D], mean and deviation of tiles, standardised within groups.
        predicted: float64 [n_samples, G], expression from pooled tiles by ridge.
        components, power, penalty: as chosen for retrieval; gene_penalty: as chosen for expression.
    """

    slide: np.ndarray
    expression: np.ndarray
    pooled: np.ndarray
    predicted: np.ndarray
    components: int
    power: float
    penalty: float
    gene_penalty: float


def fit_shadow(fold: FoldData, within: Within, settings: ShadowSettings | None = None) -> Shadow:
    """Fit on the training pairs of a fold, choose on its validation pairs.

    Args:
        within: the groups; both sides are standardised within them on training samples.

    Raises:
        ShadowError: fewer than two training pairs, or fewer than two validation pairs in every group.
        BaselineError: the fold lacks a modality.
    """
    settings = settings or ShadowSettings()
    x = pooled_tiles(fold, BaselineSettings()).values
    y = standardised_expression(fold, BaselineSettings()).values
    named = within.groups(fold.study.obs)
    groups = np.full(len(x), "", object) if named is None else named
    paired = ~(np.isnan(x).any(1) | np.isnan(y).any(1))
    train, valid = (fold.study.positions(part) for part in (fold.split.train, fold.split.valid))
    train, valid = train[paired[train]], valid[paired[valid]]
    if len(train) < 2:
        raise ShadowError(f"fold {fold.split.fold}: {len(train)} training pairs; at least two are needed")
    x, y = (_standardised(values, train, groups, within) for values in (x, y))
    fits = _Fits(x, y, train, groups, settings.own_weight)
    judged = [members for members in _by_group(valid, groups) if len(members) > 1]
    if not judged:
        raise ShadowError(
            f"fold {fold.split.fold}: no group has two validation pairs to choose by; give split.valid_fraction a "
            "larger value"
        )
    most = min(len(train), y.shape[1])
    sizes = sorted({min(k, most) for k in settings.components})
    losses = {
        setting: np.mean([fits.loss(members, *setting) for members in judged])
        for setting in product(sizes, settings.powers, settings.penalties)
    }
    chosen = min(losses, key=lambda key: losses[key])
    errors = {p: np.mean([fits.error(members, p) for members in judged]) for p in settings.penalties}
    gene_penalty = min(errors, key=lambda key: errors[key])
    slide, expression, predicted = (np.full((len(x), k), np.nan) for k in (chosen[0], chosen[0], y.shape[1]))
    for members in _by_group(np.arange(len(x)), groups):
        slide[members], expression[members] = fits.pair(members, *chosen)
        predicted[members] = fits.genes(members, gene_penalty)
    return Shadow(slide, expression, x, predicted, *chosen, gene_penalty)


class _Moments(NamedTuple):
    """Of weighted training pairs.

    values, vectors: eigenvalues [P] and eigenvectors [P, P] of the slide side. cross: its moment with expression in
    these directions, [P, G]. axes, singular: principal axes of expression [G, G] and their singular values [G], the
    largest first.
    """

    values: np.ndarray
    vectors: np.ndarray
    cross: np.ndarray
    axes: np.ndarray
    singular: np.ndarray


class _Fits:
    """Ridge maps of each group, on the pairs of all groups; what is costly is kept.

    Args:
        x, y: float64 [n, P] and [n, G], standardised. train: int64, samples that are fitted on. groups: str [n].
        own_weight: of the group's own pairs.
    """

    def __init__(
        self, x: np.ndarray, y: np.ndarray, train: np.ndarray, groups: np.ndarray, own_weight: float
    ) -> None:
        self.x, self.y, self.train, self.groups, self.own_weight = x, y, train, groups, own_weight
        self._moments: dict[str, _Moments] = {}

    def pair(
        self, members: np.ndarray, components: int, power: float, penalty: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Slide and expression vectors [m, components] of samples of one group."""
        of = self._fitted(members)
        axes = of.axes[:, :components] * (of.singular[:components] / of.singular[0]) ** -power
        shrunk = (of.cross @ axes) / (of.values + penalty * of.values.mean())[:, None]
        return self.x[members] @ of.vectors @ shrunk, self.y[members] @ axes

    def genes(self, members: np.ndarray, penalty: float) -> np.ndarray:
        """Expression [m, G] predicted from slides of samples of one group."""
        of = self._fitted(members)
        shrunk = of.cross / (of.values + penalty * of.values.mean())[:, None]
        return np.asarray(self.x[members] @ of.vectors @ shrunk)

    def loss(self, members: np.ndarray, components: int, power: float, penalty: float) -> float:
        """Mean log rank of the right partner over both directions, 0 = always first, 1 = last."""
        slide, expression = self.pair(members, components, power, penalty)
        both = [ranks(slide, expression), ranks(expression, slide)]
        return float(np.mean(np.log(both)) / np.log(len(members)))

    def error(self, members: np.ndarray, penalty: float) -> float:
        """Mean squared error of expression."""
        return float(np.mean((self.genes(members, penalty) - self.y[members]) ** 2))

    def _fitted(self, members: np.ndarray) -> _Moments:
        name = str(self.groups[members[0]])
        if name not in self._moments:
            own = self.groups[self.train] == name
            weight = np.where(own, self.own_weight, 1.0)
            root = np.sqrt(weight / weight.sum())[:, None]
            x, y = self.x[self.train] * root, self.y[self.train] * root
            values, vectors = np.linalg.eigh(x.T @ x)
            variances, axes = np.linalg.eigh(y.T @ y)
            singular = np.sqrt(np.maximum(variances[::-1], LEAST_VARIANCE))
            cross = vectors.T @ (x.T @ y)
            self._moments[name] = _Moments(np.maximum(values, 0.0), vectors, cross, axes[:, ::-1], singular)
        return self._moments[name]


def _standardised(values: np.ndarray, train: np.ndarray, groups: np.ndarray, within: Within) -> np.ndarray:
    scaler = GroupScaler.fit(values[train], groups[train], within=within, least_scale=LEAST_SCALE)
    return scaler.standardised(values, groups)


def _by_group(samples: np.ndarray, groups: np.ndarray) -> Iterator[np.ndarray]:
    for name in np.unique(groups[samples].astype(str)):
        yield samples[groups[samples] == name]
