"""Barcodes of TCGA: which case one is of, and whether names are barcodes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from toxfusion.study.importers.tables import ImportTableError
from toxfusion.study.names import NEAR

BARCODE = re.compile(r"^TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?:-(\d{2}))?")
_SEPARATOR = re.compile(r"[._ ]")
_CASE_LENGTH = 12


def case_of(barcode: object, path: Path | str, column: str) -> str:
    """The case of a TCGA barcode, its first twelve characters.

    Raises:
        ImportTableError: the value is no TCGA barcode.
    """
    text = str(barcode).strip()
    if not BARCODE.match(text):
        meant = _SEPARATOR.sub("-", text.upper())
        remedy = (
            f"{NEAR} {meant!r}? R writes . for - in the names of columns"
            if BARCODE.match(meant)
            else "name the column that holds them"
        )
        raise ImportTableError(
            f"{path}, column {column!r}, value {text!r}: is no TCGA barcode (TCGA-XX-XXXX ...); {remedy}"
        )
    return text[:_CASE_LENGTH]


def holds_barcodes(names: Iterable[object]) -> float:
    """Share of names that are barcodes, or would be with - for another separator and in capitals."""
    texts = [_SEPARATOR.sub("-", str(name).strip().upper()) for name in names]
    return sum(bool(BARCODE.match(text)) for text in texts) / max(1, len(texts))
