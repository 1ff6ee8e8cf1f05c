"""What stands in the cells of a report's tables: numbers as text, means, doses, findings in words."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from toxfusion.explanation.folder import FINDING


def number(value: Any, digits: int = 2, sign: bool = False) -> str:
    """A number for a table: fixed digits, scientific where these would show nothing; a dash where it is not known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    value = float(value)
    if value and not 10**-digits / 2 <= abs(value) < 1e5:
        return f"{value:{'+' if sign else ''}.1e}"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def plain(value: Any) -> str:
    """A value as text; whole numbers without a point, a dash where it is not known or empty."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def gradient(name: str) -> str:
    """A colour map as the stops of a CSS gradient, low to high."""
    return ", ".join(mpl.colors.to_hex(mpl.colormaps[name](x)) for x in np.linspace(0, 1, 9))


def means_without(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Means over samples and runs of each task's number as it is and without each modality."""
    both = table.dropna(subset=["without_slide", "without_expression"])
    columns = ["value", "without_slide", "without_expression"]
    by_task = []
    for task, of_task in both.groupby("task", sort=False):
        change = {f"change_{c}": float((of_task[c] - of_task["value"]).abs().mean()) for c in columns[1:]}
        means = {c: float(of_task[c].mean()) for c in columns}
        by_task.append({"task": task, "n": of_task["sample_id"].nunique(), **means, **change})
    return by_task


def records(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    return (
        []
        if table is None
        else [{str(k): v for k, v in record.items()} for record in table.to_dict("records")]
    )


def dose_and_time(sample: pd.Series) -> dict[str, Any]:
    return {k: sample[k] for k in ("dose_level", "dose", "time_h")}


def known_label(samples: pd.DataFrame, column: str) -> float | None:
    known = samples[column].dropna() if column in samples else pd.Series(dtype=float)
    return float(known.iloc[0]) if len(known) else None


def finding_columns(samples: pd.DataFrame) -> list[str]:
    """Columns of grades."""
    return [c for c in map(str, samples.columns) if c.startswith(FINDING)]


def worst_findings(samples: pd.DataFrame) -> str:
    """The findings of the highest grade, in words; "" where nothing was examined."""
    grades = samples[finding_columns(samples)].astype(float).max()
    if not grades.notna().any():
        return ""
    present = grades[grades >= 1].sort_values(ascending=False, kind="stable")
    return (
        ", ".join(f"{str(c).removeprefix(FINDING)} {g:.0f}" for c, g in present.head(3).items())
        or "no finding"
    )
