"""The sample table: what it must say, and the columns of the contract that are filled in for the user.

Only sample_id, compound and dose must be there; every column that is filled in is audited with the rule that filled it.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.doubts import alike
from toxfusion.study.importers.tables import STAGE, ImportTableError
from toxfusion.study.number_columns import numbers, typed
from toxfusion.study.rules import CONTRACT_COLUMNS, check_samples
from toxfusion.study.tables import identified, read_table
from toxfusion.study.vocabulary import DOSE_LEVELS

LEAST_LIKENESS = 0.65
"""Of two names of columns (difflib), from which on one may be the other misspelt: controls and control_group."""
DOSE_ADVICE = "write 0 for a vehicle control, and mg/kg as a plain number for a treated animal"
FLAG_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0", "wahr", "ja", "vrai", "oui"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0", "falsch", "nein", "faux", "non"), False),
}
LABEL_ADVICE = "write 1 or 0, and leave it empty where it is not known"
EVENT_ADVICE = (
    "write 1 where the event happened, 0 where the sample was censored, nothing where it is not known"
)
#: names of the treated doses of a compound, in rising order, by how many there are
LEVELS = {1: ("high",), 2: ("low", "high"), 3: ("low", "middle", "high")}


def read_samples(path: str) -> pd.DataFrame:
    """A sample table as text, indexed by sample_id; columns of one's own are typed.

    Raises:
        TableError: it lacks sample_id, compound or dose, a compound is missing, or an id is there twice.
    """
    table = read_table(path, required=("sample_id", "compound", "dose"))
    without = table[table["compound"].isna()]
    if len(without):
        raise ImportTableError(
            f"{path}, column 'compound', row {without.index[0]}: is missing at sample "
            f"{without['sample_id'].iloc[0]!r}; "
            "name the compound, for a vehicle control the one that it belongs to"
        )
    table = identified(table, "sample_id", path)
    free = [c for c in table.columns if c not in CONTRACT_COLUMNS]
    table[free] = table[free].apply(typed)
    return table.fillna(
        dict.fromkeys([c for c in ("batch", "control_group", "dose_level") if c in table], "")
    )


def complete_samples(table: pd.DataFrame, path: Path | str, audit: Audit) -> pd.DataFrame:
    """Fill in the columns of the contract that a sample table leaves out, each audited.

    is_control and dose_level, or its empty cells, from the dose (0 = control; the treated doses of a compound, rising,
    are low, middle, high); study "study"; animal_id the sample; group_id study, compound, dose and time;
    control_group study and time where the study has controls of that time; time_h, dili, injury unknown; batch empty.

    Raises:
        ImportTableError: a compound has more than three treated doses and dose_level is not given, or two spellings.
        StudyError: the samples break a rule of the contract.
    """
    obs = table.copy()
    _refuse_spellings(obs["compound"], path)
    obs["dose"] = numbers(obs["dose"], path, DOSE_ADVICE, negative=False)
    if "time_h" in obs.columns:
        obs["time_h"] = numbers(obs["time_h"], path, "write hours as a plain number", negative=False)
    _check_labels(obs, path)
    for column in ("time_h", "dili", "injury"):
        _fill(obs, column, np.nan, "unknown", audit)
    _fill(obs, "study", "study", "all one study", audit)
    _fill(obs, "batch", "", "empty", audit)
    _fill(obs, "animal_id", obs.index, "each sample its own animal", audit)
    if "is_control" in obs.columns:
        obs["is_control"] = _flags(obs["is_control"], path)
    _refuse_missing_dose(obs, path)
    if "dose_level" in obs.columns:
        obs["dose_level"] = _dose_levels(obs["dose_level"], path)
        control = (obs["dose_level"] == "control") | ((obs["dose_level"] == "") & (obs["dose"] == 0))
        _fill(obs, "is_control", control, "dose_level is control, or empty and the dose 0", audit)
        _fill_empty_levels(obs, path, audit)
    _fill(obs, "is_control", obs["dose"] == 0, "dose is 0", audit)
    if "dose_level" not in obs.columns:
        _fill(obs, "dose_level", _levels(obs, path), "rank of the dose in its compound", audit)
    time = obs["time_h"].map(lambda t: "" if np.isnan(t) else f"_{t:g}h")
    dose = obs["dose"].map("_{:g}mg".format).where(obs["dose"].notna(), "_" + obs["dose_level"])
    group = obs["study"] + "_" + obs["compound"] + dose + time
    _fill(obs, "group_id", group, "study, compound, dose and time", audit)
    at_time = obs["study"] + time
    has_controls = at_time.isin(set(at_time[obs["is_control"]]))
    _fill(obs, "control_group", at_time.where(has_controls, ""), "controls of the study and time", audit)
    check_samples(obs, str(path))
    return obs


def _check_labels(obs: pd.DataFrame, path: Path | str) -> None:
    """Read labels and survival of the table as numbers, in place; names that it gives must be there in every row."""
    for column in ("study", "animal_id", "group_id"):
        if column in obs.columns and obs[column].isna().any():
            raise ImportTableError(
                f"{path}, column {column!r}, sample {obs.index[obs[column].isna()][0]!r}: is missing; fill it in for "
                "every sample, or leave the column out"
            )
    for column, advice in (("dili", LABEL_ADVICE), ("injury", LABEL_ADVICE), ("event", EVENT_ADVICE)):
        if column in obs.columns:
            written, obs[column] = obs[column], numbers(obs[column], path, advice)
            strange = obs.index[obs[column].notna() & ~obs[column].isin([0.0, 1.0])]
            if len(strange):
                raise ImportTableError(
                    f"{path}, column {column!r}, value {str(written[strange[0]])!r}: of sample {strange[0]!r} is "
                    f"neither 0 nor 1; {advice}"
                )
    if "survival_time" in obs.columns:
        advice = "write a time above 0, or leave it empty where it is not known"
        obs["survival_time"] = numbers(obs["survival_time"], path, advice, negative=False)
        if (zero := obs.index[obs["survival_time"] == 0]).size:
            raise ImportTableError(
                f"{path}, column 'survival_time', value 0: of sample {zero[0]!r}; {advice}"
            )


def _dose_levels(column: pd.Series, path: Path | str) -> pd.Series:
    """Dose levels in the words of the contract, letter case aside."""
    levels = column.str.casefold()
    strange = levels.index[~levels.isin([*DOSE_LEVELS, ""])]
    if len(strange):
        raise ImportTableError(
            f"{path}, column 'dose_level', value {column[strange[0]]!r}: of sample {strange[0]!r} is none of "
            f"{', '.join(DOSE_LEVELS)}; write one of them, or leave it empty where there is no dose"
        )
    return levels


def _refuse_spellings(compounds: pd.Series, path: Path | str) -> None:
    """Two spellings of a compound would be two compounds, and a split could part them."""
    for name, known in alike(map(str, compounds)):
        raise ImportTableError(
            f"{path}, column 'compound', value {name!r}: of sample {compounds.index[compounds == name][0]!r} differs "
            f"from {known!r} of sample {compounds.index[compounds == known][0]!r} in letter case or blanks alone; "
            "write one of them for both"
        )


def _refuse_missing_dose(obs: pd.DataFrame, path: Path | str) -> None:
    """A dose may be missing where dose_level says which it is, or is_control that there is none."""
    told = pd.Series(False, index=obs.index)
    if "dose_level" in obs.columns:
        told |= obs["dose_level"] != ""
    if "is_control" in obs.columns:
        told |= obs["is_control"] | ("dose_level" in obs.columns)
    missing = obs.index[obs["dose"].isna() & ~told]
    if len(missing):
        shown = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise ImportTableError(
            f"{path}, column 'dose', sample {missing[0]!r}: is missing ({len(missing)} samples: {shown}); "
            f"{DOSE_ADVICE}; a dose that is not known needs its dose_level (control, low, middle, high)"
        )


def _fill(
    obs: pd.DataFrame, column: str, value: str | float | pd.Series | pd.Index, rule: str, audit: Audit
) -> None:
    """Fill in a column that is not there; the audit has the rule, and another column whose name comes near."""
    if column in obs.columns:
        return
    others = {str(name).casefold(): str(name) for name in obs.columns if name not in CONTRACT_COLUMNS}
    near = get_close_matches(column, others, n=1, cutoff=LEAST_LIKENESS)
    meant = f", unless {others[near[0]]!r} is meant" if near else ""
    obs[column] = value
    audit.change(STAGE, "column", column, f"not in the sample table{meant}: {rule}")


def _fill_empty_levels(obs: pd.DataFrame, path: Path | str, audit: Audit) -> None:
    """Fill in the empty cells of a dose_level that is there, where the dose is known."""
    empty = (obs["dose_level"] == "") & (obs["is_control"] | obs["dose"].notna())
    if not empty.any():
        return
    dosed = obs["is_control"] | obs["dose"].notna()
    levels = _levels(obs[dosed & obs["compound"].isin(obs.loc[empty, "compound"])], path)
    written = obs["dose_level"].reindex(levels.index)
    odd = levels.index[(written != "") & (written != levels)]
    if len(odd):
        raise ImportTableError(
            f"{path}, column 'dose_level', value {written[odd[0]]!r}: at sample {odd[0]!r} is not the rank of its "
            f"dose ({levels[odd[0]]}), and other samples of compound {obs.loc[odd[0], 'compound']!r} have none; "
            "write control, low, middle or high at all of them"
        )
    obs.loc[empty, "dose_level"] = levels[empty[empty].index]
    audit.change(
        STAGE,
        "column",
        "dose_level",
        f"empty in {int(empty.sum())} samples: control, or rank of the dose in its compound",
    )


def _flags(column: pd.Series, path: Path | str) -> pd.Series:
    words = column.map(lambda cell: str(cell).strip().casefold())
    bad = words.index[~words.isin(FLAG_WORDS)]
    if len(bad):
        value = column[bad[0]]
        what = "is missing" if value is None else f"value {str(value)!r}: is no flag"
        raise ImportTableError(
            f"{path}, column {column.name!r}, sample {bad[0]!r}: {what}; write true or false"
        )
    return words.map(FLAG_WORDS).astype(bool)


def _levels(obs: pd.DataFrame, path: Path | str) -> pd.Series:
    level = pd.Series("control", index=obs.index)
    for compound, treated in obs[~obs["is_control"]].groupby("compound"):
        doses = sorted(set(treated["dose"]))
        if len(doses) not in LEVELS:
            raise ImportTableError(
                f"{path}, column 'dose', value {doses}: compound {compound!r} has {len(doses)} doses; "
                "add a column dose_level (control, low, middle, high)"
            )
        level[treated.index] = treated["dose"].map(dict(zip(doses, LEVELS[len(doses)], strict=True)))
    return level
