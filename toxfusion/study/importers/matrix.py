"""A user's own tables as a study: an expression table, a sample table and, where there are any, slides and findings.

Only sample_id, compound and dose must be given; every column of the contract that is filled in for the user is
audited with the rule that filled it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.importers.counts import (
    ask_of_whole,
    looks_processed,
    refuse_no_log2,
    thousands_as_decimals,
)
from toxfusion.study.importers.genes import ROW_NUMBERS, GeneIds, normalised_ids
from toxfusion.study.importers.samples import complete_samples, read_samples
from toxfusion.study.importers.tables import STAGE, ImportTableError, log2_per, read_slide_table
from toxfusion.study.importers.tenx import h5ad_values, is_matrix_file, read_counts, sum_by_sample
from toxfusion.study.names import drop_strangers, strangers
from toxfusion.study.number_columns import numbers
from toxfusion.study.rules import CONTRACT_COLUMNS, with_storable_names
from toxfusion.study.study import Study, write_study
from toxfusion.study.tables import identified, read_table, read_values
from toxfusion.study.vocabulary import GRADES

Kind = Literal["log2", "counts"]
Orientation = Literal["auto", "genes_by_samples", "samples_by_genes"]
BOTH_SIDES = 0.5
"""From this share of its rows and of its columns on that bear a sample_id, a table may be one of samples by samples."""
GRADE_WORDS = {
    **dict.fromkeys(("absent", "none", "normal"), 0.0),
    "minimal": 1.0,
    **dict.fromkeys(("slight", "mild"), 2.0),
    "moderate": 3.0,
    **dict.fromkeys(("severe", "marked"), 4.0),
}
GRADE_ADVICE = (
    f"write one of {', '.join(map(str, GRADES))}, or {', '.join(GRADE_WORDS)}; empty where not examined"
)


def import_matrix(
    root: Path | str,
    *,
    samples: str,
    expression: str | None,
    slides: str | None = None,
    findings: str | None = None,
    chemistry: str | None = None,
    genes: str | None = None,
    gene_ids: GeneIds = GeneIds(),  # noqa: B008  frozen
    pseudobulk: str | None = None,
    kind: Kind = "log2",
    orientation: Orientation = "auto",
    species: str = "Rattus norvegicus",
    name: str = "study",
) -> Study:
    """Write a study of a user's tables; each may be CSV, TSV, their .gz or .xlsx, with any line end.

    Args:
        samples: sample_id, compound, dose (mg/kg, 0 = vehicle control), and any column of the contract; others
            are kept. See ``complete_samples`` for what is filled in.
        expression: genes x samples or samples x genes, the first column naming the rows; or .h5ad; or, with raw
            counts, a 10x folder or .h5, each barcode a sample. None: a study of slides alone, without a gene.
        slides: slide_id, sample_id, path (relative to the table), and optionally mpp_override, x, y, width,
            height.
        findings: sample_id and one column a term: 0 to 4, or minimal, slight, moderate, severe; empty = not
            examined.
        chemistry: sample_id and one column an analyte.
        genes: gene_id, symbol and optionally human_ortholog; without it a 10x file says the symbol, and else the
            gene_id is the symbol.
        gene_ids: what the ids of the table become before that.
        pseudobulk: barcode and sample_id, or a column of the .h5ad's obs: counts are summed over each sample's
            barcodes.
        kind: ``log2`` values are taken as they are; ``counts`` become log2(CPM + 1) and are kept as a layer.

    Raises:
        ImportTableError: a table lacks a column, or its names match no sample.
        StudyError: the tables break the contract.
    """
    audit = Audit()
    obs = complete_samples(read_samples(samples), samples, audit)
    symbols: dict[str, str] = {}
    named: dict[str, Any] = {}
    matrix = pd.DataFrame(index=obs.index[:0], dtype=np.float64)
    if expression is not None:
        matrix, symbols, named = _profiles(expression, obs, orientation, kind, pseudobulk, gene_ids, audit)
        if kind == "log2":
            refuse_no_log2(matrix, expression, "source=counts")
            ask_of_whole(matrix, expression, audit)
    counts = matrix.reindex(obs.index).to_numpy(np.float64) if kind == "counts" else None
    values = matrix.to_numpy(np.float64)
    log2 = log2_per(values, 1e6) if kind == "counts" else values.astype(np.float32)
    full = pd.DataFrame(log2, index=matrix.index, columns=matrix.columns).reindex(obs.index)
    for sample in obs.index.difference(matrix.index):
        audit.change(STAGE, "sample", sample, "no usable expression profile: kept without one")
    return write_study(
        root,
        obs=obs,
        var=_genes(matrix.columns, symbols, genes, audit),
        expression=full.to_numpy(np.float32),
        findings=_findings(findings, obs.index, audit),
        chemistry=_chemistry(chemistry, obs.index, audit),
        slides=read_slide_table(slides, obs.index, audit),
        counts=counts,
        provenance={
            "source": "tables",
            "kind": kind,
            "tables": [Path(p).name for p in (expression, samples, slides, findings, chemistry, genes) if p],
            "gene_ids": named,
        },
        name=name,
        species=species,
        virtual=False,
        audit=audit,
    )


def _profiles(
    path: str,
    obs: pd.DataFrame,
    orientation: Orientation,
    kind: Kind,
    pseudobulk: str | None,
    gene_ids: GeneIds,
    audit: Audit,
) -> tuple[pd.DataFrame, dict[str, str], dict[str, Any]]:
    """Samples x genes, the samples of the sample table only; symbols by gene id; how the genes were named."""
    sample_ids = obs.index
    if is_matrix_file(path) and (kind == "counts" or not path.lower().endswith(".h5ad")):
        table, symbols = _barcoded(path, sample_ids, kind, pseudobulk, audit)
    else:
        if pseudobulk is not None:
            raise ImportTableError(
                f"source.pseudobulk={pseudobulk}: sums the raw counts of a 10x folder, .h5 or .h5ad, and "
                f"{path} (source.kind={kind}) is none"
            )
        matrix = h5ad_values(path) if path.lower().endswith(".h5ad") else read_values(path)
        turned = _oriented(matrix, path, sample_ids, orientation)
        known = turned[_known(turned.index, sample_ids, path, audit)]
        table, symbols = _without_columns_of_samples(known, obs, audit), {}
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise ImportTableError(f"{path}: sample {twice[0]!r} has two profiles; keep one")
    if kind == "counts":
        _check_counts(table, path, audit)
    table, named = gene_ids.named(table, audit, path=path, counts=kind == "counts")
    return (_counted(table, audit) if kind == "counts" else table), symbols, named


def _known(names: pd.Index, sample_ids: pd.Index, path: str, audit: Audit) -> list[bool]:
    return drop_strangers(
        names.tolist(), sample_ids.tolist(), path=path, column="sample", kind="profile", of="the sample table",
        audit=audit, stage=STAGE,
    )  # fmt: skip


def _barcoded(
    path: str, sample_ids: pd.Index, kind: Kind, pseudobulk: str | None, audit: Audit
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Counts of barcodes or of their sums, those of the sample table alone made dense; symbols by gene id."""
    if kind != "counts":
        raise ImportTableError(f"{path}: holds raw counts; use source=counts")
    cells = read_counts(path, audit)
    if pseudobulk is not None:
        cells = sum_by_sample(cells, pseudobulk, path, audit)
    names = cells.obs_names.map(str)
    known = names.isin(sample_ids)
    if not known.any():
        raise ImportTableError(
            f"{path}: none of its {len(names)} profiles ({names[0]!r} ...) is a sample_id of the sample table "
            f"({sample_ids[0]!r} ...); use the same names, or give source.pseudobulk where barcodes are cells"
        )
    if strange := int((~known).sum()):
        audit.drop(
            STAGE,
            "profiles",
            Path(path).name,
            f"{strange} ({names[~known][0]} ...) are not in the sample table",
        )
    kept = cells[known]
    symbols = (
        dict(zip(normalised_ids(list(kept.var_names)), kept.var["symbol"], strict=True))
        if ("symbol" in kept.var)
        else {}
    )
    return kept.to_df().set_axis(names[known], axis=0), symbols


def _oriented(table: pd.DataFrame, path: str, sample_ids: pd.Index, orientation: Orientation) -> pd.DataFrame:
    """Turn the table so that samples are its rows."""
    rows, columns = table.index.map(str), table.columns.map(str)
    if table.index.name is not None and str(table.index.name) in sample_ids:
        raise ImportTableError(
            f"{path}, row 1, column 1, value {table.index.name!r}: stands above the names of the rows and is a "
            "sample_id; the header lacks a name: write one above the names of the rows"
        )
    in_rows, in_columns = int(rows.isin(sample_ids).sum()), int(columns.isin(sample_ids).sum())
    of_rows, of_columns = in_rows / max(1, len(rows)), in_columns / max(1, len(columns))
    if orientation == "auto" and min(of_rows, of_columns) >= BOTH_SIDES:
        raise ImportTableError(
            f"{path}: {in_rows} of its {len(rows)} rows and {in_columns} of its {len(columns)} columns bear a "
            f"sample_id ({rows[rows.isin(sample_ids)][0]!r} ...); distances or correlations of samples are no "
            "expression, and where one side is genes say so: source.orientation=genes_by_samples or samples_by_genes"
        )
    by_columns = (
        (in_columns, of_columns) > (in_rows, of_rows)
        if orientation == "auto"
        else orientation == "genes_by_samples"
    )
    if not (in_columns if by_columns else in_rows):
        near = strangers([*columns[:50], *rows[:50]], sample_ids)
        told = ", ".join(f"{name!r} comes near to {known!r}" for name, known in near.near.items() if known)
        raise ImportTableError(
            f"{path}: no sample_id of the sample table ({sample_ids[0]!r} ...) among its rows ({rows[0]!r} ...) or "
            f"columns ({columns[0]!r} ...); use the same names{told and f': {told}'}"
        )
    turned = table.T if by_columns else table
    return turned.set_axis(columns if by_columns else rows, axis=0)


def _without_columns_of_samples(table: pd.DataFrame, obs: pd.DataFrame, audit: Audit) -> pd.DataFrame:
    """The profiles without columns that the sample table has too, with the same values: age, body weight."""
    shared = [name for name in obs.select_dtypes("number").columns if name in table.columns]
    if not shared or table.index.has_duplicates or table.columns.has_duplicates:
        return table
    same = [
        name
        for name in shared
        if table[name].astype(np.float64).equals(obs.loc[table.index, name].astype(np.float64))
    ]
    for name in same:
        audit.drop(STAGE, "gene", str(name), "a column of the sample table by its name and values, no gene")
    return table.drop(columns=same)


def _check_counts(table: pd.DataFrame, path: str, audit: Audit) -> None:
    """Refuse what are no raw counts; expected counts of RSEM or salmon, which are not whole, are audited."""
    values = table.to_numpy(np.float64)
    for wrong, what in (
        (np.isnan(values), "is missing"),
        (np.isinf(values), "is not finite"),
        (values < 0, "is negative"),
    ):
        if wrong.any():
            sample, gene = np.argwhere(wrong)[0]
            raise ImportTableError(
                f"{path}, sample {table.index[sample]!r}, gene {table.columns[gene]!r}, value "
                f"{values[sample, gene]:g}: {what}, and a raw count is never negative or missing; correct it, or use "
                "source=matrix for log2 values"
            )
    if (place := thousands_as_decimals(values)) is not None:
        sample, gene = place
        value = values[sample, gene]
        raise ImportTableError(
            f"{path}, sample {table.index[sample]!r}, gene {table.columns[gene]!r}, value {value:g}: seems to be "
            f"{value * 1000:.0f} with a point for thousands; write counts without one"
        )
    kind = looks_processed(values)
    broken = values != np.round(values)
    sample, gene = np.argwhere(broken if broken.any() else values == values.max())[0]
    first = f"sample {table.index[sample]!r}, gene {table.columns[gene]!r}, value {values[sample, gene]:g}"
    if kind:
        what = "is not whole, and the" if broken.any() else "is whole, but the"
        raise ImportTableError(
            f"{path}, {first}: {what} values look like {kind}; give raw counts, or log2 values to source=matrix"
        )
    if broken.any():
        audit.change(
            STAGE,
            "counts",
            Path(path).name,
            f"{broken.sum()} values are not whole ({first}): kept as expected counts",
        )


def _counted(table: pd.DataFrame, audit: Audit) -> pd.DataFrame:
    """Raw counts without empty samples and genes."""
    total = table.sum(axis=1)
    for sample in table.index[total == 0]:
        audit.drop(STAGE, "profile", sample, "no counts at all")
    table = table[total > 0]
    empty = table.columns[(table == 0).all()]
    for gene in empty:
        audit.drop(STAGE, "gene", str(gene), "no count in any sample")
    return table.drop(columns=empty)


def _genes(gene_ids: pd.Index, symbols: dict[str, str], path: str | None, audit: Audit) -> pd.DataFrame:
    names = [symbols.get(str(g)) or g for g in gene_ids]
    var = pd.DataFrame({"symbol": names}, index=pd.Index(gene_ids, name="gene_id", dtype=object))
    if path is None:
        return var
    table = read_table(path, required=("gene_id", "symbol"))
    table = table[table["gene_id"].notna()]
    table = (
        table.assign(gene_id=normalised_ids(table["gene_id"].tolist()))
        .drop_duplicates("gene_id")
        .set_index("gene_id")
    )
    missing = gene_ids.difference(table.index)
    if len(missing) == len(gene_ids):
        raise ImportTableError(
            f"{path}, column 'gene_id': none of the {len(gene_ids)} genes of the expression is in it: "
            f"{strangers(missing, table.index).all_told()}; it has {', '.join(map(repr, table.index[:3]))}"
        )
    if len(missing):
        told = f"{len(missing)} ({missing[0]} ...) are not in it: their symbol is their id"
        audit.change(STAGE, "genes", Path(path).name, told)
    table = table.reindex(gene_ids)
    var["symbol"] = table["symbol"].where(table["symbol"].notna(), var["symbol"])
    if "human_ortholog" in table.columns:
        var["human_ortholog"] = table["human_ortholog"].fillna("")
    return var


def _rows_of(path: str, sample_ids: pd.Index, kind: str, audit: Audit) -> pd.DataFrame:
    """A table as text, one row for each of the samples; those that it lacks are rows of NaN.

    Columns of the sample table that it repeats (dose, time_h) and numbers of rows are left out, and audited.
    """
    advice = f"give one row to a sample, and one column to each {kind}"
    table = identified(read_table(path, required=("sample_id",)), "sample_id", path, advice)
    for column in map(str, table.columns):
        if column in CONTRACT_COLUMNS:
            audit.drop(
                STAGE, "column", column, f"of {Path(path).name}: is of the sample table, and no {kind}"
            )
        elif not column or ROW_NUMBERS.match(column):
            audit.drop(STAGE, "column", column, f"of {Path(path).name}: has no name, and is no {kind}")
    table = table[
        [c for c in table.columns if c and c not in CONTRACT_COLUMNS and not ROW_NUMBERS.match(str(c))]
    ]
    known = drop_strangers(
        table.index.tolist(), sample_ids.tolist(), path=path, column="sample_id", kind="row", of="the sample table",
        audit=audit, stage=STAGE, said=f"of {Path(path).name}: ",
    )  # fmt: skip
    return table[known].reindex(sample_ids)


def _chemistry(path: str | None, sample_ids: pd.Index, audit: Audit) -> pd.DataFrame | None:
    if path is None:
        return None
    table = with_storable_names(_rows_of(path, sample_ids, "analyte", audit), path, audit)
    return table.apply(
        lambda column: numbers(column, path, "write a number, or leave it empty where it was not measured")
    )


def _findings(path: str | None, sample_ids: pd.Index, audit: Audit) -> pd.DataFrame:
    """Grades 0 to 4, from numbers or words."""
    if path is None:
        return pd.DataFrame(index=sample_ids)

    def grades(column: pd.Series) -> pd.Series:
        in_words = [
            GRADE_WORDS.get(cell.casefold(), cell) if isinstance(cell, str) else cell for cell in column
        ]
        written = pd.Series(in_words, index=column.index, name=column.name, dtype=object)
        values = numbers(written, path, GRADE_ADVICE)
        strange = values.index[values.notna() & ~values.isin(GRADES)]
        if len(strange):
            raise ImportTableError(
                f"{path}, column {column.name!r}, value {column[strange[0]]!r}: is no grade, at sample {strange[0]!r}; "
                f"{GRADE_ADVICE}"
            )
        return values

    return with_storable_names(_rows_of(path, sample_ids, "finding", audit), path, audit).apply(grades)
