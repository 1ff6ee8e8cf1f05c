"""ComBat: the published correction on training samples, nothing of test samples in the fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toxfusion.data.batch_correction import BatchError, ComBat
from toxfusion.data.expression import ExpressionTransform
from toxfusion.study.audit import Audit
from toxfusion.study.study import Study

N_GENES = 400


def batches(sizes: tuple[int, ...] = (5, 9, 14), seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    """Unequal batches with their own location and scale, in which half of the samples are treated."""
    rng = np.random.default_rng(seed)
    batch = np.repeat([f"b{i}" for i in range(len(sizes))], sizes)
    treated = rng.permutation(np.arange(len(batch)) % 2).astype(bool)
    effect = rng.normal(0, 1, N_GENES)
    values = rng.normal(8, 2, N_GENES) + treated[:, None] * effect + rng.normal(0, 0.5, (len(batch), N_GENES))
    shift, spread = rng.normal(0, 1, (len(sizes), N_GENES)), rng.gamma(8, 1 / 8, (len(sizes), N_GENES))
    code = pd.factorize(batch)[0]
    obs = pd.DataFrame({"batch": batch, "is_control": ~treated}, index=[f"s{i}" for i in range(len(batch))])
    return (values - 8) * spread[code] + 8 + shift[code], obs


@pytest.mark.parametrize("covariates", [[], ["is_control"]])
def test_training_samples_are_corrected_as_scanpy_does(covariates: list[str]) -> None:
    import anndata
    import scanpy

    values, obs = batches()
    ours = ComBat.fit(values, obs, column="batch", covariates=covariates).correct(values, obs)
    # As a number: of a category scanpy makes a column for every level, which is singular beside the batches.
    table = anndata.AnnData(values.copy(), obs.astype({"is_control": float}))
    theirs = scanpy.pp.combat(table, "batch", covariates=covariates or None, inplace=False)
    # scanpy divides the variance of the prior by G and stops at 1e-4; the paper divides by G - 1.
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert np.abs(ours - values).mean() > 0.3


def test_batches_lose_their_location_and_covariates_keep_their_effect() -> None:
    values, obs = batches((12, 12, 24))
    fitted = ComBat.fit(values, obs, column="batch", covariates=["is_control"])
    corrected = fitted.correct(values, obs)

    def between(table: np.ndarray) -> float:
        return float(pd.DataFrame(table).groupby(obs["batch"].to_numpy()).mean().var().mean())

    assert between(corrected) < 0.1 * between(values)
    control = obs["is_control"].to_numpy()
    effect = corrected[~control].mean(axis=0) - corrected[control].mean(axis=0)
    assert np.corrcoef(effect, fitted.effects[0])[0, 1] < -0.95  # the effect of being a control


def test_one_gene_of_two_equal_batches_by_hand() -> None:
    # Batch means 1 and 5, within them -1 and 1. The grand mean is 3, the pooled deviation 1, and the standardised means
    # -2 and 2. One gene makes a prior of no variance at the batch's own mean, so that nothing is shrunk.
    obs = pd.DataFrame({"batch": ["a", "a", "b", "b"]}, index=list("wxyz"))
    values = np.array([[0.0], [2.0], [4.0], [6.0]])
    fitted = ComBat.fit(values, obs, column="batch")
    assert fitted.grand_mean == pytest.approx([3.0])
    assert fitted.deviation == pytest.approx([1.0])
    assert fitted.location[:, 0] == pytest.approx([-2.0, 2.0])
    assert fitted.scale[:, 0] == pytest.approx([2**0.5, 2**0.5])
    # 0 -> (0 - 3 + 2) / sqrt(2) + 3
    assert fitted.correct(values, obs)[0, 0] == pytest.approx(3 - 2**-0.5)
    assert fitted.correct(np.array([[7.0]]), obs[3:])[0, 0] == pytest.approx(3 + 2 / 2**0.5)


def test_samples_of_unseen_batches_are_refused_or_kept_with_a_line() -> None:
    values, obs = batches()
    train = (obs["batch"] != "b1").to_numpy()
    fitted = ComBat.fit(values[train], obs[train], column="batch")
    with pytest.raises(BatchError, match=r"9 samples .* 1 batches that training has not seen twice \('b1'"):
        fitted.correct(values, obs)
    audit = Audit()
    kept = replace(fitted, unseen="keep").correct(values, obs, audit)
    np.testing.assert_array_equal(kept[~train], values[~train])
    np.testing.assert_allclose(kept[train], fitted.correct(values[train], obs[train]))
    assert [r.id for r in audit.records] == obs.index[~train].tolist()
    alone = obs.assign(batch=["single", *obs["batch"][1:]])
    fitted = ComBat.fit(values, alone, column="batch", audit=audit)
    assert fitted.batches == ["b0", "b1", "b2"]
    assert (audit.records[-1].kind, audit.records[-1].id) == ("batch", "single")


@given(st.integers(0, 1000), st.floats(-50, 50, allow_nan=False))
@settings(max_examples=10, deadline=None)
def test_a_sample_is_corrected_alike_whatever_stands_beside_it(seed: int, other: float) -> None:
    values, obs = batches(seed=seed % 7)
    fitted = ComBat.fit(values, obs, column="batch", covariates=["is_control"])
    drawn = np.random.default_rng(seed).permutation(len(obs))[:6]
    together = fitted.correct(values, obs)[drawn]
    changed = values[drawn].copy()
    changed[1:] = other
    np.testing.assert_allclose(fitted.correct(changed, obs.iloc[drawn])[0], together[0])


def test_genes_that_do_not_vary_and_missing_profiles_stay() -> None:
    values, obs = batches()
    values[:, 3] = 4.5
    fitted = ComBat.fit(values, obs, column="batch")
    values[2] = np.nan
    corrected = fitted.correct(values, obs)
    assert np.isnan(corrected[2]).all()
    assert (corrected[np.arange(len(obs)) != 2, 3] == 4.5).all()
    assert np.isfinite(corrected[np.arange(len(obs)) != 2]).all()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"column": "plate"}, "combat.column=plate: no column"),
        ({}, {"unseen": "drop"}, "unseen=drop: is none of refuse, keep"),
        ({"batch": "all"}, {}, "1 of 1 batches"),
        ({"batch": ""}, {}, "'batch' is empty at sample 's0'"),
        ({"dili": 1.0}, {"covariates": ["dili"]}, "'dili' is none of is_control"),
        ({"dose_level": "batch"}, {"covariates": ["dose_level"]}, "follow the batches"),
    ],
)
def test_what_cannot_be_corrected_is_refused(change: dict[str, Any], options: Any, message: str) -> None:
    values, obs = batches()
    obs = obs.assign(**{k: obs["batch"] if v == "batch" else v for k, v in change.items()})
    with pytest.raises(BatchError, match=message):
        ComBat.fit(values, obs, **{"column": "batch", **options})


def test_a_level_that_training_lacks_is_refused() -> None:
    values, obs = batches()
    obs["dose_level"] = np.where(obs["is_control"], "control", "low")
    fitted = ComBat.fit(values, obs, column="batch", covariates=["dose_level"])
    with pytest.raises(BatchError, match="dose_level of sample 's0' is 'high'"):
        fitted.correct(values[:1], obs[:1].assign(dose_level="high"))


def test_the_transform_corrects_controls_too_and_fits_on_training_samples_alone(
    tiny_study: Study, tmp_path: Path
) -> None:
    obs = tiny_study.obs.assign(batch=np.where(np.arange(len(tiny_study.obs)) % 3 == 0, "A", "B"))
    shifted = tiny_study.expression + np.where(obs["batch"] == "A", 2.0, 0.0)[:, None]
    study = replace(tiny_study, obs=obs, expression=shifted.astype(np.float32))
    train = [s for s in study.sample_ids if not s.startswith(("epsilol", "zetastat"))]
    options = {
        "n_genes": 20, "reference": "matched_controls", "clip": 8.0,
        "combat": {"column": "batch", "covariates": ["is_control"], "unseen": "refuse"},
    }  # fmt: skip
    fitted = ExpressionTransform.fit(study, train, **options)
    changed = study.expression.copy()
    changed[[s not in train for s in study.sample_ids]] *= -3.0
    again = ExpressionTransform.fit(replace(study, expression=changed), train, **options)
    assert again.combat is not None
    for key, value in again.state()["combat"].items():
        same = (
            torch.equal(value, fitted.state()["combat"][key])
            if torch.is_tensor(value)
            else (value == fitted.state()["combat"][key])
        )
        assert same, key
    torch.save(fitted.state(), tmp_path / "state.pt")
    loaded = ExpressionTransform.from_state(torch.load(tmp_path / "state.pt", weights_only=True))
    ids = study.sample_ids
    np.testing.assert_array_equal(loaded.transform(study, ids), fitted.transform(study, ids))
    # The controls are corrected too: fold changes do not tell the batches, as they do without.
    in_a = (obs["batch"] == "A").to_numpy()
    plain = ExpressionTransform.fit(study, train, **{**options, "reference": "none", "combat": None})
    mended = ExpressionTransform.fit(study, train, **{**options, "reference": "none"})
    seen = [s in train and there for s, there in zip(ids, study.has_expression, strict=True)]
    gaps = [
        np.abs(
            t.transform(study, ids)[seen & in_a].mean(axis=0)
            - t.transform(study, ids)[seen & ~in_a].mean(axis=0)
        )
        for t in (plain, mended)
    ]
    assert gaps[1].mean() < 0.2 * gaps[0].mean()
