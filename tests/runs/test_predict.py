"""Scores of a new study: distances from what the run kept, calibration, abstention, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

from tests.conftest import tiny_tables
from tests.feature_store import write_features
from toxfusion import predict
from toxfusion.data import expression
from toxfusion.evaluation import predictions
from toxfusion.evaluation.applicability import ApplicabilityError
from toxfusion.evaluation.calibration import Platt
from toxfusion.runs.new_study import score_study
from toxfusion.study.audit import Audit
from toxfusion.study.study import Study, write_study
from toxfusion.training.folder import RunError, RunFolder


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Other animals without labels; the compound zetastat became novelin, whose treated profiles are all turned up."""
    tables = tiny_tables(seed=5)
    obs = tables["obs"].replace({"compound": {"zetastat": "novelin"}})
    treated = ((obs["compound"] == "novelin") & ~obs["is_control"]).to_numpy()
    tables["expression"][treated] += np.where(np.arange(tables["expression"].shape[1]) % 2, 6.0, -6.0)
    study = write_study(
        tmp_path_factory.mktemp("new") / "study", **{**tables, "obs": obs.assign(dili=np.nan, injury=np.nan)}
    )
    write_features(study)
    return study


def copied(run: RunFolder, where: Path) -> RunFolder:
    shutil.copytree(run.root, where)
    return RunFolder(where)


def with_valid(run: RunFolder, where: Path, n: int) -> RunFolder:
    """The run with ``n`` validation compounds of DILI: 0.1 or 0.9, one in five wrong."""
    folder = copied(run, where)
    table = predictions.read(folder.predictions)
    kept = table[~((table["task"] == "dili") & (table["part"] == "valid"))]
    template = table[table["task"] == "dili"].iloc[[0]]
    label = np.arange(n) % 2
    wrong = np.arange(n) // 2 % 5 == 0
    made = pd.concat([template] * n, ignore_index=True).assign(
        unit_id=[f"v{i}" for i in range(n)],
        part="valid",
        label=label,
        score=np.where(label ^ wrong, 0.9, 0.1),
    )
    predictions.write(pd.concat([kept, made], ignore_index=True), folder.predictions)
    return folder


def dili(units: pd.DataFrame) -> pd.DataFrame:
    return units[units["task"] == "dili"].set_index("unit_id")


def test_a_compound_unlike_those_of_training_is_the_farthest(short_run: RunFolder, new: Study) -> None:
    scores = score_study([short_run], new, Audit())
    compounds = scores.compounds.set_index("compound")
    assert compounds["distance"].idxmax() == "novelin"
    assert not compounds.at["novelin", "seen_in_training"]
    table = anndata.read_h5ad(short_run.embeddings).obs
    training = set(table.loc[table["part"] == "train", "compound"])
    assert all(set(re.findall(r"(\w+) \(", nearest)) == training for nearest in compounds["nearest"])
    np.testing.assert_allclose(compounds["gate_slide"] + compounds["gate_expression"], 1.0, atol=1e-5)
    treated = scores.samples.query("not is_control").groupby("compound")["distance"].mean()
    np.testing.assert_allclose(compounds["distance"], treated.loc[compounds.index])
    units = dili(scores.units)
    np.testing.assert_allclose(units["distance"], compounds.loc[units.index, "distance"])
    # One fold of this study has too few validation compounds to tell 5 %, and the notes say so.
    assert not units["abstain"].any()
    assert any("validation units (compound) cannot tell 5 %" in note for note in scores.notes)
    assert any("vehicle controls of this study" in note for note in scores.notes)


@pytest.mark.parametrize(("change", "told"), [("linear", True), ("times ten", True), ("plus one", False)])
def test_expression_on_another_scale_is_told(
    short_run: RunFolder, new: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, told: bool
) -> None:
    monkeypatch.setattr(expression, "LEAST_LEVELS", 0.0)  # genes of this study have one level
    shutil.copytree(new.root, tmp_path / "study")
    adata = anndata.read_h5ad(tmp_path / "study" / "expression.h5ad")
    adata.X = {"linear": 2**adata.X, "times ten": adata.X * 10, "plus one": adata.X + 1}[change]
    adata.write_h5ad(tmp_path / "study" / "expression.h5ad")
    notes = score_study([short_run], Study.open(tmp_path / "study"), Audit()).notes
    assert any("predictions mean nothing where its values are no log2" in note for note in notes) is told


def test_abstention_by_distance_follows_alpha(short_run: RunFolder, new: Study) -> None:
    units = dili(score_study([short_run], new, Audit(), alpha=0.5).units)
    assert units.at["novelin", "abstain"]
    assert units.at["novelin", "reason"] == "farther than 50 % of validation units"
    assert (units["abstain"] == (units["distance_percentile"] >= 50)).all()
    assert (units.loc[~units["abstain"], "reason"] == "").all()


def test_what_a_run_keeps_is_enough_and_without_it_there_is_no_distance(
    short_run: RunFolder, new: Study, tmp_path: Path
) -> None:
    kept = score_study([short_run], new, Audit()).compounds
    moved = copied(short_run, tmp_path / "moved")
    config = moved.read_config()
    config["data"]["root"] = str(tmp_path / "gone")
    moved.config.write_text(yaml.safe_dump(config))
    pd.testing.assert_frame_equal(score_study([moved], new, Audit()).compounds, kept)
    table = anndata.read_h5ad(moved.embeddings)
    table[table.obs["part"] != "train"].copy().write_h5ad(moved.embeddings)
    with pytest.raises(RunError, match=r"no vectors of training samples .* train the run again"):
        score_study([moved], new, Audit())


def test_calibration_is_of_validation_and_too_few_units_are_said(
    short_run: RunFolder, new: Study, tmp_path: Path
) -> None:
    few, many = (score_study([with_valid(short_run, tmp_path / str(n), n)], new, Audit()) for n in (19, 40))
    assert not dili(few.units)["calibrated"].any()
    assert "dili: not calibrated, 19 labelled validation units are under 20" in few.notes
    # Eight of ten right at 0.9 and 0.1: calibration makes 0.8 of 0.9, and 0.2 of 0.1.
    platt = Platt(slope=np.log(4) / np.log(9), intercept=0.0)
    assert dili(many.units)["calibrated"].all()
    np.testing.assert_allclose(
        dili(many.units)["risk"], platt.of(dili(few.units)["risk"].to_numpy()), atol=1e-3
    )


def test_risks_that_validation_cannot_call_are_abstained_on(
    short_run: RunFolder, new: Study, tmp_path: Path
) -> None:
    folder = with_valid(short_run, tmp_path / "run", 40)
    loose, strict = (score_study([folder], new, Audit(), error=e) for e in (0.25, 0.1))
    # A fifth is wrong: all are called at an error of 0.25, none at 0.1.
    assert not dili(loose.units)["abstain"].any()
    assert dili(strict.units)["abstain"].all()
    assert set(dili(strict.units)["reason"]) == {"no risk is called"}
    assert (
        "dili: no 20 of 40 validation units are called with an error of 0.1; none is called" in strict.notes
    )


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 1.0}, {"error": 0.5}, {"error": -0.1}])
def test_shares_out_of_range_are_refused(short_run: RunFolder, new: Study, wrong: dict[str, Any]) -> None:
    with pytest.raises(ApplicabilityError, match="must lie between"):
        score_study([short_run], new, Audit(), **wrong)


def test_one_run_twice_and_two_experiments_are_refused(
    short_run: RunFolder, new: Study, tmp_path: Path
) -> None:
    other = copied(short_run, tmp_path / "copy")
    with pytest.raises(RunError, match=r"several runs of fold and seed \(0, 0\)"):
        score_study([short_run, other], new, Audit())
    config = other.read_config()
    other.config.write_text(yaml.safe_dump({**config, "name": "mirror", "seed": 1}))
    with pytest.raises(RunError, match=r"experiments \['full', 'mirror'\]"):
        score_study([short_run, other], new, Audit())


def test_a_study_without_slides_or_without_a_gene_says_what_is_missing(
    short_run: RunFolder, tmp_path: Path
) -> None:
    tables = tiny_tables(seed=6)
    bare = write_study(tmp_path / "bare", **{**tables, "slides": tables["slides"].iloc[:0]})
    with pytest.raises(ValueError, match="no features 'test'"):
        score_study([short_run], bare, Audit())
    # With a store, samples without a slide are scored by expression alone.
    write_features(bare)
    samples = score_study([short_run], bare, Audit()).samples
    assert not samples["has_slide"].any()
    assert samples["has_expression"].all()
    assert (samples["gate_slide"] < 1e-5).all()
    lacking = write_study(
        tmp_path / "lacking", **{**tables, "var": tables["var"].rename(index=lambda g: f"other-{g}")}
    )
    write_features(lacking)
    with pytest.raises(ValueError, match="lacks 20 of the 20 genes"):
        score_study([short_run], lacking, Audit())


def test_samples_without_a_matched_control_are_in_the_audit(short_run: RunFolder, tmp_path: Path) -> None:
    tables = tiny_tables(seed=7)
    treated = (tables["obs"]["compound"] == "zetastat") & ~tables["obs"]["is_control"]

    def said(name: str, obs: pd.DataFrame) -> set[str]:
        study = write_study(tmp_path / name, **{**tables, "obs": obs})
        write_features(study)
        audit = Audit()
        score_study([short_run], study, audit)
        return {r.id for r in audit.records if "compared with the mean of the training controls" in r.reason}

    renamed = tables["obs"]["control_group"].astype(str).mask(treated, "controls that were never sent")
    lost = said("lost", tables["obs"].assign(control_group=renamed)) - said("whole", tables["obs"])
    assert lost
    assert lost <= set(tables["obs"].index[treated])


def test_the_command_writes_tables_notes_and_a_figure(
    short_run: RunFolder, new: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict.main([f"run={short_run.root}", f"study={new.root}", f"paths.outputs={tmp_path}", "alpha=0.5"])
    output = tmp_path / "predict" / "study"
    assert {f.name for f in output.iterdir()} >= {
        "scores.csv", "compounds.csv", "samples.csv", "notes.txt", "risk.png", "audit.json"}  # fmt: skip
    printed = capsys.readouterr().out
    assert "farther than 50 % of validation units" in printed
    assert "dili: not calibrated" in printed
    assert set(pd.read_csv(output / "samples.csv")["sample_id"]) <= set(new.sample_ids)
