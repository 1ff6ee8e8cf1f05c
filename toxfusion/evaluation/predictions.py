"""The long predictions table every run writes: its columns, checks, files, and pooling over folds and seeds.

Metrics of the scores live in ``toxfusion.evaluation.metrics`` and ``toxfusion.evaluation.scoring``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from toxfusion.evaluation.families import FAMILIES, FamilyName
from toxfusion.study.files import write_parquet
from toxfusion.study.vocabulary import MAX_GRADE

LEVELS = ("compound", "group", "sample")
PARTS = ("valid", "test")
AVERAGED_SEEDS = -1

DTYPES: dict[str, str] = {
    "task": "str",
    "family": "str",
    "headline": "str",
    "level": "str",
    "unit_id": "str",
    "compound": "str",
    "dose_level": "str",
    "time_h": "float64",
    "study": "str",
    "batch": "str",
    "is_control": "bool",
    "part": "str",
    "fold": "int64",
    "seed": "int64",
    "label": "float64",
    "score": "float64",
}
COLUMNS = tuple(DTYPES)
OPTIONAL_DTYPES: dict[str, str] = {
    "imputed": "bool",
    "event": "float64",
    "uno_weight": "float64",
    "brier_term": "float64",
    "stratum": "str",
}
_UNIT_COLUMNS = ("compound", "dose_level", "time_h", "study", "batch", "is_control")
_KEY = ["task", "unit_id", "fold", "seed"]


class PredictionsError(ValueError):
    """A predictions table that breaks its contract; says where it came from, the column, the value, and what
    to do.
    """


def validate(table: pd.DataFrame, source: str = "predictions table") -> pd.DataFrame:
    """Check a predictions table and give it its dtypes and order of columns.

    Args:
        table: one row per scored unit with the columns of ``COLUMNS``. ``family`` says what is measured
            (``families.FAMILIES``), and ``headline`` the group that the task is averaged into, or its own name.
            ``label`` is 0 or 1 (ordinal: grade 0 to 4; survival: time; value: any number), NaN = no label;
            ``score`` is a probability (ordinal: expected grade; survival: risk; value: any number).
            ``compound`` is never empty; ``dose_level``, ``study`` and ``batch`` are "" and ``time_h`` is NaN
            where the unit spans several values. Optional columns: ``imputed``, true where a modality that the
            method needs was absent; of survival ``event`` (1, 0, NaN), ``uno_weight``
            (``survival.uno_weights``), for discrete hazards ``brier_term`` (``survival.brier_terms``), and ``stratum``,
            within which alone times are compared ("" for none).
        source: what the errors call the table.

    Returns:
        A new table with columns in the order of ``COLUMNS``, then the optional ones if present, and index
        0..n-1.

    Raises:
        PredictionsError: a column missing or unknown, an unknown family, level or part, a score that is not
            finite or out of range, a label out of range, a unit scored twice in one fold and seed, a task of
            two levels, families or headlines.
    """
    missing = [c for c in COLUMNS if c not in table.columns]
    if missing:
        advice = "; this run is of an earlier version: run it again" if "family" in missing else ""
        raise PredictionsError(
            f"{source}: columns {missing} are missing{advice}. A predictions table has {list(COLUMNS)}."
        )
    unknown = [c for c in table.columns if c not in DTYPES and c not in OPTIONAL_DTYPES]
    if unknown:
        raise PredictionsError(
            f"{source}: unknown columns {unknown}; drop them or rename them to the contract's."
        )
    wanted = {**DTYPES, **{c: t for c, t in OPTIONAL_DTYPES.items() if c in table.columns}}
    if "stratum" in table:
        table = table.assign(stratum=table["stratum"].fillna(""))  # of tasks without times
    checked = pd.DataFrame({c: _as_dtype(table[c], t, source) for c, t in wanted.items()}).reset_index(
        drop=True
    )
    _check_values(checked, source)
    _check_units(checked, source)
    return checked


def _as_dtype(column: pd.Series, dtype: Any, source: str) -> pd.Series:
    if dtype == "str":
        if column.isna().any():
            raise PredictionsError(
                f'{source}: column {column.name!r} has missing values; write "" for "several".'
            )
        return column.astype(str).astype(object)
    try:
        return column.astype(dtype)
    except (TypeError, ValueError) as error:
        raise PredictionsError(f"{source}: column {column.name!r} is not {dtype}: {error}.") from error


def _refuse(bad: pd.Series, table: pd.DataFrame, column: str, advice: str, source: str) -> None:
    if bad.any():
        first = table[bad].iloc[0]
        raise PredictionsError(
            f"{source}: column {column!r} is {first[column]!r} for task {first['task']!r}, unit "
            f"{first['unit_id']!r} "
            f"({int(bad.sum())} rows): {advice}."
        )


def _check_values(table: pd.DataFrame, source: str) -> None:
    of_family = {name: table["family"] == name for name in FAMILIES}
    binary = of_family["binary"] | of_family["classes"]
    graded, survival = of_family["ordinal"], of_family["survival"]
    label, score = table["label"], table["score"]
    _refuse(~table["family"].isin(list(FAMILIES)), table, "family", f"use one of {tuple(FAMILIES)}", source)
    for column in ("task", "headline"):
        _refuse(table[column] == "", table, column, "every row has the name of its task and headline", source)
    _refuse(~table["level"].isin(LEVELS), table, "level", f"use one of {LEVELS}", source)
    _refuse(
        ~table["part"].isin(PARTS), table, "part", f"use one of {PARTS}; training rows are not kept", source
    )
    _refuse(table["compound"] == "", table, "compound", "every unit belongs to a compound", source)
    _refuse(~np.isfinite(score), table, "score",
            "every unit gets a finite score; flag what was imputed in column 'imputed'", source)  # fmt: skip
    _refuse(binary & ((score < 0) | (score > 1)), table, "score", "write a probability, not a logit", source)
    _refuse(binary & label.notna() & ~label.isin([0, 1]), table, "label", "write 0, 1 or NaN", source)
    _refuse(survival & (label <= 0), table, "label", "a time to event or censoring is above 0", source)
    if survival.any() and "event" not in table:
        raise PredictionsError(
            f"{source}: column 'event' is missing for tasks of survival; write 1 where the event happened, else 0."
        )
    if "event" in table:
        event = table["event"]
        wrong = (event.notna() & ~event.isin([0, 1])) | (survival & (event.isna() != label.isna()))
        _refuse(wrong, table, "event", "write 1 or 0 beside each time, NaN beside none", source)
    _refuse(
        graded & ((label < 0) | (label > MAX_GRADE)), table, "label", f"grades are 0 to {MAX_GRADE}", source
    )
    _refuse(graded & ((score < 0) | (score > MAX_GRADE)), table, "score",
            f"an expected grade lies between 0 and {MAX_GRADE}", source)  # fmt: skip


def _check_units(table: pd.DataFrame, source: str) -> None:
    twice = table.duplicated(_KEY, keep=False)
    if twice.any():
        both = table[twice].iloc[:2]
        first = both.iloc[0]
        raise PredictionsError(
            f"{source}: unit {first['unit_id']!r} of task {first['task']!r} is scored twice in fold "
            f"{first['fold']}, "
            f"seed {first['seed']} (parts {both['part'].tolist()}): valid and test overlap, or a sampler's "
            f"padding stayed."
        )
    for column in ("level", "family", "headline"):
        kinds = table.groupby("task")[column].nunique()
        if (kinds > 1).any():
            task = kinds[kinds > 1].index[0]
            raise PredictionsError(
                f"{source}: task {task!r} has rows of several values of {column!r}; keep one for each task."
            )
    kinds = table.groupby("headline")["family"].nunique()
    if (kinds > 1).any():
        raise PredictionsError(
            f"{source}: headline {kinds[kinds > 1].index[0]!r} averages tasks of several families; they have no "
            "metric in common. Give each family a headline of its own."
        )


def describe_units(obs: pd.DataFrame, level: str) -> pd.DataFrame:
    """The unit columns of a predictions table, from the samples that make up each unit.

    Args:
        obs: study.obs (index sample_id), restricted to the samples that are scored.
        level: ``sample``, ``group`` (by group_id) or ``compound``.

    Returns:
        Table indexed by unit_id with compound, dose_level, time_h, study, batch, is_control; "" or NaN where
        the samples of a unit differ, and is_control false unless all are controls.
    """
    if level not in LEVELS:
        raise PredictionsError(f"level {level!r} is unknown; use one of {LEVELS}.")
    units = (
        obs.index.astype(str) if level == "sample" else obs["group_id" if level == "group" else "compound"]
    )
    grouped = obs[list(_UNIT_COLUMNS)].groupby(np.asarray(units, dtype=object), sort=True)
    same = grouped.nunique(dropna=False) == 1
    described = grouped.first()
    for column in ("compound", "dose_level", "study", "batch"):
        described[column] = described[column].astype(object).fillna("").astype(str).where(same[column], "")
    described["time_h"] = described["time_h"].astype(float).where(same["time_h"])
    described["is_control"] = grouped["is_control"].all()
    return described.rename_axis("unit_id")


def of_units(
    units: pd.DataFrame,
    *,
    task: str,
    family: FamilyName,
    headline: str | None = None,
    level: str,
    label: pd.Series | np.ndarray,
    score: pd.Series | np.ndarray,
    part: str,
    fold: int,
    seed: int,
    optional: Mapping[str, pd.Series | np.ndarray] | None = None,
) -> pd.DataFrame:
    """The predictions of units for one task and part.

    Args:
        units: [n] rows of ``describe_units``; a Series among the other arguments is aligned by unit_id, an
            array is taken in the order of ``units``.
        family: what is measured, one of ``families.FAMILIES``.
        headline: group that the task is averaged into; None for a task that stands alone.
        label, score: [n]; see ``validate``, which is of all tasks together.
        optional: column of ``OPTIONAL_DTYPES`` -> [n].
    """

    def aligned(values: pd.Series | np.ndarray) -> np.ndarray:
        if isinstance(values, pd.Series):
            values = values.reindex(units.index).to_numpy()
        return np.asarray(values)

    table = units.loc[:, list(_UNIT_COLUMNS)].reset_index(names="unit_id")
    table = table.assign(
        task=task, family=family, headline=headline or task, level=level, part=part, fold=fold, seed=seed
    )
    table = table.assign(label=aligned(label).astype(float), score=aligned(score).astype(float))
    for column, values in (optional or {}).items():
        table[column] = aligned(values)
    return table


def write(table: pd.DataFrame, path: Path) -> None:
    """Validate and write a table as parquet, at once or not at all (a temporary file, then a rename)."""
    write_parquet(validate(table, str(path)), Path(path))


def read(path: Path) -> pd.DataFrame:
    """Read and validate a table.

    Raises:
        PredictionsError: no such file, not parquet, or a table that breaks the contract.
    """
    path = Path(path)
    if not path.is_file():
        raise PredictionsError(f"{path}: no predictions here; let the run end, or name its folder.")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise PredictionsError(
            f"{path}: not a readable parquet file ({error}); run the evaluation again."
        ) from error
    return validate(table, str(path))


def average_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Mean score over the seeds of each unit, part and fold.

    Returns:
        A table like the input with one row per (task, unit, part, fold); ``seed`` is the seed where there is
        one, else ``AVERAGED_SEEDS``; extra int column ``n_seeds``.

    Raises:
        PredictionsError: the label of a unit differs between seeds.
    """
    keys = ["task", "unit_id", "part", "fold"]
    grouped = table.groupby(keys, sort=True)
    differing = grouped["label"].nunique(dropna=False) > 1
    if differing.any():
        task, unit, part, fold = differing[differing].index[0]
        raise PredictionsError(
            f"column 'label' of unit {unit!r}, task {task!r}, {part} part of fold {fold} differs between "
            f"seeds: "
            "these runs are not of one study and set of labels."
        )
    averaged = grouped.first().assign(score=grouped["score"].mean(), n_seeds=grouped["seed"].nunique())
    averaged["seed"] = averaged["seed"].where(averaged["n_seeds"] == 1, AVERAGED_SEEDS)
    if "imputed" in table.columns:
        averaged["imputed"] = grouped["imputed"].any()
    if "brier_term" in table.columns:
        averaged["brier_term"] = grouped["brier_term"].mean()
    extra = [c for c in OPTIONAL_DTYPES if c in table.columns]
    return averaged.reset_index()[[*COLUMNS, *extra, "n_seeds"]]


def pool(tables: Sequence[pd.DataFrame], part: str = "test") -> pd.DataFrame:
    """Out-of-fold predictions of one method: the folds end to end, the scores averaged over seeds.

    Args:
        tables: predictions of runs of one experiment, one or several (fold, seed) each.
        part: the part to keep.

    Returns:
        As ``average_seeds``, one row per (task, unit).

    Raises:
        PredictionsError: a (fold, seed) twice, a test unit in two folds of a seed (or of different seeds),
            labels that differ between seeds.
    """
    if not tables:
        raise PredictionsError("nothing to pool: no predictions tables were given.")
    flagged = any("imputed" in t.columns for t in tables)
    checked = [validate(t.assign(imputed=t.get("imputed", False)) if flagged else t) for t in tables]
    joined = validate(pd.concat(checked, ignore_index=True), "pooled predictions")
    kept = joined[joined["part"] == part]
    folds = kept.groupby(["task", "unit_id"])["fold"].nunique()
    if part == "test" and (folds > 1).any():
        task, unit = folds[folds > 1].index[0]
        where = sorted(kept.loc[(kept["task"] == task) & (kept["unit_id"] == unit), "fold"].unique().tolist())
        raise PredictionsError(
            f"unit {unit!r} of task {task!r} is a test unit in folds {where} ({int((folds > 1).sum())} such "
            f"units): "
            "out-of-fold pooling needs each unit once; pool runs of one split only."
        )
    return average_seeds(kept)
