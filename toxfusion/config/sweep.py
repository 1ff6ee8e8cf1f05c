"""Cells of a sweep that fail: each leaves failed.json in its folder, the others run, and the end names them all."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toxfusion.study.files import replace_file

log = logging.getLogger(__name__)

FAILED = "failed.json"


class SweepError(RuntimeError):
    """Cells of a sweep failed, or a search got no score."""


def record_failure(
    folder: Path, sweep: str, overrides: Sequence[str], error: Exception, message: str
) -> None:
    """Log why a cell failed and write it to ``folder/failed.json``, with the traceback.

    Args:
        sweep: token of the command line that the cell belongs to.
        overrides: ``key=value`` texts of the cell.
        message: one line for the user.
    """
    log.error("cell failed: %s: %s", " ".join(overrides), message)
    content = {
        "sweep": sweep,
        "overrides": list(overrides),
        "message": message,
        "traceback": "".join(traceback.format_exception(error)),
    }
    replace_file(folder / FAILED, json.dumps(content, indent=1).encode())


def forget_failure(folder: Path) -> None:
    """What an earlier try left, once the cell has been run to its end."""
    (folder / FAILED).unlink(missing_ok=True)


def failures(outputs: Path, sweep: str) -> list[tuple[Path, dict[str, Any]]]:
    """Folder and record of every cell below ``outputs`` that failed in the sweep of this token, by folder."""
    records = ((file.parent, json.loads(file.read_text())) for file in sorted(outputs.rglob(FAILED)))
    return [(folder, content) for folder, content in records if content["sweep"] == sweep]
