"""A table whatever it is kept in: parquet, delimited text, or the first sheet of a workbook; every cell as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from toxfusion.study.table_files import without_unseen
from toxfusion.study.tables import TableError, read_table, require_columns


def read_any_table(path: Path | str, required: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table with named columns.

    Args:
        required: columns that must be there.

    Returns:
        str cells, None where missing, indexed by the row of the file.

    Raises:
        TableError: there is no such file, it is no table, or it lacks a column.
    """
    place = Path(path)
    if not place.is_file() or not _is_parquet(place):
        return read_table(path, required=required)
    try:
        table = pd.read_parquet(place)
    except (ValueError, OSError) as error:
        raise TableError(
            f"{path}: no table can be read from it ({error}); write it again, or as CSV"
        ) from error
    require_columns(table, required, path)
    cells = {name: [None if pd.isna(cell) else _text(cell) for cell in table[name]] for name in table.columns}
    return pd.DataFrame(cells, dtype=object)


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _text(cell: object) -> str:
    """A cell as text without blanks about it; a whole number without the decimal that a missing one beside it gives."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return without_unseen(str(cell)).strip()
