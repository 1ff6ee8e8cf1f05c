"""Cohort views: hand-worked curves and neighbours, and the files of a trained run of the small study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

from tests.feature_store import featured_study
from tests.training.small_runs import trained
from toxfusion.explanation import cohort, cohort_figures
from toxfusion.explanation.cohort import Look
from toxfusion.runs.loaded import LoadedRun
from toxfusion.study.audit import Audit
from toxfusion.study.study import Study
from toxfusion.training.folder import RunFolder


def looked(
    name: str, vectors: dict[str, list[float]], tested: set[str], risk: dict[str, list[float]]
) -> Look:
    """Two treated animals and a control of each compound, all with the compound's vector."""
    animals = [
        {
            "sample_id": f"{c}{i}",
            "compound": c,
            "dose": 10.0 * (i > 0),
            "dose_level": "high" if i else "control",
            "time_h": 24.0,
            "is_control": i == 0,
            "dili": float("nan") if i == 0 else float(c == "A"),
            "part": "test" if c in tested else "train",
        }
        for c in vectors
        for i in range(3)
    ]
    obs = pd.DataFrame(animals).set_index("sample_id")
    values = np.repeat(np.array(list(vectors.values()), np.float32), 3, axis=0)
    values[obs["is_control"].to_numpy()] = 0.0
    table = pd.DataFrame({"dili": np.concatenate([risk[c] for c in vectors])}, index=obs.index)
    return Look(name, obs, values, table)


RISK = {"A": [0.1, 0.4, 0.6], "B": [0.2, 0.2, 0.2], "C": [0.3, 0.3, 0.3]}
PLACES = {"A": [1.0, 0.1], "B": [0.9, 0.2], "C": [-1.0, 0.3]}


def test_curves_are_means_over_animals_then_runs_of_tested_samples() -> None:
    other = {**RISK, "A": [0.1, 0.6, 1.0]}
    curves = cohort.dose_response([looked("x", PLACES, {"A"}, RISK), looked("y", PLACES, {"A", "B"}, other)])
    assert set(curves["compound"]) == {"A", "B"}
    high = curves[(curves["compound"] == "A") & (curves["dose_level"] == "high")].iloc[0]
    assert (high["n_animals"], high["n_runs"]) == (2, 2)
    assert high["mean"] == pytest.approx((0.5 + 0.8) / 2)
    assert (high["low"], high["high"]) == (pytest.approx(0.5), pytest.approx(0.8))
    assert high["sd"] == pytest.approx(np.std([0.5, 0.8], ddof=1))
    assert (high["animal_low"], high["animal_high"]) == (pytest.approx(0.5), pytest.approx(0.8))
    once = curves[(curves["compound"] == "B") & (curves["dose_level"] == "control")].iloc[0]
    assert (once["n_runs"], once["mean"]) == (1, pytest.approx(0.2))
    assert np.isnan(once["sd"])


def test_neighbours_are_ranked_run_by_run_among_all_compounds_of_the_run() -> None:
    near = looked("x", PLACES, {"A"}, RISK)
    # In a second run of another space B and C change places; ranks tie, and the mean cosine decides.
    turned = looked("y", {"A": [0.0, 5.0], "B": [0.0, -5.0], "C": [0.1, 5.0]}, {"A", "C"}, RISK)
    alone = cohort.nearest_compounds([near], 5)
    assert set(alone["compound"]) == {"A"}
    assert alone["neighbour"].tolist() == ["B", "C"]
    assert alone["rank"].tolist() == [1, 2]
    assert alone["dili_known"].tolist() == [0.0, 0.0]
    both = cohort.nearest_compounds([near, turned], 1)
    assert both["compound"].tolist() == ["A", "C"]
    of_a = both.iloc[0]
    assert (of_a["mean_rank"], of_a["n_runs"]) == (1.5, 2)
    assert both.iloc[1]["neighbour"] == "A"
    assert both.iloc[1]["dili_known"] == 1.0
    only = looked("x", {"A": [1.0, 0.0]}, {"A"}, RISK)
    assert cohort.nearest_compounds([only], 5).empty


def test_vectors_are_standardised_by_training_samples_alone() -> None:
    one = looked("x", {**PLACES, "A": [1000.0, 0.1]}, {"A"}, RISK)
    train = (one.obs["part"] == "train").to_numpy()
    np.testing.assert_allclose(one.standardised()[train].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(one.standardised()[train].std(0), 1, atol=1e-6)


def test_the_leading_finding_says_what_was_not_examined() -> None:
    nan = float("nan")
    findings = pd.DataFrame(
        {"Necrosis": [1, 0, nan, nan], "Gout": [3, 0, nan, 0]}, index=list("abcd"), dtype=float
    )
    names, grades = cohort.leading_findings(findings)
    assert names == ["Gout", "none", "not examined", "none"]
    np.testing.assert_array_equal(grades, [3, 0, nan, 0])


def test_patients_without_doses_have_no_curves_and_no_neighbours(tmp_path: Path) -> None:
    patients = looked("x", PLACES, {"A"}, RISK)
    patients.obs[["dose", "dose_level", "is_control"]] = [float("nan"), "", False]
    audit = Audit()
    cohort.explain_cohort([patients], tmp_path, neighbours=3, seed=0, audit=audit)
    assert {r.id for r in audit.records} == {"embedding", "dose_response", "nearest_compounds"}
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = featured_study(tmp_path_factory.mktemp("cohort") / "study", mpp_override=0.5)
    pixels = np.random.default_rng(0).integers(0, 255, (2300, 2300, 3), np.uint8)
    for slide in study.slides.index:
        path = study.slide_path(slide)
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb")
    return study


@pytest.fixture(scope="module")
def full(study: Study, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    style = ["pretrain.weights.style=0.1", "pretrain.weights.cluster=0.1"]
    steps = ["size.finetune_steps=2", "size.pretrain_steps=2"]
    return trained(study, tmp_path_factory.mktemp("full"), *steps, *style)


def test_risk_is_that_of_the_predictions(run: LoadedRun) -> None:
    seen = cohort.look(run, run.tasks.names)
    assert set(seen.obs["part"]) == {"train", "valid", "test"}
    predicted = pd.read_parquet(run.folder.predictions)
    lesion = next(t for t in seen.risk if t.startswith("lesion:"))
    of_task = predicted[(predicted["task"] == lesion) & (predicted["part"] == "test")].set_index("unit_id")
    np.testing.assert_allclose(seen.risk.loc[of_task.index, lesion], of_task["score"], atol=1e-5)


def test_prototypes_are_of_the_pretraining_with_tiles_of_its_slides(run: LoadedRun, tmp_path: Path) -> None:
    audit = Audit()
    cohort.explain_prototypes(run, tmp_path, audit)
    table = pd.read_csv(tmp_path / "prototypes.csv")
    assert (tmp_path / "prototypes.png").is_file()
    assert not len(audit)
    assert table["similarity"].between(-1.001, 1.001).all()
    slides = [s for s in run.fold.sample_ids if run.fold.has_slide(s)]
    assert table.drop_duplicates("prototype")["n_nearest"].sum() == len(slides)
    best = table[table["tile_rank"] == 1].groupby("prototype")["similarity"]
    assert best.apply(lambda s: s.is_monotonic_decreasing).all()
    for tile in table.head(3).to_dict("records"):
        assert run.fold.study.slides.at[tile["slide_id"], "sample_id"] == tile["sample_id"]
    without = replace(run, config={**run.config, "pretrain": {**run.config["pretrain"], "steps": 0}})
    cohort.explain_prototypes(without, tmp_path / "none", audit)
    assert [r.id for r in audit.records] == ["prototypes"]
    assert not (tmp_path / "none").exists()


def test_a_cohort_folder_has_its_files_and_the_map_repeats(run: LoadedRun, tmp_path: Path) -> None:
    seen, audit = cohort.look(run, run.tasks.names), Audit()
    cohort.explain_cohort([seen, replace(seen, run="second")], tmp_path, neighbours=2, seed=0, audit=audit)
    table = pd.read_csv(tmp_path / "embedding.csv")
    assert set(table["run"]) == {run.folder.root.name}
    threads = torch.get_num_threads()
    again = cohort.embedding(seen, 0)
    assert torch.get_num_threads() == threads
    np.testing.assert_allclose(table[["x", "y"]], again[["x", "y"]], rtol=1e-4)
    for by in cohort.COLOURED_BY:
        drawn = (tmp_path / f"embedding_{by}.png").is_file()
        assert drawn == (not cohort_figures.nothing_to_colour(again, by))
        assert drawn or any(r.id == f"embedding_{by}" for r in audit.records)
    files = pd.read_csv(tmp_path / "dose_response" / "index.csv")
    assert all((tmp_path / "dose_response" / f).is_file() for f in files["file"])
    tested = set(run.fold.study.obs.loc[run.fold.split.test, "compound"])
    assert set(files["compound"]) == tested
    nearest = pd.read_csv(tmp_path / "nearest_compounds.csv")
    assert set(nearest["compound"]) == tested
    assert nearest["rank"].max() == 2
    assert (nearest["compound"] != nearest["neighbour"]).all()
