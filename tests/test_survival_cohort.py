"""A small cohort of patients: a planted hazard is learned by network and baselines, and permuted labels are chance."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from toxfusion.baselines.blocks import BaselineError
from toxfusion.baselines.survival import SurvivalBaselineError
from toxfusion.config.entry import compose
from toxfusion.data.clinical import ClinicalError
from toxfusion.evaluation.predictions import pool, read
from toxfusion.evaluation.selection import standing, validation_score
from toxfusion.evaluation.survival import harrell_c
from toxfusion.explanation.clinical import contributions, summary
from toxfusion.runs.exporting import export_runs
from toxfusion.runs.loaded import load_own_study, load_run
from toxfusion.runs.new_study import score_study
from toxfusion.study.audit import Audit
from toxfusion.study.study import Study, write_study
from toxfusion.training.folder import RunFolder
from toxfusion.training.run import run

PATIENTS, GENES = 120, 25
BASELINES = ("pca_cox", "genes_coxnet", "genes_rsf")


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The log hazard is the mean of five genes that move together, times 3; a third is censored.

    Of age the log hazard has 1 a deviation more; the age of every tenth patient is unknown.
    """
    rng = np.random.default_rng(5)
    ids = [f"P{i:03d}" for i in range(PATIENTS)]
    hazard = rng.normal(size=PATIENTS)
    x = rng.normal(size=(PATIENTS, GENES))
    x[:, :5] += 2.0 * hazard[:, None]
    age = rng.normal(size=PATIENTS)
    time, censoring = rng.exponential(np.exp(-1.5 * hazard - age)), rng.exponential(2.0, PATIENTS)
    obs = pd.DataFrame(
        {
            "animal_id": ids, "compound": ids, "dose": np.nan, "dose_level": "", "time_h": np.nan, "study": "c",
            "batch": "", "is_control": False, "control_group": "", "group_id": ids, "dili": np.nan, "injury": np.nan,
            "survival_time": np.minimum(time, censoring) + 0.01, "event": (time <= censoring).astype(float),
            "age": np.where(np.arange(PATIENTS) % 10, 60 + 8 * age, np.nan),
            "half": np.where(np.arange(PATIENTS) % 2, "a", "b"),
        },
        index=pd.Index(ids, name="sample_id"),
    )  # fmt: skip
    genes = [f"G{i}" for i in range(GENES)]
    return write_study(
        tmp_path_factory.mktemp("patients") / "c",
        obs=obs,
        var=pd.DataFrame({"symbol": genes}, index=pd.Index(genes, name="gene_id")),
        expression=x.astype(np.float32),
        findings=pd.DataFrame(index=obs.index),
        slides=pd.DataFrame(columns=["sample_id", "path", "mpp_override", "x", "y", "width", "height"]),
        provenance={},
        name="c",
        species="human",
        virtual=False,
        audit=Audit(),
    )


def finished(study: Study, outputs: Path, *extra: str) -> RunFolder:
    fixed = [f"data.root={study.root}", "data=cohort", "tile_features=none", "split=group_kfold",
             "split.column=animal_id", "split.n_folds=2", "trainer.progress=false"]  # fmt: skip
    config = compose("train", [*fixed, *extra])
    config["paths"]["output"] = str(outputs)
    run(config)
    return RunFolder(outputs)


def network(seed: int) -> list[str]:
    return ["experiment=survival_snn", "size.finetune_steps=40", f"seed={seed}", "split.valid_folds=2",
            f"split.valid_fold={seed}"]  # fmt: skip


def c_of(*folders: RunFolder) -> float:
    tested = pool([read(folder.predictions) for folder in folders])
    return harrell_c(*(tested[c].to_numpy() for c in ("label", "event", "score"))).value


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_learns_the_planted_hazard(patients: Study, tmp_path: Path, name: str) -> None:
    pytest.importorskip("sksurv")
    folder = finished(patients, tmp_path, f"experiment={name}", "modality=omics")
    assert c_of(folder) > 0.7
    table = read(folder.predictions)
    assert set(table["part"]) == {"test"}  # penalties are chosen inside training: no validation part is spent
    assert table["brier_term"].mean() < 0.2


def test_the_mean_of_networks_of_all_inner_folds_learns_it_too(patients: Study, tmp_path: Path) -> None:
    folders = [finished(patients, tmp_path / str(seed), *network(seed)) for seed in (0, 1)]
    assert c_of(*folders) > 0.7
    tables = [read(folder.predictions) for folder in folders]
    chosen_on = [set(t.loc[t["part"] == "valid", "unit_id"]) for t in tables]
    tested = set(tables[0].loc[tables[0]["part"] == "test", "unit_id"])
    assert chosen_on[0] | chosen_on[1] == set(patients.sample_ids) - tested
    assert not chosen_on[0] & chosen_on[1]


def test_permuted_labels_are_chance(patients: Study, tmp_path: Path) -> None:
    pytest.importorskip("sksurv")
    for i, overrides in enumerate((network(0), ["experiment=pca_cox", "modality=omics"])):
        folder = finished(patients, tmp_path / str(i), *overrides, "permute_labels=true")
        assert 0.33 < c_of(folder) < 0.67  # three standard errors of C with 40 events of 60


def test_labels_of_the_test_part_move_no_risk(patients: Study, tmp_path: Path) -> None:
    pytest.importorskip("sksurv")
    before = read(finished(patients, tmp_path / "a", "experiment=pca_cox", "modality=omics").predictions)
    table = anndata.read_h5ad(patients.root / "expression.h5ad")
    tested = before["unit_id"].tolist()
    table.obs.loc[tested, "survival_time"] = table.obs.loc[tested, "survival_time"].to_numpy()[::-1] * 2
    other = tmp_path / "c"
    other.mkdir()
    table.write_h5ad(other / "expression.h5ad")
    (other / "slides.parquet").write_bytes((patients.root / "slides.parquet").read_bytes())
    after = read(
        finished(Study.open(other), tmp_path / "b", "experiment=pca_cox", "modality=omics").predictions
    )
    pd.testing.assert_series_equal(before["score"], after["score"])
    assert (before["label"] != after["label"]).any()


def test_without_scikit_survival_the_install_line_is_said(
    patients: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sksurv"):
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(SurvivalBaselineError, match=r"pip install 'toxfusion\[survival\]'"):
        finished(patients, tmp_path, "experiment=pca_cox", "modality=omics")


def test_a_survival_learner_refuses_other_tasks(patients: Study, tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="method=pca_cox: predicts survival alone"):
        finished(patients, tmp_path, "experiment=pca_cox", "modality=omics", "task.severity=true")


@pytest.mark.slow
def test_two_ranks_finish_a_survival_run(patients: Study, tmp_path: Path) -> None:
    folder = finished(patients, tmp_path, *network(0), "trainer=ddp_cpu", "size.compounds_per_batch=10")
    tested = read(folder.predictions).query("part == 'test'")
    assert tested["unit_id"].is_unique
    assert c_of(folder) > 0.6


@pytest.fixture(scope="module")
def with_age(patients: Study, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finished(patients, tmp_path_factory.mktemp("age"), *network(0), "clinical=[age]")


def test_a_network_and_a_baseline_read_age_beside_expression(
    patients: Study, tmp_path: Path, with_age: RunFolder
) -> None:
    pytest.importorskip("sksurv")
    alone = finished(patients, tmp_path / "a", *network(0))
    assert c_of(with_age) > c_of(alone)
    asked = ("modality=omics", "clinical=[age]")
    names = ("pca_cox", "clinical_cox", "pca_clinical_cox")
    c = {n: c_of(finished(patients, tmp_path / n, f"experiment={n}", *asked)) for n in names}
    assert c["pca_clinical_cox"] > max(c["pca_cox"], c["clinical_cox"]) > 0.6
    said = [r for r in Audit.read(with_age.audit).records if r.stage == "clinical"]
    assert [r.id for r in said] == ["age"]
    assert said[0].reason.startswith("12 of 120 samples: missing")


def test_a_run_says_what_age_adds_and_scores_a_study_without_ages(
    patients: Study, tmp_path: Path, with_age: RunFolder
) -> None:
    run = load_run(with_age, *load_own_study(with_age))
    tested = run.fold.split.test
    table = contributions(run, tested, ["survival"], steps=8)
    age = table[table["entry"] == "age"]
    weight = summary(age)["slope"].item()
    assert weight > 0
    np.testing.assert_allclose(age["contribution"], weight * age["value"], atol=1e-4)  # the head is linear
    whole = run.clinical_change(run.embed(tested))["survival"]
    np.testing.assert_allclose(
        table.groupby("sample_id")["contribution"].sum()[whole.index], whole, atol=1e-4
    )

    table = anndata.read_h5ad(patients.root / "expression.h5ad")
    table.obs = table.obs.drop(columns="age")
    other = tmp_path / "other"
    other.mkdir()
    table.write_h5ad(other / "expression.h5ad")
    (other / "slides.parquet").write_bytes((patients.root / "slides.parquet").read_bytes())
    scores = score_study([with_age], Study.open(other), Audit())
    assert scores.samples["clinical:survival"].std() < 1e-6  # all of them miss it
    assert any("no such column" in note for note in scores.notes)


def test_solved_heads_read_age_and_deviate_from_half_to_half(patients: Study, tmp_path: Path) -> None:
    asked = ["experiment=survival", "modality=omics", "size=tiny", "size.n_genes=null", "size.pretrain_steps=2",
             "clinical=[age]", "heads_by=half", "paths_by=half", "task.survival.strata=half",
             "optimizer.head_c=[0.03]"]  # fmt: skip
    folder = finished(patients, tmp_path, *asked)
    run = load_run(folder, *load_own_study(folder))
    (matrix,) = (p for p in run.predictor.heads["survival"].parameters() if p.ndim == 2)
    common, *own = matrix[0].detach().chunk(3)
    assert common[run.network.fused_width] > 0  # of age, in both halves
    assert all(float(of.abs().max()) > 0 for of in own)
    table = read(folder.predictions)
    assert set(table["stratum"]) == {"a", "b"}
    cs = [
        harrell_c(*(of[c].to_numpy() for c in ("label", "event", "score"))).value
        for _, of in table.groupby("stratum")
    ]
    assert min(cs) > 0.55
    # A bundle carries the columns, the groups and the paths of each group: the same bits on the same study.
    bundle = export_runs([folder], tmp_path / "bundle", draws=20)
    said, told = (score_study(of, patients, Audit()) for of in ([folder], list(bundle.runs)))
    pd.testing.assert_frame_equal(told.samples, said.samples, check_exact=True)
    pd.testing.assert_frame_equal(told.units, said.units, check_exact=True)


def test_the_penalty_of_heads_is_chosen_on_validation_and_recorded(patients: Study, tmp_path: Path) -> None:
    """It is what the scores of runs with one strength each say, and the run is then that of this strength alone."""
    asked = ["experiment=survival", "modality=omics", "size=tiny", "size.n_genes=null", "size.pretrain_steps=2",
             "clinical=[age]", "paths_by=null", "heads_by=null", "task.survival.strata=null"]  # fmt: skip

    def trained(name: str, *strengths: float) -> tuple[float, pd.DataFrame]:
        listed = ",".join(map(str, strengths))
        folder = finished(patients, tmp_path / name, *asked, f"optimizer.head_c=[{listed}]")
        record = json.loads((folder.stage("finetune") / "finished.json").read_text())
        return record["chosen"]["head_c"]["survival"], read(folder.predictions)

    strengths = (100.0, 0.03, 1e-8)
    alone = [trained(f"alone{i}", c)[1] for i, c in enumerate(strengths)]
    place = standing([validation_score(table) for table in alone])
    assert place > 0, "the first strength overfits here, so that a choice can be seen"
    chosen, table = trained("several", *strengths)
    assert chosen == strengths[place]
    np.testing.assert_allclose(table["score"], alone[place]["score"], atol=1e-5)
    assert trained("alike", 0.03, 0.0300001)[0] == 0.03


def test_a_column_that_leaks_stops_the_run(patients: Study, tmp_path: Path) -> None:
    with pytest.raises(ClinicalError, match="'survival_time' would leak"):
        finished(patients, tmp_path, *network(0), "clinical=[age,survival_time]")
