"""Applicability domain of finished runs: how far new samples lie from the training samples, and when to abstain.

Works on arrays. Distances are fitted on training samples; both thresholds are set on validation units, which lie in
other compounds than those of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.covariance import LedoitWolf
from sklearn.metrics import pairwise_distances

from toxfusion.evaluation.metrics import labelled

NEIGHBOURS = 5
"""Training compounds within the distance of a sample: one alone may be an outlier itself."""
DECISION = 0.5
"""A calibrated probability from here on is called positive."""
LEAST_UNITS = 20
"""Validation units below which a calibration or an error would be noise."""


class ApplicabilityError(ValueError):
    """A share out of range, or too few samples to measure distances from."""


@dataclass(frozen=True)
class Reference:
    """Training samples of one run, in coordinates in which their covariance is the identity.

    Euclidean distance there is Mahalanobis distance by the covariance of Ledoit and Wolf (2004), which stays invertible
    where the vectors are wider than there are samples (as Lee et al. 2018, with one class). The distance of a sample
    is that to its k-th nearest neighbour (Sun et al. 2022) and not to the mean: a strong dose of a known mechanism lies
    far from the mean and near to its likes. Animals of a dose group are near-duplicates, so neighbours are compounds,
    each as near as the nearest of its samples.

    Attributes:
        centre: float64 [W]; whiten: float64 [W, W].
        samples: float64 [n, W], whitened training samples.
        compound: str [n], of each sample.
    """

    centre: np.ndarray
    whiten: np.ndarray
    samples: np.ndarray
    compound: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray, compound: Sequence[str] | np.ndarray) -> Reference:
        """Args: vectors: float [n, W], fused vectors of training samples; compound: [n].

        Raises:
            ApplicabilityError: fewer than two samples.
        """
        vectors = np.asarray(vectors, dtype=np.float64)
        if len(vectors) < 2:
            raise ApplicabilityError(f"{len(vectors)} training samples; distances need at least two")
        fitted = LedoitWolf().fit(vectors)
        whiten = np.linalg.cholesky(fitted.precision_)
        samples = (vectors - fitted.location_) @ whiten
        return cls(fitted.location_, whiten, samples, np.asarray(compound, dtype=object))

    def to_compounds(self, vectors: np.ndarray) -> pd.DataFrame:
        """Distance of each vector [m, W] to the nearest sample of each training compound: [m, compounds]."""
        placed = (np.asarray(vectors, dtype=np.float64) - self.centre) @ self.whiten
        between = pd.DataFrame(pairwise_distances(self.samples, placed))
        return between.groupby(self.compound).min().T

    def distance(self, vectors: np.ndarray) -> np.ndarray:
        """float64 [m]: distance to the k-th nearest training compound, k of `NEIGHBOURS` or all there are."""
        ordered = np.sort(self.to_compounds(vectors).to_numpy(), axis=1)
        return ordered[:, min(NEIGHBOURS, ordered.shape[1]) - 1]


def beyond(valid: np.ndarray, new: np.ndarray) -> np.ndarray:
    """int64 [m]: how many validation units [n] lie at least as far away as each new unit [m]."""
    ordered = np.sort(np.asarray(valid, dtype=np.float64))
    return len(ordered) - np.searchsorted(ordered, new, side="left")


def conformal_p(n_beyond: np.ndarray, n_compared: np.ndarray, n_units: np.ndarray) -> np.ndarray:
    """p of the hypothesis that a new unit is like the validation units: (n share + 1) / (n + 1).

    The cross-conformal p-value of Vovk (2015): each fold ranks the unit among its own validation units by its own
    distances, and the ranks are added up. With one fold it is the conformal p-value: of units that are exchangeable
    with validation, at most a share alpha has a p of at most alpha (Bates et al. 2023). Over folds that holds about,
    not exactly.

    Args:
        n_beyond, n_compared: `beyond` and the number of validation units, both summed over runs.
        n_units: distinct validation units: seeds repeat those of their fold.
    """
    share = np.divide(n_beyond, n_compared, out=np.ones(len(n_beyond)), where=np.asarray(n_compared) > 0)
    return (n_units * share + 1) / (np.asarray(n_units) + 1)


@dataclass(frozen=True)
class Band:
    """Risks nearer to `DECISION` than ``half_width`` are not called.

    Attributes:
        half_width: infinite where no part of the validation units is called well enough.
        n: validation units; kept: share of them outside the band; error: share of wrong classes among those kept.
    """

    half_width: float
    n: int
    kept: float
    error: float


def choose_band(label: np.ndarray, score: np.ndarray, wanted: float) -> Band:
    """The narrowest band outside of which at most ``wanted`` of the validation units are called wrongly.

    The risk-coverage curve of selective classification (El-Yaniv and Wiener 2010), read at the wanted error. The error
    is that of the units it was chosen on, without a margin for their small number.

    Args:
        label, score: [n], 0, 1 or NaN, and calibrated probabilities. At least `LEAST_UNITS` units are kept.
    """
    y, s = labelled(label, score)
    margin = np.abs(s - DECISION)
    order = np.argsort(-margin, kind="stable")
    wrong = ((s >= DECISION) != (y == 1))[order]
    kept = np.arange(1, len(y) + 1)
    error = np.cumsum(wrong) / kept
    margin = margin[order]
    last_of_tie = np.append(margin[1:] < margin[:-1], True)[: len(y)]
    fitting = np.flatnonzero((error <= wanted) & (kept >= LEAST_UNITS) & last_of_tie)
    if not len(fitting):
        return Band(np.inf, len(y), 0.0, float("nan"))
    most = fitting[-1]
    half_width = 0.0 if most == len(y) - 1 else float(margin[most])
    return Band(half_width, len(y), float(kept[most] / len(y)), float(error[most]))
