"""Standardisation within groups: by hand, fitted on training samples alone, and the same after a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.feature_store import write_features
from toxfusion.data.expression import ExpressionTransform
from toxfusion.data.group_scaling import GroupError, GroupScaler, Within
from toxfusion.data.tile_scaling import TileScaler, fit_tile_scaler
from toxfusion.study.study import Study

BATCH = {"column": "batch"}


def profiled(study: Study) -> list[str]:
    return [s for s, there in zip(study.sample_ids, study.has_expression, strict=True) if there]


def fitted(study: Study, samples: list[str], **changes: Any) -> ExpressionTransform:
    common: dict[str, Any] = {"n_genes": None, "reference": "none", "clip": 8.0, "within": BATCH}
    return ExpressionTransform.fit(study, samples, **common | changes)


def test_by_hand() -> None:
    values = np.array([[1.0, 5.0], [3.0, 9.0], [10.0, 0.0], [30.0, 0.0], [7.0, 7.0]])
    groups = np.array(["a", "a", "b", "b", "alone"], object)
    scaler = GroupScaler.fit(values, groups, within=Within("batch", "pooled"), least_scale=0.5)
    assert scaler.names == ("a", "b", "")
    np.testing.assert_allclose(
        scaler.standardised(values[:4], groups[:4]), [[-1, -1], [1, 1], [-1, 0], [1, 0]]
    )
    np.testing.assert_allclose(scaler.centred(values[4:], groups[4:]), values[4:] - values.mean(0), rtol=1e-6)


@given(st.integers(0, 10**6), st.sampled_from([0.5, 3.0]), st.sampled_from([-40.0, 0.0, 7.0]))
@settings(max_examples=20, deadline=None)
def test_scale_and_place_of_a_group_do_not_matter(seed: int, factor: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    values, groups = rng.normal(size=(40, 3)), np.repeat(["a", "b"], 20).astype(object)
    # Quantiles are float32: 40 away from 0 they cannot tell neighbours that are nearer.
    assume(np.diff(np.sort(values[groups == "b"], axis=0), axis=0).min() > 1e-3)
    moved = np.where((groups == "b")[:, None], values * factor + shift, values)
    for scaling in ("deviation", "normal_scores"):
        first, second = (
            GroupScaler.fit(
                x, groups, within=Within("batch"), least_scale=1e-6, clip_quantile=0.05, scaling=scaling
            ).standardised(x, groups)
            for x in (values, moved)
        )
        np.testing.assert_allclose(first, second, atol=2e-3)


def test_normal_scores_are_ranks() -> None:
    """An outlier of ten thousand is the largest of its group and nothing more; equal values are equal."""
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(400, 1))
    values[:100] = 0.0
    values[0] = 10_000.0
    groups = np.full(400, "a", object)
    scaler = GroupScaler.fit(values, groups, within=Within("batch"), least_scale=0.1, scaling="normal_scores")
    scores = scaler.standardised(values, groups)[:, 0]
    assert scores[0] == scores.max() < 3
    assert np.unique(scores[1:100]).size == 1
    assert (np.diff(scores[np.argsort(values[:, 0])]) >= 0).all()
    assert abs(np.median(scores)) < 0.05
    assert np.isnan(scaler.standardised(np.full((1, 1), np.nan), groups[:1]))


@pytest.mark.parametrize("scaling", ["deviation", "normal_scores"])
def test_expression_of_each_batch_has_mean_zero_and_a_checkpoint_keeps_it(
    tiny_study: Study, scaling: str
) -> None:
    samples = profiled(tiny_study)
    transform = fitted(tiny_study, samples, scaling=scaling)
    values = transform.transform(tiny_study, samples)
    batches = tiny_study.obs.loc[samples, "batch"].to_numpy()
    for batch in ("A", "B"):
        assert np.abs(values[batches == batch].mean(0)).max() < (1e-5 if scaling == "deviation" else 0.3)
    back = ExpressionTransform.from_state(transform.state())
    np.testing.assert_array_equal(back.transform(tiny_study, samples), values)


def test_test_samples_change_nothing_that_is_fitted(own_tiny_study: Study) -> None:
    samples = profiled(own_tiny_study)
    train, tested = samples[::2], samples[1::2]
    before = fitted(own_tiny_study, train, clip_quantile=0.05).transform(own_tiny_study, train)
    own_tiny_study.expression[own_tiny_study.positions(tested)] += 50.0
    after = fitted(own_tiny_study, train, clip_quantile=0.05).transform(own_tiny_study, train)
    np.testing.assert_array_equal(before, after)


def test_a_gene_that_a_batch_lacks_is_its_mean_there(own_tiny_study: Study) -> None:
    study = own_tiny_study
    in_b = (study.obs["batch"] == "B").to_numpy()
    study.expression[in_b, 3] = np.nan
    transform = fitted(study, profiled(study))
    values = transform.transform(study, study.sample_ids)
    assert (values[in_b & study.has_expression, 3] == 0).all()
    assert np.isnan(values[~study.has_expression]).all()
    assert np.isfinite(values[study.has_expression]).all()
    assert values[~in_b & study.has_expression, 3].std() > 0.5


@pytest.mark.parametrize(
    ("within", "said"),
    [
        ({"column": "organ"}, "'organ' is no column of obs"),
        ({"column": "batch", "unseen": "guess"}, "'guess' is none of refuse, pooled"),
        ({"column": "batch"}, "'B' had fewer than 2 training samples"),
    ],
)
def test_what_cannot_be_standardised_is_refused(
    tiny_study: Study, within: Mapping[str, Any], said: str
) -> None:
    samples = profiled(tiny_study)
    train = [s for s in samples if tiny_study.obs.at[s, "batch"] == "A"]
    with pytest.raises(GroupError, match=said):
        fitted(tiny_study, train, within=within).transform(tiny_study, samples)


def test_tiles_of_each_batch_have_mean_zero(own_tiny_study: Study) -> None:
    store = write_features(own_tiny_study)
    study = own_tiny_study
    scaler = fit_tile_scaler(study, store, study.sample_ids, "none", BATCH)
    scaler = TileScaler.from_state(scaler.state())
    having = [s for s in study.sample_ids if study.slides_of(s)]
    tiles: dict[str, list[np.ndarray]] = {"A": [], "B": []}
    for sample, (m, s) in zip(having, scaler.of_samples(study, having), strict=True):
        features = [(np.asarray(store.rows(slide), np.float64) - m) / s for slide in study.slides_of(sample)]
        tiles[str(study.obs.at[sample, "batch"])] += features
    for features in tiles.values():
        np.testing.assert_allclose(np.concatenate(features).mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(np.concatenate(features).std(0), 1, atol=1e-4)
    only_a = [s for s in study.sample_ids if study.obs.at[s, "batch"] == "A"]
    with pytest.raises(GroupError, match="unseen=pooled"):
        fit_tile_scaler(study, store, only_a, "none", BATCH).of_samples(study, having)
    pooled = fit_tile_scaler(study, store, only_a, "none", {**BATCH, "unseen": "pooled"})
    first_of_b = next(s for s in having if study.obs.at[s, "batch"] == "B")
    np.testing.assert_array_equal(pooled.of_samples(study, [first_of_b])[0][0], pooled.mean)


def test_a_column_with_an_empty_value_names_no_groups() -> None:
    obs = pd.DataFrame({"batch": ["a", ""]}, index=["s1", "s2"])
    with pytest.raises(GroupError, match="empty at sample 's2'"):
        Within("batch").groups(obs)
