"""Predictions of other people's models, a table of cases and scores, as rows of a comparison beside runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from toxfusion.evaluation import predictions
from toxfusion.evaluation.comparison import ComparisonError, Run
from toxfusion.study.any_table import read_any_table
from toxfusion.study.audit import Audit
from toxfusion.study.number_columns import numbers

#: Column -> the names that it may have in a file, the first that is there.
NAMES = {
    "case": ("case", "case_id", "unit_id"),
    "fold": ("fold",),
    "model": ("model",),
    "task": ("task", "term"),
    "cohort": ("cohort",),
}
#: Column of scores -> families of tasks that it scores. Grades are none of them: they are called by cut-offs that
#: validation chooses, and a table of test predictions has no validation part.
SCORES = {
    "risk": ("survival",),
    "probability": ("binary", "classes"),
    "value": ("value",),
}
STAGE = "compare"
_KEY = ["model", "cohort", "task", "case"]
_NAMED = 5


def external_runs(
    path: Path | str, runs: Sequence[Run], reference: str, audit: Audit
) -> tuple[list[Run], list[str]]:
    """The models of a file as runs, scored on the test cases and labels of finished runs.

    Args:
        path: a table with the columns of `NAMES` and one or more of `SCORES`. ``case`` is the unit of the task (a
            compound, a dose group, a sample or patient), ``fold`` that of the runs (``split.fold``), ``risk`` higher
            for an earlier event. ``model`` names the row, else the file does. ``task`` (or ``term``, what follows its
            colon) may be left out where the runs have one task that the column of scores fits. ``cohort`` is read
            where it names a study of the runs.
        runs: finished runs. Cases, folds and labels are those of the reference, then of the others; permuted labels
            are passed over.
        reference: the experiment that differences are taken from.
        audit: takes each prediction of no test case, and each test case without a prediction.

    Returns:
        One run a model, study and fold, and notes on what did not match.

    Raises:
        ComparisonError: a column or value is missing or out of range, a case is scored twice, a fold is another than
            that of the runs, a model has the name of a run, or nothing matches.
        TableError: no table, or a cell that is no number.
    """
    external = _read(path, audit)
    taken = sorted(set(external["model"]) & {run.experiment for run in runs})
    if taken:
        raise ComparisonError(
            f"{path}, column 'model', value {taken[0]!r}: a row of the comparison has that name; rename the model"
        )
    tested = _tested(runs, reference)
    asked = _of_tasks(external, tested, path, audit)
    matched = _matched(asked, tested, path)
    notes = [
        *_left_out(asked[~_of(asked).isin(_of(matched))], len(asked), path, audit),
        *_without_prediction(matched, tested, path, audit),
    ]
    made = [
        Run(
            str(model), str(cohort), int(of_fold["fold"].iloc[0]), 0, None,
            predictions.validate(of_fold[tested.columns.drop("cohort")], f"{path}, model {model!r}"),
            f"{path} ({model})", external=True,
        )
        for (model, cohort, _), of_fold in matched.groupby(["model", "cohort", "fold"], sort=True)
    ]  # fmt: skip
    return made, notes


def _read(path: Path | str, audit: Audit) -> pd.DataFrame:
    """Columns model, case, task ("" = not said), cohort, fold (int), column (of `SCORES`), score (float), and row."""
    table = read_any_table(path)
    names = {
        column: next((name for name in names if name in table.columns), None)
        for column, names in NAMES.items()
    }
    scores = [name for name in SCORES if name in table.columns]
    for column in ("case", "fold"):
        if names[column] is None:
            raise ComparisonError(
                f"{path}: column {column!r} is missing; external predictions have {', '.join(NAMES[column])}, and one "
                f"of {', '.join(SCORES)}; there are {list(map(str, table.columns))[:12]}"
            )
    if not scores:
        raise ComparisonError(
            f"{path}: no column of scores; name it one of {', '.join(SCORES)}; there are "
            f"{list(map(str, table.columns))[:12]}"
        )
    named = pd.DataFrame(
        {column: table[name] if name else "" for column, name in names.items()}, index=table.index
    ).assign(row=table.index)
    named["model"] = named["model"].replace("", Path(path).name.split(".")[0])
    for column in ("model", "case"):
        if (without := named["row"][named[column].isna()]).size:
            raise ComparisonError(
                f"{path}, column {names[column]!r}, row {without.iloc[0]}: is missing; fill it in, or remove the row"
            )
    named = named.fillna({"task": "", "cohort": ""}).assign(fold=_folds(named["fold"], path))
    values = pd.DataFrame({name: numbers(table[name], path) for name in scores})
    _drop(named[values.isna().all(axis=1)], f"no {' or '.join(scores)} in its row", audit)
    parts = [named[values[name].notna()].assign(column=name, score=values[name].dropna()) for name in scores]
    long = pd.concat(parts, ignore_index=True)
    outside = long[(long["column"] == "probability") & ~long["score"].between(0, 1)]
    if len(outside):
        raise ComparisonError(
            f"{path}, column 'probability', row {outside['row'].iloc[0]}, value {outside['score'].iloc[0]:g}: lies "
            "outside 0 to 1; write a probability, not a logit"
        )
    return long


def _folds(column: pd.Series, path: Path | str) -> pd.Series:
    folds = numbers(column, path, "number the folds as split.fold of the runs does")
    wrong = folds.isna() | (folds % 1 != 0)
    if wrong.any():
        raise ComparisonError(
            f"{path}, column 'fold', row {wrong.index[wrong][0]}, value {column[wrong].iloc[0]!r}: is no whole number; "
            "number the folds as split.fold of the runs does"
        )
    return folds.astype(np.int64)


def _drop(dropped: pd.DataFrame, reason: str, audit: Audit) -> None:
    for model, task, case in zip(dropped["model"], dropped["task"], dropped["case"], strict=True):
        name = "/".join(part for part in (model, task, case) if part)
        audit.drop(STAGE, "external prediction", name, reason)


def _tested(runs: Sequence[Run], reference: str) -> pd.DataFrame:
    """Test rows of the runs, each unit once, with column cohort and without what depends on the score."""
    real = [run for run in runs if "permuted labels" not in run.null]
    ordered = sorted(real, key=lambda run: run.experiment != reference)
    if not ordered:
        raise ComparisonError(
            "external predictions need a run whose labels are not permuted; add one to runs="
        )
    joined = pd.concat([run.table.assign(cohort=run.cohort) for run in ordered], ignore_index=True)
    once = joined[joined["part"] == "test"].drop_duplicates(["cohort", "task", "unit_id"])
    return once.assign(seed=0).drop(columns=["brier_term", "imputed"], errors="ignore")


def _of_tasks(external: pd.DataFrame, tested: pd.DataFrame, path: Path | str, audit: Audit) -> pd.DataFrame:
    """The predictions of tasks that the runs have, under the names of those tasks."""
    kept = []
    for (column, said), of_task in external.groupby(["column", "task"], sort=True):
        tasks = sorted(set(tested["task"][tested["family"].isin(SCORES[str(column)])]))
        meant = [task for task in tasks if said in ("", task)]
        meant = meant or [task for task in tasks if said == task.partition(":")[2]]
        if len(meant) > 1:
            asks = "give each row its task in a column 'task'" if said == "" else "write the task in full"
            raise ComparisonError(
                f"{path}, column 'task', value {said!r}: the {column} may be of {', '.join(meant)}; {asks}"
            )
        if meant:
            kept.append(of_task.assign(task=meant[0]))
        else:
            _drop(of_task, f"the runs have no such task with a {column}", audit)
    if not kept:
        has = ", ".join(sorted(set(tested["task"])))
        raise ComparisonError(f"{path}: its columns and tasks score none of the tasks of the runs, {has}")
    asked = pd.concat(kept, ignore_index=True)
    twice = asked[asked.duplicated(_KEY, keep=False)]
    if len(twice):
        first = twice.iloc[0]
        of = twice[(twice[_KEY] == first[_KEY]).all(axis=1)]
        raise ComparisonError(
            f"{path}, column 'case', value {first['case']!r}: {first['model']!r} scores {first['task']} of it more "
            f"than once, in rows {of['row'].tolist()}; keep one, or the mean of several seeds"
        )
    return asked


def _matched(asked: pd.DataFrame, tested: pd.DataFrame, path: Path | str) -> pd.DataFrame:
    """Test rows of the runs, scored by the models of the file."""
    own = asked["cohort"].where(asked["cohort"].isin(set(tested["cohort"])), "")
    asked = asked.assign(said=own).rename(columns={"fold": "its_fold", "score": "its_score"})
    pairs = asked.drop(columns="cohort").merge(
        tested, left_on=["task", "case"], right_on=["task", "unit_id"], how="inner"
    )
    pairs = pairs[(pairs["said"] == "") | (pairs["said"] == pairs["cohort"])].sort_values(["row", "column"])
    several = pairs.duplicated(["row", "column"], keep=False)
    if several.any():
        first = pairs[several].iloc[0]
        raise ComparisonError(
            f"{path}, column 'case', value {first['case']!r}: is a case of several studies of the runs "
            f"({', '.join(sorted(set(pairs.loc[several, 'cohort'])))}); name the study in a column 'cohort'"
        )
    _refuse_other_folds(pairs, path)
    if pairs.empty:
        cases = ", ".join(map(repr, sorted(set(asked["case"]))[:3]))
        units = ", ".join(map(repr, sorted(set(tested["unit_id"]))[:3]))
        raise ComparisonError(
            f"{path}, column 'case': none of its cases ({cases}) is a test case of the runs ({units}); write the names "
            "of the runs, and run the folds that the file has"
        )
    return pairs.assign(score=pairs["its_score"])


def _refuse_other_folds(pairs: pd.DataFrame, path: Path | str) -> None:
    other = pairs[pairs["its_fold"] != pairs["fold"]]
    if len(other):
        first = other.iloc[0]
        raise ComparisonError(
            f"{path}, column 'fold', row {first['row']}, value {first['its_fold']}: {first['case']!r} is tested in "
            f"fold {first['fold']} of the runs; {len(other)} of {len(pairs)} predictions are of another fold. Cases "
            "are ranked within folds: train the runs on the folds of the file (split=predefined)"
        )


def _left_out(unmatched: pd.DataFrame, n: int, path: Path | str, audit: Audit) -> list[str]:
    """Audit and a note for predictions of no test case."""
    if unmatched.empty:
        return []
    _drop(unmatched, "no test case of the finished runs", audit)
    cases = sorted(set(unmatched["case"]))
    return [
        f"{Path(path).name}: {len(unmatched)} of {n} predictions are of {len(cases)} cases that no finished run tests "
        f"({_listed(cases)}); left out, each in audit.json."
    ]


def _without_prediction(
    matched: pd.DataFrame, tested: pd.DataFrame, path: Path | str, audit: Audit
) -> list[str]:
    """Audit and a note for each model and task on labelled test cases that the file does not score."""
    notes = []
    for (model, task), predicted in matched.groupby(["model", "task"], sort=True):
        of_task = tested[(tested["task"] == task) & tested["label"].notna()]
        of_task = of_task[of_task["cohort"].isin(set(predicted["cohort"]))]
        scored = set(zip(predicted["cohort"], predicted["unit_id"], strict=True))
        cases = sorted(
            unit for key, unit in zip(zip(of_task["cohort"], of_task["unit_id"], strict=True), of_task["unit_id"],
                                      strict=True) if key not in scored
        )  # fmt: skip
        for case in cases:
            audit.drop(STAGE, "case", f"{model}/{task}/{case}", f"no prediction in {Path(path).name}")
        if cases:
            notes.append(f"{model}, {task}: no prediction of {len(cases)} test cases ({_listed(cases)}).")
    return notes


def _of(external: pd.DataFrame) -> pd.MultiIndex:
    """The row of the file and the column of scores, which together name a prediction."""
    return pd.MultiIndex.from_frame(external[["row", "column"]])


def _listed(cases: Sequence[str]) -> str:
    return ", ".join(cases[:_NAMED]) + (" ..." if len(cases) > _NAMED else "")
