"""Batch audit: a planted batch effect is found among vehicle controls, and nothing where there is none."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from toxfusion import doctor
from toxfusion.config.nodes import ConfigError
from toxfusion.evaluation.batch_audit import BatchAuditError, batch_audit
from toxfusion.study.study import Study, write_study


def audited(study: Study, *columns: str, permutations: int = 39, **extra: Any) -> pd.DataFrame:
    settings = {"store": None, "permutations": permutations, "seed": 0} | extra
    return batch_audit(study, columns or ("batch",), **settings).set_index(["features", "column"])


@pytest.fixture
def controls(study_tables: dict[str, Any], tmp_path: Path) -> Study:
    """The small study thrice over, 48 controls, as independent noise: no batch effect, and batches of either time."""
    rng = np.random.default_rng(7)
    tables = []
    for copy in "abc":
        obs = study_tables["obs"].rename(index=lambda s, copy=copy: f"{s}_{copy}")
        tables.append(obs.assign(animal_id=obs["animal_id"] + copy))
    obs = pd.concat(tables)
    obs["batch"] = np.where(np.arange(len(obs)) % 2 == 0, "A", "B")
    index, n = obs.index, len(obs)
    return write_study(
        tmp_path / "controls",
        **study_tables
        | {
            "obs": obs,
            "expression": rng.normal(8, 1, (n, len(study_tables["var"]))).astype(np.float32),
            "findings": pd.DataFrame(0.0, index=index, columns=study_tables["findings"].columns),
            "spontaneous": None,
            "chemistry": pd.DataFrame(
                rng.lognormal(3, 0.3, (n, 3)), index=index, columns=["ALT", "AST", "ALP"]
            ),
            "slides": study_tables["slides"].iloc[:0],
        },
    )


def test_a_planted_batch_effect_is_found_and_only_where_it_is(controls: Study) -> None:
    clean = audited(controls)
    assert (clean.loc[["expression", "chemistry"], "p"] > 0.05).all()
    assert clean.loc[("expression", "batch"), ["levels", "controls", "chance"]].tolist() == [2, 48, 0.5]
    shifted = controls.expression.copy()
    shifted[(controls.obs["batch"] == "B").to_numpy(), :10] += 3.0
    audit = audited(replace(controls, expression=shifted))
    assert audit.loc[("expression", "batch"), "balanced_accuracy"] > 0.9
    assert audit.loc[("expression", "batch"), "p"] == 1 / 40
    assert audit.loc[("chemistry", "batch"), "p"] > 0.05


def test_what_treated_animals_show_is_not_looked_at(controls: Study) -> None:
    shifted = controls.expression.copy()
    shifted[(~controls.obs["is_control"] & (controls.obs["batch"] == "B")).to_numpy()] += 5.0
    pd.testing.assert_frame_equal(audited(replace(controls, expression=shifted)), audited(controls))


def test_age_is_no_batch(controls: Study) -> None:
    """A batch that is one sacrifice time is read off the age of its rats: permuted levels do as well."""
    early = (controls.obs["time_h"] == 24.0).to_numpy()
    shifted = controls.expression + 3.0 * early[:, None].astype(np.float32)
    obs = controls.obs.assign(batch=np.where(early, "A", "B"))
    audit = audited(replace(controls, obs=obs, expression=shifted)).loc[("expression", "batch")]
    assert audit["balanced_accuracy"] > 0.9
    assert audit["permuted"] == audit["balanced_accuracy"]
    assert audit["p"] == 1.0


def test_tiles_of_a_store_are_read(study_with_features: Study) -> None:
    """Features of tiles: of S2 and S3, the studies with enough controls, and only of animals that have a bag."""
    store = study_with_features.features("random")
    audit = audited(study_with_features, "study", store=store, permutations=5).loc[("tiles", "study")]
    control = study_with_features.obs["is_control"]
    bags = [s for s in study_with_features.obs.index[control] if study_with_features.slides_of(s)]
    sizes = study_with_features.obs.loc[bags, "study"].value_counts()
    assert audit["controls"] == sizes[sizes >= 3].sum()
    assert f"of {len(sizes)} levels have fewer than 3 controls: left out" in audit["reason"]


def test_what_cannot_be_classified_says_why(controls: Study) -> None:
    obs = controls.obs.assign(batch="", plate="P1", rare="Y", torn=controls.obs["batch"])
    of_controls = obs.index[obs["is_control"]]
    obs.loc[of_controls[-1], "rare"] = "X"
    obs.loc[of_controls[:2], "animal_id"], obs.loc[of_controls[:2], "torn"] = "one", ["A", "B"]
    reasons = audited(replace(controls, obs=obs), "batch", "plate", "rare", "torn").loc[
        "expression", "reason"
    ]
    assert reasons["batch"] == reasons["plate"] == "fewer than two levels"
    assert reasons["rare"] == "1 of 2 levels have fewer than 3 controls: fewer than two are left"
    assert reasons["torn"] == "animal 'one' is in two batches"
    audit = audited(controls)
    assert audit.loc[("tiles", "batch"), "reason"] == "no vehicle control has these features"
    assert audit.loc["tiles", ["balanced_accuracy", "p"]].isna().all(axis=None)
    with pytest.raises(BatchAuditError, match=r"\['scanner'\] are not among the columns"):
        audited(controls, "scanner")


def test_doctor_prints_and_writes_it(
    controls: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = f"paths.outputs={tmp_path / 'outputs'}"
    doctor.main([f"study={controls.root}", "batch_audit=true", "batch_permutations=9", outputs])
    shown = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "outputs" / "doctor" / "batch_audit.csv")
    assert table["column"].tolist() == ["study", "batch"] * 3
    assert "balanced_accuracy" in shown
    assert "no vehicle control has these features" in shown
    with pytest.raises(ConfigError, match="batch_audit=true needs study=FOLDER"):
        inspect.unwrap(doctor.main)({"study": None, "repair": False, "batch_audit": True})
