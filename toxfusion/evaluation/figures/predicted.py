"""Risks of a new study, with their range over runs and their distance from training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from toxfusion.evaluation.figures.canvas import BLUE, GREY, STYLE, FigureError, new_figure, save_figure


def risks(units: pd.DataFrame, path: Path, *, title: str = "") -> None:
    """Risk of each unit with the range over runs, highest first, beside its distance; units abstained on in grey.

    Args:
        units: rows of one task of ``toxfusion.runs.new_study.Scores.units``.

    Raises:
        FigureError: no rows.
    """
    if not len(units):
        raise FigureError("no unit has a risk; there is nothing to draw.")
    ranked = units.sort_values("risk", ascending=False, kind="stable").reset_index(drop=True)
    with mpl.rc_context(STYLE):
        figure = new_figure(8.5, 1.6 + 0.2 * len(ranked))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        for called, colour, name in ((True, BLUE, "scored"), (False, GREY, "abstained")):
            y = ranked.index[ranked["abstain"] != called].to_numpy()
            if not len(y):
                continue
            chosen = ranked.loc[y]
            value = chosen["risk"].to_numpy()
            over_runs = np.stack([value - chosen["low"], chosen["high"] - value])
            look: dict[str, Any] = {"color": colour, "markersize": 5, "linewidth": 1.4}
            look |= {} if called else {"markerfacecolor": "white"}
            left.errorbar(value, y, xerr=over_runs, fmt="o", label=f"{name} ({len(y)})", **look)
            right.barh(y, chosen["distance_percentile"], color=colour, height=0.6)
        left.axvline(0.5, color=GREY, linestyle=":", linewidth=1.2)
        kind = "calibrated risk" if ranked["calibrated"].all() else "risk, not calibrated"
        left.set(xlabel=f"{kind} (bar: range over {ranked['n_runs'].max()} runs)", xlim=(-0.02, 1.02))
        right.set(xlabel="distance from training\n(percentile of validation)", xlim=(0, 100))
        left.set_yticks(range(len(ranked)), ranked["unit_id"], fontsize=8)
        left.set_ylim(len(ranked) - 0.4, -0.6)
        left.grid(axis="y", color="#eeeeee")
        left.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=2)
        if title:
            figure.suptitle(title, fontsize=11)
        save_figure(figure, path)
