"""TCGA cohorts as one study: their tables, pathway signatures, published folds, and further labels of cases.

Read are the fold files of SurvPath (train, val) and of CLAM and MIRROR (train, val, test). The tables of a cohort are
read by toxfusion.study.importers.tcga_cohort, further labels by toxfusion.study.importers.tcga_labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.files import replace_file
from toxfusion.study.importers.barcodes import case_of
from toxfusion.study.importers.genes import GeneIds
from toxfusion.study.importers.symbols import recover_symbols
from toxfusion.study.importers.tables import STAGE, ImportTableError
from toxfusion.study.importers.tcga_cohort import (
    LISTED,
    Cohort,
    CohortTables,
    Duplicates,
    Kind,
    TableForm,
    read_cohort,
)
from toxfusion.study.importers.tcga_labels import read_labels
from toxfusion.study.number_columns import typed
from toxfusion.study.rules import CONTRACT_COLUMNS
from toxfusion.study.study import Study, write_study
from toxfusion.study.tables import read_table

Genes = Literal["common", "all"]
ByCohort = str | Sequence[str] | Mapping[str, str]
"""A path for one cohort; of several a list, or a mapping from the name of the cohort."""
#: tables within the study folder
FOLDS_FILE = "splits/published.csv"
GENE_SETS_FOLDER = "gene_sets"

_FOLD_FILE = re.compile(r"^splits?_(\d+)\.csv$")
_PARTS = {"train": "train", "val": "valid", "test": "test"}


def import_tcga(
    root: Path | str,
    *,
    cases: ByCohort,
    rna: ByCohort | None = None,
    kind: Kind = "log2",
    genes: Genes = "common",
    signatures: str | None = None,
    labels: Sequence[str] | str | None = None,
    folds: ByCohort | None = None,
    slides: ByCohort | None = None,
    case_column: str = "case_id",
    slide_column: str = "slide_id",
    time_column: str | None = "survival_months_dss",
    censorship_column: str | None = "censorship_dss",
    subtype_column: str = "oncotree_code",
    ignore_columns: Sequence[str] | None = None,
    duplicates: Duplicates = "error",
    gene_ids: GeneIds = GeneIds(),  # noqa: B008  frozen
    name: str = "tcga",
) -> Study:
    """Write a study of one cohort or several: a case is a sample, and also its own animal, compound and group.

    ``study`` is the tissue source site of the barcode (a site that sent cases to two cohorts is one), ``batch`` the
    cohort, ``organ`` what it is of (luad and lusc: lung; a cohort of no other organ is its own); dose and time are
    NaN, nobody is a control. obs columns ``survival_time`` (months, float) and ``event``
    (1.0 = it happened, 0.0 = censored) are NaN together where there is no label; ``subtype`` is text, empty where
    unknown. Other columns of the tables are kept.

    Args:
        cases, rna, folds, slides: as of `CohortTables`; of several cohorts a list in one order, or a mapping from their
            names, which for a list come from the file names (tcga_luad_all_clean.csv.zip: luad). ``slides`` may be one
            folder for all. Folds of several cohorts go by their number.
        kind, case_column, slide_column, time_column, censorship_column, subtype_column, ignore_columns, duplicates,
            gene_ids: as of `TableForm`.
        genes: those ``common`` to all cohorts, or ``all``, NaN in the profiles of a cohort that lacks one.
        signatures: one column a gene set, its name the first row and the symbols below; written as
            ``gene_sets/<file name>.gmt`` into the study.
        labels: tables of further labels, one row a case; each of their columns becomes one of obs; see `read_labels`.
        folds: with train, val and optionally test; written as ``splits/published.csv``. Without a column test the
            published val is the test part, and the table names no validation part.
        name: of the study, and of the cohort where there is one.

    Raises:
        ImportTableError: a table lacks a column or holds a value that it must not, rows of one case contradict each
            other, a case is in two cohorts, a fold names a case that no table knows, cohorts have no gene in common,
            or a folder holds nothing that is looked for.
        StudyError: the tables break the contract.
    """
    if genes not in get_args(Genes):
        raise ImportTableError(f"source.genes={genes}: is none of {', '.join(get_args(Genes))}")
    audit = Audit()
    form = TableForm(
        kind, case_column, slide_column, time_column, censorship_column, subtype_column, ignore_columns,
        duplicates, gene_ids,
    )  # fmt: skip
    tables = _cohorts(name, cases, rna, folds, slides)
    cohorts = {of.name: read_cohort(of, form, audit) for of in tables}
    _refuse_shared(cohorts)
    obs = _obs(cohorts)
    expression = _joined(cohorts, genes, audit)
    obs, known = read_labels([labels] if isinstance(labels, str) else labels or (), obs, case_column, audit)
    parts = [_published(of.folds, cohorts[of.name].known, cohorts[of.name].obs.index, audit) for of in tables]
    sets = _signatures(signatures, expression.columns, audit)
    several = len(tables) > 1
    study = write_study(
        root,
        obs=obs,
        var=pd.DataFrame(
            {"symbol": expression.columns}, index=pd.Index(expression.columns, name="gene_id", dtype=object)
        ),
        expression=expression.reindex(obs.index).to_numpy(np.float32),
        findings=pd.DataFrame(index=obs.index),
        slides=pd.concat([cohort.slides for cohort in cohorts.values()]),
        provenance={
            "source": "tcga",
            "kind": kind,
            "tables": [Path(p).name for of in tables for p in (of.cases, of.rna, of.folds) if p]
            + [Path(p).name for p in ([signatures] if signatures else [])],
            "cohorts": {of.name: len(cohorts[of.name].obs) for of in tables},
            "labels": known,
            "gene_ids": {n: c.genes for n, c in cohorts.items()}
            if several
            else cohorts[tables[0].name].genes,
            "survival": {"time": time_column, "unit": "months", "censorship": censorship_column},
        },
        name=name,
        species="Homo sapiens",
        virtual=False,
        audit=audit,
    )
    published = [part for part in parts if part is not None]
    if published:
        replace_file(study.root / FOLDS_FILE, pd.concat(published).to_csv(index=False).encode())
    if signatures is not None:
        lines = ["\t".join((title, Path(signatures).name, *members)) for title, members in sets.items()]
        replace_file(_gmt_path(study.root, signatures), ("\n".join(lines) + "\n").encode())
    return study


# -------------------------------------------------------------------------------- cohorts


def _cohorts(
    name: str, cases: ByCohort, rna: ByCohort | None, folds: ByCohort | None, slides: ByCohort | None
) -> list[CohortTables]:
    """The tables of each cohort, in the order of ``source.cases``."""
    if isinstance(cases, str):
        cases = {name: cases}
    elif not isinstance(cases, Mapping):
        names = [cohort_name(path) for path in cases]
        twice = [n for n, count in Counter(names).items() if count > 1]
        if twice:
            raise ImportTableError(
                f"source.cases: two tables are of a cohort {twice[0]!r} by their names; name them: "
                "'source.cases={luad: a.csv, lusc: b.csv}'"
            )
        cases = dict(zip(names, cases, strict=True))
    if not cases:
        raise ImportTableError("source.cases: names no table")
    names = list(cases)
    if isinstance(slides, str) and (slides == LISTED or len(names) > 1):
        slides = dict.fromkeys(names, slides)
    beside = {
        key: _by_cohort(key, value, names)
        for key, value in (("rna", rna), ("folds", folds), ("slides", slides))
    }
    return [
        CohortTables(of, path, **{key: paths.get(of) for key, paths in beside.items()})
        for of, path in cases.items()
    ]


def cohort_name(path: str) -> str:
    """The name of a cohort from its table: tcga_luad_all_clean.csv.zip is luad."""
    return Path(path).name.split(".")[0].removeprefix("tcga_").removesuffix("_all_clean")


def _by_cohort(key: str, value: ByCohort | None, names: list[str]) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        unknown = [n for n in value if n not in names]
        if unknown:
            raise ImportTableError(
                f"source.{key}: {unknown[0]!r} is no cohort of source.cases; there are {names}"
            )
        return dict(value)
    values = [value] if isinstance(value, str) else list(value)
    if len(values) != len(names):
        raise ImportTableError(
            f"source.{key}: {len(values)} paths for {len(names)} cohorts; give one each, or a mapping from their names"
        )
    return dict(zip(names, values, strict=True))


def _refuse_shared(cohorts: Mapping[str, Cohort]) -> None:
    """Raise ImportTableError where a case is in two cohorts."""
    owner: dict[str, str] = {}
    for name, cohort in cohorts.items():
        for case in cohort.obs.index:
            if case in owner:
                raise ImportTableError(
                    f"case {case!r} is in the cohorts {owner[case]!r} and {name!r}; keep it in one of their tables"
                )
            owner[case] = name


def _obs(cohorts: Mapping[str, Cohort]) -> pd.DataFrame:
    """obs of all cohorts; what one of them has no column for is missing in its cases."""
    obs = pd.concat([cohort.obs for cohort in cohorts.values()])
    if "subtype" in obs.columns:
        obs["subtype"] = obs["subtype"].fillna("")
    kept = [column for column in obs.columns if column not in CONTRACT_COLUMNS]
    return obs.assign(**{column: typed(obs[column]) for column in kept})


def _joined(cohorts: Mapping[str, Cohort], genes: Genes, audit: Audit) -> pd.DataFrame:
    """The profiles of all cohorts, genes in the order of the first that has each."""
    tables = {name: cohort.expression for name, cohort in cohorts.items() if len(cohort.expression)}
    if not tables:
        return next(iter(cohorts.values())).expression
    columns = [table.columns for table in tables.values()]
    if genes == "all":
        chosen = pd.Index(dict.fromkeys(gene for own in columns for gene in own), dtype=object)
        for name, table in tables.items():
            if n := len(chosen.difference(table.columns)):
                audit.change(
                    STAGE, "genes", name, f"{n} of {len(chosen)} genes are not in its table: missing there"
                )
    else:
        chosen = reduce(lambda left, right: left[left.isin(right)], columns)
        for name, table in tables.items():
            if n := len(table.columns) - len(chosen):
                audit.drop(STAGE, "genes", name, f"{n} of {len(table.columns)} genes are not in every cohort")
    if not len(chosen):
        first, second = list(tables)[:2]
        raise ImportTableError(
            f"source.genes=common: the cohorts have no gene in common ({first}: {columns[0][0]!r} ..., {second}: "
            f"{columns[1][0]!r} ...); bring their genes to one kind of id, or give source.genes=all"
        )
    return pd.concat([table.reindex(columns=chosen) for table in tables.values()])


# -------------------------------------------------------------------------------- gene sets


def _signatures(path: str | None, genes: pd.Index, audit: Audit) -> dict[str, list[str]]:
    """Name -> symbols, of a table with one column a gene set."""
    if path is None:
        return {}
    # A symbol or a name may read like a missing value (NA): only an empty cell is one.
    table = read_table(path, header=False, marks=())
    known, sets = set(genes), dict[str, list[str]]()
    for position, column in enumerate(table.columns, start=1):
        title, *cells = table[column]
        if not title:
            audit.drop(STAGE, "gene set", f"column {position}", f"of {Path(path).name}: has no name")
            continue
        members = list(dict.fromkeys(recover_symbols([c for c in cells if c], audit)))
        if not members:
            audit.drop(STAGE, "gene set", title, "names no gene")
            continue
        if sets.setdefault(title, members) != members:
            raise ImportTableError(
                f"{path}, column {title!r}: is there twice with other genes; rename or join them"
            )
        absent = len([g for g in members if g not in known])
        if absent:
            audit.change(STAGE, "gene set", title, f"{absent} of {len(members)} genes are not in the study")
    if not any(g in known for members in sets.values() for g in members):
        raise ImportTableError(
            f"{path}: none of its {len(sets)} sets names a gene of the study ({genes[0]!r} ...); give symbols, one "
            "column a set"
        )
    return sets


def _gmt_path(root: Path, signatures: str) -> Path:
    return root / GENE_SETS_FOLDER / f"{Path(signatures).name.split('.')[0]}.gmt"


# -------------------------------------------------------------------------------- folds


def _published(folder: str | None, known: pd.Index, cases: pd.Index, audit: Audit) -> pd.DataFrame | None:
    """Columns sample_id, fold, part, as ``Predefined`` reads them; None without a folder."""
    if folder is None:
        return None
    place = Path(folder)
    if not place.is_dir():
        raise ImportTableError(f"{folder}: no such folder; source.folds names the folder of splits_<k>.csv")
    files = {int(m[1]): p for p in sorted(place.iterdir()) if (m := _FOLD_FILE.match(p.name))}
    if not files:
        raise ImportTableError(f"{folder}: holds no file splits_<k>.csv; name the folder of one set of folds")
    placed = []
    for fold, path in sorted(files.items()):
        parts = _parts_of(path)
        for case in sorted(case for case, n in Counter(case for case, _ in parts).items() if n > 1):
            audit.change(
                STAGE, "fold row", f"{fold} {case}",
                f"in several parts of {path.name}: a split refuses it, or repeats it with split.allow_overlap=true",
            )  # fmt: skip
        for case, part in parts:
            if case not in known:
                raise ImportTableError(
                    f"{path}, column {part!r}, value {case!r}: no such case in the clinical table; give the folds of "
                    "this cohort"
                )
            if case in cases:
                placed.append((case, fold, part))
            else:
                audit.drop(STAGE, "fold row", f"{fold} {case}", "its case was dropped")
        for case in cases.difference([case for case, _ in parts]):
            audit.drop(
                STAGE, "fold row", f"{fold} {case}", f"in no part of {path.name}: left out of that fold"
            )
    table = pd.DataFrame(placed, columns=["sample_id", "fold", "part"])
    return table.sort_values(["fold", "sample_id"], kind="stable")


def _parts_of(path: Path) -> list[tuple[str, str]]:
    """Case and part (train, valid or test), once each; where the file has no column test, its val is the test part."""
    table = read_table(path, required=("train", "val"))
    names = _PARTS if "test" in table.columns else {"train": "train", "val": "test"}
    named = {
        (case_of(barcode, path, column), part): None
        for column, part in names.items()
        for barcode in table[column].dropna()
    }
    return list(named)
