"""Baselines on the small study with a planted signal: who is scored, what is fitted on, what the score can
know.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from toxfusion.baselines import plain as baselines
from toxfusion.baselines.blocks import BaselineError, BaselineSettings
from toxfusion.baselines.plain import fit_baseline
from toxfusion.data.clinical import ClinicalColumns
from toxfusion.data.datamodule import FoldData, LeakError
from toxfusion.data.expression import ExpressionTransform
from toxfusion.data.tile_scaling import fit_tile_scaler
from toxfusion.study.bag_store import BagStore
from toxfusion.study.split import Split
from toxfusion.study.store_spec import StoreSpec
from toxfusion.study.study import Study
from toxfusion.tasks.dili import Dili
from toxfusion.tasks.injury import Injury
from toxfusion.tasks.lesions import Lesions
from toxfusion.tasks.severity import Severity
from toxfusion.tasks.task_set import TaskSet

TEST, VALID = ("gammacin", "deltaprofen"), ("epsilol", "zetastat")
TERM_OF_TEST = "Fibrosis"
ALL = TaskSet([Dili(), Injury(), Lesions().restored({"chosen": ("Necrosis",)}), Severity()])
DILI = TaskSet([Dili()])
SETTINGS = BaselineSettings(n_components=5)


def _store(study: Study, root, trained_on: tuple[str, ...] = ()) -> BagStore:
    """Features of 8 dimensions; tiles of animals with necrosis are shifted in all of them."""
    rng = np.random.default_rng(0)
    spec = StoreSpec("features", "float16", (8,), {"encoder": "made_up", "trained_on": list(trained_on)})
    store = BagStore.create(root, spec)
    with store.writer() as writer:
        for slide, sample in study.slides["sample_id"].items():
            tiles = rng.normal(size=(6, 8)) + 2.0 * (study.findings.loc[sample, "Necrosis"] > 0)
            where = np.stack([np.arange(6) * 64, np.zeros(6)], axis=1).astype(np.int32)
            writer.append(str(slide), tiles.astype(np.float16), where, tile_size=64.0, mpp0=0.5)
    store.refresh()
    return store


def _split(study: Study) -> Split:
    compound = study.obs["compound"]
    held_out = compound.isin([*TEST, *VALID])
    parts = {"train": ~held_out, "valid": compound.isin(VALID), "test": compound.isin(TEST)}
    return Split(
        **{part: study.obs.index[chosen].tolist() for part, chosen in parts.items()}, fold=2, manifest={}
    )


def _fold(study: Study, root, tasks: TaskSet = ALL, split: Split | None = None) -> FoldData:
    split = split or _split(study)
    store = _store(study, root)
    fitted = ExpressionTransform.fit(study, split.train, n_genes=None, reference="none", clip=8.0)
    scaler = fit_tile_scaler(study, store, split.train, "none")
    labels = tasks.labels(study, study.sample_ids)
    clinical = ClinicalColumns.fit(study, split.train, ["dose", "time_h"])
    return FoldData(
        study, split, labels, store=store, expression=fitted, scaler=scaler, clinical=clinical, seed=0
    )


def _tables_alone(study: Study) -> FoldData:
    """DILI of the study without tiles and expression."""
    labels = DILI.labels(study, study.sample_ids)
    return FoldData(study, _split(study), labels, store=None, expression=None, scaler=None, seed=0)


@pytest.fixture(scope="module")
def fold(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> FoldData:
    return _fold(tiny_study, tmp_path_factory.mktemp("features"))


@pytest.mark.parametrize("features", sorted({*baselines.FEATURES, "late"} - {"findings", "tabular"}))
def test_every_unit_of_both_parts_is_scored_once(fold: FoldData, features: str) -> None:
    table = fit_baseline(f"{features}_logistic", fold, ALL, seed=3, settings=SETTINGS)
    obs = fold.study.obs
    treated = obs[~obs["is_control"]]
    for part, compounds in (("test", TEST), ("valid", VALID)):
        scored = table[table["part"] == part]
        of_part, treated_of_part = obs["compound"].isin(compounds), treated["compound"].isin(compounds)
        expected = {
            "dili": set(compounds),
            "injury": set(treated.loc[treated_of_part, "group_id"]),
            "lesion:Necrosis": set(obs.index[of_part]),
            "severity": set(obs.index[of_part]),
        }
        assert {task: set(r["unit_id"]) for task, r in scored.groupby("task")} == expected
    assert set(table["fold"]) == {2}
    assert set(table["seed"]) == {3}
    assert not table.loc[table["task"].isin(["dili", "injury"]), "is_control"].any()


@pytest.mark.parametrize("name", ["meanpool_logistic", "concat_logistic", "chemistry_logistic"])
def test_a_planted_lesion_is_found_in_unseen_compounds(fold: FoldData, name: str) -> None:
    table = fit_baseline(name, fold, ALL, seed=0, settings=SETTINGS)
    measured = table[(table["task"] == "lesion:Necrosis") & (table["part"] == "test") & ~table["imputed"]]
    assert (
        measured.loc[measured["label"] == 1, "score"].min()
        > measured.loc[measured["label"] == 0, "score"].max()
    )
    severity = table[(table["task"] == "severity") & (table["part"] == "test") & ~table["imputed"]]
    assert severity["score"].corr(severity["label"], method="spearman") > 0.5


@pytest.mark.parametrize("name", ["findings_logistic", "tabular_logistic"])
def test_what_reads_findings_predicts_dili_and_no_finding(fold: FoldData, name: str) -> None:
    """The planted necrosis is that of DILI compounds, seen in two training compounds or not."""
    alone = _tables_alone(fold.study)
    with pytest.raises(BaselineError, match=r"seen in 2 treated training compounds of fold 2"):
        fit_baseline(name, alone, DILI, seed=0)
    table = fit_baseline(name, alone, DILI, seed=0, settings=BaselineSettings(finding_compounds=1))
    test = table[table["part"] == "test"].set_index("unit_id")
    assert set(test.index) == set(TEST)
    assert test.loc["gammacin", "score"] > test.loc["deltaprofen", "score"]
    with pytest.raises(BaselineError, match=f"method={name}: injury, lesions and severity are the findings"):
        fit_baseline(name, fold, ALL, seed=0)


def test_findings_are_chosen_on_treated_training_animals(tiny_study: Study) -> None:
    """Hypertrophy of one control, and a term that test compounds alone show, are no features."""
    findings = tiny_study.findings.assign(**{TERM_OF_TEST: 0.0})
    findings.loc[tiny_study.obs["compound"].isin(TEST), TERM_OF_TEST] = 3.0
    changed = _tables_alone(replace(tiny_study, findings=findings))
    block = baselines.pathologist_findings(changed, BaselineSettings(finding_compounds=1))
    np.testing.assert_array_equal(block.values, findings[["Necrosis"]])


def test_alt_and_ast_are_two_columns_of_chemistry(fold: FoldData, tiny_study: Study) -> None:
    block = baselines.alt_and_ast(fold, BaselineSettings(chemistry_reference="none"))
    np.testing.assert_allclose(block.values, np.log1p(tiny_study.chemistry[["ALT", "AST"]]))
    without = _tables_alone(replace(tiny_study, chemistry=tiny_study.chemistry.drop(columns="AST")))
    with pytest.raises(BaselineError, match=r"obsm\['chemistry'\] has no \['AST'\], only \['ALT'\]"):
        fit_baseline("alt_ast_logistic", without, ALL, seed=0)


def test_boosting_runs(fold: FoldData) -> None:
    assert np.isfinite(fit_baseline("metadata_boosting", fold, ALL, seed=0)["score"]).all()


def test_samples_without_the_modality_are_scored_and_flagged(fold: FoldData) -> None:
    table = fit_baseline("meanpool_logistic", fold, ALL, seed=0, settings=SETTINGS)
    necrosis = table[table["task"] == "lesion:Necrosis"].set_index("unit_id")
    without = [s for s in necrosis.index if not fold.study.slides_of(s)]
    assert without
    assert necrosis.loc[without, "imputed"].all()
    assert necrosis.loc[without, "score"].nunique() == 1
    assert not necrosis.drop(index=without)["imputed"].any()


def test_late_fusion_is_the_mean_of_both_modalities(fold: FoldData) -> None:
    late, slide, expression = (
        fit_baseline(f"{f}_logistic", fold, ALL, seed=0, settings=SETTINGS)
        for f in ("late", "meanpool", "pca")
    )
    np.testing.assert_allclose(late["score"], (slide["score"] + expression["score"]) / 2)


def test_test_and_validation_content_cannot_move_the_fit(fold: FoldData, tiny_study: Study, tmp_path) -> None:
    """Other labels and other expression of test samples change no score but those of the test samples
    themselves.
    """
    obs, x = tiny_study.obs.copy(), tiny_study.expression.copy()
    tested = obs["compound"].isin(TEST).to_numpy()
    obs.loc[tested, ["dili", "injury"]] = 1 - obs.loc[tested, ["dili", "injury"]]
    x[tested] += 5.0
    changed = replace(tiny_study, obs=obs, expression=x)
    before = fit_baseline("pca_logistic", fold, ALL, seed=0, settings=SETTINGS)
    after = fit_baseline("pca_logistic", _fold(changed, tmp_path / "store"), ALL, seed=0, settings=SETTINGS)
    valid = before["part"] == "valid"
    np.testing.assert_allclose(before.loc[valid, "score"], after.loc[valid, "score"])


def test_controls_do_not_enter_dili(fold: FoldData, tiny_study: Study, tmp_path) -> None:
    """Other vehicle controls leave DILI scores alone where the features are not relative to controls."""
    chemistry = tiny_study.chemistry.copy()
    chemistry.loc[tiny_study.obs["is_control"] & tiny_study.obs["compound"].isin(TEST)] *= 50
    changed = replace(tiny_study, chemistry=chemistry)
    settings = BaselineSettings(chemistry_reference="none")
    tables = [
        fit_baseline("chemistry_logistic", f, ALL, seed=0, settings=settings).query("task == 'dili'")
        for f in (fold, _fold(changed, tmp_path / "store"))
    ]
    pd.testing.assert_frame_equal(*tables)


def test_one_class_in_training_gives_the_prevalence(fold: FoldData, tiny_study: Study, tmp_path) -> None:
    obs = tiny_study.obs.assign(dili=0.0)
    table = fit_baseline(
        "metadata_logistic", _fold(replace(tiny_study, obs=obs), tmp_path / "store"), ALL, seed=0
    )
    assert (table.loc[table["task"] == "dili", "score"] == 0).all()


def test_same_seed_same_scores(tiny_study: Study, tmp_path) -> None:
    fold = _fold(tiny_study, tmp_path, DILI)
    first, second = (fit_baseline("concat_forest", fold, DILI, seed=5, settings=SETTINGS) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_what_cannot_be_fitted_is_refused(fold: FoldData, tiny_study: Study) -> None:
    with pytest.raises(BaselineError, match="meanpool_logistic"):
        fit_baseline("meanpool", fold, ALL, seed=0)
    labels = ALL.labels(tiny_study, tiny_study.sample_ids)
    bare = FoldData(tiny_study, fold.split, labels, store=None, expression=None, scaler=None, seed=0)
    with pytest.raises(BaselineError, match="tile features"):
        fit_baseline("meanpool_logistic", bare, ALL, seed=0)
    with pytest.raises(BaselineError, match="expression"):
        fit_baseline("pca_logistic", bare, ALL, seed=0)
    with pytest.raises(BaselineError, match="GLDH"):
        fit_baseline("chemistry_logistic", fold, ALL, seed=0, settings=BaselineSettings(chemistry=("GLDH",)))


@pytest.mark.parametrize("spelling", ["gammacin", "Gammacin ", "GAMMA-CIN"])
def test_features_of_an_encoder_that_saw_test_compounds_are_refused(
    tiny_study: Study, tmp_path, spelling: str
) -> None:
    store = _store(tiny_study, tmp_path / "store", trained_on=(spelling,))
    scaler = fit_tile_scaler(tiny_study, store, _split(tiny_study).train, "none")
    with pytest.raises(LeakError, match="gammacin"):
        FoldData(tiny_study, _split(tiny_study), {}, store=store, expression=None, scaler=scaler, seed=0)


def test_aggregate_by_hand() -> None:
    features = np.array([[1.0, -4.0], [-2.0, 2.0]])
    assert baselines._aggregate(features).tolist() == [-0.5, -1.0, -2.0, -4.0]
