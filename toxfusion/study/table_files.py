"""The bytes of a table, whatever wraps them: plain, compressed, zipped, a workbook. The content decides, not the name.

Here: what kind of file it is, its text, and its delimiter. Not here: columns and cells (toxfusion.study.tables).
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

#: a compressed file that is cut off, damaged, or none
_TORN = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError)
_UNPACKED = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ\x00": lzma.decompress}
_ZIP = b"PK\x03\x04"
#: byte order mark -> encoding; that of UTF-32 begins with that of UTF-16
_MARKED = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
#: characters without width, which web pages and joined files leave in names
_UNSEEN = ("\u200b", "\u2060", "\ufeff")
#: first bytes -> what it is, and what to do with it
_NO_TABLE = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old spreadsheet (.xls) or one with a password; save it as .xlsx or CSV",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\x1f\x9d": "compressed by compress (.Z); unpack it",
    b"\x89HDF": "an HDF5 file (.h5, .h5ad); give a text table or a spreadsheet here",
    b"PAR1": "a parquet file; write it as CSV",
    b"ARROW1": "an Arrow file; write it as CSV",
    b"%PDF": "a PDF; export the table as CSV",
    b"RDX": "a file of R; write it as CSV",
    b"\x89PNG": "a picture; give the table itself",
    b"\xff\xd8\xff": "a picture; give the table itself",
    b"{\\rtf": "a text document (RTF); save the table as CSV",
}
DELIMITERS = ("\t", ",", ";")
_TAB_SUFFIXES = (".tsv", ".tab")
_LOOKED_AT = 50
_MARKUP = ("<html", "<!doctype", "<table", "<?xml", "<meta", "<head")


class TableError(ValueError):
    """A table cannot be read or does not say what it must; the message names file, row and column."""


@dataclass(frozen=True)
class Content:
    """What a file of a table holds: text, or a workbook as bytes."""

    text: str = ""
    workbook: bytes | None = None


def read_content(path: Path | str, encoding: str = "utf-8") -> Content:
    """The content of a plain, compressed (gzip, bzip2, xz) or zipped table, or of a workbook (.xlsx).

    Text is UTF-8, or UTF-16 or UTF-32 with its byte order mark, or else ``encoding``; every line end becomes LF, and
    characters without width are left out.

    Raises:
        TableError: there is no such file, or it is of another kind; the message says of which.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such file; check the path{_separator_hint(path)}") from error
    except IsADirectoryError as error:
        raise TableError(f"{path}: is a folder; name the table itself") from error
    except OSError as error:
        raise TableError(
            f"{path}: cannot be read ({error.strerror or error}); check its path and rights"
        ) from error
    content = _unpacked(content, path)
    if content.startswith(_ZIP):
        return Content(workbook=content)
    for start, kind in _NO_TABLE.items():
        if content.startswith(start):
            raise TableError(f"{path}: is {kind}")
    text = _text(content, encoding, path)
    if text.lstrip()[:20].lower().startswith(_MARKUP):
        raise TableError(
            f"{path}: is a web page or XML under the name of a table; save the table as .xlsx or CSV"
        )
    return Content(text=text)


def without_unseen(text: str) -> str:
    """Text without the characters that have no width, such as a byte order mark within it."""
    for mark in _UNSEEN:
        if mark in text:
            text = text.replace(mark, "")
    return text


def _separator_hint(path: Path | str) -> str:
    """What to say of a path of Windows on a system with another separator."""
    return (
        "; its separator is \\ and that of this system is /"
        if "\\" in str(path) and Path("/").anchor == "/"
        else ""
    )


def _unpacked(content: bytes, path: Path | str) -> bytes:
    """Bytes without their compression; a zip of one file is that file, a workbook stays as it is."""
    for start, unpack in _UNPACKED.items():
        if content.startswith(start):
            try:
                return _unpacked(unpack(content), path)
            except _TORN as error:
                raise TableError(
                    f"{path}: cannot be read: its compressed content is damaged or cut off ({error}); fetch it again"
                ) from error
    if not content.startswith(_ZIP):
        return content
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [n for n in archive.namelist() if not n.endswith("/") and not _is_litter(n)]
            if "[Content_Types].xml" in names:
                return content
            if len(names) != 1:
                raise TableError(
                    f"{path}: holds {len(names)} files, not one table; unpack it and name the table"
                )
            return _unpacked(archive.read(names[0]), path)
    except _TORN as error:
        raise TableError(f"{path}: cannot be read as a zip archive ({error}); fetch it again") from error


def _is_litter(name: str) -> bool:
    return name.startswith("__MACOSX/") or Path(name).name in (".DS_Store", "Thumbs.db")


def _text(content: bytes, encoding: str, path: Path | str) -> str:
    marked = next((encoding for mark, encoding in _MARKED.items() if content.startswith(mark)), None)
    if marked is not None:
        encodings = [marked]
    elif b"\x00" in content[:4096]:
        raise TableError(f"{path}: is binary, no text table; save it as CSV or .xlsx")
    else:
        encodings = list(dict.fromkeys(["utf-8-sig", encoding]))
    for tried in encodings:
        try:
            text = content.decode(tried)
        except UnicodeDecodeError as error:
            fault = error
        else:
            return without_unseen(text.replace("\r\n", "\n").replace("\r", "\n"))
    line = content.count(b"\n", 0, fault.start) + 1
    name = fault.encoding.removesuffix("-sig")
    raise TableError(
        f"{path}, line {line}: byte 0x{content[fault.start]:02x} is not {name} text; save the table as UTF-8"
    ) from fault


def delimiter_of(text: str, path: Path | str, required: Sequence[str]) -> str:
    """Tab where the name says so and a tab is there; else what gives the required columns, then rows of one width,
    then the most columns; delimiters within quotation marks do not count."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes[-2:]]
    lines = text.partition("\n")[0] if "\n" in text else text
    if any(suffix in _TAB_SUFFIXES for suffix in suffixes) and "\t" in lines:
        return "\t"

    def merit(delimiter: str) -> tuple[bool, bool, int]:
        try:
            reader = csv.reader(io.StringIO(text), delimiter=delimiter)
            rows = [row for row in islice(reader, _LOOKED_AT) if any(cell.strip() for cell in row)]
        except csv.Error:
            return False, False, 0
        if not rows or len(rows[0]) < 2:
            return False, False, 0
        names = {cell.strip() for cell in rows[0]}
        widths = {len(row) for row in rows[1:]}
        even = all(0 <= width - len(rows[0]) <= 1 for width in widths)
        return names.issuperset(required), even, len(rows[0])

    return max(DELIMITERS, key=merit)
