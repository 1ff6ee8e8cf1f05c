"""One TCGA cohort from its tables: cases of barcodes, survival, expression, and the slides that are there.

Read are the tables of SurvPath and PORPOISE: one row a slide or a case, ``_rnaseq`` columns or a table of its own. A
sample is a case, the first twelve characters of a barcode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.importers.barcodes import BARCODE, case_of, holds_barcodes
from toxfusion.study.importers.counts import refuse_no_log2
from toxfusion.study.importers.genes import GeneIds
from toxfusion.study.importers.tables import STAGE, ImportTableError, empty_slides
from toxfusion.study.names import NEAR, drop_strangers, strangers
from toxfusion.study.number_columns import numbers
from toxfusion.study.rules import CONTRACT_COLUMNS, SLIDE_COLUMNS
from toxfusion.study.tables import read_table, read_values, refuse_repeated, require_columns

Duplicates = Literal["error", "first", "mean"]
Kind = Literal["log2", "zscore"]
#: a longer time is one in days
LONGEST_MONTHS = 600.0
#: a cohort whose median is longer has its times in days, most likely; those of TCGA have a median below 60 months
DOUBTED_MONTHS = 120.0
#: ``source.slides`` for slides that the table names, whether their images are here or not
LISTED = "listed"

#: cohort -> organ, where several cohorts are of one: what is common to both must not be taken for one of them
ORGANS = {
    **dict.fromkeys(("luad", "lusc", "nsclc"), "lung"),
    **dict.fromkeys(("kirc", "kirp", "kich", "rcc"), "kidney"),
    **dict.fromkeys(("coad", "read", "coadread"), "bowel"),
    **dict.fromkeys(("gbm", "lgg", "gbmlgg"), "brain"),
    **dict.fromkeys(("ucec", "ucs"), "uterus"),
    **dict.fromkeys(("stad", "esca", "stes"), "stomach and gullet"),
    **dict.fromkeys(("lihc", "chol"), "liver"),
}
#: TCGA's words for a value that is not known; None and 0 are values.
_UNKNOWN = re.compile(r"^\[.*\]$")
_SITE = slice(5, 7)
_NORMAL = range(10, 20)
_RNASEQ = re.compile(r"^(.+)_rnaseq(\.\d+)?$")
_OTHER_OMICS = re.compile(r"^.+_(mut|cnv)(\.\d+)?$")
_IMAGE_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn")
_REPEATED = re.compile(r"^(.+)\.\d+$")
#: columns not kept: row numbers, former parts, and other endpoints, whose flag has the other sign
_NOT_KEPT = re.compile(r"^(Unnamed: \d+|train|survival_.*|censorship.*)$")


@dataclass(frozen=True)
class CohortTables:
    """Where one cohort lies.

    Attributes:
        name: of the cohort.
        cases: table with one row a slide or a case (CSV, .gz, .zip).
        rna: cases x genes, the first column naming the case; None takes the ``_rnaseq`` columns of ``cases``.
        folds: folder of its published folds, or None.
        slides: folder, searched below, of its images; "listed" for the slides that ``cases`` names, whether their
            images are here or not (for features that were made elsewhere); None for no slides.
    """

    name: str
    cases: str
    rna: str | None = None
    folds: str | None = None
    slides: str | None = None


@dataclass(frozen=True)
class TableForm:
    """How the tables of all cohorts are read.

    Attributes:
        kind: of the expression; ``zscore`` is not checked against the range of log2 values. Kept as it is either way.
        case_column, slide_column, subtype_column: of ``cases``.
        time_column, censorship_column: months, and 1 = censored, 0 = it happened; both None for no survival.
        ignore_columns: columns that are no property of the case, and may differ among its rows.
        duplicates: what becomes of several different profiles of one case: ``error`` refuses them, ``first`` takes
            that of the first row, ``mean`` the mean of the different ones; each case is audited.
        gene_ids: what the columns of the expression become.

    Raises:
        ImportTableError: ``duplicates`` is none of these.
    """

    kind: Kind
    case_column: str
    slide_column: str
    time_column: str | None
    censorship_column: str | None
    subtype_column: str
    ignore_columns: Sequence[str] | None
    duplicates: Duplicates
    gene_ids: GeneIds

    def __post_init__(self) -> None:
        if self.duplicates not in get_args(Duplicates):
            raise ImportTableError(
                f"source.duplicates={self.duplicates}: is none of {', '.join(get_args(Duplicates))}"
            )


@dataclass(frozen=True)
class Cohort:
    """One cohort as it goes into a study.

    Attributes:
        obs: of its usable cases. known: all cases of its table, usable or not.
        expression: cases with a profile x genes. genes: what became of the gene ids.
        slides: as slides.parquet, those of usable cases.
    """

    obs: pd.DataFrame
    known: pd.Index
    expression: pd.DataFrame
    genes: dict[str, Any]
    slides: pd.DataFrame


def read_cohort(tables: CohortTables, form: TableForm, audit: Audit) -> Cohort:
    """Read one cohort; what is left out is audited.

    Raises:
        ImportTableError: a table lacks a column or holds a value that it must not, rows of one case contradict each
            other, or a folder holds nothing that is looked for.
    """
    path = tables.cases
    cases = _without_columns(
        _case_rows(path, form.case_column, form.slide_column, audit), form.ignore_columns, path
    )
    images = _slides(cases, tables.slides, path, form.slide_column, audit)
    about_case = [
        c for c in cases.columns if c not in (form.case_column, form.slide_column) and not _is_omics(c)
    ]
    clinical = _one_row_a_case(cases[about_case].apply(without_unknown), path, audit)
    expression, genes = _expression(cases, clinical.index, tables, form, audit)
    known = clinical.index
    clinical = _usable(clinical, expression.index, images["sample_id"], audit)
    obs = _obs(clinical, tables.name)
    obs = obs.join(_survival(clinical, path, form.time_column, form.censorship_column, audit))
    if form.subtype_column in clinical.columns:
        obs["subtype"] = clinical[form.subtype_column].fillna("").astype(str)
    else:
        audit.change(STAGE, "column", form.subtype_column, f"not in {Path(path).name}: no subtype")
    obs = obs.join(_kept(clinical, form.subtype_column, audit))
    return Cohort(obs, known, expression, genes, images[images["sample_id"].isin(obs.index)])


# -------------------------------------------------------------------------------- cases


def without_unknown(column: pd.Series) -> pd.Series:
    """A column of text, None for TCGA's words for a value that is not known ([Not Available], [Unknown])."""
    return column.where(~column.fillna("").astype(str).str.fullmatch(_UNKNOWN), None)


def _without_normal(
    table: pd.DataFrame, barcodes: pd.Series | pd.Index, kind: str, path: str, audit: Audit
) -> pd.DataFrame:
    """Rows whose barcode is of no normal tissue (sample type 10 to 19)."""
    types = [match[1] if (match := BARCODE.match(str(b))) else None for b in barcodes]
    normal = np.array([t is not None and int(t) in _NORMAL for t in types], dtype=bool)
    for barcode in np.asarray(barcodes)[normal]:
        audit.drop(STAGE, kind, str(barcode), f"of {Path(path).name}: normal tissue of a case")
    return table[~normal]


def _case_rows(path: str, case_column: str, slide_column: str, audit: Audit) -> pd.DataFrame:
    """The table, indexed by case, several rows where it has several slides; equal slide rows collapsed."""
    cases = read_table(path, required=(case_column,), repeated=True)
    refuse_repeated([c for c in cases.columns if not _is_omics(c)], path)
    cases = cases.loc[:, [bool(c) for c in cases.columns]]
    if slide_column in cases.columns:
        cases = _without_normal(cases, cases[slide_column], "slide", path, audit)
        twice = cases.duplicated([case_column, slide_column])
        for slide in cases.loc[twice, slide_column]:
            audit.change(STAGE, "slide", str(slide), f"listed more than once in {Path(path).name}: joined")
    ids = [case_of(b, path, case_column) for b in cases[case_column]]
    return cases.set_axis(pd.Index(ids, dtype=object, name="sample_id"), axis=0)


def _without_columns(cases: pd.DataFrame, ignored: Sequence[str] | None, path: str) -> pd.DataFrame:
    """The table without the columns of source.ignore_columns.

    Raises:
        ImportTableError: it lacks one of them.
    """
    unknown = [c for c in ignored or () if c not in cases.columns]
    if unknown:
        raise ImportTableError(
            f"{path}: source.ignore_columns names {strangers(unknown, cases.columns).all_told()}, which it lacks"
        )
    return cases.drop(columns=list(ignored or ()))


def _one_row_a_case(rows: pd.DataFrame, path: str, audit: Audit) -> pd.DataFrame:
    """One row for each case, in the order of the table.

    Raises:
        ImportTableError: two rows of a case differ; file, column, case and both values are named.
    """
    first = rows[~rows.index.duplicated()]
    expected = first.loc[rows.index]
    is_value, was_value = rows.to_numpy(object), expected.to_numpy(object)
    differs = (is_value != was_value) & ~(rows.isna() & expected.isna()).to_numpy()
    for row, column in np.argwhere(differs):
        if _same_number(is_value[row, column], was_value[row, column]):
            continue
        raise ImportTableError(
            f"{path}, column {rows.columns[column]!r}, case {rows.index[row]!r}: the values "
            f"{was_value[row, column]} and {is_value[row, column]} contradict each other; correct one, or name the "
            "column in source.ignore_columns if it is no property of the case"
        )
    counts = rows.index.value_counts(sort=False)
    for case, n in counts[counts > 1].items():
        audit.change(STAGE, "case", str(case), f"{n} rows in {Path(path).name} that agree: joined")
    return first


def _same_number(value: object, other: object) -> bool:
    """Whether two texts are one number (1 and 1.0)."""
    both = pd.to_numeric(pd.Series([value, other], dtype=object), errors="coerce")
    return bool(both.notna().all() and both.iloc[0] == both.iloc[1])


def _one_profile_a_case(
    profiles: pd.DataFrame, path: str, duplicates: Duplicates, audit: Audit
) -> pd.DataFrame:
    """One profile for each case, in the order of the table.

    Args:
        profiles: float [n_rows, n_genes], indexed by case, several rows a case allowed.

    Raises:
        ImportTableError: a case has several that differ, and ``duplicates`` is ``error``.
    """
    profiles = profiles.dropna(how="all")
    new = ~(profiles.index.duplicated() & profiles.set_axis(range(profiles.shape[1]), axis=1).duplicated())
    distinct = profiles[new]
    several = distinct.index[distinct.index.duplicated()].unique()
    if not len(several):
        return distinct
    if duplicates == "error":
        case = several[0]
        values = distinct.loc[case].to_numpy(np.float64)
        column = int(np.argmax(values[0] != values[1]))
        raise ImportTableError(
            f"{path}, column {distinct.columns[column]!r}, case {case!r}: has {len(values)} profiles, with the values "
            f"{values[0, column]:g} and {values[1, column]:g}; {len(several)} cases have several: take one by "
            "source.duplicates=first, their mean by source.duplicates=mean, or correct the table"
        )
    for case in several:
        n = int((distinct.index == case).sum())
        audit.change(
            STAGE, "profile", str(case), f"{n} profiles in {Path(path).name}: the {duplicates} is taken"
        )
    if duplicates == "first":
        return distinct[~distinct.index.duplicated()]
    names = distinct.columns
    means = distinct.set_axis(range(len(names)), axis=1).groupby(level=0, sort=False).mean()
    return means.set_axis(names, axis=1)


def _usable(clinical: pd.DataFrame, profiled: pd.Index, imaged: pd.Series, audit: Audit) -> pd.DataFrame:
    """Cases with a profile or a slide; the others are dropped."""
    has_profile, has_slide = clinical.index.isin(profiled), clinical.index.isin(imaged)
    for case in clinical.index[~has_profile & has_slide]:
        audit.change(STAGE, "sample", case, "no expression profile: kept without one")
    for case in clinical.index[~has_profile & ~has_slide]:
        audit.drop(STAGE, "sample", case, "neither an expression profile nor a slide")
    return clinical[has_profile | has_slide]


def _obs(clinical: pd.DataFrame, name: str) -> pd.DataFrame:
    cases = clinical.index
    return pd.DataFrame(
        {
            "animal_id": cases,
            "compound": cases,
            "dose": np.nan,
            "dose_level": "",
            "time_h": np.nan,
            "study": [case[_SITE] for case in cases],
            "batch": name,
            "organ": ORGANS.get(name.lower(), name.lower()),
            "is_control": False,
            "control_group": "",
            "group_id": cases,
            "dili": np.nan,
            "injury": np.nan,
        },
        index=cases,
    )


def _kept(clinical: pd.DataFrame, subtype_column: str, audit: Audit) -> pd.DataFrame:
    """Other columns of the table; those that the study has, or that hold another endpoint, are left out."""
    kept = []
    for column in map(str, clinical.columns):
        if column == subtype_column:
            continue
        if _NOT_KEPT.match(column) or column in CONTRACT_COLUMNS:
            audit.drop(
                STAGE, "column", column, "survival, its flag, a former part, or a column that the study has"
            )
        else:
            kept.append(column)
    return clinical[kept]


def _survival(
    clinical: pd.DataFrame, path: str, time_column: str | None, censorship_column: str | None, audit: Audit
) -> pd.DataFrame:
    """survival_time in months and event, NaN together; nothing when both columns are None."""
    if time_column is None and censorship_column is None:
        return pd.DataFrame(index=clinical.index)
    if time_column is None or censorship_column is None:
        raise ImportTableError(
            f"source.time_column {time_column!r} and source.censorship_column {censorship_column!r}: "
            "give both or neither"
        )
    for column in (time_column, censorship_column):
        if column not in clinical.columns:
            candidates = [c for c in map(str, clinical.columns) if re.match("survival|censor", c)]
            raise ImportTableError(
                f"{path}: column {column!r} is missing; there are {candidates}: name two of them by "
                "source.time_column and source.censorship_column, or set both to null"
            )
    time, censored = numbers(clinical[time_column], path), numbers(clinical[censorship_column], path)
    odd = censored.notna() & ~censored.isin([0.0, 1.0])
    if odd.any():
        raise ImportTableError(
            f"{path}, column {censorship_column!r}, value {censored[odd].iloc[0]:g}: of case {odd.index[odd][0]!r} is "
            "no flag; write 1 where the time is censored and 0 where the event happened"
        )
    if (time > LONGEST_MONTHS).any():
        raise ImportTableError(
            f"{path}, column {time_column!r}, value {time.max():g}: of case {time.idxmax()!r} is no time in months; "
            "divide days by 30.44"
        )
    if time.median() > DOUBTED_MONTHS:
        audit.change(
            STAGE, "column", time_column,
            f"taken for months; {NEAR} days? Half of its cases have a time above {time.median():g}",
        )  # fmt: skip
    unusable = ~(time > 0) | censored.isna()
    for case in time.index[unusable]:
        why = "its flag is missing" if time[case] > 0 else "its time is missing or not positive"
        audit.drop(STAGE, "survival label", str(case), f"{why}; the case is kept without a label")
    # The one place where the published flag, 1 = censored, becomes the study's, 1 = it happened.
    return pd.DataFrame({"survival_time": time, "event": 1.0 - censored}).mask(unusable)


# -------------------------------------------------------------------------------- expression


def _is_omics(column: str) -> bool:
    return bool(_RNASEQ.match(column) or _OTHER_OMICS.match(column))


def _expression(
    table: pd.DataFrame, cases: pd.Index, tables: CohortTables, form: TableForm, audit: Audit
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Cases of the table with a profile x genes; genes named and collapsed as in the other importers, and how."""
    path, rna = tables.cases, tables.rna
    for omics in ("mut", "cnv"):
        n = sum(m[1] == omics for c in table.columns if (m := _OTHER_OMICS.match(c)))
        if n:
            audit.drop(STAGE, "columns", f"_{omics}", f"{n} columns of {Path(path).name}: not expression")
    own = [bool(_RNASEQ.match(c)) for c in table.columns]
    if rna is None:
        values, source = _own_profiles(table.loc[:, own], path), path
    else:
        if any(own):
            audit.drop(STAGE, "columns", "_rnaseq", f"{sum(own)} columns: {Path(rna).name} is read instead")
        values, source = _profiles(rna, cases, audit), rna
    values = _one_profile_a_case(values, source, form.duplicates, audit)
    if form.kind == "log2":
        refuse_no_log2(values, source, "source.kind=zscore for z-scores")
    names = set(values.columns)
    plain = [m[1] if (m := _REPEATED.match(c)) and m[1] in names else c for c in values.columns]
    return form.gene_ids.named(values.set_axis(plain, axis=1), audit, path=source, counts=False)


def _own_profiles(table: pd.DataFrame, path: str) -> pd.DataFrame:
    """Columns ``<gene>_rnaseq`` as numbers, called by their gene; one that is there twice keeps both."""
    values = [numbers(table.iloc[:, i], path).to_numpy(np.float64) for i in range(table.shape[1])]
    matched = [_RNASEQ.match(c) for c in table.columns]
    genes = [f"{m[1]}{m[2] or ''}" for m in matched if m]
    filled = np.column_stack(values) if values else np.empty((len(table), 0))
    return pd.DataFrame(filled, index=table.index, columns=pd.Index(genes, dtype=object))


def _profiles(path: str, cases: pd.Index, audit: Audit) -> pd.DataFrame:
    """A table of its own, one row or more a case that the clinical table has."""
    table = read_values(path)
    first = str(table.index.name or "first")
    if holds_barcodes(table.columns) > holds_barcodes(table.index):
        table = table.T
    table = _without_normal(table, table.index, "profile", path, audit)
    ids = pd.Index([case_of(b, path, first) for b in table.index], dtype=object, name="sample_id")
    known = drop_strangers(
        ids.tolist(), cases.tolist(), path=path, column=first, kind="profile", of="the clinical table",
        audit=audit, stage=STAGE,
    )  # fmt: skip
    return table.set_axis(ids, axis=0)[known].rename(columns=str)


# -------------------------------------------------------------------------------- slides


def _slides(
    cases: pd.DataFrame, folder: str | None, path: str, slide_column: str, audit: Audit
) -> pd.DataFrame:
    """Slides of the table whose image lies below the folder, indexed by the file name without its extension.

    With "listed", all slides of the table.
    """
    listed = (
        pd.Series(dtype=object)
        if slide_column not in cases.columns
        else cases[slide_column].dropna().astype(str)
    )
    if folder is None:
        if len(listed):
            reason = f"{listed.nunique()} slides of {Path(path).name}: source.slides names no folder"
            audit.drop(STAGE, "slides", slide_column, reason)
        return empty_slides()
    if folder == LISTED:
        require_columns(cases, (slide_column,), path)
        files = [name if Path(name).suffix.lower() in _IMAGE_SUFFIXES else f"{name}.svs" for name in listed]
        named = {Path(file).stem: (case, file) for case, file in zip(listed.index, files, strict=True)}
        return _slide_table(named)
    if not Path(folder).is_dir():
        raise ImportTableError(f"{folder}: no such folder; source.slides names the folder of the images")
    require_columns(cases, (slide_column,), path)
    images = _by_name(p for p in Path(folder).resolve().rglob("*") if p.is_file())
    images_of = {}
    for case, slide in zip(listed.index, listed, strict=True):
        image = images.get(slide) or images.get(f"{slide}.svs")
        if image is None:
            audit.drop(STAGE, "slide", slide, "no such file in the folder of slides")
        else:
            images_of[image.stem] = (case, str(image))
    if not images_of:
        raise ImportTableError(
            f"{folder}: holds none of the {len(listed)} slides of {path} ({listed.iloc[0]!r} ...); check the folder"
        )
    return _slide_table(images_of)


def _slide_table(slides: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """As slides.parquet, of slide_id -> case and path."""
    table = pd.DataFrame.from_dict(slides, orient="index", columns=["sample_id", "path"])
    return table.rename_axis("slide_id").reindex(columns=list(SLIDE_COLUMNS))


def _by_name(files: Iterable[Path]) -> dict[str, Path]:
    """File name -> file.

    Raises:
        ImportTableError: two files bear one name.
    """
    images: dict[str, Path] = {}
    for file in sorted(files):
        if images.setdefault(file.name, file) != file and file.name.startswith("TCGA-"):
            raise ImportTableError(f"{file}: a file of this name is also {images[file.name]}; keep one")
    return images
