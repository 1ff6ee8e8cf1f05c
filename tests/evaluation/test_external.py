"""External predictions in a comparison: rows equal to those of a run with the same scores, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.evaluation.conftest import runs_of
from toxfusion.evaluation.comparison import Cohort, ComparisonError, Run, compare
from toxfusion.evaluation.external import SCORES, external_runs
from toxfusion.study.audit import Audit

STUDIES = {name: Cohort(name, virtual=True) for name in ("study", "other")}


def _as_external(runs: list[Run], model: str) -> pd.DataFrame:
    """The test scores of runs as a file has them: the column is that of the family, a lesion goes by its term."""
    tested = pd.concat([run.table[run.table["part"] == "test"] for run in runs])
    named = {
        "case_id": tested["unit_id"],
        "fold": tested["fold"],
        "term": tested["task"].str.split(":").str[-1],
    }
    scores = {column: tested["score"].where(tested["family"].isin(of)) for column, of in SCORES.items()}
    return pd.DataFrame({"model": model, **named, **scores}).dropna(axis=1, how="all").dropna()


@pytest.mark.parametrize("suffix", [".tsv", ".parquet"])
def test_a_file_of_a_runs_scores_is_a_row_like_that_run(make_table, tmp_path: Path, suffix: str) -> None:
    """Values, paired differences and intervals agree exactly; what fits nothing, or is missing, is named."""
    runs = [*runs_of(make_table, "full"), *runs_of(make_table, "rival", noise=1)]
    table = _as_external(runs[3:], "theirs")
    stranger = table.iloc[[0]].assign(case_id="nobody")
    path = tmp_path / f"scores{suffix}"
    whole = pd.concat([table, stranger])
    whole.to_parquet(path) if suffix == ".parquet" else whole.to_csv(path, sep="\t", index=False)
    audit = Audit()
    external, notes = external_runs(path, runs, "full", audit)
    assert {(run.experiment, run.cohort, run.fold) for run in external} == {
        ("theirs", "study", k) for k in range(3)
    }
    assert [record.id.split("/")[-1] for record in audit.records] == ["nobody"]
    assert any("1 cases that no finished run tests (nobody)" in note for note in notes)
    compared = compare([*runs, *external], STUDIES, reference="full", draws=100).table.set_index("experiment")
    compared = compared[
        compared["headline"] != "severity"
    ]  # grades are called by validation, which a file does not have
    same = [c for c in compared if c not in ("flags", "n_imputed", "p_holm")]
    pd.testing.assert_frame_equal(
        compared.loc["theirs", same].reset_index(drop=True),
        compared.loc["rival", same].reset_index(drop=True),
    )
    assert compared.loc["theirs", "flags"].str.startswith("external").all()
    assert not compared.loc["rival", "flags"].str.contains("external").any()
    assert set(compared.loc["theirs", "headline"]) == {"dili", "injury", "lesions"}


def test_cases_without_a_prediction_are_named_and_the_rest_is_paired(make_table, tmp_path: Path) -> None:
    runs = runs_of(make_table, "full")
    table = _as_external(runs, "theirs")
    lacking = sorted(table.loc[table["term"] == "dili", "case_id"])[:2]
    table[~(table["term"].eq("dili") & table["case_id"].isin(lacking))].to_csv(
        tmp_path / "a.csv", index=False
    )
    audit = Audit()
    external, notes = external_runs(tmp_path / "a.csv", runs, "full", audit)
    assert {r.id for r in audit.records} == {f"theirs/dili/{case}" for case in lacking}
    assert notes == [f"theirs, dili: no prediction of 2 test cases ({', '.join(lacking)})."]
    compared = compare([*runs, *external], STUDIES, reference="full", draws=50)
    of = compared.table[
        (compared.table["experiment"] == "theirs") & (compared.table["headline"] == "dili")
    ].iloc[0]
    assert (of["n_paired"], of["n"], of["difference"]) == (22, 22, 0.0)


def test_one_task_needs_no_name_and_one_study_of_two_does(make_table, tmp_path: Path) -> None:
    """Permuted labels are nobody's truth; names of cases that two studies share say nothing without the study."""
    dili = [
        Run(r.experiment, r.cohort, r.fold, 0, 3, r.table[r.table["task"] == "dili"], r.source, null=null)
        for cohort in ("study", "other")
        for name, null in (("null", "permuted labels"), ("full", ""))
        for r in runs_of(make_table, name, cohort=cohort)
    ]
    for run in dili:
        if run.null:
            run.table["label"] = 1 - run.table["label"]
    table = _as_external(dili[3:6], "m")[["case_id", "fold", "probability"]]
    path = tmp_path / "somebody.csv"
    table.to_csv(path, index=False)
    external, _ = external_runs(path, dili[:6], "full", Audit())
    label = pd.concat([run.table for run in external]).set_index("unit_id")["label"]
    truth = pd.concat([run.table for run in dili[3:6]]).query("part == 'test'").set_index("unit_id")["label"]
    assert {run.experiment for run in external} == {"somebody"}
    assert label.to_dict() == truth.to_dict()
    with pytest.raises(
        ComparisonError, match=r"several studies of the runs \(other, study\).*column 'cohort'"
    ):
        external_runs(path, dili, "full", Audit())
    table.assign(cohort="other").to_csv(path, index=False)
    assert {run.cohort for run in external_runs(path, dili, "full", Audit())[0]} == {"other"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.assign(fold=t["fold"] + 1), r"column 'fold', row 2, value 1: .* is tested in fold 0"),
        (lambda t: pd.concat([t, t.iloc[[3]]]), r"'theirs' scores .* more than once, in rows \[5, "),
        (lambda t: t.assign(case_id="x" + t["case_id"]), r"none of its cases .* is a test case of the runs"),
        (lambda t: t.assign(probability=4.0), r"column 'probability', row 2, value 4: lies outside 0 to 1"),
        (lambda t: t.assign(model="full"), r"column 'model', value 'full': a row .* has that name"),
        (lambda t: t.assign(term="stain"), r"score none of the tasks of the runs, dili"),
        (lambda t: t.drop(columns="term"), r"the probability may be of dili, .*column 'task'"),
        (lambda t: t.drop(columns="probability"), r"no column of scores; name it one of risk, "),
        (lambda t: t.drop(columns="fold"), r"column 'fold' is missing"),
        (lambda t: t.assign(fold=0.5), r"column 'fold', row 2, value '0.5': is no whole number"),
        (lambda t: t.assign(case_id=[None, *t["case_id"][1:]]), r"column 'case_id', row 2: is missing"),
    ],
    ids=["fold", "twice", "nobody", "logit", "name", "task", "tasks", "score", "no-fold", "half", "no-case"],
)
def test_what_does_not_fit_the_runs_is_refused(make_table, tmp_path: Path, change, says: str) -> None:
    runs = runs_of(make_table, "full")
    change(_as_external(runs, "theirs")).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ComparisonError, match=says) as refused:
        external_runs(tmp_path / "a.csv", runs, "full", Audit())
    assert str(refused.value).startswith(f"{tmp_path / 'a.csv'}")
