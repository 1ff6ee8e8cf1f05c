"""Pictures of a cohort: the map of its samples, curves of risk over dose, prototypes with their tiles."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from toxfusion.evaluation.figures.canvas import (
    CYCLE,
    DOSE_COLOURS,
    GREY,
    MARKERS,
    STYLE,
    FigureError,
    new_figure,
    save_figure,
)
from toxfusion.study.vocabulary import DILI, INJURY, LESION_PREFIX, SEVERITY, short_name

COLUMNS = {
    "compound": "compound",
    "dose": "dose_level",
    "time": "time_h",
    "finding": "finding",
    "batch": "batch",
}
"""What a map is coloured by -> column of its table."""
MOST_NAMED = 12
"""Compounds, findings or batches with a colour of their own; the others are grey."""
PALE = "#cfcfcf"
NO_FINDING = ("none", "not examined")
PANELS = ("dili", "injury", "severity")


def _values(table: pd.DataFrame, by: str) -> pd.Series:
    """What a sample is coloured by, as text; "" where it is not known."""
    column = table[COLUMNS[by]]
    if by == "dose" and (column.astype(str) == "").all():
        column = table["dose"]
    if pd.api.types.is_numeric_dtype(column):
        return column.map(lambda v: "" if pd.isna(v) else f"{v:g}")
    return column.astype(str)


def nothing_to_colour(table: pd.DataFrame, by: str) -> str:
    """Why a map by ``by`` would show nothing; "" where it shows something."""
    known = _values(table, by)
    known = known[known != ""]
    if known.nunique() < 2:
        return f"{known.nunique()} values of {by}: nothing to tell apart"
    if by == "compound" and known.nunique() == len(table):
        return "every sample is of another compound (patients, say)"
    return ""


def embedding(table: pd.DataFrame, by: str, far: Sequence[str], path: Path, *, title: str) -> None:
    """The map, coloured by compound, dose, time, finding or batch; samples that were not tested are small and pale.

    Args:
        table: of `cohort.embedding`. far: compounds, those first that are named where not all can be.
    """
    values = _values(table, by)
    named = _named(table, values, by, far)
    test = (table["part"] == "test").to_numpy()
    with mpl.rc_context(STYLE):
        figure = new_figure(9.5, 6.2)
        axis = figure.subplots()
        others = ~values.isin(named).to_numpy()
        _points(axis, table[others], test[others], {"color": PALE, "marker": "o"}, None)
        for i, (value, colour) in enumerate(named.items()):
            chosen = (values == value).to_numpy()
            plain = by in ("dose", "time") or value in NO_FINDING
            look = {"color": colour, "marker": "o" if plain else MARKERS[i % len(MARKERS)]}
            _points(axis, table[chosen], test[chosen], look, _name(by, value, table[chosen]))
        if others.any():
            axis.scatter([], [], s=30, edgecolor="black", linewidth=0.4, label="other", color=PALE)
        axis.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
        small = "" if test.all() else " (small: not tested)"
        n = f"{len(table)} samples, {test.sum()} of them tested{small}"
        axis.set_title(f"{title}: fused vectors by {by}\n{n}", fontsize="small")
        figure.legend(loc="outside right center", fontsize=8, title=by, markerscale=1.3)
        save_figure(figure, path)


def _named(table: pd.DataFrame, values: pd.Series, by: str, far: Sequence[str]) -> dict[str, Any]:
    """Value -> colour, in the order of the legend."""
    there = values[values != ""].unique().tolist()
    if by == "dose" and set(there) <= set(DOSE_COLOURS):
        return {v: c for v, c in DOSE_COLOURS.items() if v in there}
    if by in ("dose", "time"):
        ordered = sorted(there, key=float)
        shades = mpl.colormaps["viridis"](np.linspace(0, 0.92, len(ordered)))
        return dict(zip(ordered, map(tuple, shades), strict=True))
    if by == "compound":
        known = (
            table.assign(value=values)[~table["is_control"]].groupby("value")["dili"].first().dropna().index
        )
        first = [c for c in far if c in set(known)] if 0 < len(known) <= MOST_NAMED else []
        ordered = list(dict.fromkeys([*first, *far]))
    else:
        counted = values[values != ""].value_counts()
        ordered = [str(v) for v in counted.index]
        if by == "finding":  # these two are no findings, and come last in grey
            ordered = [v for v in ordered if v not in NO_FINDING]
    named: dict[str, Any] = {v: CYCLE[i % len(CYCLE)] for i, v in enumerate(ordered[:MOST_NAMED])}
    if by == "finding":
        named |= {v: c for v, c in zip(NO_FINDING, (GREY, PALE), strict=True) if v in there}
    return named


def _name(by: str, value: str, samples: pd.DataFrame) -> str:
    """A value in the legend; a compound with its DILI label where that is known."""
    if by == "compound":
        known = samples["dili"].dropna()
        return f"{value} ({'DILI' if known.iloc[0] else 'no DILI'})" if len(known) else value
    return f"{value} h" if by == "time" else value


def _points(
    axis: Axes, samples: pd.DataFrame, test: np.ndarray, look: dict[str, Any], name: str | None
) -> None:
    """Samples of one colour: tested ones with a rim, others small and pale."""
    faint = look["color"] in (PALE, GREY)
    axis.scatter(
        samples["x"][~test],
        samples["y"][~test],
        s=9 if faint else 14,
        alpha=0.4 if faint else 0.6,
        linewidth=0,
        **look,
    )
    axis.scatter(samples["x"][test], samples["y"][test], s=30, edgecolor="black", linewidth=0.4, **look)
    if name is not None:
        axis.scatter([], [], s=30, edgecolor="black", linewidth=0.4, label=textwrap.fill(name, 26), **look)


def dose_response(curve: pd.DataFrame, path: Path, *, title: str) -> None:
    """Predicted risk of one compound over its doses, one panel a task, one line a time.

    Args:
        curve: of `cohort.dose_response`, of one compound. Bars span the runs' means, thin lines the animals.
    """
    tasks = _panel_tasks(curve)
    times = sorted(curve["time_h"].unique(), key=lambda t: (np.isnan(t), t))
    levels = curve[["dose", "dose_level"]].drop_duplicates()
    rank = {"control": 0, "low": 1, "middle": 2, "high": 3}
    levels = levels.assign(rank=levels["dose_level"].astype(str).map(rank).fillna(0))
    levels = levels.sort_values(["dose", "rank"], kind="stable", na_position="first").reset_index(drop=True)
    places = {_dose_key(r): i for i, r in enumerate(levels.to_dict("records"))}
    shades = [CYCLE[i % len(CYCLE)] for i in range(len(times))]
    with mpl.rc_context(STYLE):
        figure = new_figure(max(4.6, 3.1 * len(tasks) + 0.6), 3.9)
        axes = figure.subplots(1, len(tasks), squeeze=False)[0]
        for axis, task in zip(axes, tasks, strict=True):
            for i, time in enumerate(times):
                same = curve["time_h"].isna() if np.isnan(time) else curve["time_h"] == time
                line = curve[(curve["task"] == task) & same]
                line = line.assign(place=[places[_dose_key(r)] for r in line.to_dict("records")]).sort_values(
                    "place"
                )
                x = line["place"].to_numpy(float) + 0.12 * (i - (len(times) - 1) / 2)
                mean = line["mean"].to_numpy(float)
                axis.vlines(
                    x, line["animal_low"], line["animal_high"], color=shades[i], linewidth=0.8, alpha=0.5
                )
                spread = np.stack([mean - line["low"], line["high"] - mean]).clip(min=0)
                axis.errorbar(x, mean, yerr=spread, fmt="none", color=shades[i], linewidth=2.4)
                name = "time not known" if np.isnan(time) else f"{time:g} h"
                axis.plot(
                    x, mean, color=shades[i], marker=MARKERS[i % len(MARKERS)], markersize=5, label=name
                )
            axis.set_xticks(
                range(len(levels)), [_dose_name(r) for r in levels.to_dict("records")], fontsize=8
            )
            axis.set_xlim(-0.5, len(levels) - 0.5)
            axis.set_title(textwrap.fill(short_name(task), 30), fontsize="small")
            axis.set_xlabel("dose, mg/kg" if levels["dose"].notna().any() else "dose level")
            probability = task in (DILI, INJURY) or task.startswith(LESION_PREFIX)
            if probability:
                axis.set_ylim(-0.03, 1.03)
            kind = "expected grade" if task == SEVERITY else "standardised value"
            axis.set_ylabel("predicted probability" if probability else kind, fontsize=9)
        n_runs = int(curve["n_runs"].max())
        bars = f"thick bars: range of {n_runs} runs' means; " if n_runs > 1 else "one run tested each; "
        figure.legend(
            *axes[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=min(4, len(times)),
            title=f"{bars}thin lines: range of animals",
            fontsize=8,
            title_fontsize=8,
        )
        figure.suptitle(title, fontsize=11)
        save_figure(figure, path)


def _dose_key(level: dict) -> tuple[float, str]:
    dose = float(level["dose"])
    return (-1.0 if np.isnan(dose) else dose, str(level["dose_level"]))


def _dose_name(level: dict) -> str:
    dose = float(level["dose"])
    return "\n".join(p for p in ("" if np.isnan(dose) else f"{dose:g}", str(level["dose_level"])) if p)


def _panel_tasks(curve: pd.DataFrame) -> list[str]:
    """DILI, injury and severity where predicted, then the others by their highest mean; four at most."""
    highest = curve.groupby("task")["mean"].max().sort_values(ascending=False, kind="stable").index
    first = [t for t in PANELS if t in set(highest)]
    return [*first, *(str(t) for t in highest if t not in first)][:4]


def prototypes(tiles: pd.DataFrame, pixels: Sequence[np.ndarray], path: Path, *, title: str) -> None:
    """One row a prototype: the slides nearest to it, each with its top tiles.

    Args:
        tiles: of `cohort.prototypes`. pixels: uint8 [p, p, 3] of each row.

    Raises:
        FigureError: no tile.
    """
    if tiles.empty:
        raise FigureError("no prototype has a slide; there is nothing to draw.")
    order = tiles["prototype"].drop_duplicates().tolist()
    n_tiles, n_ranks = int(tiles["tile_rank"].max()), int(tiles["rank"].max())
    with mpl.rc_context(STYLE):
        figure = new_figure(1.35 * n_tiles * n_ranks + 1.6, 1.95 * len(order) + 0.6)
        axes = figure.subplots(len(order), n_tiles * n_ranks, squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for tile, image in zip(tiles.to_dict("records"), pixels, strict=True):
            axis = axes[order.index(tile["prototype"]), (tile["rank"] - 1) * n_tiles + tile["tile_rank"] - 1]
            axis.imshow(image)
            if tile["tile_rank"] == 1:
                about = f"{tile['compound']} {tile['dose_level']}\n{tile['finding']}, cosine {tile['similarity']:.2f}"
                axis.set_title("\n".join(textwrap.shorten(a, 34, placeholder="...") for a in about.split("\n")),
                               fontsize=7, loc="left")  # fmt: skip
        for axis, k in zip(axes[:, 0], order, strict=True):
            n = int(tiles.loc[tiles["prototype"] == k, "n_nearest"].iloc[0])
            axis.set_ylabel(
                f"prototype {k}\nnearest to\n{n} slides", fontsize=8, rotation=0, ha="right", va="center"
            )
        figure.suptitle(
            f"{title}: slides nearest to prototypes of the style branch, with the tiles that add most to the cosine",
            fontsize="small",
        )
        save_figure(figure, path)
