"""The linear shadow: it is the ridge that scikit-learn fits, and it learns nothing from what it must not see."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from tests.feature_store import write_features
from toxfusion.baselines.shadow import Shadow, ShadowError, ShadowSettings, _Fits, fit_shadow
from toxfusion.data.datamodule import FoldData
from toxfusion.data.expression import ExpressionTransform
from toxfusion.data.group_scaling import Within
from toxfusion.data.tile_scaling import fit_tile_scaler
from toxfusion.study.split import Split
from toxfusion.study.splits import GroupKFold
from toxfusion.study.study import Study

WITHIN = {"column": "batch"}
SETTINGS = ShadowSettings(components=(2, 4), penalties=(0.1, 1.0))


def split_of(study: Study) -> Split:
    return GroupKFold(column="animal_id", n_folds=4, keep_compounds=False)(study)


def shadow_of(study: Study, split: Split) -> Shadow:
    store = study.features("test") if (study.root / "features" / "test").exists() else write_features(study)
    profiled = [s for s in split.train if study.has_expression[study.positions([s])[0]]]
    transform = ExpressionTransform.fit(
        study, profiled, n_genes=20, reference="none", clip=8.0, within=WITHIN
    )
    scaler = fit_tile_scaler(study, store, split.train, "none", WITHIN)
    fold = FoldData(study, split, {}, store=store, expression=transform, scaler=scaler, seed=0)
    return fit_shadow(fold, Within(**WITHIN), SETTINGS)


def test_it_is_the_ridge_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(60, 7))
    groups = np.repeat(["a", "b"], 30).astype(object)
    train = np.r_[0:20, 30:50]
    fits = _Fits(x, y, train, groups, own_weight=3.0)
    weight = np.where(groups[train] == "a", 3.0, 1.0)
    eigenvalues = np.linalg.eigvalsh((x[train] * weight[:, None]).T @ x[train] / weight.sum())
    ridge = Ridge(alpha=0.5 * eigenvalues.mean() * weight.sum(), fit_intercept=False)
    expected = ridge.fit(x[train], y[train], sample_weight=weight).predict(x[20:30])
    np.testing.assert_allclose(fits.genes(np.arange(20, 30), 0.5), expected, rtol=1e-8)
    slide, expression = fits.pair(np.arange(20, 30), 7, 0.0, 0.5)
    np.testing.assert_allclose(expression @ expression.T, y[20:30] @ y[20:30].T, rtol=1e-8)
    np.testing.assert_allclose(slide @ expression.T, expected @ y[20:30].T, rtol=1e-8)
    whitened = fits.pair(train, 7, 1.0, 0.5)[1]
    moment = (whitened * weight[:, None]).T @ whitened
    np.testing.assert_allclose(moment / moment[0, 0], np.eye(7), atol=1e-8)


def test_test_samples_change_nothing_for_others(own_tiny_study: Study) -> None:
    split = split_of(own_tiny_study)
    before = shadow_of(own_tiny_study, split)
    fitted = own_tiny_study.positions([*split.train, *split.valid])
    own_tiny_study.expression[own_tiny_study.positions(split.test)] += 30.0
    after = shadow_of(own_tiny_study, split)
    np.testing.assert_allclose(before.slide[fitted], after.slide[fitted])
    np.testing.assert_allclose(before.expression[fitted], after.expression[fitted])
    assert (before.components, before.penalty) == (after.components, after.penalty)
    absent = ~own_tiny_study.has_expression
    assert np.isnan(before.expression[absent]).all()
    assert np.isfinite(before.slide[own_tiny_study.has_slide]).all()


def test_it_needs_pairs_to_choose_by(own_tiny_study: Study) -> None:
    split = split_of(own_tiny_study)
    with pytest.raises(ShadowError, match=r"split\.valid_fraction"):
        shadow_of(own_tiny_study, Split(split.train, [], split.test, 0, split.manifest))
