"""Runs with survival, subtype, serum chemistry and CORN: from columns of a study to metrics, comparison and scores."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.conftest import tiny_tables
from tests.feature_store import write_features
from toxfusion import compare as compare_command
from toxfusion import evaluate, predict
from toxfusion.baselines.blocks import BaselineError
from toxfusion.config.entry import compose
from toxfusion.evaluation.survival import harrell_c
from toxfusion.study.audit import Audit
from toxfusion.study.nulls import permute_labels
from toxfusion.study.splits import CompoundKFold
from toxfusion.study.study import Study, write_study
from toxfusion.tasks.subtype import Subtype
from toxfusion.tasks.task import TaskError
from toxfusion.training.checkpoint import read_checkpoint
from toxfusion.training.folder import RunFolder
from toxfusion.training.run import run

CLASSES = ("hepatocellular", "cholestatic", "mixed")


def outcome_tables() -> dict[str, Any]:
    """The small study with a time and an event, and three classes, of most samples."""
    tables = tiny_tables()
    obs = tables["obs"]
    rng = np.random.default_rng(7)
    harmed = (obs["dili"] == 1) & (obs["dose_level"] == "high")
    time = rng.exponential(np.where(harmed, 5.0, 30.0)).round(2) + 0.1
    event = rng.integers(0, 2, len(obs)).astype(float)
    time[5] = np.nan
    event[[5, 9]] = np.nan
    subtype = np.array(CLASSES, dtype=object)[rng.integers(0, 3, len(obs))]
    subtype[11] = None
    tables["obs"] = obs.assign(survival_time=time, event=event, subtype=subtype)
    return tables


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = write_study(tmp_path_factory.mktemp("cohort") / "study", **outcome_tables())
    write_features(study)
    return study


def settings(study: Study, outputs: Path, *extra: str) -> list[str]:
    return [
        f"data.root={study.root}", f"paths.outputs={outputs}", "size=tiny", "size.n_genes=20", "size.gene_latents=4",
        "pretrain=none", "trainer.progress=false", "split.n_folds=3", "tile_features=store",
        "tile_features.name=test", "task.min_animals=3", "task.min_compounds=2", *extra,
    ]  # fmt: skip


def finished(study: Study, outputs: Path, *extra: str) -> RunFolder:
    config = compose("train", settings(study, outputs, *extra))
    config["paths"]["output"] = str(outputs / config["name"])
    run(config)
    return RunFolder(outputs / config["name"])


def scores_of(folder: RunFolder) -> dict[str, dict[str, dict[str, Any]]]:
    return json.loads(folder.metrics.read_text())["scores"]


def contract_of(folder: RunFolder) -> dict[str, Any]:
    return read_checkpoint(folder.stage("finetune") / "best.ckpt")["contract"]


@pytest.fixture(scope="module")
def survival_run(cohort: Study, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finished(cohort, tmp_path_factory.mktemp("runs"), "task=survival", "task.survival.n_bins=3")


def test_survival_bins_are_those_of_training_events(cohort: Study, survival_run: RunFolder) -> None:
    fitted = contract_of(survival_run)["tasks"]["survival"]
    split = json.loads(survival_run.split.read_text())
    train = cohort.obs.loc[split["train"]]
    died = train.loc[train["event"] == 1, "survival_time"].dropna()
    np.testing.assert_allclose(fitted["edges"], np.quantile(died, [1 / 3, 2 / 3]), rtol=1e-6)
    assert fitted["end"] == pytest.approx(died.max())
    assert len(fitted["train_time"]) == (train["survival_time"].notna() & train["event"].notna()).sum()


def test_survival_of_test_samples_is_scored(cohort: Study, survival_run: RunFolder) -> None:
    table = pd.read_parquet(survival_run.predictions)
    test = table[table["part"] == "test"].set_index("unit_id")
    known = cohort.obs.loc[test.index]
    unlabelled = known["survival_time"].isna() | known["event"].isna()
    assert (test["label"].isna() == unlabelled).all()
    curves = pd.read_parquet(survival_run.survival_curves)
    wide = curves.pivot(index="sample_id", columns="time", values="survival").loc[test.index]
    assert (wide.diff(axis=1).iloc[:, 1:] <= 0).all(axis=None)
    np.testing.assert_allclose(test["score"], -wide.sum(axis=1), rtol=1e-6)
    scores = scores_of(survival_run)["survival"]
    c = harrell_c(*(test[column].to_numpy() for column in ("label", "event", "score")))
    assert scores["harrell_c"]["value"] == pytest.approx(c.value)
    assert scores["harrell_c"]["low"] <= c.value <= scores["harrell_c"]["high"]
    assert 0 <= scores["uno_c"]["value"] <= 1
    assert 0 < scores["integrated_brier"]["value"] < 1


def test_a_time_without_event_is_audited(survival_run: RunFolder) -> None:
    said = [r for r in Audit.read(survival_run.audit).records if r.kind == "survival"]
    assert len(said) == 1
    assert said[0].reason == "survival_time without event: no label"


def test_cox_gives_a_log_risk_without_a_curve(cohort: Study, tmp_path: Path) -> None:
    folder = finished(cohort, tmp_path, "task=survival", "task.survival.method=cox")
    assert not folder.survival_curves.exists()
    assert set(scores_of(folder)["survival"]) == {"harrell_c", "uno_c"}


def test_subtype_gives_probabilities_of_the_training_classes(cohort: Study, tmp_path: Path) -> None:
    folder = finished(cohort, tmp_path, "task=subtype")
    assert contract_of(folder)["tasks"]["subtype"]["classes"] == tuple(sorted(CLASSES))
    table = pd.read_parquet(folder.predictions)
    np.testing.assert_allclose(table.groupby("unit_id")["score"].sum(), 1.0, atol=1e-6)
    scores = scores_of(folder)["subtype"]
    assert {"auroc", "accuracy", "balanced_accuracy", "macro_f1"} <= set(scores)
    test = table[(table["part"] == "test") & table["label"].notna()]
    best = test.loc[test.groupby("unit_id")["score"].idxmax()]
    assert scores["accuracy"]["value"] == pytest.approx(best["label"].mean())


def test_a_class_of_no_training_sample_is_audited_and_unlabelled(tmp_path: Path) -> None:
    tables = outcome_tables()
    alone = tables["obs"]["compound"] == "zetastat"
    tables["obs"].loc[alone, "subtype"] = "granulomatous"
    study = write_study(tmp_path / "study", **tables)
    write_features(study)
    split = ["split=group_kfold", "split.column=compound", "split.n_folds=5"]
    for fold in range(5):
        folder = finished(study, tmp_path / str(fold), "task=subtype", *split, f"split.fold={fold}")
        parts = json.loads(folder.split.read_text())
        if not set(study.obs.index[alone]) & set(parts["train"]):
            break
    said = {r.id for r in Audit.read(folder.audit).records if r.kind == "subtype"}
    assert said == set(study.obs.index[alone])
    table = pd.read_parquet(folder.predictions)
    assert table.loc[table["unit_id"].isin(said), "label"].isna().all()
    assert "subtype:granulomatous" not in set(table["task"])


def test_biochemistry_beside_the_other_tasks(cohort: Study, tmp_path: Path) -> None:
    """ALT is positive and skewed (four times as high where harmed), AST is not; scales are those of training."""
    folder = finished(cohort, tmp_path, "task=toxicity", "task.biochemistry=auto", "task.severity_loss=corn")
    tasks = contract_of(folder)["tasks"]
    fitted, split = tasks["biochemistry"], json.loads(folder.split.read_text())
    assert (fitted["chosen"], fitted["on_log"]) == (("ALT", "AST"), (True, False))
    assert cohort.chemistry is not None
    train = cohort.chemistry.loc[split["train"]]
    np.testing.assert_allclose(fitted["mean"], [np.log(train["ALT"].dropna()).mean(), train["AST"].mean()])
    table = pd.read_parquet(folder.predictions)
    assert {"dili", "injury", "severity", "biochemistry:ALT", "biochemistry:AST"} <= set(table["task"])
    scores = scores_of(folder)
    assert set(scores["biochemistry"]) == {"spearman", "r2", "mean_absolute_error"}
    each = [scores[f"biochemistry:{name}"]["spearman"]["value"] for name in ("ALT", "AST")]
    assert scores["biochemistry"]["spearman"]["value"] == pytest.approx(np.mean(each))
    graded = table[table["task"] == "severity"]
    assert graded["score"].between(0, 4).all()


ALL = ("task=survival", "task.survival.n_bins=2", "task.subtype=subtype", "task.biochemistry=[ALT]")


@pytest.fixture(scope="module")
def pair(cohort: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments with all three tasks."""
    outputs = tmp_path_factory.mktemp("pair")
    for experiment in ("supervised_concat", "ablation_omics_only"):
        finished(cohort, outputs, *ALL, f"experiment={experiment}")
    return outputs


def test_compare_sets_the_new_headlines_beside_each_other(pair: Path, tmp_path: Path) -> None:
    compare_command.main([f"runs={pair}/*", "reference=supervised_concat", f"output={tmp_path}", "draws=50"])
    table = pd.read_csv(tmp_path / "comparison.csv", index_col=0)
    for headline in ("survival", "subtype", "biochemistry"):
        assert table[f"{headline}_value"].notna().all()
        assert np.isfinite(table.loc["ablation_omics_only", f"{headline}_difference"])
    said = (tmp_path / "comparison.md").read_text()
    for heading in ("survival Harrell C", "subtype AUROC", "biochemistry Spearman"):
        assert heading in said


def test_evaluate_scores_the_run_again(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(pair / "supervised_concat")
    evaluate.main([f"run={folder.root}", "draws=50"])
    again = json.loads((folder.root / "evaluation" / "metrics.json").read_text())["scores"]
    for task, metric in (("survival", "harrell_c"), ("subtype", "macro_f1"), ("biochemistry", "spearman")):
        assert again[task][metric]["value"] == pytest.approx(scores_of(folder)[task][metric]["value"])
        assert metric in capsys.readouterr().out or metric != "harrell_c"
    assert (folder.root / "evaluation" / "survival_curves.parquet").is_file()


def test_predict_scores_a_study_that_has_none_of_the_columns(pair: Path, tmp_path: Path) -> None:
    tables = tiny_tables()
    tables["chemistry"] = None
    study = write_study(tmp_path / "plain", **tables)
    write_features(study)
    predict.main(
        [f"run={pair}/supervised_concat", f"study={study.root}", f"paths.outputs={tmp_path / 'out'}"]
    )
    written = next((tmp_path / "out").rglob("scores.csv"))
    units = pd.read_csv(written)
    tasks = {"survival", "biochemistry:ALT", *(f"subtype:{c}" for c in CLASSES)}
    assert set(units["task"]) == tasks
    assert (units.groupby("task")["unit_id"].nunique() == len(study.obs)).all()
    classes = units[units["task"].str.startswith("subtype:")]
    np.testing.assert_allclose(classes.groupby("unit_id")["risk"].sum(), 1.0, atol=1e-6)
    curves = pd.read_csv(written.parent / "survival_curves.csv")
    assert set(curves["sample_id"]) == set(study.obs.index)


@pytest.mark.parametrize("method", ["pca_logistic", "pca_forest", "pca_boosting"])
def test_baselines_have_subtype_and_biochemistry(cohort: Study, tmp_path: Path, method: str) -> None:
    folder = finished(cohort, tmp_path, "task=subtype", "task.biochemistry=auto", f"experiment={method}")
    table = pd.read_parquet(folder.predictions)
    of_class = table[table["task"].str.startswith("subtype:")]
    np.testing.assert_allclose(of_class.groupby("unit_id")["score"].sum(), 1.0, atol=1e-6)
    assert {"accuracy", "macro_f1"} <= set(scores_of(folder)["subtype"])
    # ALT is four times as high where five genes are; ridge regression finds that.
    if method == "pca_logistic":
        assert scores_of(folder)["biochemistry:ALT"]["spearman"]["value"] > 0.2


@pytest.mark.parametrize(
    ("extra", "error", "said"),
    [
        (["task=survival", "experiment=pca_logistic"], BaselineError, "method=pca_logistic: does not predict survival"),
        (["task=biochemistry", "experiment=chemistry_logistic"], BaselineError, "task.biochemistry asks for"),
        (["task=survival", "task.survival.method=weibull"], TaskError, "task.survival.method: 'weibull' is none of"),
        (["task=survival", "task.survival.time=days"], TaskError, "task.survival.time: 'days' is no column of obs"),
        (["task=survival", "task.survival.n_bins=1"], TaskError, "task.survival.n_bins: 1 is no whole number"),
        (["task=survival", "task.survival.n_bins=40"], TaskError, "do not fill 40 bins"),
        (["task=survival", "task.survival.alpha=2"], TaskError, "task.survival.alpha: 2"),
        (["task=survival", "task.survival.horizon=1e6"], TaskError, "task.survival.horizon: 1e"),
        (["task=subtype", "task.subtype=kind"], TaskError, "task.subtype: 'kind' is no column of obs"),
        (["task=subtype", "task.subtype=species"], TaskError, "task.subtype: 'species' is no column"),
        (["task=subtype", "task.subtype=dose"], ValueError, "class of sample .* is not text"),
        (["task=biochemistry", "task.biochemistry=[ALT,ALTT]"], TaskError, r"\['ALTT'\] not in obsm"),
        (["task=biochemistry", "task.min_animals=999"], TaskError, "measured in 999 animals"),
        (["task.severity_loss=corral"], TaskError, "task.severity_loss: 'corral' is none of coral, corn"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_key_and_value(
    cohort: Study, tmp_path: Path, extra: list[str], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        finished(cohort, tmp_path, *extra)


def test_permuted_outcomes_keep_time_with_event_and_every_value(cohort: Study) -> None:
    columns = ["subtype", "survival_time", "event"]
    split = CompoundKFold(n_folds=3, fold=0, valid_fraction=0.2, seed=0)(cohort)
    null = permute_labels(cohort, split, 1, columns=columns, chemistry=True)
    assert not null.obs["subtype"].equals(cohort.obs["subtype"])
    assert null.chemistry is not None
    assert cohort.chemistry is not None
    pairs = [sorted(map(str, s.obs[["survival_time", "event"]].to_numpy().tolist())) for s in (null, cohort)]
    assert pairs[0] == pairs[1]
    assert sorted(null.chemistry["AST"]) == sorted(cohort.chemistry["AST"])
    assert not np.array_equal(null.chemistry["AST"], cohort.chemistry["AST"])


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("survival_time", 0.0, "'survival_time', value 0.0: time of sample .* is not above 0"),
        ("survival_time", "soon", "'survival_time', value 'soon': is no finite number"),
        ("event", 2.0, "'event', value 2.0: at sample .* is not 0, 1 or NaN"),
        ("subtype", 3, "'subtype', value 3: class of sample .* is not text"),
    ],
)
def test_a_study_refuses_outcomes_that_are_none(
    tmp_path: Path, column: str, value: object, said: str
) -> None:
    tables = outcome_tables()
    tables["obs"][column] = tables["obs"][column].astype(object)
    tables["obs"].iloc[3, tables["obs"].columns.get_loc(column)] = value
    with pytest.raises(ValueError, match=said):
        write_study(tmp_path / "study", **tables)


def test_a_subtype_can_be_limited_to_classes(cohort: Study) -> None:
    obs = cohort.obs.assign(code=np.resize(["IDC", "ILC", "OTHER", ""], len(cohort.obs)))
    study = dataclasses.replace(cohort, obs=obs)
    audit = Audit()
    assert Subtype("code", only=[1, 2]).only == ("1", "2")  # type: ignore[list-item]  # as Hydra reads [1,2]
    chosen = Subtype("code", only=["ILC", "IDC"]).fit(study, study.sample_ids, audit)
    assert chosen.classes == ("IDC", "ILC")
    labels = chosen.labels(study, study.sample_ids)
    np.testing.assert_array_equal(labels[:4], [0.0, 1.0, np.nan, np.nan])
    others = int((obs["code"] == "OTHER").sum())
    assert [(r.id, r.reason) for r in audit.records] == [
        ("OTHER", f"{others} samples: not among task.classes, so no label")
    ]
    with pytest.raises(
        TaskError, match=r"task\.classes: 'I-DC' \(did you mean 'IDC'\?\) is in no training sample"
    ):
        Subtype("code", only=["I-DC", "ILC"]).fit(study, study.sample_ids, Audit())
    assert Subtype("code").fit(study, study.sample_ids, Audit()).classes == ("IDC", "ILC", "OTHER")
