"""Likeness: which tiles look like tiles of training slides that have a finding.

It is no reading of the network. Every training tile is given the label of its animal, and a ridge regression on the
tile features that the network reads learns to tell tiles of slides with the finding from the others, by how tiles vary
within and between slides (single-instance learning, Ray and Craven, ICML 2005). Integrated gradients say what moved
the network's number; heads learn from one mean and deviation a slide, so that nothing tells them how the tiles of one
slide differ anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import linalg
from sklearn.neighbors import radius_neighbors_graph

from toxfusion.explanation.regions import tile_places
from toxfusion.runs.loaded import LoadedRun
from toxfusion.training.folder import RunError

RIDGE = 1.0
"""Penalty, as a share of the mean variance of the features."""
TILES_A_SAMPLE = 256
"""At most so many tiles of a training sample are learned from."""
NEIGHBOURHOOD = 0.6
"""Deviation of the Gaussian over which scores are averaged, in tile sides; in a grid 0.44 is the tile's own."""
FAMILIES = ("binary", "ordinal")
"""Of tasks whose label says how much of a finding the animal has."""
_SAMPLES_AT_ONCE = 16


@dataclass(frozen=True)
class TileLikeness:
    """A linear score of tiles for each finding.

    Attributes:
        mean: float64 [D], the mean training tile, which scores 0.
        weights: float64, features x tasks: of the standardised tile features of the run.
    """

    mean: np.ndarray
    weights: pd.DataFrame

    def scores(self, run: LoadedRun, sample_ids: Sequence[str]) -> pd.DataFrame:
        """How far each tile looks like tiles of slides with the finding, in units of its label.

        It is the mean over the tile and its neighbours on the slide, by a Gaussian; the tile's own where tiles have no
        place.

        Args:
            run: that the likeness was fitted to, on its own study or on another one.

        Returns:
            float64 [T, tasks], columns "likeness:<task>", in the order of `regions.tile_places`.
        """
        weights = self.weights.to_numpy()
        parts = [(tiles - self.mean) @ weights for tiles, _ in _tiles(run, sample_ids, at_most=None)]
        own = np.concatenate([np.empty((0, weights.shape[1])), *parts])
        places = tile_places(run, sample_ids)
        for slide in places.groupby("slide_id", sort=False).indices.values():
            corners, side = places[["x", "y"]].to_numpy()[slide], float(places["side"].iloc[slide[0]])
            if np.isfinite(corners).all():
                own[slide] = _mean_around(own[slide], corners, side)
        return pd.DataFrame(own, columns=[f"likeness:{task}" for task in self.weights])


def fit_likeness(run: LoadedRun) -> TileLikeness:
    """Learn it from the training samples of the run's split, and from the labels that the run learned from.

    A task without labels of two kinds among them is left out. Weights are (S + RIDGE tr(S) / D)^-1 c, with S
    the covariance of the training tiles and c that of tiles and labels (Hoerl and Kennard, Technometrics 1970). The
    network has no part in it, wherever it lies.

    Args:
        run: on the study that it was trained on.

    Raises:
        RunError: the study lacks a training sample of the run, or no training sample has tiles.
    """
    study = run.fold.study
    absent = [s for s in run.fold.split.train if s not in study.obs.index]
    if absent:
        raise RunError(
            f"{study.root}: lacks {len(absent)} training samples of {run.folder.root} ({', '.join(absent[:3])} ...); "
            "prepare the study as it was in training"
        )
    samples = [s for s in run.fold.split.train if run.fold.has_slide(s)]
    if not samples:
        raise RunError(
            f"{study.root}: no training sample of {run.folder.root} has tiles; extract the study's slides again"
        )
    total = np.zeros((len(samples), run.fold.tile_dim))
    products = np.zeros((run.fold.tile_dim, run.fold.tile_dim))
    lengths = np.zeros(len(samples))
    position = 0
    for features, of_samples in _tiles(run, samples, at_most=TILES_A_SAMPLE):
        starts = np.cumsum(of_samples) - of_samples
        here = slice(position, position + len(of_samples))
        total[here], lengths[here] = np.add.reduceat(features, starts, axis=0), of_samples
        products += features.T @ features
        position += len(of_samples)
    mean = total.sum(0) / lengths.sum()
    covariance = products / lengths.sum() - np.outer(mean, mean)
    covariance[np.diag_indices_from(covariance)] += RIDGE * np.trace(covariance) / len(covariance)
    shared = {}
    for task, values in run.labels_learned(samples, FAMILIES).items():
        if len(np.unique(values[~np.isnan(values)])) < 2:
            continue
        tiles = np.where(np.isnan(values), 0.0, lengths)
        known = max(tiles.sum(), 1.0)
        centred = np.where(tiles > 0, values - np.nansum(tiles * values) / known, 0.0)
        shared[task] = total.T @ centred / known
    factor = linalg.cho_factor(covariance, overwrite_a=True, check_finite=False)
    weights = {task: linalg.cho_solve(factor, values) for task, values in shared.items()}
    return TileLikeness(mean, pd.DataFrame(weights, index=range(run.fold.tile_dim)))


def _tiles(
    run: LoadedRun, sample_ids: Sequence[str], *, at_most: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Standardised tiles float64 [T, D] of a few samples at a time that have some, and how many are of each."""
    having = [s for s in sample_ids if run.fold.has_slide(s)]
    for start in range(0, len(having), _SAMPLES_AT_ONCE):
        with torch.no_grad():
            chunk = having[start : start + _SAMPLES_AT_ONCE]
            tiles = run.fold.batch(chunk, stage="likeness", tiles_per_bag=at_most).tiles
        yield tiles.features.double().numpy(), tiles.lengths.numpy()


def _mean_around(values: np.ndarray, corners: np.ndarray, side: float) -> np.ndarray:
    """Mean over each tile and those around it, by a Gaussian, float64 [T, K]; corners [T, 2] and side in one unit."""
    deviation = NEIGHBOURHOOD * side
    weights = radius_neighbors_graph(corners, 4 * deviation, mode="distance", include_self=True)
    weights.data = np.exp(-0.5 * (weights.data / deviation) ** 2)
    return (weights @ values) / np.asarray(weights.sum(1))
