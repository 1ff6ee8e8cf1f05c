"""The survival benchmark: a curve by hand, rows that learn nothing from test patients, a page of what is finished."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.cohort_study import SPLIT, prepare
from benchmarks.published import SECTIONS, page
from benchmarks.survival import SurvivalCell, run_cell
from benchmarks.survival_methods import AGE, METHODS
from benchmarks.survival_readings import breslow, of_cohorts, pooled, readings, trained
from benchmarks.survival_tables import read
from toxfusion.config.entry import compose
from toxfusion.evaluation.survival import harrell_c
from toxfusion.study.audit import Audit
from toxfusion.study.files import replace_file, write_parquet
from toxfusion.study.importers.tcga import FOLDS_FILE
from toxfusion.study.study import Study, write_study
from toxfusion.training.folder import RunFolder
from toxfusion.training.run import run as run_training
from toxfusion.training.settings import RunSettings

COHORTS, PATIENTS, GENES = ("blca", "luad"), 70, 12


def cohorts(root: Path, test_time: float = 1.0) -> tuple[Study, pd.Series]:
    """Two cohorts whose log hazard is one direction of expression and age; luad lives a hundred times longer."""
    rng = np.random.default_rng(2)
    n = 2 * PATIENTS
    ids, cohort = [f"P{i:03d}" for i in range(n)], np.repeat(COHORTS, PATIENTS)
    latent, age = rng.normal(size=n), rng.normal(size=n)
    x = rng.normal(size=(n, GENES))
    x[:, :6] += 2.0 * latent[:, None]
    time = rng.exponential(np.exp(-1.2 * latent - 0.8 * age)) * np.where(cohort == "luad", 100.0, 1.0) + 0.01
    part = pd.Series(np.tile(["train", "train", "train", "valid", "test"], n // 5), index=ids)
    obs = pd.DataFrame(
        {
            "animal_id": ids, "compound": ids, "dose": np.nan, "dose_level": "", "time_h": np.nan, "study": "s",
            "batch": cohort, "is_control": False, "control_group": "", "group_id": ids, "dili": np.nan,
            "injury": np.nan, "survival_time": np.where(part == "test", test_time * time, time),
            "event": (rng.random(n) < 0.7).astype(float), "age": 60 + 10 * age,
        },
        index=pd.Index(ids, name="sample_id"),
    )  # fmt: skip
    genes = [f"G{i}" for i in range(GENES)]
    study = write_study(
        root,
        obs=obs,
        var=pd.DataFrame({"symbol": genes}, index=pd.Index(genes, name="gene_id")),
        expression=x.astype(np.float32),
        findings=pd.DataFrame(index=obs.index),
        slides=pd.DataFrame(columns=["sample_id", "path", "mpp_override", "x", "y", "width", "height"]),
        provenance={},
        name="cohorts",
        species="human",
        virtual=False,
        audit=Audit(),
    )
    return study, part


def test_breslow_by_hand() -> None:
    """Events at 1 and 3 of four with risks ln 2, 0, 0, 0: 1/5 at 1, 1/2 more at 3."""
    hazard = breslow(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 0, 1, 0]), np.log([2.0, 1, 1, 1]))
    np.testing.assert_allclose(hazard(np.array([0.5, 1.0, 2.9, 3.0, 9.0])), [0, 0.2, 0.2, 0.7, 0.7])


def test_rows_of_all_kinds_have_the_same_readings_and_see_no_label_of_a_test_patient(tmp_path: Path) -> None:
    pytest.importorskip("sksurv")
    study, part = cohorts(tmp_path / "a")
    other, _ = cohorts(tmp_path / "b", test_time=0.5)
    tables = {}
    for name, of in (("here", study), ("other", other)):
        tables[name] = {
            "ridge": of_cohorts(of, part, "pca_clinical_cox", AGE),
            "age": of_cohorts(of, part, "clinical_cox", AGE),
            "pooled": pooled(of, part, AGE),
        }
    tested = sorted(part.index[part == "test"])
    for row, table in tables["here"].items():
        assert sorted(table["sample_id"]) == tested
        assert table[["uno_weight", "brier_term"]].notna().all(axis=None)
        elsewhere = tables["other"][row]
        np.testing.assert_allclose(table["score"], elsewhere["score"], atol=1e-6)
        assert (table["time"] > elsewhere["time"]).all()
    c = {row: mean_c(table) for row, table in tables["here"].items()}
    assert min(c["pooled"], c["ridge"]) > c["age"] > 0.55


def test_a_training_patient_without_a_risk_spoils_no_curve(tmp_path: Path) -> None:
    study, part = cohorts(tmp_path)
    parts, risk = part.reindex(study.obs.index), np.linspace(-1, 1, len(study.obs))
    unknown = np.flatnonzero(parts == "train")[::5]
    table = readings(study.obs, parts, np.where(np.isin(np.arange(len(risk)), unknown), np.nan, risk))
    left_out = parts.copy()
    left_out.iloc[unknown] = ""
    pd.testing.assert_frame_equal(table, readings(study.obs, left_out, risk))
    assert table["brier_term"].notna().all()


def test_a_cell_of_a_fold_is_read_from_the_folds_of_the_study(tmp_path: Path) -> None:
    pytest.importorskip("sksurv")
    study, part = cohorts(tmp_path / "study")
    folds = part.rename_axis("sample_id").rename("part").reset_index().assign(fold=1)
    (study.root / FOLDS_FILE).parent.mkdir()
    folds.to_csv(study.root / FOLDS_FILE, index=False)
    cell = SurvivalCell(METHODS["age"], 1, tmp_path / "survival")
    run_cell(cell, study.root, [])
    assert sorted(pd.read_parquet(cell.readings)["sample_id"]) == sorted(part.index[part == "test"])


def test_the_head_of_a_network_is_solved_on_validation_patients_too_and_on_no_test_patient(
    tmp_path: Path,
) -> None:
    study, part = cohorts(tmp_path / "study")
    (study.root / "splits").mkdir()
    part.rename_axis("sample_id").rename("part").reset_index().assign(fold=0).to_csv(
        study.root / SPLIT, index=False
    )
    config = compose(
        "train",
        [
            f"data.root={study.root}", "experiment=survival", "modality=omics", "tile_features=none", "size=tiny",
            "size.n_genes=null", "size.pretrain_steps=2", "clinical=[age]", "paths_by=null", "data.within.column=batch",
            "split=predefined", f"split.path={study.root / SPLIT}", "trainer.progress=false",
        ],
    )  # fmt: skip
    config["paths"]["output"] = str(tmp_path / "run")
    run_training(config)
    run = RunFolder(tmp_path / "run")
    both = trained(run.root, part)
    assert sorted(both["sample_id"]) == sorted(part.index[part == "test"])
    assert mean_c(both) > 0.6
    alone = trained(run.root, part.replace("valid", ""))
    assert not np.allclose(both["score"], alone["score"])
    kept = run.read_predictions().set_index("unit_id").loc[alone["sample_id"], "score"]
    np.testing.assert_allclose(alone["score"] - alone["score"].mean(), kept - kept.mean(), atol=1e-3)


def test_a_study_of_other_cohorts_is_not_taken_for_the_one_that_is_asked_for(tmp_path: Path) -> None:
    study, _ = cohorts(tmp_path / "study")
    replace_file(study.root / SPLIT, b"sample_id,fold,part\n")
    assert prepare(tmp_path, ["luad", "blca"], study.root).name == "cohorts"
    with pytest.raises(SystemExit, match=r"study is a study of \['blca', 'luad'\], not of \['brca'\]"):
        prepare(tmp_path, ["brca"], study.root)


def mean_c(table: pd.DataFrame) -> float:
    return float(np.mean([harrell_c(*(of[k].to_numpy() for k in ("time", "event", "score"))).value
                          for _, of in table.groupby("cohort")]))  # fmt: skip


def test_the_page_tells_what_is_finished_and_what_is_not(tmp_path: Path) -> None:
    assert "Nothing is finished" in page(tmp_path, tmp_path, SECTIONS)
    rng = np.random.default_rng(0)
    n = 60
    about = pd.DataFrame(
        {"sample_id": [f"P{i:02d}" for i in range(n)], "cohort": np.repeat(COHORTS, n // 2),
         "time": rng.exponential(size=n), "event": 1.0, "uno_weight": 1.0, "brier_term": 0.2}
    )  # fmt: skip
    for name, folds, score in (
        ("ridge_cox", (0, 1), rng.normal(size=n)),
        ("full_both", (0,), -about["time"]),
        ("full_expression", (0,), about["time"]),
    ):
        for fold in folds:
            cell = SurvivalCell(METHODS[name], fold, tmp_path / "survival")
            assert not cell.done
            cell.folder.mkdir(parents=True)
            write_parquet(about.assign(score=score), cell.readings)
    text = page(tmp_path, tmp_path / "images", SECTIONS)
    line = next(line for line in text.splitlines() if line.startswith("| `full_both` | 1 | 1 |"))
    assert line.count("1.000") == 3
    assert "- `full_both`: 1, 2, 3, 4" in text
    added = next(
        line for line in text.splitlines() if line.startswith("| `full_both` less `full_expression`")
    )
    assert added.count("+1.000") == 2
    assert added.endswith("| none |")
    assert "less `full_slides`" not in text
    pairs = next(line for line in text.splitlines() if line.startswith("| `full_both` | 1.000"))
    assert pairs.endswith("|  |  |")  # of fewer folds: beside the others, without a difference


def test_log_risks_are_averaged_over_the_seeds_that_every_fold_has(tmp_path: Path) -> None:
    about = pd.DataFrame(
        {"cohort": "luad", "time": [1.0, 2.0], "event": 1.0, "uno_weight": 1.0}, index=pd.Index(["A", "B"])
    ).rename_axis("sample_id")
    for fold, seed, score in ((0, 0, [1.0, 0.0]), (0, 1, [3.0, 4.0]), (0, 2, [9.0, 9.0]), (1, 0, [5.0, 6.0]),
                              (1, 1, [7.0, 6.0])):  # fmt: skip
        cell = SurvivalCell(METHODS["full_both"], fold, tmp_path, seed)
        cell.folder.mkdir(parents=True)
        order = [1, 0] if seed else [0, 1]  # patients of another order
        table = about.assign(score=score, brier_term=0.1 * seed).iloc[order].reset_index()
        write_parquet(table, cell.readings)
    table = read(tmp_path)["full_both"]
    assert table["score"].tolist() == [2.0, 2.0, 6.0, 6.0]
    assert table["fold"].tolist() == [0, 0, 1, 1]
    assert set(table["seeds"]) == {2}
    np.testing.assert_allclose(table["brier_term"], 0.05)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.baseline])
def test_rows_that_are_networks_compose(name: str, tmp_path: Path) -> None:
    overrides = [f"data.root={tmp_path}", "experiment=survival", f"name={name}", *METHODS[name].overrides]
    settings = RunSettings.read(compose("train", overrides))
    assert settings.clinical == METHODS[name].clinical
    assert settings.tasks["survival"].strata == "batch"
    assert (
        settings.finetune.modality
        == {"both": "both", "expression": "omics", "slides": "wsi"}[name.split("_")[1]]
    )
