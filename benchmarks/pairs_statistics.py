"""Statistics over patients of the readings of rows, by bootstrap draws that all rows share: differences are paired.

Patients are drawn within fold and cohort (or class); a row's seeds and draws of labelled patients are averaged before,
so that intervals are over patients and say nothing of other folds, sites or seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from toxfusion.study.draws import generator

DRAWS = 1000
GENE_DRAWS = 200


@dataclass(frozen=True)
class Estimate:
    """A value, and its bootstrap draws float64 [B]; NaN where a row has no reading."""

    value: float
    draws: np.ndarray

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by percentiles."""
        low, high = np.nanpercentile(self.draws, [2.5, 97.5])
        return float(low), float(high)

    @property
    def told(self) -> str:
        """Value and 95 % interval."""
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}]"

    def minus(self, other: Estimate) -> Estimate:
        """The paired difference: both drew the same patients."""
        return Estimate(self.value - other.value, self.draws - other.draws)

    def times(self, factor: float) -> Estimate:
        """The same in another unit, or of the other sign."""
        return Estimate(self.value * factor, self.draws * factor)


def mean_of(estimates: Mapping[str, Estimate]) -> Estimate:
    """The macro mean over cohorts or tasks."""
    of = list(estimates.values())
    return Estimate(float(np.mean([e.value for e in of])), np.mean([e.draws for e in of], axis=0))


def weights(names: np.ndarray, strata: np.ndarray, draws: int) -> np.ndarray:
    """How often each patient is drawn, float64 [draws, n]: a function of the stratum and the sorted names alone."""
    out = np.zeros((draws, len(names)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        members = members[np.argsort(names[members])]
        rng = generator(0, "patients", str(stratum))
        out[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    return out


def recall(table: pd.DataFrame, k: int = 10, draws: int = DRAWS) -> Estimate:
    """R@k of one direction within one cohort, each fold weighing by its patients.

    Args:
        table: columns sample_id, fold, seed, rank.
    """
    hits = table.assign(hit=(table["rank"] <= k).astype(float)).groupby(["fold", "sample_id"])["hit"].mean()
    return _weighted_mean(hits, draws)


def median_share(table: pd.DataFrame, draws: int = DRAWS) -> Estimate:
    """Median rank as a share of the patients searched, within one cohort; 0.5 = chance."""
    share = (table["rank"] / table["n"]).groupby([table["fold"], table["sample_id"]]).mean()
    values, drawn = _of_patients(share, draws)
    order = np.argsort(values, kind="stable")
    reached = drawn[:, order].cumsum(1) >= drawn.sum(1, keepdims=True) / 2
    return Estimate(float(np.median(values)), values[order][reached.argmax(1)])


def _of_patients(of_patient: pd.Series, draws: int) -> tuple[np.ndarray, np.ndarray]:
    folds, names = (of_patient.index.get_level_values(level).to_numpy(str) for level in ("fold", "sample_id"))
    return of_patient.to_numpy(np.float64), weights(names, folds, draws)


def _weighted_mean(of_patient: pd.Series, draws: int) -> Estimate:
    values, drawn = _of_patients(of_patient, draws)
    return Estimate(float(values.mean()), drawn @ values / drawn.sum(1))


def auroc(table: pd.DataFrame, draws: int = DRAWS) -> Estimate:
    """AUROC over the pairs of patients of one fold each, the mean over seeds and draws of labelled patients.

    Args:
        table: columns sample_id, fold, seed, draw, label and score.
    """
    right, pairs = np.zeros(draws + 1), np.zeros(draws + 1)
    for fold, of_fold in table.groupby("fold"):
        scores = of_fold.pivot_table(index="sample_id", columns=["seed", "draw"], values="score")
        label = of_fold.groupby("sample_id")["label"].first().loc[scores.index].to_numpy()
        values = scores.to_numpy()
        positive, negative = values[label == 1], values[label == 0]
        if not len(positive) or not len(negative):
            continue
        difference = positive[:, None, :] - negative[None, :, :]
        concordant = ((difference > 0) + 0.5 * (difference == 0)).mean(2)
        names = scores.index.to_numpy(str)
        drawn = weights(names, np.array([f"{fold} {y}" for y in label]), draws)
        drawn = np.vstack([np.ones(len(names)), drawn])
        up, down = drawn[:, label == 1], drawn[:, label == 0]
        right += np.einsum("bi,ij,bj->b", up, concordant, down, optimize=True)
        pairs += up.sum(1) * down.sum(1)
    share = right / np.where(pairs > 0, pairs, np.nan)
    return Estimate(float(share[0]), share[1:])


def gene_correlation(
    predicted: Mapping[int, pd.DataFrame], truth: Mapping[int, pd.DataFrame], draws: int = GENE_DRAWS
) -> Estimate:
    """Median over genes of Pearson's r between predicted and measured expression in one cohort.

    r of each fold, weighed by its patients; a fold of fewer than three patients is passed over.

    Args:
        predicted, truth: fold -> patients x genes, the same patients and genes.
    """
    total, patients = None, 0
    for fold, table in predicted.items():
        if len(table) < 3:
            continue
        names = table.index.to_numpy(str)
        drawn = weights(names, np.full(len(names), f"genes {fold}"), draws)
        drawn = np.vstack([np.ones(len(names)), drawn]) / len(names)
        correlation = _correlation(
            table.to_numpy(np.float64), truth[fold].loc[table.index].to_numpy(np.float64), drawn
        )
        total = correlation * len(names) if total is None else total + correlation * len(names)
        patients += len(names)
    if total is None:
        return Estimate(float("nan"), np.full(draws, np.nan))
    medians = np.nanmedian(total / patients, axis=1)
    return Estimate(float(medians[0]), medians[1:])


def _correlation(x: np.ndarray, y: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Pearson's r of each gene under weights that add up to one, [B, G]; NaN for a gene that does not vary."""
    x, y = x - x.mean(0), y - y.mean(0)
    mean_x, mean_y = drawn @ x, drawn @ y
    covariance = drawn @ (x * y) - mean_x * mean_y
    variance = (drawn @ x**2 - mean_x**2) * (drawn @ y**2 - mean_y**2)
    return np.asarray(
        np.divide(
            covariance,
            np.sqrt(np.maximum(variance, 0.0)),
            where=variance > 1e-20,
            out=np.full_like(variance, np.nan),
        )
    )


def concordance(table: pd.DataFrame, draws: int = DRAWS, weight: str = "event") -> Estimate:
    """Concordance over the comparable pairs of one fold each, the mean over seeds: Harrell's C, or Uno's.

    Args:
        table: columns sample_id, fold, seed, time, event and score (higher = earlier).
        weight: column that weighs a pair by its earlier event: ``event`` for Harrell's, ``uno_weight`` for Uno's C.
    """
    right, pairs = np.zeros(draws + 1), np.zeros(draws + 1)
    for fold, of_fold in table.groupby("fold"):
        scores = of_fold.pivot_table(index="sample_id", columns="seed", values="score")
        about = of_fold.groupby("sample_id").first().loc[scores.index]
        time, event = about["time"].to_numpy(), about["event"].to_numpy()
        comparable = ((time[:, None] < time[None, :]) & (event[:, None] == 1)) * about[weight].to_numpy()[
            :, None
        ]
        values = scores.to_numpy()
        difference = values[:, None, :] - values[None, :, :]
        concordant = comparable * ((difference > 0) + 0.5 * (difference == 0)).mean(2)
        names = scores.index.to_numpy(str)
        drawn = np.vstack([np.ones(len(names)), weights(names, np.full(len(names), f"time {fold}"), draws)])
        right += np.einsum("bi,ij,bj->b", drawn, concordant, drawn, optimize=True)
        pairs += np.einsum("bi,ij,bj->b", drawn, comparable, drawn, optimize=True)
    share = right / np.where(pairs > 0, pairs, np.nan)
    return Estimate(float(share[0]), share[1:])


def mean_over_patients(table: pd.DataFrame, column: str, draws: int = DRAWS) -> Estimate:
    """The mean of a column over patients, each fold weighing by its patients, the mean over seeds."""
    return _weighted_mean(table.groupby(["fold", "sample_id"])[column].mean(), draws)
