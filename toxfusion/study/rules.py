"""The rules of the study contract: what each table must hold, and the error that says what it does not.

Beyond docs/reference/study_folder.md: ``dose`` and ``time_h`` may be NaN, and ``dose_level``, ``batch`` and
``control_group`` may be the empty string, where a study has no such thing (spatial sections, for example).
Other columns of obs are kept as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from toxfusion.study.vocabulary import DOSE_LEVELS, GRADES

if TYPE_CHECKING:
    from toxfusion.study.audit import Audit

EXPRESSION_FILE = "expression.h5ad"
SLIDES_FILE = "slides.parquet"
AUDIT_FILE = "audit.json"

_FILLED_TEXT = ("animal_id", "compound", "study", "group_id")
_OPEN_TEXT = ("dose_level", "batch", "control_group")
_NUMBERS = ("dose", "time_h")
_LABELS = ("dili", "injury")
#: Columns of obs that the contract names, or that a task reads; all others are a study's own.
CONTRACT_COLUMNS = (
    *_FILLED_TEXT, *_OPEN_TEXT, *_NUMBERS, *_LABELS, "is_control", "survival_time", "event", "subtype",
)  # fmt: skip
#: names that HDF5 or anndata keep for themselves
_RESERVED = frozenset(("", ".", "..", "_index", "__categories"))
_REGION = ("x", "y", "width", "height")
SLIDE_COLUMNS = ("sample_id", "path", "mpp_override", *_REGION)


class StudyError(ValueError):
    """A study breaks its contract; the message names file, column and value, and what to do."""


def fault(file: str, column: str, value: object, problem: str, remedy: str) -> StudyError:
    shown = value.item() if isinstance(value, np.generic) else value
    return StudyError(f"{file}, column {column!r}, value {shown!r}: {problem}. {remedy}.")


class StudyTables(Protocol):
    """What the rules read of a study; see ``toxfusion.study.study.Study``."""

    @property
    def obs(self) -> pd.DataFrame: ...
    @property
    def var(self) -> pd.DataFrame: ...
    @property
    def expression(self) -> np.ndarray: ...
    @property
    def findings(self) -> pd.DataFrame: ...
    @property
    def spontaneous(self) -> pd.DataFrame | None: ...
    @property
    def chemistry(self) -> pd.DataFrame | None: ...
    @property
    def slides(self) -> pd.DataFrame: ...


def check_study(study: StudyTables) -> None:
    """Check every rule of the contract; Study.open and write_study both end here.

    Raises:
        StudyError: the first rule broken.
    """
    check_samples(study.obs)
    _check_expression(study)
    _check_findings(study)
    _check_slides(study)


def indexed(table: pd.DataFrame, key: str, file: str) -> pd.DataFrame:
    """A copy of ``table`` with text index ``key``; duplicates are an error."""
    table = table.set_index(key) if key in table.columns else table.copy()
    if table.index.isna().any():
        raise fault(file, key, None, "an identifier is missing", "Give every row a name")
    table.index = pd.Index([str(v) for v in table.index], dtype=object, name=key)
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise fault(
            file,
            key,
            twice[0],
            f"appears more than once ({len(twice)} repeats)",
            "Give every row its own name",
        )
    return table


def aligned(table: pd.DataFrame, index: pd.Index, what: str) -> pd.DataFrame:
    table = table.set_index("sample_id") if "sample_id" in table.columns else table.copy()
    table.index = pd.Index([str(v) for v in table.index], dtype=object, name="sample_id")
    if len(table) != len(index) or set(table.index) != set(index):
        odd = sorted(set(table.index) ^ set(index))[:1] or table.index[table.index.duplicated()].tolist()[:1]
        raise fault(
            what, "sample_id", odd[0], "its rows are not those of obs", "Give one row to every sample"
        )
    return table.loc[index]


def _column(table: pd.DataFrame, column: str, file: str) -> pd.Series:
    if column not in table.columns:
        raise fault(file, column, None, f"the column is missing; there are {list(table.columns)}", "Add it")
    return table[column]


def _texts(table: pd.DataFrame, column: str, file: str) -> pd.Series:
    values = _column(table, column, file)
    if values.isna().any():
        raise fault(file, column, None, f"is missing at {values.index[values.isna()][0]!r}", "Fill it in")
    return values.astype(object).map(str)


def _floats(table: pd.DataFrame, column: str, file: str) -> pd.Series:
    values = _column(table, column, file).astype(object)
    numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
    bad = numbers.isna() & values.notna()
    if bad.any() or np.isinf(numbers).any():
        bad |= np.isinf(numbers)
        raise fault(
            file,
            column,
            values[bad].iloc[0],
            f"is no finite number at {values.index[bad][0]!r}",
            "Correct it",
        )
    return numbers


def survival_times(obs: pd.DataFrame, column: str) -> pd.Series:
    """Times to event or censoring, float64 [n], above 0 in the study's own unit; NaN = not known.

    Raises:
        StudyError: the column is missing, or a value is no number above 0.
    """
    times = _floats(obs, column, EXPRESSION_FILE)
    bad = times[times <= 0]
    if len(bad):
        raise fault(
            EXPRESSION_FILE,
            column,
            bad.iloc[0],
            f"time of sample {bad.index[0]!r} is not above 0",
            "Correct it, or use NaN where it is not known",
        )
    return times


def events(obs: pd.DataFrame, column: str) -> pd.Series:
    """Whether the event happened, float64 [n]: 1, 0 = censored, NaN = not known.

    Raises:
        StudyError: the column is missing, or a value is another one.
    """
    flags = _floats(obs, column, EXPRESSION_FILE)
    bad = flags[flags.notna() & ~flags.isin([0.0, 1.0])]
    if len(bad):
        raise fault(
            EXPRESSION_FILE,
            column,
            bad.iloc[0],
            f"at sample {bad.index[0]!r} is not 0, 1 or NaN",
            "Write 1 where the event happened, 0 where the sample was censored",
        )
    return flags


def classes(obs: pd.DataFrame, column: str) -> pd.Series:
    """Names of exclusive classes, str [n]; "" = no class.

    Raises:
        StudyError: the column is missing, or a value is not text.
    """
    values = _column(obs, column, EXPRESSION_FILE).astype(object)
    values = values.where(values.notna(), "")
    for sample, value in values.items():
        if not isinstance(value, str):
            raise fault(
                EXPRESSION_FILE,
                column,
                value,
                f"class of sample {sample!r} is not text",
                "Name the classes, and leave it empty where there is none",
            )
    return values


#: Columns of obs that a study may have, and what reads them.
_OUTCOMES = {"survival_time": survival_times, "event": events, "subtype": classes}


def obs_table(obs: pd.DataFrame) -> pd.DataFrame:
    for column in (*_FILLED_TEXT, *_OPEN_TEXT):
        obs[column] = _texts(obs, column, EXPRESSION_FILE)
    for column in (*_NUMBERS, *_LABELS):
        obs[column] = _floats(obs, column, EXPRESSION_FILE)
    flags = _column(obs, "is_control", EXPRESSION_FILE)
    if not all(isinstance(v, bool | np.bool_) for v in flags):
        bad = next(v for v in flags if not isinstance(v, bool | np.bool_))
        raise fault(EXPRESSION_FILE, "is_control", bad, "is neither True nor False", "Store booleans")
    obs["is_control"] = flags.astype(bool)
    for column, read in _OUTCOMES.items():
        if column in obs.columns:
            obs[column] = read(obs, column)
    categorical = obs.select_dtypes("category").columns
    return obs.astype(dict.fromkeys(categorical, object))


def storable(obs: pd.DataFrame, audit: Audit) -> pd.DataFrame:
    """The samples with columns that HDF5 can hold: a name without '/', and values of one kind.

    A study's own columns are what a table happened to have: dates and mixtures of numbers and words become text, a name
    that the file reserves gets another one. Each such change is audited.

    Raises:
        StudyError: two columns would have one name.
    """
    out = with_storable_names(obs, EXPRESSION_FILE, audit)
    for name in out.columns:
        values = out[name]
        kept = _storable_values(values)
        if kept is not values:
            audit.change("prepare", "column", str(name), "values of several kinds, or dates: stored as text")
            out[name] = kept
    return out


def with_storable_names(table: pd.DataFrame, file: str, audit: Audit) -> pd.DataFrame:
    """The table under column names that HDF5 can hold: "ALT(IU/L)" is stored as "ALT(IU_L)", and audited.

    Raises:
        StudyError: two columns would have one name.
    """
    named: dict[str, object] = {}
    for column in table.columns:
        name = _storable_name(str(column))
        if name in named:
            raise fault(
                file, str(column), name, f"is stored under the same name as {named[name]!r}",
                "Rename one of the two columns",
            )  # fmt: skip
        named[name] = column
        if name != column:
            audit.change("prepare", "column", str(column), f"stored as {name!r}: the file reserves its name")
    return table.set_axis(list(named), axis=1)


def _storable_name(name: str) -> str:
    plain = name.replace("/", "_").replace("\0", "").strip()
    return f"column {plain}".strip() if plain in _RESERVED else plain


def _storable_values(column: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return column
    missing = column.isna().to_numpy()
    if all(isinstance(value, str) for value in column[~missing]):
        return column
    texts = [None if gone else str(value) for value, gone in zip(column, missing, strict=True)]
    return pd.Series(texts, index=column.index, name=column.name, dtype=object)


def var_table(var: pd.DataFrame) -> pd.DataFrame:
    for column in ("symbol", "human_ortholog"):
        if column in var.columns or column == "symbol":
            values = _column(var, column, EXPRESSION_FILE).astype(object)
            var[column] = values.where(values.notna(), "").map(str)
    return var


def slide_table(slides: pd.DataFrame) -> pd.DataFrame:
    for column in ("sample_id", "path"):
        slides[column] = _texts(slides, column, SLIDES_FILE)
    for column in ("mpp_override", *_REGION):
        slides[column] = _floats(slides, column, SLIDES_FILE)
    return slides


def check_samples(obs: pd.DataFrame, file: str = EXPRESSION_FILE) -> None:
    """Check the rules of the sample table: texts, doses, controls and labels.

    Args:
        obs: indexed by sample_id, with every column that the contract asks for.
        file: the table that an error names; an importer gives the user's own.

    Raises:
        StudyError: the first rule broken.
    """
    if obs.empty:
        raise StudyError(f"{file}: the study has no sample; look into {AUDIT_FILE} for what was dropped.")
    _check_filled(obs, file)
    _check_controls(obs, file)
    _check_labels(obs, file)


def _check_filled(obs: pd.DataFrame, file: str) -> None:
    for column in _FILLED_TEXT:
        empty = obs.index[obs[column].str.strip() == ""]
        if len(empty):
            raise fault(file, column, "", f"is empty at sample {empty[0]!r}", "Fill it in")
    for column in _NUMBERS:
        low = obs[obs[column] < 0]
        if len(low):
            value = low[column].iloc[0]
            raise fault(file, column, value, f"is negative at sample {low.index[0]!r}", "Correct it")


def _check_controls(obs: pd.DataFrame, file: str) -> None:
    unknown = obs[~obs["dose_level"].isin([*DOSE_LEVELS, ""])]
    if len(unknown):
        raise fault(
            file,
            "dose_level",
            unknown["dose_level"].iloc[0],
            f"at sample {unknown.index[0]!r} is none of {DOSE_LEVELS}",
            "Map the study's own words to these, or to '' where there is no dose",
        )
    differs = obs[obs["is_control"] != (obs["dose_level"] == "control")]
    if len(differs):
        raise fault(
            file,
            "is_control",
            bool(differs["is_control"].iloc[0]),
            f"contradicts dose_level {differs['dose_level'].iloc[0]!r} at sample {differs.index[0]!r}",
            "A vehicle control has both, no other sample has either",
        )
    dosed = obs[obs["is_control"] & (obs["dose"] > 0)]
    if len(dosed):
        value, sample = dosed["dose"].iloc[0], dosed.index[0]
        raise fault(file, "dose", value, f"control sample {sample!r} has a dose", "Set it to 0")
    undosed = obs[~obs["is_control"] & (obs["dose"] == 0)]
    if len(undosed):
        sample = undosed.index[0]
        raise fault(file, "dose", 0.0, f"treated sample {sample!r} has no dose", "Flag it as a control")


def _check_labels(obs: pd.DataFrame, file: str) -> None:
    for column in _LABELS:
        bad = obs[obs[column].notna() & ~obs[column].isin([0.0, 1.0])]
        if len(bad):
            value, sample = bad[column].iloc[0], bad.index[0]
            raise fault(file, column, value, f"at sample {sample!r} is not 0, 1 or NaN", "Correct it")
    # A control may carry the label of its compound or none: only a different label is a contradiction.
    labelled = obs[~obs["is_control"] | obs["dili"].notna()]
    _check_constant(labelled, "compound", "dili", file)
    _check_constant(obs, "group_id", "injury", file)
    _check_constant(obs, "group_id", "compound", file)
    _check_constant(obs, "group_id", "is_control", file)


def _check_constant(obs: pd.DataFrame, by: str, column: str, file: str) -> None:
    kinds = obs.groupby(by, sort=False)[column].nunique(dropna=False)
    mixed = kinds.index[kinds > 1]
    if len(mixed):
        values = obs.loc[obs[by] == mixed[0], column].unique().tolist()
        raise fault(
            file,
            column,
            values,
            f"is not the same throughout {by} {mixed[0]!r}",
            f"Give each {by} one {column}",
        )


def _check_expression(study: StudyTables) -> None:
    x = study.expression
    if x.shape != (len(study.obs), len(study.var)):
        raise fault(
            EXPRESSION_FILE,
            "X",
            x.shape,
            f"is not {len(study.obs)} samples x {len(study.var)} genes",
            "Store one row a sample",
        )
    infinite = np.argwhere(np.isinf(x))
    if len(infinite):
        sample, gene = infinite[0]
        raise fault(
            EXPRESSION_FILE,
            "X",
            float(x[sample, gene]),
            f"sample {study.obs.index[sample]!r}, gene {study.var.index[gene]!r} is infinite",
            "Use log2(value + 1), or drop the sample",
        )
    # A gene that the table of a batch lacks is NaN in all of its profiles; other gaps are holes in single profiles.
    missing = np.isnan(x)
    profiled = ~missing.all(axis=1)
    for batch in np.unique(study.obs["batch"].to_numpy(str)[missing.any(axis=1) & profiled]):
        of_batch = np.flatnonzero(profiled & (study.obs["batch"] == batch).to_numpy())
        missing[np.ix_(of_batch, np.flatnonzero(missing[of_batch].all(axis=0)))] = False
    absent = missing.sum(axis=1)
    partial = np.flatnonzero((absent > 0) & profiled)
    if len(partial):
        sample = partial[0]
        gene = int(np.flatnonzero(missing[sample])[0])
        raise fault(
            EXPRESSION_FILE,
            "X",
            float("nan"),
            f"sample {study.obs.index[sample]!r} lacks {absent[sample]} of {x.shape[1]} genes, "
            f"{study.var.index[gene]!r} first",
            "Impute them, drop these genes, or make the whole row NaN (no profile); only a gene that every profile of "
            "a batch lacks may be missing",
        )


def _check_findings(study: StudyTables) -> None:
    for what, table in (
        ("findings", study.findings),
        ("spontaneous", study.spontaneous),
        ("chemistry", study.chemistry),
    ):
        if table is None:
            continue
        file = f"{EXPRESSION_FILE} obsm[{what!r}]"
        for term in table.columns:
            if not isinstance(term, str) or _storable_name(term) != term:
                raise fault(file, str(term), term, "is no usable column name", "Use text without '/'")
            if what != "spontaneous":
                _floats(table, term, file)
    findings = study.findings
    for term in findings.columns:
        bad = findings[findings[term].notna() & ~findings[term].isin(GRADES)]
        if len(bad):
            value, sample = bad[term].iloc[0], bad.index[0]
            raise fault(
                f"{EXPRESSION_FILE} obsm['findings']",
                term,
                value,
                f"grade of sample {sample!r} is none of {GRADES}",
                "Map the grades to 0 (absent) .. 4 (severe), NaN where not examined",
            )
    if study.spontaneous is not None:
        if list(study.spontaneous.columns) != list(findings.columns):
            odd = sorted(set(study.spontaneous.columns) ^ set(findings.columns))
            raise fault(
                f"{EXPRESSION_FILE} obsm['spontaneous']",
                str(odd),
                odd,
                "its columns are not those of findings",
                "Align them",
            )
        for term in study.spontaneous.columns:
            if study.spontaneous[term].dtype != bool:
                dtype = str(study.spontaneous[term].dtype)
                raise fault(
                    f"{EXPRESSION_FILE} obsm['spontaneous']", term, dtype, "is not boolean", "Store booleans"
                )


def _check_slides(study: StudyTables) -> None:
    slides = study.slides
    orphans = slides[~slides["sample_id"].isin(study.obs.index)]
    if len(orphans):
        raise fault(
            SLIDES_FILE,
            "sample_id",
            orphans["sample_id"].iloc[0],
            f"slide {orphans.index[0]!r} belongs to no sample of the study ({len(orphans)} such rows)",
            "Add the sample, or remove the row and record it in audit.json",
        )
    nameless = slides.index[slides["path"].str.strip() == ""]
    if len(nameless):
        raise fault(
            SLIDES_FILE, "path", "", f"slide {nameless[0]!r} has no path", "Fill it in or remove the row"
        )
    for column in ("mpp_override", "width", "height"):
        bad = slides[slides[column] <= 0]
        if len(bad):
            value = bad[column].iloc[0]
            raise fault(
                SLIDES_FILE, column, value, f"slide {bad.index[0]!r}: not positive", "Correct it or use NaN"
            )
    n_filled = slides[list(_REGION)].notna().sum(axis=1)
    torn = slides.index[(n_filled > 0) & (n_filled < len(_REGION))]
    if len(torn):
        raise fault(
            SLIDES_FILE,
            "x, y, width, height",
            None,
            f"slide {torn[0]!r} has a part of a region",
            "Give all four or none",
        )
