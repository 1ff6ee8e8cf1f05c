"""The expression transform: values worked out by hand, training samples only, genes matched by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from toxfusion.data.expression import SD_FLOOR, ExpressionError, ExpressionTransform
from toxfusion.study.audit import Audit
from toxfusion.study.study import Study


def small_study() -> Study:
    """Two control groups of two and one control, one lone sample; three genes, the last one constant."""
    samples = [
        ("c1", "g", True, [1.0, 5.0, 2.0]),
        ("c2", "g", True, [3.0, 5.0, 2.0]),
        ("t1", "g", False, [6.0, 4.0, 2.0]),
        ("t2", "g", False, [2.0, 4.0, 2.0]),
        ("c3", "h", True, [8.0, 5.0, 2.0]),
        ("t3", "h", False, [9.0, 9.0, 2.0]),
        ("t4", "", False, [4.0, 5.0, 2.0]),
        ("none", "g", False, [np.nan] * 3),
    ]
    obs = pd.DataFrame(
        {"control_group": [r[1] for r in samples], "is_control": [r[2] for r in samples]},
        index=[r[0] for r in samples],
    )
    return Study(
        root=Path(), name="small", species="", virtual=True, obs=obs,
        var=pd.DataFrame({"symbol": ["A", "B", "C"]}, index=["a", "b", "c"]),
        expression=np.array([r[3] for r in samples], np.float32), findings=pd.DataFrame(index=obs.index),
        spontaneous=None, chemistry=None, slides=pd.DataFrame({"sample_id": []}),
    )  # fmt: skip


def fit(study: Study, ids: list[str], **settings: Any) -> ExpressionTransform:
    return ExpressionTransform.fit(
        study, ids, **{"n_genes": None, "reference": "none", "clip": 10.0, **settings}
    )


def test_standardised_by_hand() -> None:
    study = small_study()
    fitted = fit(study, ["c1", "c2", "t1", "t2"])
    # Gene a: 1, 3, 6, 2 has mean 3 and population variance (4 + 0 + 9 + 1) / 4 = 3.5; gene c never varies.
    assert fitted.mean == pytest.approx([3.0, 4.5, 2.0])
    assert fitted.scale == pytest.approx([np.sqrt(3.5), 0.5, SD_FLOOR])
    assert fitted.transform(study, ["t3"])[0] == pytest.approx([6 / np.sqrt(3.5), 9.0, 0.0])
    assert np.isnan(fitted.transform(study, ["none"])).all()


def test_fold_change_against_matched_controls_by_hand() -> None:
    study, audit = small_study(), Audit()
    fitted = fit(study, ["c1", "c2", "t1", "t2"], reference="matched_controls", audit=audit)
    # Controls of g have mean (2, 5, 2); each control is compared with the other: c1 - c2 = -2, c2 - c1 = 2.
    # Gene a: -2, 2, 4, 0 -> mean 1, variance (9 + 1 + 9 + 1) / 4 = 5. Gene b: 0, 0, -1, -1.
    assert fitted.mean == pytest.approx([1.0, -0.5, 0.0])
    assert fitted.scale == pytest.approx([np.sqrt(5.0), 0.5, SD_FLOOR])
    assert len(audit) == 0
    values = fitted.transform(study, ["t3", "c1", "t4"], audit)
    # t3 against c3: (1, 4, 0); t4 has no control group: against the mean of the training controls (2, 5, 2).
    assert values[0] == pytest.approx([0.0, 9.0, 0.0])
    assert values[1] == pytest.approx([-3 / np.sqrt(5.0), 1.0, 0.0])
    assert values[2] == pytest.approx([1 / np.sqrt(5.0), 1.0, 0.0])
    assert [r.id for r in audit.records] == ["t4"]
    fitted.transform(study, ["c3"], audit)
    assert [r.id for r in audit.records] == ["t4", "c3"]


def test_genes_of_highest_training_variance_are_kept_in_study_order() -> None:
    study = small_study()
    assert fit(study, ["c1", "c2", "t1", "t2"], n_genes=1).gene_ids == ["a"]
    assert fit(study, ["c1", "c2", "t1", "t2"], n_genes=2).symbols == ["A", "B"]
    assert fit(study, ["t3", "t4"], n_genes=99).gene_ids == ["a", "b", "c"]


def test_only_training_samples_matter(tiny_study: Study) -> None:
    ids = tiny_study.sample_ids
    train = [s for s in ids if not s.startswith(("epsilol", "zetastat"))]
    before = fit(tiny_study, train, n_genes=20, reference="matched_controls")
    changed = tiny_study.expression.copy()
    changed[[i for i, s in enumerate(ids) if s not in train]] *= -3.0
    after = fit(replace(tiny_study, expression=changed), train, n_genes=20, reference="matched_controls")
    assert after.gene_ids == before.gene_ids
    for name in ("mean", "scale", "control_mean"):
        assert np.array_equal(getattr(after, name), getattr(before, name))


def test_an_array_offset_of_a_control_group_vanishes(tiny_study: Study) -> None:
    fitted = fit(tiny_study, tiny_study.sample_ids, reference="matched_controls")
    shifted = tiny_study.expression + (tiny_study.obs["control_group"] == "S2_24h").to_numpy()[:, None] * 3.0
    group = tiny_study.obs.index[tiny_study.obs["control_group"] == "S2_24h"].tolist()
    again = fitted.transform(replace(tiny_study, expression=shifted.astype(np.float32)), group)
    assert np.allclose(again, fitted.transform(tiny_study, group), atol=1e-4, equal_nan=True)


def test_gene_order_of_a_new_study_does_not_matter(tiny_study: Study) -> None:
    fitted = fit(tiny_study, tiny_study.sample_ids, n_genes=10)
    order = np.random.default_rng(0).permutation(len(tiny_study.var))
    turned = replace(tiny_study, var=tiny_study.var.iloc[order], expression=tiny_study.expression[:, order])
    ids = tiny_study.sample_ids[:6]
    assert np.array_equal(fitted.transform(turned, ids), fitted.transform(tiny_study, ids), equal_nan=True)


def test_missing_and_doubled_genes_are_named() -> None:
    study = small_study()
    fitted = fit(study, ["c1", "c2", "t1"])
    lacking = replace(study, var=study.var.iloc[[0, 2]], expression=study.expression[:, [0, 2]])
    with pytest.raises(ExpressionError, match=r"lacks 1 of the 3 genes.*'b'"):
        fitted.transform(lacking, ["c1"])
    doubled = replace(study, var=study.var.iloc[[0, 1, 1, 2]], expression=study.expression[:, [0, 1, 1, 2]])
    for use in (lambda: fitted.transform(doubled, ["c1"]), lambda: fit(doubled, ["c1", "c2"])):
        with pytest.raises(ExpressionError, match=r"more than once, \['b'\]"):
            use()


@pytest.mark.parametrize("reference", ["none", "matched_controls"])
def test_a_study_of_slides_alone_needs_no_gene(reference: str) -> None:
    study = small_study()
    fitted = fit(study, ["c1", "c2", "t1"], reference=reference)
    bare = replace(study, var=study.var.iloc[:0], expression=study.expression[:, :0])
    assert np.isnan(fitted.transform(bare, ["c1", "t1"])).all()
    assert fitted.transform(bare, ["c1", "t1"]).shape == (2, len(fitted.gene_ids))
    assert np.isfinite(fitted.control_profiles(bare, ["c1", "t1"])).all()


def test_clip_bounds_values() -> None:
    study = small_study()
    fitted = fit(study, ["c1", "c2", "t1", "t2"], clip=1.5)
    assert fitted.transform(study, ["t3"])[0] == pytest.approx([1.5, 1.5, 0.0])


def test_no_training_control_and_too_few_profiles_are_refused() -> None:
    study = small_study()
    with pytest.raises(ExpressionError, match="no training sample is a vehicle control"):
        fit(study, ["t1", "t2"], reference="matched_controls")
    with pytest.raises(ExpressionError, match="1 training samples"):
        fit(study, ["t1", "none"])
    with pytest.raises(ExpressionError, match="'blank'"):
        fit(study, ["t1", "t2"], reference="blank")
    with pytest.raises(ExpressionError, match="clip"):
        fit(study, ["t1", "t2"], clip=0.0)


def test_state_survives_a_weights_only_checkpoint(tmp_path: Path) -> None:
    study = small_study()
    fitted = fit(study, ["c1", "c2", "t1"], reference="matched_controls", n_genes=2)
    torch.save(fitted.state(), tmp_path / "state.pt")
    again = ExpressionTransform.from_state(torch.load(tmp_path / "state.pt", weights_only=True))
    ids = study.obs.index.tolist()
    assert np.array_equal(again.transform(study, ids), fitted.transform(study, ids), equal_nan=True)
    assert (again.gene_ids, again.symbols) == (fitted.gene_ids, fitted.symbols)


def test_extreme_values_are_held_within_training_quantiles() -> None:
    study = small_study()
    study.expression[2, 0] = 4000.0
    ids = ["c1", "c2", "t1", "t2", "c3"]
    fitted = fit(study, ids, clip_quantile=0.25)
    # Gene a: 1, 2, 3, 8, 4000 has the quartiles 2 and 8, so that 2, 2, 3, 8, 8 are standardised.
    assert fitted.low is not None
    assert fitted.high is not None
    assert (fitted.low[0], fitted.high[0]) == (2.0, 8.0)
    assert fitted.mean[0] == pytest.approx(4.6)
    assert fitted.scale[0] == pytest.approx(np.std([2, 2, 3, 8, 8]))
    shown = fitted.transform(study, ["t1", "t3", "c1"])[:, 0]
    assert shown == pytest.approx((np.array([8, 8, 2]) - 4.6) / np.std([2, 2, 3, 8, 8]), rel=1e-5)
    again = ExpressionTransform.from_state(fitted.state())
    assert np.array_equal(again.transform(study, ids), fitted.transform(study, ids))


def test_an_extreme_value_of_one_sample_does_not_choose_its_gene() -> None:
    study = small_study()
    study.expression[2, 2] = 4000.0
    ids = ["c1", "c2", "t1", "t2", "c3", "t3"]
    assert fit(study, ids, n_genes=1).gene_ids == ["c"]
    assert fit(study, ids, n_genes=1, clip_quantile=0.2).gene_ids == ["a"]


def test_without_quantiles_nothing_is_bounded_before_standardising() -> None:
    fitted = fit(small_study(), ["c1", "c2", "t1", "t2"])
    assert fitted.low is None
    assert fitted.high is None
    assert not {"low", "high"} & set(fitted.state())
    with pytest.raises(ExpressionError, match="clip_quantile"):
        fit(small_study(), ["c1", "c2", "t1", "t2"], clip_quantile=0.5)


@pytest.mark.parametrize("reference", ["none", "matched_controls"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: 2**x, True),
        (lambda x: 0 * x + 5, True),
        (lambda x: x - np.nanmean(x, axis=0), True),
        (lambda x: x + 2, False),
    ],
    ids=["linear", "one value", "centred", "shifted"],
)
def test_levels_of_genes_on_another_scale_are_told(
    tiny_study: Study, reference: Any, change: Callable[[np.ndarray], np.ndarray], told: bool
) -> None:
    levels = np.random.default_rng(0).normal(8, 2, tiny_study.expression.shape[1])
    study = replace(tiny_study, expression=(tiny_study.expression + levels).astype(np.float32))
    ids = [sample for sample, there in zip(study.sample_ids, study.has_expression, strict=True) if there]
    fitted = ExpressionTransform.fit(study, ids, reference=reference, n_genes=None, clip=8.0)
    audit = Audit()
    fitted.transform(study, ids, audit)
    other = replace(study, expression=change(study.expression).astype(np.float32))
    assert not [r for r in audit.records if r.kind == "study"]
    fitted.transform(other, ids, audit)
    reasons = [r.reason for r in audit.records if r.kind == "study"]
    assert ["predictions mean nothing where its values are no log2" in reason for reason in reasons] == [
        True
    ] * told
