"""Curves of probes of a run: few shots, and a modality that is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toxfusion.evaluation.families import METRIC_NAMES
from toxfusion.evaluation.figures.canvas import (
    GREY,
    STYLE,
    FigureError,
    look_of,
    new_figure,
    save_figure,
)
from toxfusion.study.vocabulary import in_order, title_of


def few_shot(table: pd.DataFrame, path: Path, *, by: str = "embedding", title: str = "") -> None:
    """AUROC over the number of shots a class, one panel a task, one line an embedding or experiment.

    Args:
        table: rows of probe ``few_shot`` (others are passed over), one for each ``by``, task and k; bars are low to
            high. Where a k averages fewer lesions than another of its line does, the point is hollow.
        by: the column whose values are lines.

    Raises:
        FigureError: no row has a value.
    """
    asked = table[(table["probe"] == "few_shot") & (table["task"] == table["headline"])]
    scored = asked[asked["value"].notna()]
    tasks = in_order(scored["task"])
    if not tasks:
        raise FigureError("no few-shot probe has a value; there is no curve to draw.")
    names = scored[by].drop_duplicates().tolist()
    with mpl.rc_context(STYLE):
        note = "bars: 2.5th to 97.5th percentile over draws of the shots, the test compounds being the same"
        if "finetuned" in names:
            note += "; finetuned has seen every training label"
        figure, axes = _curves(scored, tasks, names, title, note)
        for axis, task in zip(axes, tasks, strict=True):
            of_task = scored[scored["task"] == task]
            ks = sorted(asked.loc[asked["task"] == task, "k"].dropna().unique())
            for k in set(ks) - set(of_task["k"]):
                axis.annotate("too few\ncompounds", (k, 0.03), xycoords=("data", "axes fraction"), fontsize=7,
                              color="#555555", ha="center", va="bottom")  # fmt: skip
            if of_task["reason"].nunique() > 1:
                axis.annotate("hollow: mean over fewer lesions", (0.02, 0.98), xycoords="axes fraction", fontsize=7,
                              color="#555555", va="top")  # fmt: skip
            for i, name in enumerate(names):
                line = of_task[of_task[by] == name].sort_values("k")
                beside = 1.06 ** (i - (len(names) - 1) / 2)  # so that bars of one k do not cover each other
                _curve(axis, line, line["k"].to_numpy(dtype=float) * beside, i, line["reason"].to_numpy())
            axis.set_xscale("log")
            axis.set_xticks(ks, [f"{k:.0f}" for k in ks])
            axis.minorticks_off()
            axis.set(xlabel="shots a class", xlim=(min(ks) / 1.4, max(ks) * 1.4))
        save_figure(figure, path)


def missing_modality(table: pd.DataFrame, path: Path, *, title: str = "") -> None:
    """Headline metrics over the share of test samples a modality is hidden from, one line a modality.

    Args:
        table: rows of probe ``missing_modality`` (others are passed over).

    Raises:
        FigureError: no row has a value.
    """
    scored = table[(table["probe"] == "missing_modality") & table["value"].notna()]
    tasks = in_order(scored["task"])
    if not tasks:
        raise FigureError("no score with a modality hidden; there is no curve to draw.")
    names = {"slide": "slides hidden", "expression": "expression hidden"}
    with mpl.rc_context(STYLE):
        note = "bars: 95 % intervals over test compounds; one draw of the hidden samples"
        figure, axes = _curves(scored, tasks, list(names.values()), title, note)
        for axis, task in zip(axes, tasks, strict=True):
            for i, hidden in enumerate(names):
                line = scored[(scored["task"] == task) & (scored["hidden"] == hidden)].sort_values("share")
                _curve(axis, line, 100 * line["share"].to_numpy(dtype=float) + 2 * i - 1, i)
            axis.set_xticks([0, 25, 50, 75, 100])
            axis.set_xlabel("% of test samples that lose it")
        save_figure(figure, path)


def _curves(
    scored: pd.DataFrame, tasks: Sequence[str], names: Sequence[str], title: str, note: str
) -> tuple[Figure, Sequence[Axes]]:
    """A panel for each task, with a line at chance; below them the names of the lines and what the bars are."""
    figure = new_figure(1.0 + 3.3 * len(tasks), 4.1)
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    measured = scored.drop_duplicates("task").set_index("task")
    ranked = [axis for axis, task in zip(axes, tasks, strict=True) if measured.at[task, "chance"] == 0.5]
    for axis in ranked[1:]:
        axis.sharey(ranked[0])
    for axis, task in zip(axes, tasks, strict=True):
        axis.axhline(measured.at[task, "chance"], color=GREY, linestyle=":", linewidth=1.4)
        axis.set_title(title_of(task).replace(", ", ",\n"))
        axis.set_ylabel(METRIC_NAMES[str(measured.at[task, "metric"])])
    look: list[dict[str, Any]] = [look_of(i) for i in range(len(names))]
    keys = [axes[0].plot([], [], label=name, **kw)[0] for name, kw in zip(names, look, strict=True)]
    figure.legend(
        handles=keys, loc="outside lower center", ncols=min(len(names), 4), title=note, title_fontsize=8
    )
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, axes


def _curve(axis: Axes, line: pd.DataFrame, x: np.ndarray, i: int, notes: np.ndarray | None = None) -> None:
    value, low, high = (line[c].to_numpy(dtype=float) for c in ("value", "low", "high"))
    look = look_of(i)
    # About the middle of the interval: of few draws it need not hold the value.
    axis.errorbar(
        x,
        (low + high) / 2,
        yerr=(high - low) / 2,
        fmt="none",
        color=look["color"],
        linewidth=1,
        capsize=2,
        alpha=0.6,
    )
    axis.plot(x, value, **look)
    if notes is not None and len(set(notes)) > 1:
        fewer = notes != notes[0]
        hollow = {**look, "linewidth": 0, "markerfacecolor": "white"}
        axis.plot(x[fewer], value[fewer], **hollow)
