"""Rows of the benchmark on pairs that are no networks: ridge, pooled features, and nulls."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from benchmarks.pairs_readings import Vectors
from toxfusion.baselines.blocks import BaselineSettings, pooled_tiles, standardised_expression
from toxfusion.baselines.shadow import ShadowSettings, fit_shadow
from toxfusion.data.datamodule import FoldData
from toxfusion.data.expression import ExpressionTransform
from toxfusion.data.group_scaling import Within
from toxfusion.data.tile_scaling import fit_tile_scaler
from toxfusion.study.draws import generator
from toxfusion.study.split import Split
from toxfusion.study.study import Study

WITHIN = Within("organ", "refuse")
COMPONENTS = 64
OWN_ALONE = 1e6
"""Weight of a pair of the own cohort beside which others count for nothing."""


def fold_data(study: Study, part: pd.Series, store: str) -> FoldData:
    """Slides and expression of a fold, standardised within organs on training patients, as `data=cohorts` does."""
    train, valid, test = (part.index[part == name].tolist() for name in ("train", "valid", "test"))
    split = Split(train, valid, test, 0, {"together": ["study"]})
    split.check(study)
    features = study.features(store)
    transform = ExpressionTransform.fit(
        study, train, n_genes=None, reference="none", clip=8.0, within=asdict(WITHIN), scaling="normal_scores"
    )
    scaler = fit_tile_scaler(study, features, train, "none", asdict(WITHIN))
    return FoldData(
        study,
        split,
        {},
        store=features,
        expression=transform,
        scaler=scaler,
        seed=0,
    )


def _about(fold: FoldData, part: pd.Series) -> pd.DataFrame:
    return fold.study.obs.assign(part=part.reindex(fold.study.obs.index).to_numpy())


def ridge_vectors(study: Study, part: pd.Series, store: str, own_weight: float | None) -> Vectors:
    """The linear shadow. ``own_weight`` of the pairs of the own organ; None: no others."""
    fold = fold_data(study, part, store)
    settings = ShadowSettings(own_weight=OWN_ALONE if own_weight is None else own_weight)
    shadow = fit_shadow(fold, WITHIN, settings)
    genes = standardised_expression(fold, BaselineSettings()).values
    return Vectors(_about(fold, part), shadow.slide, shadow.expression, pooled=shadow.pooled, genes=genes)


def logistic_vectors(study: Study, part: pd.Series, store: str) -> Vectors:
    """Mean and deviation of tiles, and the first components of expression; no alignment, so no retrieval."""
    fold = fold_data(study, part, store)
    pooled = pooled_tiles(fold, BaselineSettings()).values
    genes = standardised_expression(fold, BaselineSettings()).values
    train = (part.reindex(study.obs.index) == "train").to_numpy()
    axes = PCA(COMPONENTS, random_state=0).fit(genes[train])
    return Vectors(_about(fold, part), pooled, axes.transform(genes), pooled=pooled, genes=genes)


def random_vectors(study: Study, part: pd.Series, store: str, seed: int) -> Vectors:
    """Random directions of pooled tiles and of expression, independent of each other."""
    of = logistic_vectors(study, part, store)
    assert of.slide is not None, "pooled tiles"
    assert of.genes is not None, "expression"
    rng = generator(seed, "random vectors")
    slide = of.slide @ rng.standard_normal((of.slide.shape[1], COMPONENTS))
    return Vectors(
        of.obs, slide, of.genes @ rng.standard_normal((of.genes.shape[1], COMPONENTS)), genes=of.genes
    )


def site_vectors(study: Study, part: pd.Series) -> Vectors:
    """One column a training site: all that can be told of a patient of a new site is that it is new."""
    obs = study.obs.assign(part=part.reindex(study.obs.index).to_numpy())
    sites = sorted(set(obs.loc[obs["part"] == "train", "study"]))
    values = (obs["study"].to_numpy()[:, None] == np.array(sites)[None, :]).astype(np.float64)
    return Vectors(obs, values, None)
