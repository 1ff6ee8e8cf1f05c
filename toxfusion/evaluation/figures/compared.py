"""Figures of a comparison: values beside chance and oracle, and the forest plot of paired differences."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from toxfusion.evaluation.comparison_table import ORACLE_NAMES, Comparison, units_of
from toxfusion.evaluation.families import FAMILIES, METRIC_NAMES
from toxfusion.evaluation.figures.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    RED,
    STYLE,
    FigureError,
    new_figure,
    save_figure,
)
from toxfusion.study.vocabulary import title_of


def comparison(compared: Comparison, path: Path) -> None:
    """Each experiment's value with its 95 % interval, one panel a task, with lines at chance and at the
    oracle.
    """
    _panels(compared, path, differences_only=False)


def differences(compared: Comparison, path: Path) -> None:
    """Forest plot: paired difference of each experiment from the reference with its 95 % interval, in figures beside
    it, marked where Holm's correction leaves p < 0.05.

    Raises:
        FigureError: there is no experiment beside the reference.
    """
    _panels(compared, path, differences_only=True)


def _panels(compared: Comparison, path: Path, *, differences_only: bool) -> None:
    experiments = compared.table["experiment"].drop_duplicates().tolist()
    if differences_only:
        experiments = [e for e in experiments if e != compared.reference]
    if not experiments:
        raise FigureError(
            f"only {compared.reference!r} has finished runs; there is nothing to set beside it."
        )
    # Predictions of others may be of some of the tasks alone.
    scored = compared.table[compared.table["experiment"].isin(experiments)]
    headlines = [headline for headline in compared.headlines if headline in set(scored["headline"])]
    views = [] if differences_only else compared.oracles["view"].drop_duplicates().tolist()
    names = [*(_marked(compared, e) for e in experiments), *(ORACLE_NAMES[v] for v in views)]
    with mpl.rc_context(STYLE):
        # Two panels a row leave room for the figures beside each interval.
        across = min(2, len(headlines)) if differences_only else len(headlines)
        down = -(-len(headlines) // across)
        width = 4.2 if differences_only else 2.7
        figure = new_figure(2.4 + width * across, (1.7 + (0.26 if down > 1 else 0.34) * len(names)) * down)
        axes = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axis in axes[len(headlines) :]:
            axis.set_visible(False)
        for axis, headline in zip(axes, headlines, strict=False):
            of_headline = (
                compared.table[compared.table["headline"] == headline]
                .set_index("experiment")
                .reindex(experiments)
            )
            if differences_only:
                _differences(axis, of_headline, compared.reference)
            else:
                known = (
                    compared.oracles[compared.oracles["headline"] == headline]
                    .set_index("view")
                    .reindex(views)
                )
                _values(axis, of_headline, known, compared.reference)
            axis.set_title(_panel_title(of_headline, headline), fontsize=10)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        if differences_only:
            note = (
                f"difference from {compared.reference}, 95 % interval of a paired bootstrap over compounds or "
                "patients; left of 0: worse.  Filled, *: Holm-corrected p < 0.05.  n: units that both scored"
            )
            figure.supxlabel(textwrap.fill(note, int(12 * figure.get_figwidth())), fontsize=9)
        save_figure(figure, path)


def _marked(compared: Comparison, experiment: str) -> str:
    of_experiment = compared.table[compared.table["experiment"] == experiment]
    raised = {
        "transductive": of_experiment["transductive"].any(),
        "null": (of_experiment["null"] != "").any(),
    }
    flags = [name for name, is_raised in raised.items() if is_raised]
    return f"{experiment} ({', '.join(flags)})" if flags else experiment


def _panel_title(of_headline: pd.DataFrame, headline: str) -> str:
    n, n_compounds = of_headline["n"].max(), of_headline["n_compounds"].max()
    title = title_of(headline).replace(", ", ",\n")
    pairs = "\npairs of all folds" if (of_headline["pairs"] == "pooled").any() else ""
    return f"{title}\n{units_of(int(n), int(n_compounds))}{pairs}"


def _errorbar(
    axis: Axes,
    estimates: pd.DataFrame,
    columns: tuple[str, str, str],
    looks: Sequence[dict[str, Any]],
    first: int = 0,
) -> None:
    value, low, high = (estimates[c].to_numpy(dtype=float) for c in columns)
    for i, look in enumerate(looks):
        if np.isfinite(value[i]):
            axis.plot(value[i], first + i, linestyle="none", zorder=3, **look)
        if np.isfinite(low[i]):
            # About the middle of the interval: of few draws it need not hold the value.
            middle, half = (low[i] + high[i]) / 2, (high[i] - low[i]) / 2
            axis.errorbar(
                middle, first + i, xerr=half, fmt="none", ecolor=look["color"], capsize=3, elinewidth=1.6
            )


def _point(colour: str, *, filled: bool = True, marker: str = "o") -> dict[str, Any]:
    face = colour if filled else "white"
    return {
        "marker": marker,
        "color": colour,
        "markersize": 6,
        "markerfacecolor": face,
        "markeredgecolor": colour,
    }


def _values(axis: Axes, of_headline: pd.DataFrame, oracles: pd.DataFrame, reference: str) -> None:
    chance = FAMILIES[of_headline["family"].dropna().iloc[0]].chance
    axis.axvline(chance, color=GREY, linestyle=":", linewidth=1.4)
    # Left of its line, as the oracle's name stands right of its own: the two may nearly coincide.
    axis.annotate("chance", (chance, 1), xycoords=("data", "axes fraction"), xytext=(-2, -2), ha="right",
                  textcoords="offset points", color="#555555", fontsize=8, va="top")  # fmt: skip
    best = of_headline["oracle"].dropna()
    if len(best):
        axis.axvline(best.iloc[0], color=GREEN, linewidth=1.4)
        axis.annotate("oracle", (best.iloc[0], 1), xycoords=("data", "axes fraction"), xytext=(2, -2),
                      textcoords="offset points", color=GREEN, fontsize=8, va="top")  # fmt: skip
    if reference in of_headline.index:
        low, high = (
            float(of_headline[c].to_numpy(dtype=float)[of_headline.index.get_loc(reference)])
            for c in ("low", "high")
        )
        axis.axvspan(low, high, color=BLUE, alpha=0.10, linewidth=0)
    looks = [
        _point(GREY if null else BLUE if e == reference else BLACK, filled=not null)
        for e, null in zip(of_headline.index, of_headline["null"].fillna("") != "", strict=True)
    ]
    _errorbar(axis, of_headline, ("value", "low", "high"), looks)
    oracle_looks = [_point(GREEN, marker="D")] * len(oracles)
    _errorbar(axis, oracles, ("value", "low", "high"), oracle_looks, first=len(of_headline))
    axis.set_xlabel(METRIC_NAMES[of_headline["metric"].dropna().iloc[0]])
    axis.grid(axis="y", color="#eeeeee")
    axis.set_axisbelow(True)


def _differences(axis: Axes, of_headline: pd.DataFrame, reference: str) -> None:
    axis.axvline(0, color=BLACK, linewidth=1.0)
    sure = of_headline["p_holm"].to_numpy(dtype=float) < 0.05
    _errorbar(axis, of_headline, ("difference", "difference_low", "difference_high"),
              [_point(RED if s else BLACK, filled=bool(s)) for s in sure])  # fmt: skip
    columns = ["difference", "difference_low", "difference_high", "n_paired"]
    for y, (value, low, high, n) in enumerate(of_headline[columns].to_numpy(dtype=float)):
        text = f"{value:+.2f} [{low:+.2f}, {high:+.2f}]{'*' if sure[y] else ''}  n {n:.0f}"
        axis.annotate(text if np.isfinite(value) else "not paired", (1.02, y), xycoords=("axes fraction", "data"),
                      fontsize=7, va="center", color=RED if sure[y] else "#333333")  # fmt: skip
    axis.set_xlabel(f"{METRIC_NAMES[of_headline['metric'].dropna().iloc[0]]} minus {reference}")
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="y", color="#eeeeee")
    axis.set_axisbelow(True)
