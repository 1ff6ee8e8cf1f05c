"""Clinical columns: fitted on training samples, missing values kept, and columns that leak refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import tiny_tables
from toxfusion.data.clinical import CLIP, ClinicalColumns, ClinicalError
from toxfusion.data.group_scaling import GroupError
from toxfusion.data.sample_groups import SampleGroups
from toxfusion.study.audit import Audit
from toxfusion.study.study import Study, write_study
from toxfusion.tasks.biochemistry import Biochemistry
from toxfusion.tasks.clinical_leaks import refuse_leaks
from toxfusion.tasks.column import ColumnTask
from toxfusion.tasks.dili import Dili
from toxfusion.tasks.task_set import TaskSet

TRAIN = 40
WITHIN = {"column": "batch", "unseen": "pooled"}


def tables() -> dict:
    """The small study: age within batch 60 or 20 years, one unknown; a strain of three words; skewed bilirubin."""
    made = tiny_tables()
    obs = made["obs"]
    n, rng = len(obs), np.random.default_rng(3)
    age = np.where(obs["batch"] == "A", 60.0, 20.0) + 8 * rng.normal(size=n)
    age[1] = np.nan
    strain = np.array(["SD", "Wistar"], dtype=object)[rng.integers(0, 2, n)]
    strain[2], strain[3], strain[-1] = "odd", None, "never seen"
    made["obs"] = obs.assign(age=age, strain=strain, sex=rng.integers(0, 2, n).astype(float), site="one")
    made["chemistry"]["TBIL"] = rng.lognormal(0, 1.5, n)
    return made


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_study(tmp_path_factory.mktemp("clinical") / "study", **tables())


@pytest.fixture(scope="module")
def fitted(study: Study) -> ClinicalColumns:
    names = ["age", "strain", "sex", "TBIL", "site"]
    return ClinicalColumns.fit(study, study.sample_ids[:TRAIN], names, within=WITHIN, audit=Audit())


def test_numbers_are_deviations_from_the_training_samples_of_the_group(
    study: Study, fitted: ClinicalColumns
) -> None:
    assert fitted.entries == ["age", "age: missing", "strain: Wistar", "strain: missing", "sex: 1", "TBIL"]
    values = pd.DataFrame(fitted.encode(study), index=study.obs.index, columns=fitted.entries)
    train = study.obs.iloc[:TRAIN]
    for _, of in train.groupby("batch"):
        known = of["age"].dropna()
        expected = (known - known.mean()) / known.std(ddof=0)
        np.testing.assert_allclose(values.loc[known.index, "age"], expected, atol=1e-5)
    bilirubin = np.log1p(study.chemistry["TBIL"])
    known = bilirubin[train.index[(train["batch"] == "A").to_numpy()]]
    expected = (bilirubin[known.index] - known.mean()) / known.std(ddof=0)
    np.testing.assert_allclose(values.loc[known.index, "TBIL"], expected, atol=1e-4)
    assert values.abs().max().max() <= CLIP


def test_what_is_missing_rare_or_new_is_the_training_mean_and_says_so(
    study: Study, fitted: ClinicalColumns
) -> None:
    audit = Audit()
    values = pd.DataFrame(fitted.encode(study, audit), index=study.obs.index, columns=fitted.entries)
    assert values["age"].iloc[1] == 0
    assert values["age: missing"].to_numpy().nonzero()[0].tolist() == [1]
    assert values["strain: missing"].to_numpy().nonzero()[0].tolist() == [2, 3, len(values) - 1]
    assert (values["strain: Wistar"].iloc[[2, 3, -1]] == 0).all()
    known = study.obs["strain"].isin(["SD", "Wistar"])
    share = (study.obs["strain"][:TRAIN] == "Wistar").sum() / known[:TRAIN].sum()
    expected = (study.obs["strain"] == "Wistar")[known] - share
    np.testing.assert_allclose(values.loc[known, "strain: Wistar"], expected, atol=1e-6)
    said = {r.id: r.reason for r in audit.records}
    assert said["age"].startswith("1 of 52 samples: missing")
    assert said["strain"].startswith("3 of 52")
    assert "sex" not in said
    missing = fitted.missing(study)
    assert missing.sum().to_dict() == {"age": 1, "strain": 3, "sex": 0, "TBIL": 0}


def test_nothing_is_fitted_on_other_than_training_samples(tmp_path: Path, fitted: ClinicalColumns) -> None:
    other = tables()
    other["obs"].iloc[TRAIN:, other["obs"].columns.get_loc("age")] = 1e4
    other["obs"].iloc[TRAIN:, other["obs"].columns.get_loc("strain")] = "another"
    study = write_study(tmp_path / "study", **other)
    again = ClinicalColumns.fit(study, study.sample_ids[:TRAIN], fitted.names, within=WITHIN)
    np.testing.assert_array_equal(again.encode(study)[:TRAIN], fitted.encode(study)[:TRAIN])


def test_a_study_without_the_columns_is_read_by_a_checkpoint(tmp_path: Path, fitted: ClinicalColumns) -> None:
    restored = ClinicalColumns.from_state(fitted.state())
    assert restored.entries == fitted.entries
    study = write_study(tmp_path / "study", **{**tiny_tables(), "chemistry": None})
    audit = Audit()
    values = dict(zip(restored.entries, restored.encode(study, audit).T, strict=True))
    assert all((of == ("missing" in entry)).all() for entry, of in values.items())
    assert all("no such column" in r.reason for r in audit.records)
    assert {r.id for r in audit.records} == {"age", "strain", "sex", "TBIL"}


@pytest.mark.parametrize(
    ("name", "tasks", "reason"),
    [
        ("dili", [Dili()], "it is a label"),
        ("ALT", [Biochemistry()], "predicts serum chemistry"),
        ("strain", [ColumnTask(column="strain")], "the task strain predicts it"),
        ("Necrosis", [Dili()], "pathologist"),
        ("tumour_grade", [Dili()], "pathologist"),
        ("survival_time", [Dili()], "what became of the patient"),
        ("compound", [Dili()], "unit that a split keeps whole"),
    ],
)
def test_a_column_that_leaks_is_refused_with_its_reason(
    study: Study, name: str, tasks: list, reason: str
) -> None:
    with pytest.raises(ClinicalError, match=f"clinical: '{name}' would leak: .*{reason}"):
        refuse_leaks(["age", name], study, TaskSet(tasks))


def test_chemistry_and_dose_are_no_leak_of_other_labels(study: Study) -> None:
    refuse_leaks(["ALT", "dose", "time_h", "age", "liver_weight"], study, TaskSet([Dili()]))


def test_groups_of_heads_are_those_of_training_samples(study: Study) -> None:
    batch = study.obs["batch"]
    groups = SampleGroups.fit(study, study.obs.index[batch == "A"].tolist(), "batch")
    membership = SampleGroups.from_state(groups.state()).membership(study)
    np.testing.assert_array_equal(membership, (batch == "A").to_numpy(np.float32)[:, None])


def test_a_column_of_groups_that_is_not_there_is_named_by_its_key(study: Study) -> None:
    with pytest.raises(GroupError, match=r"^paths_by: 'clinic' is no column of obs"):
        SampleGroups.fit(study, study.sample_ids, "clinic", "paths_by")


def test_a_column_that_is_not_there_is_refused_with_those_that_are(study: Study) -> None:
    with pytest.raises(ClinicalError, match=r"'weight' is no column .*'age'"):
        ClinicalColumns.fit(study, study.sample_ids, ["weight"])
