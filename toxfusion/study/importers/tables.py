"""Reading the tables that importers take: delimiters, line ends, compression, spreadsheets."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.rules import SLIDE_COLUMNS

STAGE = "prepare"
SPREADSHEETS = (".xlsx", ".xlsm")
DELIMITERS = ("\t", ",", ";")
#: a compressed file that is cut off, damaged, or none
_TORN = (EOFError, zlib.error, gzip.BadGzipFile)


class ImportTableError(ValueError):
    """A table of a source cannot be read or does not say what it must; the message names file and column."""


def read_table(
    path: Path | str,
    *,
    encoding: str = "utf-8-sig",
    header: bool = True,
    comments: str = "",
    delimiter: str | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Read CSV, TSV, their .gz, one text table in a .zip, or the first sheet of an .xlsx.

    Unless it is given, the delimiter is the most frequent of tab, comma and semicolon in the first line; lines may
    end in LF, CRLF or CR.

    Args:
        encoding: of text tables.
        header: the first line holds column names.
        comments: characters; lines at the head of a text table that begin with one are skipped.
        options: for pandas.read_csv or read_excel (dtype, index_col ...).

    Raises:
        ImportTableError: no such file, or it cannot be read as a table.
    """
    path = Path(path)
    if not path.is_file():
        raise ImportTableError(f"{path}: no such file; check the path")
    options = {"header": 0 if header else None, **options}
    try:
        if path.suffix.lower() in SPREADSHEETS:
            return pd.read_excel(path, **options)
        with _open_text(path, encoding) as file:
            skipped, first = 0, file.readline()
            while first and first[0] in comments:
                skipped, first = skipped + 1, file.readline()
        delimiter = delimiter or max(DELIMITERS, key=first.count)
        with _open_text(path, encoding) as file:
            return pd.read_csv(file, sep=delimiter, low_memory=False, skiprows=skipped, **options)
    except UnicodeDecodeError as error:
        raise ImportTableError(f"{path}: is not {encoding} text ({error}); convert it to UTF-8") from error
    except (*_TORN, pd.errors.ParserError, pd.errors.EmptyDataError, zipfile.BadZipFile) as error:
        raise ImportTableError(
            f"{path}: cannot be read as a table ({error}); look at its first lines"
        ) from error


def read_values(path: Path | str) -> pd.DataFrame:
    """Numbers under names, the first column naming the rows; names of rows and columns may occur twice.

    Raises:
        ImportTableError: it cannot be read, holds no values, or text among them.
    """
    table = read_table(path, index_col=0)
    if table.empty:
        raise ImportTableError(
            f"{path}: holds {table.shape[0]} rows and {table.shape[1]} columns of values; separate columns by tab, "
            "comma or semicolon, the first naming the rows"
        )
    # pandas renames a second column of a name; what the file calls them tells two profiles, or two ids, of one name.
    names = read_table(path, header=False, nrows=1, dtype=str).iloc[0].astype(str).tolist()
    table.columns = pd.Index(names[-table.shape[1] :], dtype=object)
    for position, column in enumerate(table.columns):
        values = table.iloc[:, position]
        if not pd.api.types.is_numeric_dtype(values):
            bad = values[pd.to_numeric(values, errors="coerce").isna() & values.notna()]
            shown = f", row {bad.index[0]!r}, value {bad.iloc[0]!r}" if len(bad) else ""
            raise ImportTableError(
                f"{path}, column {column!r}{shown}: holds text; leave only the names in the first column, and numbers"
            )
    return table


def require_columns(table: pd.DataFrame, columns: Iterable[str], path: Path | str) -> None:
    """Raise ImportTableError naming the first of ``columns`` that the table lacks."""
    for column in columns:
        if column not in table.columns:
            raise ImportTableError(
                f"{path}: column {column!r} is missing; there are {list(map(str, table.columns))[:12]}"
            )


def numbers(column: pd.Series, path: Path | str) -> pd.Series:
    """A column as float64; missing values are NaN, anything else that is no number an ImportTableError."""
    values = pd.to_numeric(column, errors="coerce")
    bad = values.isna() & column.notna() & (column.astype(str).str.strip() != "")
    if bad.any():
        raise ImportTableError(
            f"{path}, column {column.name!r}, value {column[bad].iloc[0]!r}: is no number; "
            "correct it or leave it empty"
        )
    return values.astype(np.float64)


def read_slide_table(path: Path | str | None, sample_ids: Iterable[str], audit: Audit) -> pd.DataFrame:
    """Read slide_id, sample_id, path and optionally mpp_override, x, y, width, height.

    A relative path is taken from the folder of the table. Rows of samples that the study lacks are dropped
    and audited. Without a table there are no slides.
    """
    if path is None:
        return empty_slides()
    table = read_table(path, dtype={"slide_id": str, "sample_id": str, "path": str})
    require_columns(table, ("slide_id", "sample_id", "path"), path)
    for column in SLIDE_COLUMNS[2:]:
        table[column] = numbers(table[column], path) if column in table.columns else np.nan
    known = set(sample_ids)
    for row in table[~table["sample_id"].isin(known)].itertuples():
        audit.drop(STAGE, "slide", str(row.slide_id), f"its sample {row.sample_id!r} is not in the study")
    table = table[table["sample_id"].isin(known)]
    folder = Path(path).resolve().parent
    located = [str(folder / p) for p in table["path"]]
    return table.assign(path=located).set_index("slide_id")[list(SLIDE_COLUMNS)]


def empty_slides() -> pd.DataFrame:
    """A slide table without rows."""
    return pd.DataFrame(columns=list(SLIDE_COLUMNS), index=pd.Index([], name="slide_id", dtype=object))


def log2_per(counts: np.ndarray, total: float) -> np.ndarray:
    """log2(1 + counts scaled to ``total`` a sample), float32; total 1e6 is log2 CPM.

    Args:
        counts: [n_samples, n_genes], none without any count.
    """
    depth = counts.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.log2(1.0 + counts / depth * total).astype(np.float32)


@contextmanager
def _open_text(path: Path, encoding: str) -> Iterator[TextIO]:
    """Text of a plain, gzipped or zipped file, any line end read as LF."""
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding=encoding, newline=None) as file:
            yield file
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if not n.endswith("/")]
            if len(names) != 1:
                raise ImportTableError(
                    f"{path}: holds {len(names)} files, not one table; unpack it and name the table"
                )
            with archive.open(names[0]) as raw:
                yield io.TextIOWrapper(raw, encoding=encoding, newline=None)
    else:
        with path.open(encoding=encoding, newline=None) as file:
            yield file
