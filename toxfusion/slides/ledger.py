"""How each slide of an extraction ended: its record, the table of them, the audit and the summary."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from toxfusion.study.audit import Audit
from toxfusion.study.files import replace_file
from toxfusion.study.names import NEAR

State = Literal["done", "skipped", "failed"]

TABLE = "extraction.csv"
STAGE = "extract"


@dataclass
class SlideRecord:
    """How a slide ended, one row of extraction.csv.

    Attributes:
        state: done, skipped (the slide is sound, but not to be used) or failed (it is damaged or missing).
        reason: why it was skipped or failed; for a slide that is done, what is worth knowing.
        mpp0: um per level-0 pixel. width, height: level 0, pixels.
        n_grid: tiles of the grid. n_tissue: those with enough tissue. n_tiles: those stored.
        tissue_share, pen_share: of the region, 0 to 1.
        sharpness: median over tiles of the variance of the Laplacian of grey values; low = blurred or empty.
    """

    slide_id: str
    path: str
    state: State
    reason: str = ""
    backend: str = ""
    mpp0: float | None = None
    width: int | None = None
    height: int | None = None
    n_grid: int | None = None
    n_tissue: int | None = None
    n_tiles: int | None = None
    tissue_share: float | None = None
    pen_share: float | None = None
    sharpness: float | None = None


class Ledger:
    """How each slide ended. A row is written as its slide ends; the last row of a slide counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records: dict[str, SlideRecord] = {}
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                for cells in csv.DictReader(file):
                    if cells.get("state") in ("done", "skipped", "failed") and None not in cells.values():
                        record = _record_of(cells)
                        self.records[record.slide_id] = record

    def put(self, record: SlideRecord) -> None:
        """Keep a row, in memory and at the end of the file."""
        self.records[record.slide_id] = record
        new = not self._path.exists()
        with open(self._path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(_row_of(record))

    def write(self) -> None:
        """Replace the file by one row a slide, sorted by slide_id."""
        lines = [_COLUMNS] + [list(_row_of(self.records[key]).values()) for key in sorted(self.records)]
        text = "".join(_csv_line(line) for line in lines)
        replace_file(self._path, text.encode())


_COLUMNS = [column.name for column in fields(SlideRecord)]
_WHOLE = ("width", "height", "n_grid", "n_tissue", "n_tiles")
_REAL = ("mpp0", "tissue_share", "pen_share", "sharpness")


def _csv_line(values: Sequence[object]) -> str:
    line = StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue()


def _row_of(record: SlideRecord) -> dict[str, Any]:
    values = asdict(record)
    return {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in values.items()}


def _record_of(cells: dict[str, str]) -> SlideRecord:
    values: dict[str, Any] = {key: cells[key] for key in _COLUMNS}
    for key in (*_WHOLE, *_REAL):
        number = int if key in _WHOLE else float
        values[key] = number(values[key]) if values[key] else None
    return SlideRecord(**values)


def write_audit(path: Path, records: Iterable[SlideRecord]) -> None:
    """Put the slides that were skipped or failed, and questions about others, into an audit, in place of what it said
    of them before."""
    records = list(records)
    ids = {record.slide_id for record in records}
    earlier = Audit.read(path).records if path.exists() else []
    audit = Audit(r for r in earlier if not (r.stage == STAGE and r.kind == "slide" and r.id in ids))
    for record in records:
        if record.state != "done":
            audit.drop(STAGE, "slide", record.slide_id, f"{record.state}: {record.reason}")
        elif NEAR in record.reason:
            audit.change(STAGE, "slide", record.slide_id, record.reason)
    Audit.write_new(path, audit)


def summary(records: Iterable[SlideRecord]) -> str:
    """How many slides ended how, each that is not done with its reason, and questions about those that are."""
    records = sorted(records, key=lambda record: record.slide_id)
    states = Counter(record.state for record in records)
    tiles = sum(record.n_tiles or 0 for record in records if record.state == "done")
    lines = [
        f"{len(records)} slides: {states['done']} done ({tiles} tiles), {states['skipped']} skipped, "
        f"{states['failed']} failed"
    ]
    lines += [f"  {r.state:<8}{r.slide_id}: {r.reason}" for r in records if r.state != "done"]
    lines += [
        f"  look at {r.slide_id}: {r.reason}" for r in records if r.state == "done" and NEAR in r.reason
    ]
    return "\n".join(lines)
