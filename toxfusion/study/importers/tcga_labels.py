"""Further labels of TCGA cases, from tables beside those of the cohorts: each column becomes one of obs.

What a column is learned as (two classes, grades, classes, a value) is said where it is predicted; see conf/task.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.importers.barcodes import case_of, holds_barcodes
from toxfusion.study.importers.tables import STAGE, ImportTableError
from toxfusion.study.importers.tcga_cohort import without_unknown
from toxfusion.study.names import drop_strangers
from toxfusion.study.number_columns import typed
from toxfusion.study.rules import CONTRACT_COLUMNS
from toxfusion.study.tables import read_table


def read_labels(
    paths: Sequence[str], obs: pd.DataFrame, case_column: str, audit: Audit
) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """obs with the columns of label tables beside it.

    A column is numbers where all of its values are, else text, "" where unknown. A word in square brackets
    ([Unknown], [Not Available]) is no value; None is a word like any other.

    Args:
        paths: tables with one row a case, its barcode in ``case_column`` or else in the first column of barcodes.
        audit: takes cases that the study lacks, and columns that it has already.

    Returns:
        The wider table, and column -> cohort (batch) -> number of cases with a value.

    Raises:
        ImportTableError: a table has no column of barcodes, or two different rows of a case.
        TableError: it cannot be read, or has no case of the study.
    """
    known: dict[str, dict[str, int]] = {}
    for path in paths:
        table = _one_row_a_case(read_table(path), case_column, path)
        there = drop_strangers(
            table.index.tolist(), obs.index.tolist(), path=path, column=str(table.index.name), kind="label row",
            of="the study", audit=audit, stage=STAGE,
        )  # fmt: skip
        for column in map(str, table.columns):
            if column in obs.columns or column in CONTRACT_COLUMNS:
                audit.drop(
                    STAGE, "column", column, f"of {Path(path).name}: the study has a column of that name"
                )
                continue
            values = typed(without_unknown(table.loc[there, column]))
            if not pd.api.types.is_numeric_dtype(values):
                values = values.reindex(obs.index).astype(object)
                obs[column] = values.where(values.notna(), "")
                has = obs[column] != ""
            else:
                obs[column] = values.astype(np.float64).reindex(obs.index)
                has = obs[column].notna()
            known[column] = {
                str(k): int(n) for k, n in obs.loc[has, "batch"].value_counts(sort=False).items()
            }
    return obs, known


def _one_row_a_case(table: pd.DataFrame, case_column: str, path: str) -> pd.DataFrame:
    """Indexed by case, without the column of barcodes; equal rows of a case joined."""
    columns = [case_column] if case_column in table.columns else list(map(str, table.columns))
    of_cases = max(columns, key=lambda column: holds_barcodes(table[column].dropna()))
    if not holds_barcodes(table[of_cases].dropna()):
        raise ImportTableError(
            f"{path}: no column holds TCGA barcodes (TCGA-XX-XXXX ...); there are {list(map(str, table.columns))[:12]}"
        )
    without = table.index[table[of_cases].isna()]
    if len(without):
        raise ImportTableError(
            f"{path}, column {of_cases!r}, row {without[0]}: the barcode is missing; fill it in, or remove the row"
        )
    ids = pd.Index([case_of(b, path, of_cases) for b in table[of_cases]], dtype=object, name=of_cases)
    table = table.drop(columns=of_cases).set_axis(ids, axis=0)
    distinct = table[~(table.index.duplicated() & table.duplicated())]
    twice = distinct.index[distinct.index.duplicated()]
    if len(twice):
        raise ImportTableError(
            f"{path}, column {of_cases!r}, value {twice[0]!r}: two rows of this case differ; keep one"
        )
    return distinct
