"""Tables in Markdown, and pages of docs/ with tables that a command writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

DOCS = Path(__file__).resolve().parents[1] / "docs"


def markdown_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of texts; every line has one a column."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, ["---"] * len(columns), *lines))


def markdown_of(table: pd.DataFrame) -> str:
    """A table as it is, without its index; what is missing is empty."""
    lines = [["" if pd.isna(v) else str(v) for v in line] for line in table.to_numpy(dtype=object)]
    return markdown_table(list(map(str, table.columns)), lines)


def write_between_marks(page: str, block: str, text: str) -> None:
    """Put a text between the marks of its block in a page of docs/.

    Raises:
        SystemExit: the page lacks a mark.
    """
    path = DOCS / page
    begin, end = f"<!-- {block}: begin -->", f"<!-- {block}: end -->"
    before, opened, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise SystemExit(f"error: {path}: no {begin} ... {end} to write between")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
