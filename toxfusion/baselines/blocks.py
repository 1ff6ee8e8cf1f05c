"""Features of samples that baselines read: tiles, expression, clinical columns, dose and time, chemistry, findings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from toxfusion.data.datamodule import FoldData
from toxfusion.study.study import Study
from toxfusion.study.vocabulary import DOSE_LEVELS

_SAMPLES_AT_ONCE = 64


class BaselineError(ValueError):
    """A baseline that does not exist, or that the data cannot feed."""


@dataclass(frozen=True)
class BaselineSettings:
    """What a baseline may vary.

    Attributes:
        n_components: principal components of pooled tiles and of expression, each; None for no reduction.
        chemistry: columns of ``study.chemistry``; None for all.
        chemistry_reference: "matched_controls" subtracts the mean of the sample's control_group on the log
            scale.
        finding_compounds: treated training compounds that must show a finding for it to be a feature.
    """

    n_components: int | None = 50
    chemistry: tuple[str, ...] | None = None
    chemistry_reference: str = "matched_controls"
    finding_compounds: int = 2


@dataclass(frozen=True)
class Block:
    """One kind of features of every sample of the study.

    Attributes:
        values: float64 [n_samples, d]; a row of NaN where the sample lacks it.
        reduce: whether principal components are taken.
    """

    values: np.ndarray
    reduce: bool

    @property
    def absent(self) -> np.ndarray:
        """bool [n_samples], samples for which something is missing and is imputed."""
        return np.isnan(self.values).any(axis=1)


def pooled_tiles(fold: FoldData, settings: BaselineSettings) -> Block:
    """Mean and standard deviation over all tiles of a sample, [n_samples, 2 D]."""
    if fold.store is None:
        raise BaselineError("this baseline needs tile features: set tile_features, or take another baseline.")
    values = np.full((len(fold.sample_ids), 2 * fold.tile_dim), np.nan)
    for start in range(0, len(fold.sample_ids), _SAMPLES_AT_ONCE):
        chunk = fold.sample_ids[start : start + _SAMPLES_AT_ONCE]
        tiles = fold.batch(chunk, stage="evaluate").tiles
        for i, bag in enumerate(tiles.split(tiles.features)):
            if len(bag):
                features = bag.double().numpy()
                values[start + i] = np.concatenate([features.mean(axis=0), features.std(axis=0)])
    return Block(values, reduce=True)


def standardised_expression(fold: FoldData, settings: BaselineSettings) -> Block:
    """The genes that the fold's fitted transform gives, [n_samples, G]."""
    if fold.expression is None:
        raise BaselineError(
            "this baseline needs expression: set modality=both or omics, or take another baseline."
        )
    return Block(fold.expression.transform(fold.study, fold.sample_ids).astype(np.float64), reduce=True)


def every_gene(fold: FoldData, settings: BaselineSettings) -> Block:
    """The same without principal components, for learners that choose or shrink genes themselves."""
    return replace(standardised_expression(fold, settings), reduce=False)


def clinical_columns(fold: FoldData, settings: BaselineSettings) -> Block:
    """The clinical columns of the run as heads of a network read them, [n_samples, C]."""
    if fold.clinical is None:
        raise BaselineError("this baseline needs clinical columns: set clinical=[age,sex], for example.")
    return Block(fold.clinical.encode(fold.study).astype(np.float64), reduce=False)


def dose_and_time(fold: FoldData, settings: BaselineSettings) -> Block:
    """Dose level (one column each), log dose and log time, [n_samples, 6]: what is known before any tissue
    is seen.
    """
    obs = fold.study.obs
    levels = [(obs["dose_level"] == level).to_numpy(dtype=float) for level in DOSE_LEVELS]
    dose, time = (np.log1p(obs[c].to_numpy(dtype=float)) for c in ("dose", "time_h"))
    return Block(np.stack([*levels, dose, time], axis=1), reduce=False)


def serum_chemistry(fold: FoldData, settings: BaselineSettings) -> Block:
    """log(1 + value) of the chosen chemistry columns, against the matched controls, [n_samples, d]."""
    table = fold.study.chemistry
    if table is None or table.empty:
        raise BaselineError(
            f"{fold.study.root / 'expression.h5ad'}: obsm['chemistry'] is absent; this baseline needs it."
        )
    columns = list(table.columns) if settings.chemistry is None else list(settings.chemistry)
    unknown = [c for c in columns if c not in table.columns]
    if unknown:
        raise BaselineError(
            f"{fold.study.root / 'expression.h5ad'}: obsm['chemistry'] has no {unknown}, only {list(table.columns)}; "
            "add what was measured, or take another baseline."
        )
    values = np.log1p(table[columns].clip(lower=0).to_numpy(dtype=np.float64))
    if settings.chemistry_reference == "matched_controls":
        values = values - _control_means(fold.study, values)
    return Block(values, reduce=False)


def alt_and_ast(fold: FoldData, settings: BaselineSettings) -> Block:
    """The two transaminases alone, [n_samples, 2]: what a clinic would look at."""
    return serum_chemistry(fold, replace(settings, chemistry=("ALT", "AST")))


def pathologist_findings(fold: FoldData, settings: BaselineSettings) -> Block:
    """Grades of the findings that enough treated training compounds show, [n_samples, d]; NaN = not examined."""
    study = fold.study
    treated = study.obs.loc[list(fold.split.train)].query("not is_control")
    shown = (study.findings.loc[treated.index] > 0).groupby(treated["compound"]).any().sum()
    kept = shown.index[shown >= settings.finding_compounds]
    if not len(kept):
        raise BaselineError(
            f"{study.root / 'expression.h5ad'}: no term of obsm['findings'] is seen in {settings.finding_compounds} "
            f"treated training compounds of fold {fold.split.fold}; take another baseline."
        )
    return Block(study.findings[kept].to_numpy(dtype=np.float64), reduce=False)


def _control_means(study: Study, values: np.ndarray) -> np.ndarray:
    """[n_samples, d], mean over the vehicle controls of each sample's control_group; NaN where there is
    none.
    """
    table = pd.DataFrame(values, index=study.obs.index)
    controls = study.obs["is_control"].to_numpy(dtype=bool)
    means = table[controls].groupby(study.obs.loc[controls, "control_group"].to_numpy()).mean()
    return means.reindex(study.obs["control_group"]).to_numpy()
