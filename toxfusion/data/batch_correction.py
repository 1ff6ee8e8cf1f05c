"""ComBat (Johnson, Li and Rabinovic, Biostatistics 2007), fitted on training samples and applied to any sample.

The published method adjusts the samples that it was fitted on. Here what was fitted is kept: location and scale of
each training batch, by parametric empirical Bayes, and the effects of covariates. A sample of a batch that training
did not see has no such parameters: it is refused, or left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from toxfusion.study.audit import Audit

Floats = npt.NDArray[np.float64]

UNSEEN = ("refuse", "keep")
#: columns of the design of a study; a label among them would correct test samples by what is to be predicted
COVARIATES = ("is_control", "dose_level", "time_h")
ARRAYS = ("grand_mean", "effects", "deviation", "location", "scale")
_TOLERANCE = 1e-6
_MOST_STEPS = 1000


class BatchError(ValueError):
    """Batches that cannot be corrected; the message names them."""


@dataclass(frozen=True)
class ComBat:
    """Batch effects of G genes, fitted on training samples.

    Attributes:
        column, covariates: of obs: batches, and what is kept while batches are removed.
        unseen: ``refuse`` samples of other batches than these, or ``keep`` them as they are.
        batches: the B batches with at least two training samples.
        levels: covariate -> its levels in training; each but the first is one of the C effects.
        grand_mean: [G], mean of the batches by size. effects: [C, G]. deviation: [G], pooled within batches; 0 where
            a gene does not vary, and is not corrected. location, scale: [B, G], gamma and the root of delta of the
            paper, in units of ``deviation``. All float64.
    """

    column: str
    covariates: list[str]
    unseen: str
    batches: list[str]
    levels: dict[str, list[str]]
    grand_mean: Floats
    effects: Floats
    deviation: Floats
    location: Floats
    scale: Floats

    @classmethod
    def fit(
        cls,
        values: Floats,
        obs: pd.DataFrame,
        *,
        column: str,
        covariates: Sequence[str] = (),
        unseen: str = "refuse",
        audit: Audit | None = None,
    ) -> ComBat:
        """Fit on training samples; those alone in their batch are passed over, and their batch counts as unseen.

        Args:
            values: [n, G] log2 expression, finite.
            obs: their n rows.
            audit: takes the batches passed over.

        Raises:
            BatchError: a setting is unknown, fewer than two batches are left, or a covariate follows the batches.
        """
        _check(obs, column, covariates, unseen)
        batch = obs[column].astype(str).to_numpy()
        sizes = pd.Series(batch).value_counts()
        for name in sorted(sizes.index[sizes < 2]):
            if audit is not None:
                audit.change(
                    "expression", "batch", name, f"one training sample in {column}: no batch to correct"
                )
        batches = sorted(sizes.index[sizes >= 2])
        if len(batches) < 2:
            raise BatchError(
                f"ComBat by {column!r}: {len(batches)} of {len(sizes)} batches have two training samples, and two such "
                "batches are needed; name another column, or set data.expression.combat.column to null"
            )
        kept = np.isin(batch, batches)
        values, obs, batch = values[kept], obs[kept], batch[kept]
        levels = {c: sorted(set(obs[c].astype(str))) for c in covariates}
        member = (batch[:, None] == np.array(batches)[None]).astype(np.float64)
        design = np.hstack([member, _indicators(obs, levels)])
        if np.linalg.matrix_rank(design) < design.shape[1]:
            raise BatchError(
                f"ComBat by {column!r}: the covariates {list(covariates)} follow the batches, so that neither effect "
                "can be told from the other; leave one out of data.expression.combat.covariates"
            )
        coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
        n_of = member.sum(axis=0)
        grand_mean = n_of @ coefficients[: len(batches)] / n_of.sum()
        effects = coefficients[len(batches) :]
        residual = values - design @ coefficients
        deviation = np.sqrt((residual**2).mean(axis=0))
        deviation[deviation < 1e-8] = 0.0
        unit = np.where(deviation > 0, deviation, 1.0)
        standard = (values - grand_mean - _indicators(obs, levels) @ effects) / unit
        location, scale = _effects_of_batches(standard, member, varies=deviation > 0)
        return cls(
            column, list(covariates), unseen, batches, levels, grand_mean, effects, deviation, location, scale
        )

    def correct(self, values: Floats, obs: pd.DataFrame, audit: Audit | None = None) -> Floats:
        """log2 expression [n, G] without the effects of the samples' batches; NaN rows stay NaN.

        Args:
            obs: the n rows. audit: takes the samples of unseen batches that are kept as they are.

        Raises:
            BatchError: a sample with values is of an unseen batch, and those are refused; or has a covariate level
                that training lacks.
        """
        _check(obs, self.column, self.covariates, self.unseen)
        batch = obs[self.column].astype(str).to_numpy()
        position = pd.Index(self.batches).get_indexer(pd.Index(batch))
        strange = (position < 0) & ~np.isnan(values).all(axis=1)
        if strange.any() and self.unseen == "refuse":
            raise BatchError(
                f"ComBat by {self.column!r}: {strange.sum()} samples ({obs.index[strange][0]!r} ...) are of "
                f"{len(set(batch[strange]))} batches that training has not seen twice ({batch[strange][0]!r} ...); "
                "keep batches on both sides of the split, or set data.expression.combat.unseen=keep to leave them as "
                "they are"
            )
        for sample, name in zip(obs.index[strange], batch[strange], strict=True):
            if audit is not None:
                audit.change(
                    "expression", "sample", str(sample), f"batch {name!r} is not in training: not corrected"
                )
        known = position >= 0
        of = position[known]
        unit = np.where(self.deviation > 0, self.deviation, 1.0)
        expected = self.grand_mean + _indicators(obs[known], self.levels) @ self.effects
        standard = (values[known] - expected) / unit
        out = values.astype(np.float64, copy=True)
        corrected = (standard - self.location[of]) / self.scale[of] * unit + expected
        out[known] = np.where(self.deviation > 0, corrected, values[known])
        return out

    def genes(self, columns: npt.NDArray[np.int64]) -> ComBat:
        """The same of some genes alone."""
        return replace(self, **{key: getattr(self, key)[..., columns] for key in ARRAYS})

    def state(self) -> dict[str, Any]:
        """Tensors and plain types, for a checkpoint that loads with ``weights_only=True``."""
        arrays = {key: torch.from_numpy(getattr(self, key).copy()) for key in ARRAYS}
        plain = ("column", "covariates", "unseen", "batches", "levels")
        return {**{key: getattr(self, key) for key in plain}, **arrays}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ComBat:
        """What ``state`` described."""
        return cls(**{**state, **{key: state[key].numpy() for key in ARRAYS}})


def _check(obs: pd.DataFrame, column: str, covariates: Sequence[str], unseen: str) -> None:
    """Raise BatchError for settings that do not go with these samples."""
    if unseen not in UNSEEN:
        raise BatchError(f"data.expression.combat.unseen={unseen}: is none of {', '.join(UNSEEN)}")
    if column not in obs.columns:
        raise BatchError(
            f"data.expression.combat.column={column}: no column of the study's samples, which have {list(obs.columns)}"
        )
    empty = obs.index[obs[column].isna() | (obs[column].astype(str) == "")]
    if len(empty):
        raise BatchError(
            f"obs column {column!r} is empty at sample {empty[0]!r}; name the batch of every sample"
        )
    wrong = [c for c in covariates if c not in COVARIATES]
    if wrong:
        raise BatchError(
            f"data.expression.combat.covariates: {wrong[0]!r} is none of {', '.join(COVARIATES)}"
        )


def _indicators(obs: pd.DataFrame, levels: Mapping[str, Sequence[str]]) -> Floats:
    """float [n, C]: 1 where a sample has the level, for each level of each covariate but the first.

    Raises:
        BatchError: a sample has another level.
    """
    columns = []
    for covariate, known in levels.items():
        observed = obs[covariate].astype(str)
        strange = observed[~observed.isin(known)]
        if len(strange):
            raise BatchError(
                f"ComBat: {covariate} of sample {strange.index[0]!r} is {strange.iloc[0]!r}, which no training sample "
                f"has; leave {covariate} out of data.expression.combat.covariates"
            )
        columns += [(observed == level).to_numpy(np.float64) for level in known[1:]]
    return np.stack(columns, axis=1) if columns else np.zeros((len(obs), 0))


def _effects_of_batches(standard: Floats, member: Floats, varies: np.ndarray) -> tuple[Floats, Floats]:
    """Location and scale of each batch, [B, G]; 0 and 1 for a gene that does not vary.

    Args:
        standard: [n, G] standardised values. member: [n, B], 1 where a sample is of the batch.
        varies: bool [G].
    """
    shape = member.shape[1], len(varies)
    location, scale = np.zeros(shape), np.ones(shape)
    for i in range(len(location)):
        of_batch = standard[member[:, i] > 0][:, varies]
        mean, variance = of_batch.mean(axis=0), of_batch.var(axis=0, ddof=1)
        location[i, varies], variance = _shrunk(mean, variance, len(of_batch))
        scale[i, varies] = np.sqrt(np.where(variance > 0, variance, 1.0))
    return location, scale


def _shrunk(mean: Floats, variance: Floats, n: int) -> tuple[Floats, Floats]:
    """Posterior means gamma and delta of a batch of n samples, from its means and variances [G] (equation 3.1).

    Location has a normal prior and variance an inverse gamma one; their parameters are matched to the moments over
    genes, and the two conditional means are iterated until they move by less than a millionth.
    """
    ddof = 1 if len(mean) > 1 else 0
    prior_mean, prior_variance = mean.mean(), mean.var(ddof=ddof)
    centre, spread = variance.mean(), variance.var(ddof=ddof)
    if spread == 0 or centre == 0:
        posterior = (n * prior_variance * mean + variance * prior_mean) / np.maximum(
            n * prior_variance + variance, np.finfo(float).tiny
        )
        return posterior, variance
    shape = (2 * spread + centre**2) / spread
    rate = (centre * spread + centre**3) / spread
    location, scale = mean, variance
    for _ in range(_MOST_STEPS):
        was = location, scale
        location = (n * prior_variance * mean + scale * prior_mean) / (n * prior_variance + scale)
        squares = (n - 1) * variance + n * (mean - location) ** 2
        scale = (rate + squares / 2) / (n / 2 + shape - 1)
        if max(np.abs(location - was[0]).max(), np.abs(scale - was[1]).max()) < _TOLERANCE:
            break
    return location, scale
