"""Columns of text as numbers: what stands for a missing value, what is a number, and what is refused as neither."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from toxfusion.study.table_files import TableError

#: What stands for a missing value, in every table; docs/reference/tables.md names them.
MISSING_MARKS = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null")
_DECIMAL_COMMA = re.compile(r"[+-]?\d{1,3}(\.\d{3})*,\d+|[+-]?\d*,\d+")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}")
_PLAIN_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)?(\.\d+)?(\.|e[+-]\d+)?")


def numbers(
    column: pd.Series,
    path: Path | str,
    advice: str = "correct it or leave it empty",
    *,
    negative: bool = True,
) -> pd.Series:
    """A column of text as float64, missing values NaN.

    Args:
        negative: values below 0 may be there.

    Raises:
        TableError: a value is no finite number, below 0, or one whose point may be of decimals or of thousands; file,
            column, value and row are named.
    """
    values = parsed(column, str(column.name), path, advice)
    _refuse_thousands(column, path)
    if not negative and (values < 0).any():
        place = int(np.argmax(values < 0))
        raise TableError(
            f"{path}, column {column.name!r}, value {str(column.iloc[place])!r}: is negative, in row "
            f"{column.index[place]!r}; {advice}"
        )
    infinite = np.isinf(values)
    if infinite.any():
        raise _no_number(column, str(column.name), int(np.argmax(infinite)), path, advice)
    return pd.Series(values, index=column.index, name=column.name)


def typed(column: pd.Series) -> pd.Series:
    """A column that nothing is known of: numbers where every value is one as people write it, else text.

    Ids that look like numbers, with leading zeros (010) or letters that read as an exponent (1E02), stay text.
    """
    texts = column.dropna()
    if texts.empty or not texts.map(lambda cell: bool(_PLAIN_NUMBER.fullmatch(str(cell)))).all():
        return column
    values = pd.to_numeric(column.astype(object), errors="coerce").astype(np.float64)
    if values[texts.index].isna().any():
        return column
    whole = values.notna().all() and (values == values.round()).all() and values.abs().max() < 2**53
    return values.astype(np.int64) if whole else values


def parsed(column: pd.Series, name: str, path: Path | str, advice: str = "") -> np.ndarray:
    """float64 [n]: the one place where text becomes numbers; missing values are NaN.

    Raises:
        TableError: a value is neither a number nor missing; file, column, value and row are named.
    """
    texts = column.astype(object)
    values = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    for place in np.flatnonzero(np.isnan(values)):
        if not is_missing(texts.iloc[place]):
            raise _no_number(texts, name, int(place), path, advice)
    return values


def _no_number(column: pd.Series, name: str, place: int, path: Path | str, advice: str) -> TableError:
    value = str(column.iloc[place])
    what = "is not finite" if np.isinf(pd.to_numeric(value, errors="coerce")) else "is no number"
    return TableError(
        f"{path}, column {name!r}, value {value!r}: {what}, in row {column.index[place]!r}; {advice_on(value, advice)}"
    )


def _refuse_thousands(column: pd.Series, path: Path | str) -> None:
    """1.234 among whole numbers of hundreds, or 1.000 among whole numbers: a point for thousands, most likely."""
    pointed: dict[int, str] = {}
    largest = 0
    for place, cell in enumerate(column):
        text = str(cell)
        if "." in text:
            if not _THOUSANDS.fullmatch(text):
                return
            pointed[place] = text
        elif text.isdecimal():
            largest = max(largest, int(text))
    if not pointed or not 0 < largest < 1000:
        return
    doubted = [place for place, text in pointed.items() if text.endswith("0") or largest >= 100]
    if not doubted:
        return
    place, value = doubted[0], pointed[doubted[0]]
    raise TableError(
        f"{path}, column {column.name!r}, value {value!r}: may be {float(value):g} or {value.replace('.', '')}, in row "
        f"{column.index[place]!r}, where others are whole; write it without a point for thousands, or with one decimal "
        "more or less"
    )


def is_missing(cell: object) -> bool:
    """Whether a cell, as text or as a reader gives it, holds nothing."""
    return cell is None or (isinstance(cell, float) and np.isnan(cell)) or str(cell).strip() in MISSING_MARKS


def advice_on(value: str, otherwise: str) -> str:
    """What to do about a value that is no number."""
    if _DECIMAL_COMMA.fullmatch(value.strip()):
        return "write decimals with a point and thousands without a mark"
    return otherwise
