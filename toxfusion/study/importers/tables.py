"""What every importer takes: the table of slides, logarithms of counts; reading is toxfusion.study.tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

import numpy as np
import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.names import NEAR, drop_strangers, plain_name
from toxfusion.study.number_columns import numbers
from toxfusion.study.rules import SLIDE_COLUMNS
from toxfusion.study.tables import TableError as ImportTableError
from toxfusion.study.tables import identified, read_table

STAGE = "prepare"
#: addresses (s3://, file://), and what only a shell fills in (~, $HOME, %USERPROFILE%)
_NO_PATH = re.compile(r"[A-Za-z][\w+.-]+://|~|.*\$\w|.*\$\{|.*%\w+%")


def read_slide_table(path: Path | str | None, sample_ids: Iterable[str], audit: Audit) -> pd.DataFrame:
    """Read slide_id, sample_id, path and optionally mpp_override, x, y, width, height.

    A relative path is taken from the folder of the table. Rows of samples that the study lacks are dropped
    and audited. Without a table there are no slides.

    Raises:
        ImportTableError: a column or a path is missing, a slide is there twice, a path is one of Windows on another
            system, or no row is of a sample of the study.
    """
    if path is None:
        return empty_slides()
    table = read_table(path, required=("slide_id", "sample_id", "path"))
    _audit_unread(table, audit)
    for column in SLIDE_COLUMNS[2:]:
        table[column] = numbers(table[column], path) if column in table.columns else np.nan
    for column in ("sample_id", "path"):
        _refuse_missing(table, column, path)
    table = identified(table, "slide_id", path)
    known = drop_strangers(
        table["sample_id"].tolist(), list(sample_ids), path=path, column="sample_id", kind="slide", of="the study",
        audit=audit, stage=STAGE, ids=table.index.tolist(),
    )  # fmt: skip
    table = table[known]
    folder = Path(path).resolve().parent
    located = [_located(folder, text, slide, path) for slide, text in table["path"].items()]
    return table.assign(path=located)[list(SLIDE_COLUMNS)]


def _audit_unread(table: pd.DataFrame, audit: Audit) -> None:
    """Columns of a slide table that nothing reads, each with the one that it may be meant for (MPP, mpp_override)."""
    known = ("slide_id", *SLIDE_COLUMNS)
    lacking = [name for name in known if name not in table.columns]
    for column in (name for name in map(str, table.columns) if name not in known):
        plain = plain_name(column)
        near = next((name for name in lacking if plain and plain_name(name).startswith(plain)), "")
        told = f"; {NEAR} {near!r}?" if near else ""
        audit.drop(STAGE, "slide column", column, f"a slide table has no such column{told}")


def _refuse_missing(table: pd.DataFrame, column: str, path: Path | str) -> None:
    without = table[table[column].isna()]
    if len(without):
        raise ImportTableError(
            f"{path}, column {column!r}, row {without.index[0]}: is empty at slide {without['slide_id'].iloc[0]!r}; "
            "fill it in, or remove the row"
        )


def _located(folder: Path, text: str, slide: object, path: Path | str) -> str:
    """Where a path of a table leads, taken from its folder.

    Raises:
        ImportTableError: it is a path of Windows, and this is another system; an address; or one that a shell would
            fill in.
    """
    place = folder / text
    if _NO_PATH.match(text) and not place.exists():
        raise ImportTableError(
            f"{path}, column 'path', value {text!r}: of slide {slide!r} is no path of a file; write it in full"
        )
    windows = PureWindowsPath(text)
    if Path("/").anchor != "/" or not ("\\" in text or windows.drive) or place.exists():
        return str(place)
    instead = "the path that the image has here" if windows.is_absolute() else repr(windows.as_posix())
    raise ImportTableError(
        f"{path}, column 'path', value {text!r}: of slide {slide!r} is a path of Windows, whose separator \\ means "
        f"nothing on this system; write {instead}"
    )


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
