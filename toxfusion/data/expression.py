"""The fitted expression transform: batches, reference to vehicle controls, bounds, gene choice, standardisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch

from toxfusion.data.batch_correction import ComBat
from toxfusion.data.group_scaling import GroupScaler, Scaling, Within
from toxfusion.study.audit import Audit
from toxfusion.study.study import Study

Reference = Literal["none", "matched_controls"]
REFERENCES = ("none", "matched_controls")
#: deviation over genes of mean log2 levels from which on a study has levels, and is not centred; that of real ones is 2
LEAST_LEVELS = 0.8
#: platforms spread levels up to so many times as far as one another
UNLIKE_LEVELS = 2.0
ARRAYS = ("mean", "scale", "control_mean", "low", "high")
_EVERYBODY = "all"
SD_FLOOR = 0.1
"""Least standard deviation, in log2 units: a gene that hardly varies in training must not blow up later."""


class _Fitted(NamedTuple):
    """Standardisation of training values [n, G] before the last mean and deviation.

    values: float64 [n, G], bounded, and in deviations or normal scores of groups where there are any. variance: float64
    [G], by which genes are chosen. low, high, groups: as of `ExpressionTransform`.
    """

    values: np.ndarray
    variance: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    groups: GroupScaler | None


class ExpressionError(ValueError):
    """A study's genes or controls do not fit the transform; the message names them."""


@dataclass(frozen=True)
class ExpressionTransform:
    """log2 expression -> standardised values of chosen genes, with everything fitted on training samples.

    Attributes:
        gene_ids, symbols: the G chosen genes, in the order of the training study.
        mean, scale: float32 [G], of the training samples after referencing; scale is at least ``SD_FLOOR``.
        control_mean: float32 [G], mean log2 expression of training controls; NaN when reference is "none".
        reference: "none", or "matched_controls": log2 fold change against the mean of the vehicle controls
            with the sample's control_group. A control is compared with the mean of the others.
        clip: bound of the absolute standardised value.
        low, high: float32 [G], bounds of the value after referencing, quantiles of the training samples; None where
            values are not bounded before they are standardised.
        combat: batch correction of log2 expression, of controls too, before all else; None where there is none.
        groups: standardisation within groups of samples, after referencing and before ``mean`` and ``scale``; None
            where all samples are one group.

    A gene that a sample's table lacks (NaN in a profile) is 0, the training mean, after standardisation.
    """

    gene_ids: list[str]
    symbols: list[str]
    mean: np.ndarray
    scale: np.ndarray
    control_mean: np.ndarray
    reference: Reference
    clip: float
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    combat: ComBat | None = None
    groups: GroupScaler | None = None

    @classmethod
    def fit(
        cls,
        study: Study,
        sample_ids: Sequence[str],
        *,
        n_genes: int | None,
        reference: Reference,
        clip: float,
        clip_quantile: float | None = None,
        combat: Mapping[str, Any] | None = None,
        within: Mapping[str, Any] | None = None,
        scaling: Scaling = "deviation",
        audit: Audit | None = None,
    ) -> ExpressionTransform:
        """Choose the ``n_genes`` genes of highest variance (all when None) and their mean and deviation.

        Args:
            clip_quantile: each gene is first held within this quantile and its mirror (0.01: the 1st and the 99th
                percentile) of the training samples, so that single extreme values decide neither which genes are
                chosen nor their deviation; None leaves values as they are.
            sample_ids: training samples; those without a profile are passed over. Their controls are found by
                control_group in the whole study; in a compound-disjoint split they are training samples too.
            combat: ``column`` of obs with the batches (None: no correction), ``covariates`` and ``unseen`` of `ComBat`.
            within: ``column`` of obs within which values are bounded, centred and scaled (None: all samples together)
                and ``unseen`` of `Within`. Genes are then chosen by their variance within groups.
            scaling: ``deviation``, or ``normal_scores``: ranks within the group, or all samples, as normal deviates.
            audit: takes samples without a matched control, compared with the mean of the training controls, and
                batches that cannot be corrected.

        Raises:
            ExpressionError: fewer than two profiles, a doubled gene, or no training control to refer to.
            BatchError: batches cannot be corrected. GroupError: the column names no groups.
        """
        _check_settings(n_genes, reference, clip, clip_quantile, scaling)
        positions, columns = _training_profiles(study, sample_ids)
        batches = _fitted_batches(study, positions, columns, combat, audit)
        control_mean = _training_control_mean(study, positions, columns, reference, batches)
        values = _referenced(study, positions, columns, control_mean, reference, batches, audit)
        fitted = _fit_scaling(
            values, study.obs.iloc[positions], Within(**(within or {})), clip_quantile, scaling
        )
        n = len(columns) if n_genes is None else min(n_genes, len(columns))
        chosen = np.sort(np.argsort(-fitted.variance, kind="stable")[:n])
        genes = study.var.iloc[columns[chosen]]
        return cls(
            gene_ids=genes.index.tolist(),
            symbols=genes["symbol"].tolist(),
            mean=np.nanmean(fitted.values, axis=0)[chosen].astype(np.float32),
            scale=np.maximum(np.nanstd(fitted.values, axis=0)[chosen], SD_FLOOR).astype(np.float32),
            control_mean=control_mean[chosen].astype(np.float32),
            reference=reference,
            clip=float(clip),
            low=None if fitted.low is None else fitted.low[chosen],
            high=None if fitted.high is None else fitted.high[chosen],
            combat=None if batches is None else batches.genes(chosen),
            groups=None if fitted.groups is None else fitted.groups.features(chosen),
        )

    def transform(self, study: Study, sample_ids: Sequence[str], audit: Audit | None = None) -> np.ndarray:
        """Standardised expression, genes matched by gene_id whatever their order in the study.

        Args:
            audit: takes samples without a matched control, compared with the mean of the training controls,
                samples of unseen batches that are left as they are, and a study whose levels of genes spread over
                another range than those of training, as values that are no log2 do.

        Returns:
            float32 [n, G]; a sample without a profile is a row of NaN. A study of slides alone needs no gene.

        Raises:
            ExpressionError: the study has profiles and lacks a gene, or has it twice.
            BatchError: a sample, or one of its controls, is of a batch that is refused.
            KeyError: the study lacks a sample.
        """
        positions = study.positions(sample_ids)
        if not study.has_expression.any():
            return np.full((len(positions), len(self.gene_ids)), np.nan, np.float32)
        columns = _gene_columns(study, self.gene_ids)
        if audit is not None:
            self._ask_of_scale(study, positions[study.has_expression[positions]], columns, audit)
        values = _referenced(study, positions, columns, self.control_mean, self.reference, self.combat, audit)
        return self._standardised(values, study.obs.iloc[positions], study.has_expression[positions])

    def _ask_of_scale(self, study: Study, profiled: np.ndarray, columns: np.ndarray, audit: Audit) -> None:
        """Compare the spread of levels over genes with that of training, where these have levels of their own."""
        levels = self.control_mean if self.reference == "matched_controls" else self.mean
        known = float(np.nanstd(levels))
        if self.groups is not None or not len(profiled) or known < LEAST_LEVELS:
            return
        share = float(np.nanstd(np.nanmean(study.expression[np.ix_(profiled, columns)], axis=0))) / known
        if not 1 / UNLIKE_LEVELS <= share <= UNLIKE_LEVELS:
            audit.change(
                "expression", "study", study.name,
                f"its levels of genes spread {share:.2g} times as far as those of training: predictions mean nothing "
                "where its values are no log2, or centred",
            )  # fmt: skip

    def control_profiles(self, study: Study, sample_ids: Sequence[str]) -> np.ndarray:
        """The mean profile of each sample's matched vehicle controls, standardised as the sample's own is.

        With reference "matched_controls" that is no change at all, log2 fold change 0, for every sample: what a
        sample is compared with, compared with itself. With "none" it is the mean log2 expression of the other
        vehicle controls with the sample's control_group, and the mean training sample where there is none.

        Returns:
            float32 [n, G], without NaN.

        Raises:
            ExpressionError: the study has profiles and lacks a gene, or has it twice.
            KeyError: the study lacks a sample.
        """
        positions = study.positions(sample_ids)
        if self.reference == "matched_controls":
            return self._standardised(
                np.zeros((len(positions), len(self.gene_ids))), study.obs.iloc[positions]
            )
        groups = study.obs["control_group"].to_numpy()
        usable = study.obs["is_control"].to_numpy() & study.has_expression
        values = np.full((len(positions), len(self.gene_ids)), np.nan)
        columns = _gene_columns(study, self.gene_ids) if usable.any() else np.empty(0, np.int64)
        for i, sample in enumerate(positions):
            controls = np.flatnonzero(usable & (groups == groups[sample]))
            controls = controls[controls != sample] if groups[sample] else controls[:0]
            if len(controls):
                values[i] = _log2(study, controls, columns, self.combat).mean(axis=0)
        return self._standardised(values, study.obs.iloc[positions])

    def _standardised(
        self, values: np.ndarray, obs: pd.DataFrame, profiled: np.ndarray | None = None
    ) -> np.ndarray:
        """float32 [n, G] of referenced values [n, G] of samples with these rows of obs.

        Args:
            profiled: bool [n]; a NaN of a sample with a profile becomes 0, the mean of the training samples, and of
                one without stays NaN. None: all have one.
        """
        if self.groups is not None:
            named = self.groups.within.groups(obs)
            named = np.full(len(obs), _EVERYBODY, object) if named is None else named
            values = self.groups.standardised(values, named)
        elif self.low is not None and self.high is not None:
            values = np.clip(values, self.low, self.high)
        standardised = np.clip((values - self.mean) / self.scale, -self.clip, self.clip).astype(np.float32)
        absent = np.isnan(standardised)
        if profiled is not None:
            absent &= profiled[:, None]
        standardised[absent] = 0.0
        return standardised

    def state(self) -> dict[str, Any]:
        """Tensors and plain types, for a checkpoint that loads with ``weights_only=True``."""
        arrays = {key: getattr(self, key) for key in ARRAYS}
        return {
            "gene_ids": list(self.gene_ids),
            "symbols": list(self.symbols),
            **{key: torch.from_numpy(v.copy()) for key, v in arrays.items() if v is not None},
            "reference": self.reference,
            "clip": self.clip,
            **({} if self.combat is None else {"combat": self.combat.state()}),
            **({} if self.groups is None else {"groups": self.groups.state()}),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ExpressionTransform:
        """The transform that ``state`` described."""
        fitted: dict[str, Any] = {key: state[key].numpy() for key in ARRAYS if key in state}
        if "combat" in state:
            fitted["combat"] = ComBat.from_state(state["combat"])
        if "groups" in state:
            fitted["groups"] = GroupScaler.from_state(state["groups"])
        return cls(**{**state, **fitted})


def _fit_scaling(
    values: np.ndarray, obs: pd.DataFrame, within: Within, clip_quantile: float | None, scaling: Scaling
) -> _Fitted:
    """Bounds, and the standardisation within groups, of referenced training values float64 [n, G]."""
    named = within.groups(obs)
    if named is None and scaling == "deviation":
        low = high = None
        if clip_quantile is not None:
            bounds = np.nanquantile(values, [clip_quantile, 1 - clip_quantile], axis=0)
            low, high = bounds.astype(np.float32)
            values = np.clip(values, low, high)
        return _Fitted(values, np.nanvar(values, axis=0), low, high, None)
    named = np.full(len(obs), _EVERYBODY, object) if named is None else named
    groups = GroupScaler.fit(
        values,
        named,
        within=within,
        least_scale=SD_FLOOR,
        clip_quantile=clip_quantile,
        scaling=scaling,
    )
    variance = np.nanvar(groups.centred(values, named), axis=0)
    return _Fitted(groups.standardised(values, named), variance, None, None, groups)


def _check_settings(
    n_genes: int | None, reference: Reference, clip: float, clip_quantile: float | None, scaling: Scaling
) -> None:
    if reference not in REFERENCES:
        raise ExpressionError(f"expression reference {reference!r} is none of {REFERENCES}")
    if not clip > 0 or (n_genes is not None and n_genes < 1):
        raise ExpressionError(
            f"clip {clip} and n_genes {n_genes} must be positive (n_genes null = all genes)"
        )
    if clip_quantile is not None and not 0 < clip_quantile < 0.5:
        raise ExpressionError(
            f"clip_quantile {clip_quantile} is not between 0 and 0.5; null leaves values as they are"
        )
    if scaling not in get_args(Scaling):
        raise ExpressionError(f"expression scaling {scaling!r} is none of {', '.join(get_args(Scaling))}")


def _training_profiles(study: Study, sample_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training samples with a profile, and columns of the genes that one of them has, int64 each."""
    columns = _gene_columns(study, study.var.index.tolist())
    positions = np.sort(study.positions(sample_ids))
    positions = positions[study.has_expression[positions]]
    if len(positions) < 2:
        raise ExpressionError(f"{len(positions)} training samples have expression; at least two are needed")
    # A gene that no training sample has can be learned nothing about.
    return positions, columns[~np.isnan(study.expression[np.ix_(positions, columns)]).all(axis=0)]


def _fitted_batches(
    study: Study,
    positions: np.ndarray,
    columns: np.ndarray,
    combat: Mapping[str, Any] | None,
    audit: Audit | None,
) -> ComBat | None:
    if combat is None or combat["column"] is None:
        return None
    values = study.expression[np.ix_(positions, columns)].astype(np.float64)
    return ComBat.fit(values, study.obs.iloc[positions], **combat, audit=audit)


def _gene_columns(study: Study, gene_ids: Sequence[str]) -> np.ndarray:
    """Columns of the study's expression that hold these genes."""
    present = study.var.index
    twice = sorted(set(present[present.duplicated()]) & set(gene_ids))
    if twice:
        raise ExpressionError(
            f"study {study.name!r}: {len(twice)} genes appear more than once, {twice[:5]} first; "
            "collapse them when the study is prepared"
        )
    missing = sorted(set(gene_ids) - set(present))
    if missing:
        raise ExpressionError(
            f"study {study.name!r} lacks {len(missing)} of the {len(gene_ids)} genes this transform was "
            f"fitted on, {missing[:5]} first; prepare it with the same gene identifiers"
        )
    return present.get_indexer(pd.Index(gene_ids, dtype=object))


def _log2(
    study: Study,
    positions: np.ndarray,
    columns: np.ndarray,
    combat: ComBat | None,
    audit: Audit | None = None,
) -> np.ndarray:
    """float64 [len(positions), len(columns)]: log2 expression, corrected for batches."""
    values = study.expression[np.ix_(positions, columns)].astype(np.float64)
    return values if combat is None else combat.correct(values, study.obs.iloc[positions], audit)


def _training_control_mean(
    study: Study, positions: np.ndarray, columns: np.ndarray, reference: Reference, combat: ComBat | None
) -> np.ndarray:
    if reference == "none":
        return np.full(len(columns), np.nan)
    controls = positions[study.obs["is_control"].to_numpy()[positions]]
    if not len(controls):
        raise ExpressionError(
            "reference matched_controls: no training sample is a vehicle control with expression; "
            "use reference none, or flag the controls in obs.is_control"
        )
    return _log2(study, controls, columns, combat).mean(axis=0)


def _referenced(
    study: Study,
    positions: np.ndarray,
    columns: np.ndarray,
    control_mean: np.ndarray,
    reference: Reference,
    combat: ComBat | None,
    audit: Audit | None,
) -> np.ndarray:
    """float64 [len(positions), len(columns)]: log2 expression, or log2 fold change against matched controls."""
    values = _log2(study, positions, columns, combat, audit)
    if reference == "none":
        return values
    groups = study.obs["control_group"].to_numpy()
    usable = study.obs["is_control"].to_numpy() & study.has_expression
    controls_of: dict[str, np.ndarray] = {}
    for i, sample in enumerate(positions):
        if not study.has_expression[sample]:
            continue
        group = groups[sample]
        if group and group not in controls_of:
            controls_of[group] = np.flatnonzero(usable & (groups == group))
        controls = controls_of.get(group, np.empty(0, np.int64))
        controls = controls[controls != sample]
        if len(controls):
            values[i] -= _log2(study, controls, columns, combat).mean(axis=0)
            continue
        values[i] -= control_mean
        if audit is not None:
            audit.change(
                "expression",
                "sample",
                str(study.obs.index[sample]),
                "no other vehicle control with expression in its control_group: compared with the mean of "
                "the training controls",
            )
    return values
