"""Point metrics of labels and scores; what cannot be computed is NaN with a reason. Intervals live in
``bootstrap``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from toxfusion.study.vocabulary import N_GRADES

ECE_BINS = 15


@dataclass(frozen=True)
class Measure:
    """A metric's value; NaN has its reason beside it."""

    value: float
    reason: str = ""

    @property
    def defined(self) -> bool:
        return not np.isnan(self.value)


def undefined(reason: str) -> Measure:
    return Measure(float("nan"), reason)


def labelled(label: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """The rows that have a label, of each array; float64.

    Raises:
        ValueError: arrays of different lengths, or a value of ``others`` that is not finite.
    """
    label = np.asarray(label, dtype=np.float64)
    arrays = [np.asarray(a, dtype=np.float64) for a in others]
    for array in arrays:
        if array.shape != label.shape:
            raise ValueError(
                f"labels have shape {label.shape} and scores {array.shape}; give one score a label."
            )
        if not np.isfinite(array).all():
            raise ValueError("a score is NaN or Inf; every unit needs a finite score.")
    keep = ~np.isnan(label)
    return (label[keep], *(a[keep] for a in arrays))


def one_class_reason(label: np.ndarray) -> str:
    """Why a two-class metric of these labels is undefined; "" when it is defined."""
    if len(label) == 0:
        return "no labelled unit"
    if label.min() == label.max():
        return f"all {len(label)} labelled units are {'positive' if label[0] == 1 else 'negative'}"
    return ""


def auroc(label: np.ndarray, score: np.ndarray) -> Measure:
    """Area under the ROC curve from mid-ranks, so that a tie counts one half (Hanley & McNeil 1982).

    Args:
        label: [n], 1, 0 or NaN (left out).
        score: [n], higher for 1.
    """
    y, s = labelled(label, score)
    if reason := one_class_reason(y):
        return undefined(reason)
    n_positive = y.sum()
    rank_sum = stats.rankdata(s)[y == 1].sum()
    value = (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * (len(y) - n_positive))
    return Measure(float(value))


def choose_threshold(label: np.ndarray, score: np.ndarray) -> Measure:
    """The threshold of highest balanced accuracy, to be chosen on the validation part only.

    Thresholds lie half-way between neighbouring scores; of several best ones, the middle one is taken. A
    unit is called positive where score >= threshold.
    """
    y, s = labelled(label, score)
    if reason := one_class_reason(y):
        return undefined(f"no threshold from validation: {reason}")
    unique = np.unique(s)
    candidates = np.concatenate([[unique[0]], (unique[:-1] + unique[1:]) / 2])
    positive, negative = np.sort(s[y == 1]), np.sort(s[y == 0])
    sensitivity = 1 - np.searchsorted(positive, candidates, side="left") / len(positive)
    specificity = np.searchsorted(negative, candidates, side="left") / len(negative)
    total = sensitivity + specificity
    best = np.flatnonzero(np.isclose(total, total.max()))
    return Measure(float(candidates[best[len(best) // 2]]))


def threshold_of_specificity(label: np.ndarray, score: np.ndarray, specificity: float) -> Measure:
    """The lowest threshold whose specificity is at least ``specificity``, to be chosen on the validation part only.

    Thresholds lie half-way between neighbouring scores, the last above them all. Only negatives decide.
    """
    y, s = labelled(label, score)
    negative = np.sort(s[y == 0])
    if len(negative) == 0:
        return undefined("no threshold from validation: no labelled unit is negative")
    unique = np.unique(s)
    candidates = np.concatenate([(unique[:-1] + unique[1:]) / 2, [np.nextafter(unique[-1], np.inf)]])
    kept = np.searchsorted(negative, candidates, side="left") / len(negative)
    return Measure(float(candidates[np.argmax(kept >= specificity - 1e-12)]))


def sensitivity_at_specificity(label: np.ndarray, score: np.ndarray, specificity: float) -> Measure:
    """Highest sensitivity of any threshold whose specificity on these same units is at least ``specificity``.

    A point of the ROC curve, and so a property of the ranking; no threshold that could be used is chosen by it.
    """
    y, s = labelled(label, score)
    if reason := one_class_reason(y):
        return undefined(reason)
    false_positive_rate, sensitivity, _ = sk.roc_curve(y, s, drop_intermediate=False)
    return Measure(float(sensitivity[false_positive_rate <= 1 - specificity + 1e-12].max()))


def brier(label: np.ndarray, score: np.ndarray) -> Measure:
    """Mean squared error of the probability (Brier 1950)."""
    y, s = labelled(label, score)
    return Measure(float(((y - s) ** 2).mean())) if len(y) else undefined("no labelled unit")


def equal_mass_bins(score: np.ndarray, n_bins: int) -> np.ndarray:
    """int [n], the bin of each score; bins hold equal numbers except that tied scores share one bin."""
    middle = (stats.rankdata(score) - 0.5) / max(len(score), 1)
    return np.minimum((middle * n_bins).astype(int), n_bins - 1)


def expected_calibration_error(label: np.ndarray, score: np.ndarray, n_bins: int = ECE_BINS) -> Measure:
    """Mean over equal-mass bins, weighted by size, of |observed share - mean score| (Naeini et al. 2015)."""
    y, s = labelled(label, score)
    if len(y) == 0:
        return undefined("no labelled unit")
    bins = equal_mass_bins(s, n_bins)
    gap = np.abs(np.bincount(bins, weights=y - s, minlength=n_bins))
    return Measure(float(gap.sum() / len(y)))


def choose_cutoffs(grade: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """float64 [4], scores from which grade 1, 2, 3 and 4 is called, to be chosen on the validation part only.

    Each is called of as many units as have it or a higher one: kappa measures agreement, and expected grades, shrunk
    towards their mean by whatever is uncertain, would hardly ever round to a high one. Cut-offs lie half-way between
    neighbouring scores (of two that come equally near, the higher), or at infinity where none is nearest.

    Args:
        grade: [n], true grade or NaN (left out).
        expected: [n], expected grade, higher for worse.

    Returns:
        Ascending cut-offs; all NaN without a labelled unit.
    """
    y, s = labelled(grade, expected)
    if len(y) == 0:
        return np.full(N_GRADES - 1, np.nan)
    unique = np.unique(s)
    candidates = np.concatenate([unique[:1], (unique[:-1] + unique[1:]) / 2, [np.inf]])
    called = len(s) - np.searchsorted(np.sort(s), candidates, side="left")
    wanted = (y[:, None] >= np.arange(1, N_GRADES)).sum(axis=0)
    gap = np.abs(called[:, None] - wanted)
    return candidates[len(candidates) - 1 - gap[::-1].argmin(axis=0)]


def as_grade(expected: np.ndarray, cutoffs: np.ndarray) -> np.ndarray:
    """float64 [n], the number of cut-offs that each expected grade reaches; NaN where the cut-offs are."""
    reached = (np.asarray(expected, dtype=np.float64)[:, None] >= cutoffs).sum(axis=1)
    return np.where(np.isnan(cutoffs).any(), np.nan, reached.astype(np.float64))
