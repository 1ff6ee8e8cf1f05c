"""Gene symbols that a spreadsheet turned into dates, and compound names that two tables spell differently."""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from toxfusion.study.audit import Audit
from toxfusion.study.importers.tables import STAGE

#: month -> family of genes whose former symbols read as a date (March1, Sept1, Dec1), by their present names
FAMILIES = {3: "Marchf", 9: "Septin", 12: "Delec"}
MONTHS = {"mar": 3, "sep": 9, "sept": 9, "dec": 12}

_DAY_MONTH = re.compile(r"^(\d{1,2})-(mar|sept?|dec)$", re.IGNORECASE)
_MONTH_DAY = re.compile(r"^(mar|sept?|dec)-(\d{1,2})$", re.IGNORECASE)
_ISO = re.compile(r"^(\d{4})-(\d{2})-(\d{2})(?:[ T]00:00:00)?$")


def recover_symbols(values: Sequence[object], audit: Audit) -> list[str]:
    """Symbols as text, dates turned back into the gene they were (1-Mar, 2001-03-01 -> Marchf1).

    A full date holds the number of the gene as its day (2-Mar typed this year) or, when a spreadsheet read
    ``Mar-02`` as a month, as its year; the dates of one table tell which: all on the first of a month in
    different years means the year. A number that occurs twice in its family (the genes March2 and Marc2 both
    read 2-Mar) cannot be told apart and keeps the date as its name. Every change is audited.
    """
    dates = [_as_date(v) for v in values]
    full = [d for d in dates if isinstance(d, datetime.date)]
    by_year = len({d.year for d in full}) > 1 and all(d.day == 1 for d in full)
    genes = [_gene(d, by_year) if d is not None else None for d in dates]
    seen = Counter(g for g in genes if g is not None)
    symbols = []
    for value, gene in zip(values, genes, strict=True):
        if gene is None:
            symbols.append(str(value).strip())
            continue
        month, number = gene
        shown = str(value).removesuffix(" 00:00:00")
        if month in FAMILIES and seen[gene] == 1:
            symbols.append(f"{FAMILIES[month]}{number}")
            reason = "a date in place of a symbol: recovered"
            if month == 3 and number < 3:
                reason += f"; could also be Mtarc{number}, whose former symbol reads the same"
        else:
            symbols.append(f"{number}-{datetime.date(2000, month, 1):%b}")
            reason = "a date that stands for more than one gene, or for none known: kept as a date"
        audit.change(STAGE, "gene", f"{shown} -> {symbols[-1]}", reason)
    return symbols


def _as_date(value: object) -> datetime.date | tuple[int, int] | None:
    """A full date, or (month, number), or None when the value is no date."""
    if isinstance(value, datetime.datetime):
        return value.date()
    text = str(value).strip()
    if match := _DAY_MONTH.match(text):
        return MONTHS[match[2].lower()], int(match[1])
    if match := _MONTH_DAY.match(text):
        return MONTHS[match[1].lower()], int(match[2])
    if match := _ISO.match(text):
        return datetime.date(int(match[1]), int(match[2]), int(match[3]))
    return None


def _gene(date: datetime.date | tuple[int, int], by_year: bool) -> tuple[int, int]:
    """(month, number in its family)."""
    if isinstance(date, tuple):
        return date
    return date.month, date.year - 2000 if by_year else date.day


def normalised_compound(name: str) -> str:
    """Lower-case letters and digits only, Greek and accented letters in their compatibility form."""
    return re.sub(r"[^a-z0-9α-ω]", "", unicodedata.normalize("NFKD", name).casefold())
