"""The one reader of tables that people make: delimiter, header, width of every row, cells as text.

A cell is text without blanks about it. One of `MISSING_MARKS` is a missing value in every table; every other word is
kept as it is, None among them. Rows are called by their number in the file, as an editor or a spreadsheet shows it.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from toxfusion.study.number_columns import MISSING_MARKS, advice_on, is_missing, parsed
from toxfusion.study.table_files import DELIMITERS, Content, TableError, delimiter_of, read_content
from toxfusion.study.workbooks import ERROR_VALUES, first_sheet

#: what a line begins with that is no part of a table
_COMMENTS = ("#", "!", "%", "^")
#: what parts the columns of a line where no delimiter of `DELIMITERS` does
_OTHER_DELIMITER = re.compile(r"\||\S\s+\S")
_ERROR = re.compile("|".join(map(re.escape, sorted(ERROR_VALUES))))
#: the first line by which spreadsheets say the delimiter
_SAID = re.compile(r'"?sep=(.)"?\n', re.IGNORECASE)

Row = list[str]


@dataclass(frozen=True)
class _Cells:
    """Cells of a file: a header, and rows of exactly its width.

    Attributes:
        names: of the columns, "" for one without.
        rows: text, as it stands in the file.
        numbers: of the rows in the file, the first line being 1.
    """

    names: Row
    rows: list[Row]
    numbers: list[int]


def read_table(
    path: Path | str,
    *,
    required: Sequence[str] = (),
    encoding: str = "utf-8",
    header: bool = True,
    comments: str = "",
    delimiter: str | None = None,
    quoted: bool = True,
    short_rows: bool = False,
    repeated: bool = False,
    marks: Sequence[str] = MISSING_MARKS,
) -> pd.DataFrame:
    """Read CSV, TSV, one text table compressed or zipped, or the first sheet of a workbook; every cell as text.

    A delimiter at the end of rows is passed over; a header that is one name shorter than every row names the columns
    after the first (as R writes it). Rows without a cell are passed over.

    Args:
        required: columns that must be there; they also decide between delimiters.
        encoding: of text that is not UTF-8.
        header: the first row holds column names; else columns are numbered and short rows filled up.
        comments: characters; lines at the head that begin with one are passed over.
        delimiter: None = by the name (.tsv) and the lines of the file.
        quoted: a quotation mark at the start of a cell quotes it.
        short_rows: rows shorter than the header are filled up with missing values instead of refused.
        repeated: two columns may have one name.
        marks: what is a missing value.

    Returns:
        str cells, None where missing, indexed by the number of the row in the file.

    Raises:
        TableError: it cannot be read; it has a header and no row; a row is longer or shorter than the header; a column
            is there twice, has values and no name, or is missing.
    """
    content = read_content(path, encoding)
    with _head_told("" if comments else content.text):
        table = None
        if content.workbook is not None:
            sheet = first_sheet(content.workbook, path)
            path = sheet.where
            table = _table_of(
                _shaped(_texts_of(sheet.rows), 0, header, short_rows, path), header, marks, path
            )
        elif header and not comments:
            table = _plain_table(content.text, delimiter or delimiter_of(content.text, path, required), marks)
        if table is None:
            cells = _cells(content.text, path, required, header, comments, delimiter, quoted, short_rows)
            table = _table_of(cells, header, marks, path)
        if header:
            if not repeated:
                refuse_repeated(table.columns.tolist(), path)
            require_columns(table, required, path)
            if table.empty and len(table.columns):
                raise TableError(f"{path}: holds a header and no row; fill it in, or leave the table out")
        return table


@contextmanager
def _head_told(text: str) -> Iterator[None]:
    """What is refused of a table whose first line is most likely no header, or whose columns nothing parts, says so."""
    try:
        yield
    except TableError as error:
        if hint := _head_hint(text):
            raise TableError(f"{error}; {hint}") from error
        raise


def _head_hint(text: str) -> str:
    first, second = (*text.split("\n", 2), "")[:2]
    if first.startswith(_COMMENTS):
        return f"line 1 begins with {first[0]!r}: remove the lines above the header"
    if any(delimiter in first for delimiter in DELIMITERS) or not second:
        return ""
    apart = len(second.split()) - len(first.split())
    if any(delimiter in second for delimiter in DELIMITERS) and not (apart in (0, 1) and " " in first):
        return f"line 1, {first.strip()[:40]!r}, stands alone: remove the lines above the header"
    if _OTHER_DELIMITER.search(first.strip()):
        return "separate columns by tab, comma or semicolon (in R, write.csv or sep='\\t')"
    return ""


def _table_of(cells: _Cells, header: bool, marks: Sequence[str], path: Path | str) -> pd.DataFrame:
    missing = set(marks)
    columns = [
        [None if (text := row[i].strip()) in missing else text for row in cells.rows]
        for i in range(len(cells.names))
    ]
    for name, column in zip(cells.names, columns, strict=True):
        if wrong := ERROR_VALUES.intersection(column):
            place = next(i for i, text in enumerate(column) if text in wrong)
            raise TableError(
                f"{path}, column {name!r}, row {cells.numbers[place]}, value {column[place]!r}: is an error of a "
                "spreadsheet; correct it, or leave it empty"
            )
    table = pd.DataFrame(dict(enumerate(columns)), index=pd.Index(cells.numbers, name="row"), dtype=object)
    return table.set_axis(pd.Index(cells.names, dtype=object), axis=1) if header else table


def read_values(path: Path | str) -> pd.DataFrame:
    """Numbers under names, the first column naming the rows; names of rows and columns may occur twice.

    Returns:
        float64 [n_rows, n_columns], NaN where missing; index and columns are text, the name of the index what stands
        above the names of rows.

    Raises:
        TableError: it cannot be read, holds no values, or text among them.
    """
    content = read_content(path)
    with _head_told(content.text):
        return _read_values(content, path)


def _read_values(content: Content, path: Path | str) -> pd.DataFrame:
    if content.workbook is not None:
        sheet = first_sheet(content.workbook, path)
        path, table = sheet.where, _sheet_values(sheet.rows)
        if table is None:
            table = _values_of_cells(_shaped(_texts_of(sheet.rows), 0, True, False, path), path)
    else:
        table = _plain_values(content, path)
        if table is None:
            table = _values_of_cells(_cells(content.text, path, (), True, "", None, True, False), path)
    if table.empty:
        raise TableError(
            f"{path}: holds {table.shape[0]} rows and {table.shape[1]} columns of values; separate columns by tab, "
            "comma or semicolon, the first naming the rows"
        )
    return table


def require_columns(table: pd.DataFrame, columns: Iterable[str], path: Path | str) -> None:
    """Raise TableError naming the first of ``columns`` that the table lacks, and the one that is it but for its
    spelling."""
    for column in columns:
        if column not in table.columns:
            names = list(map(str, table.columns))
            meant = next((name for name in names if _letters(name) == _letters(column)), "")
            raise TableError(
                f"{path}: column {column!r} is missing; there are {names[:12]}"
                f"{f'; rename {meant!r}' if meant else ''}"
            )


def _letters(name: str) -> str:
    """Letters and digits of a name, without case and without what stands in brackets: sampleid of Sample ID."""
    return re.sub(r"\(.*?\)|\[.*?\]|[\W_]", "", name).casefold()


def refuse_repeated(names: Sequence[str], path: Path | str) -> None:
    """Raise TableError where two columns have one name."""
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            raise TableError(
                f"{path}, row 1, column {name!r}: the column is there twice; keep one, or rename it"
            )
        seen.add(name)


def identified(
    table: pd.DataFrame, column: str, path: Path | str, advice: str = "keep one row"
) -> pd.DataFrame:
    """The table indexed by a column of ids, which every row must have and no two may share.

    Args:
        advice: what to do where two rows share one.

    Raises:
        TableError: an id is missing or there twice; the row is named.
    """
    without = table.index[table[column].isna()]
    if len(without):
        raise TableError(
            f"{path}, column {column!r}, row {without[0]}: is missing; give every row its {column}, or remove the row"
        )
    twice = table[column].duplicated()
    if twice.any():
        value = table.loc[twice, column].iloc[0]
        where = table.index[table[column] == value].tolist()
        raise TableError(
            f"{path}, column {column!r}, value {value!r}: appears twice, in rows {', '.join(map(str, where))}; {advice}"
        )
    return table.set_index(column)


def _values_of_cells(cells: _Cells, path: Path | str) -> pd.DataFrame:
    """Numbers of rows of text."""
    names = pd.Index([row[0].strip() for row in cells.rows], dtype=object, name=cells.names[0] or None)
    width = len(cells.names)
    values = np.empty((len(cells.rows), max(0, width - 1)), dtype=np.float64)
    for i in range(1, width):
        column = pd.Series([row[i] for row in cells.rows], dtype=object)
        try:
            values[:, i - 1] = parsed(column, cells.names[i], path)
        except TableError as error:
            raise _text_among_values(column, cells, i, path) from error
    return pd.DataFrame(values, index=names, columns=pd.Index(cells.names[1:], dtype=object))


def _text_among_values(column: pd.Series, cells: _Cells, position: int, path: Path | str) -> TableError:
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    bad = next(i for i, v in enumerate(values) if np.isnan(v) and not is_missing(column.iloc[i]))
    row = cells.rows[bad]
    return TableError(
        f"{path}, column {cells.names[position]!r}, row {row[0].strip()!r}, value {row[position]!r}: holds text in row "
        f"{cells.numbers[bad]}; {advice_on(row[position].strip(), 'leave the names in the first column, else numbers')}"
    )


def _plain_table(text: str, delimiter: str, marks: Sequence[str]) -> pd.DataFrame | None:
    """A large table without quotation marks, blanks about cells, empty rows and rows of another width, quickly; None
    for any other, which is read cell by cell."""
    lines = text.rstrip("\n").split("\n")
    names = lines[0].split(delimiter)
    blank = rf"[{delimiter}\n][^\S{delimiter}\n]|[^\S{delimiter}\n][{delimiter}\n]"
    marked = '"' in text or _SAID.match(text) or _ERROR.search(text) or re.search(blank, text)
    odd = len(lines) < 2 or "" in names[1:] or marked
    if odd or lines[0] != lines[0].strip() or {line.count(delimiter) for line in lines} != {len(names) - 1}:
        return None
    table = pd.read_csv(
        io.StringIO(text),
        sep=delimiter,
        header=None,
        skiprows=1,
        names=list(range(len(names))),
        index_col=False,
        dtype=str,
        keep_default_na=False,
        na_values=list(marks),
        quoting=csv.QUOTE_NONE,
        low_memory=False,
    )
    missing = table.isna()
    if len(table) != len(lines) - 1 or missing.all(axis=1).any():
        return None
    table = table.astype(object).mask(missing, None)
    return table.set_axis(pd.Index(range(2, len(lines) + 1), name="row")).set_axis(
        pd.Index(names, dtype=object), axis=1
    )


def _plain_values(content: Content, path: Path | str) -> pd.DataFrame | None:
    """The values of a table without trailing delimiters, quickly; None for any other, which is read cell by cell."""
    text = content.text.rstrip("\n")
    if not text:
        return None
    delimiter = delimiter_of(content.text, path, ())
    rows = csv.reader(io.StringIO(text), delimiter=delimiter)
    try:
        names = [name.strip() for name in next(rows)]
        widths = {len(row) for row in rows}
    except (csv.Error, StopIteration):
        return None
    if not any(names):
        return None
    short = widths == {len(names) + 1}
    if short:
        names = ["", *names]
    if widths != {len(names)} or len(names) < 2 or "" in names[1:]:
        return None
    positions = list(range(len(names)))
    try:
        table = pd.read_csv(
            io.StringIO(text),
            sep=delimiter,
            header=None,
            skiprows=1,
            names=positions,
            index_col=False,
            dtype={0: str, **dict.fromkeys(positions[1:], np.float64)},
            keep_default_na=False,
            na_values={key: list(MISSING_MARKS) for key in positions[1:]},  # type: ignore[misc]
            skip_blank_lines=False,
            low_memory=False,
        )
    except (ValueError, pd.errors.ParserError):
        return None
    empty = table.iloc[:, 1:].isna()
    if (empty.all(axis=1) & (table[0].str.strip() == "")).any() or (short and empty.iloc[:, -1].all()):
        return None
    index = pd.Index([name.strip() for name in table[0]], dtype=object, name=names[0] or None)
    return pd.DataFrame(table.iloc[:, 1:].to_numpy(np.float64), index, pd.Index(names[1:], dtype=object))


def _texts_of(sheet: list[list[object]]) -> list[Row]:
    return [[str(cell) for cell in row] for row in sheet]


def _sheet_values(sheet: list[list[object]]) -> pd.DataFrame | None:
    """The values of a sheet whose cells are numbers below and beside names; None for any other."""
    first, *rows = sheet
    names = [str(cell).strip() for cell in first]
    kinds = {type(cell) for row in rows for cell in row[1:]}
    if not rows or not kinds <= {int, float} or "" in names[1:] or len(names) < 2:
        return None
    values = np.array([row[1:] for row in rows], dtype=np.float64)
    index = pd.Index([str(row[0]).strip() for row in rows], dtype=object, name=names[0] or None)
    return pd.DataFrame(values, index, pd.Index(names[1:], dtype=object))


# -------------------------------------------------------------------------------- rows and their width


def _cells(
    text: str,
    path: Path | str,
    required: Sequence[str],
    header: bool,
    comments: str,
    delimiter: str | None,
    quoted: bool,
    short_rows: bool,
) -> _Cells:
    skipped = 0
    if said := _SAID.match(text):
        text, skipped, delimiter = text[said.end() :], 1, said[1]
    while text and text[0] in comments:
        text, skipped = text.partition("\n")[2], skipped + 1
    rows = _text_rows(text, delimiter or delimiter_of(text, path, required), quoted, path)
    return _shaped(rows, skipped, header, short_rows, path)


def _shaped(rows: list[Row], skipped: int, header: bool, short_rows: bool, path: Path | str) -> _Cells:
    """Rows under their header, each of its width; ``skipped`` lines of the file stand before the first."""
    full = [(i, row) for i, row in enumerate(rows, start=1 + skipped) if any(cell.strip() for cell in row)]
    if not full:
        raise TableError(f"{path}: cannot be read as a table: it is empty; look at the file")
    at, kept = [i for i, _ in full], [row for _, row in full]
    if not header:
        return _without_header(kept, at)
    names = _header(kept, path)
    body = [
        _fitted(row, names, number, path, short_rows) for number, row in zip(at[1:], kept[1:], strict=True)
    ]
    return _Cells(names, body, at[1:])


def _text_rows(text: str, delimiter: str, quoted: bool, path: Path | str) -> list[Row]:
    """Rows of cells.

    A cell may hold a line end where every quotation mark of the table stands as it should. Where one does not, a mark
    that is never closed would swallow the rows after it, so that no cell may.
    """
    csv.field_size_limit(sys.maxsize)
    if not quoted:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter, quoting=csv.QUOTE_NONE))
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error:
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    for number, row in enumerate(rows, start=1):
        if swallowed := next((cell for cell in row if "\n" in cell), None):
            raise TableError(
                f"{path}, row {number}, value {swallowed[:40]!r}: a quotation mark opens this cell and none closes it "
                "in its row; remove the mark, or close it"
            )
    return rows


def _header(rows: list[Row], path: Path | str) -> Row:
    """Names of the columns: those of the first row, without the empty ones at its end, "" before them where every
    row has one cell more and some row fills it."""
    names, body = [name.strip() for name in rows[0]], rows[1:]
    if body and all(len(row) == len(names) + 1 for row in body) and any(row[-1].strip() for row in body):
        if names[-1:] == [""]:
            raise TableError(
                f"{path}, row 1: has one name fewer than the rows have cells, and its last name is empty; name every "
                "column"
            )
        return ["", *names]
    while (
        len(names) > 1
        and not names[-1]
        and not any(cell.strip() for row in body for cell in row[len(names) - 1 :])
    ):
        names.pop()
    for position, name in enumerate(names[1:], start=2):
        if not name:
            filled = next(
                (row[position - 1] for row in body if len(row) >= position and row[position - 1].strip()),
                None,
            )
            if filled is not None and not any(names[1:]):
                raise TableError(
                    f"{path}, row 1, value {names[0]!r}: stands alone; remove the rows above the header"
                )
            what = "is empty" if filled is None else f"has no name and holds {filled.strip()!r}"
            raise TableError(f"{path}, row 1, column {position}: {what}; name the column, or remove it")
    return names


def _fitted(row: Row, names: Row, number: int, path: Path | str, short_rows: bool) -> Row:
    """A row of the width of the header."""
    width = len(names)
    if len(row) == width:
        return row
    for position, cell in enumerate(row[width:], start=width + 1):
        if cell.strip():
            raise TableError(
                f"{path}, row {number}, column {position}, value {cell.strip()!r}: the header has {width} columns and "
                f"this row {len(row)} cells; quote a cell that holds the delimiter, or remove what is too much"
            )
    if len(row) < width and not short_rows:
        raise TableError(
            f"{path}, row {number}, column {names[len(row)]!r}: the row ends before it, with {len(row)} of {width} "
            "cells; write every delimiter, with nothing between two where a value is missing"
        )
    return [*row[:width], *[""] * (width - len(row))]


def _without_header(rows: list[Row], at: list[int]) -> _Cells:
    """Rows filled up to the last cell that any of them has."""
    width = max(max(i for i, cell in enumerate(row, start=1) if cell.strip()) for row in rows)
    filled = [[*row[:width], *[""] * (width - len(row))] for row in rows]
    return _Cells([str(i) for i in range(width)], filled, at)
