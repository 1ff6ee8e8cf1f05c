"""The virtual array: programmes, noise and batches."""

from __future__ import annotations

import numpy as np
import pytest

from toxfusion.synthetic.axes import AXES, INDEX
from toxfusion.synthetic.cohort import CohortConfig
from toxfusion.synthetic.drawn import Cohort, draw_cohort
from toxfusion.synthetic.expression import measure_expression
from toxfusion.synthetic.genes import FACTOR_SHARE, compressed, family_members, gene_catalogue
from toxfusion.synthetic.study import observations


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return draw_cohort(CohortConfig(seed=5, n_compounds=25, times_h=(24.0,), animals_per_group=3))


@pytest.fixture(scope="module")
def x(cohort: Cohort) -> np.ndarray:
    return measure_expression(5, cohort.compounds, cohort.latents, (24.0,), cohort.batches, cohort.rats)


def test_symbols_are_unique_and_hold_every_programme() -> None:
    catalogue = gene_catalogue()
    assert len(set(catalogue.symbols)) == len(catalogue)
    assert 1500 <= len(catalogue) <= 2000
    for place, axis in enumerate(AXES):
        named = {catalogue.symbols[g] for g in np.flatnonzero(catalogue.programme[place])}
        assert named == set(axis.programme)


def test_axes_share_genes() -> None:
    shared = {g for axis in AXES for g in axis.programme if sum(g in other.programme for other in AXES) > 1}
    assert {"Gdf15", "Nqo1", "Asns", "Atf3", "Spp1"} <= shared


def test_family_members_by_hand() -> None:
    assert family_members("Psma", "1-3,5") == ["Psma1", "Psma2", "Psma3", "Psma5"]


def test_compression_by_hand() -> None:
    assert compressed(6.0) == pytest.approx(3.0)
    assert compressed(-6.0) == pytest.approx(-3.0)
    assert compressed(10.4) == pytest.approx(10.4 / (1 + 10.4 / 6))


def test_factors_explain_their_share() -> None:
    catalogue = gene_catalogue()
    plain = (catalogue.factor_loadings**2).sum(1) / catalogue.sd**2
    assert np.median(plain) == pytest.approx(FACTOR_SHARE, rel=0.3)


def test_intensities_look_like_an_array(x: np.ndarray) -> None:
    assert x.dtype == np.float32
    assert x.min() >= 2.5
    assert x.max() <= 14.5
    assert 5.5 < x.mean() < 7.5


def test_programmes_rise_in_loaded_compounds_only(cohort: Cohort, x: np.ndarray) -> None:
    """Mean change of the genes of CAR/PXR at high dose against the compound's own controls."""
    genes = np.flatnonzero(gene_catalogue().programme[INDEX["A1"]] > 1)
    level, compound = cohort.rats[:, 2], cohort.rats[:, 0]
    change = np.array(
        [
            x[(compound == c) & (level == 3)][:, genes].mean()
            - x[(compound == c) & (level == 0)][:, genes].mean()
            for c in range(25)
        ]
    )
    activity = cohort.latents.activity[:, 0, 3, :, INDEX["A1"]].mean(1)
    loaded = cohort.compounds.loaded[:, INDEX["A1"]]
    assert loaded.any()
    assert not loaded.all()
    assert np.corrcoef(activity, change)[0, 1] > 0.8
    assert np.abs(change[~loaded]).mean() < 0.4


def test_batches_shift_controls(cohort: Cohort, x: np.ndarray) -> None:
    """Controls of two experiments of a plate are nearer than those of two plates, after the mean over rats."""
    obs = observations(cohort)
    control = obs["is_control"].to_numpy()
    means = {c: x[control & (cohort.rats[:, 0] == c)].mean(0) for c in range(25)}
    batch = cohort.batches[:, 0]
    pairs = [(a, b) for a in range(25) for b in range(a)]
    distance = np.array([np.abs(means[a] - means[b]).mean() for a, b in pairs])
    same = np.array([batch[a] == batch[b] for a, b in pairs])
    assert distance[same].mean() < 0.85 * distance[~same].mean()
