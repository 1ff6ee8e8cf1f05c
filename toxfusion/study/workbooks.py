"""The first sheet of a workbook (.xlsx): its cells, and the refusal of what a reader would take for an empty cell.

A formula that no spreadsheet program has computed, a value that is an error, and all but the first of merged cells read
as empty. The XML of the sheet tells them apart; it is looked through only where it holds such marks.
"""

from __future__ import annotations

import io
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
from openpyxl.utils.cell import range_boundaries

from toxfusion.study.table_files import TableError, without_unseen

#: what a spreadsheet shows where a formula failed; "#N/A" is a mark of a missing value
ERROR_VALUES = frozenset(("#DIV/0!", "#REF!", "#VALUE!", "#NAME?", "#NUM!", "#NULL!"))
#: what zipfile, the XML parser, pandas and openpyxl raise on a damaged workbook
_DAMAGED = (
    ValueError,
    LookupError,
    OSError,
    TypeError,
    AttributeError,
    EOFError,
    AssertionError,
    SyntaxError,  # the base of ElementTree.ParseError
    NotImplementedError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
_MARKS = (b"<f", b":f>", b't="e"', b"mergeCell ")


@dataclass(frozen=True)
class Sheet:
    """The first sheet of a workbook.

    Attributes:
        rows: its cells; whole numbers without a decimal, "" where empty; at least one row.
        where: path of the workbook, with the name of the sheet where there are others.
    """

    rows: list[list[object]]
    where: str


def first_sheet(workbook: bytes, path: Path | str) -> Sheet:
    """Read the first sheet.

    Raises:
        TableError: it cannot be read; or a cell holds a formula without a value, an error, or a value that is merged
            over others. The cell is named.
    """
    try:
        names, xml = _xml_of_first(workbook)
        table = pd.read_excel(io.BytesIO(workbook), header=None, dtype=object, na_filter=False)
        cells = table.map(lambda cell: without_unseen(cell) if isinstance(cell, str) else cell)
        rows = cells.to_numpy(object).tolist() or [[""]]
        where = f"{path}, sheet {names[0]!r} (the first of {len(names)})" if len(names) > 1 else str(path)
        faults = list(_unread(xml, rows)) if any(mark in xml for mark in _MARKS) else []
    except _DAMAGED as error:
        raise TableError(
            f"{path}: cannot be read as a spreadsheet ({error}); save it again as .xlsx"
        ) from error
    if faults:
        more = f" ({len(faults)} such cells)" if len(faults) > 1 else ""
        raise TableError(f"{where}, {faults[0]}{more}")
    return Sheet(rows, where)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _xml_of_first(workbook: bytes) -> tuple[list[str], bytes]:
    """Names of the sheets of cells, and the XML of the first of them."""
    with zipfile.ZipFile(io.BytesIO(workbook)) as archive:
        folder, name = "xl", "workbook.xml"
        relations = {
            node.attrib["Id"]: node.attrib
            for node in ElementTree.fromstring(archive.read(f"{folder}/_rels/{name}.rels"))
        }
        sheets: dict[str, str] = {}
        for node in ElementTree.fromstring(archive.read(f"{folder}/{name}")).iter():
            if _local(node.tag) != "sheet":
                continue
            relation = relations[next(value for key, value in node.attrib.items() if _local(key) == "id")]
            if relation["Type"].endswith("/worksheet"):
                sheets[node.attrib["name"]] = relation["Target"]
        names = list(sheets)
        target = sheets[names[0]]
        part = (
            target.lstrip("/")
            if target.startswith("/")
            else posixpath.normpath(posixpath.join(folder, target))
        )
        return names, archive.read(part)


def _unread(xml: bytes, rows: list[list[object]]) -> Iterator[str]:
    """What is wrong with each cell that reads as empty and is not, in the order of the sheet."""
    for _, node in ElementTree.iterparse(io.BytesIO(xml)):
        tag = _local(node.tag)
        if tag == "c":
            parts = {_local(child.tag): child.text for child in node}
            value, kind = parts.get("v"), node.attrib.get("t")
            if kind == "e" and value in ERROR_VALUES:
                yield (
                    f"cell {node.attrib['r']}, value {value!r}: is an error of the spreadsheet; correct it, or leave "
                    "it empty"
                )
            elif "f" in parts and not value and kind != "str":
                yield (
                    f"cell {node.attrib['r']}, value '={parts['f'] or ''}': is a formula that nothing has computed; "
                    "open and save it in a spreadsheet program, or write the value"
                )
            node.clear()
        elif tag == "mergeCell":
            left, top, right, bottom = range_boundaries(node.attrib["ref"])
            inside = top <= len(rows) and left <= len(rows[top - 1])
            if (left, top) != (right, bottom) and inside and str(rows[top - 1][left - 1]).strip():
                yield (
                    f"cells {node.attrib['ref']}, value {str(rows[top - 1][left - 1])!r}: are merged, and the first of "
                    "them alone has the value; separate them, and fill in each"
                )
