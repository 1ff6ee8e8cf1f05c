"""Figures of the test part of a run: ROC, precision-recall, reliability before and after calibration, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from sklearn import metrics as sk

from toxfusion.evaluation.calibration import reliability
from toxfusion.evaluation.comparison_table import units_of
from toxfusion.evaluation.families import family_of
from toxfusion.evaluation.figures.canvas import (
    BLUE,
    CYCLE,
    GREY,
    ORANGE,
    STYLE,
    FigureError,
    new_figure,
    save_figure,
)
from toxfusion.evaluation.out_of_fold import headline_rows, headlines_of, out_of_fold
from toxfusion.evaluation.scoring import called_classes
from toxfusion.evaluation.strata import SMALL
from toxfusion.study.vocabulary import GRADES, short_name, title_of


def held_out(tables: Sequence[pd.DataFrame], folder: Path, *, title: str = "") -> None:
    """curves.png and confusion.png of the test part, each where a task allows it.

    Args:
        tables: predictions of one method, one or several folds and seeds.
    """
    tested = out_of_fold(tables)
    if curve_headlines(tested):
        run_curves(tested, folder / "curves.png", title=title)
    if _confusions(tested):
        confusion(tested, folder / "confusion.png", title=title)


def confusion(tested: pd.DataFrame, path: Path, *, title: str = "") -> None:
    """Counts of test units by label and by what was called: one panel for each headline of classes or grades.

    Two-class tasks are called at the threshold of the validation part of their fold (units without one are left
    out, and counted in the panel's title), and grades by its cut-offs; lesions are counted together; subtypes are
    called by the class of highest probability. Colours are shares of a row.

    Args:
        tested: ``out_of_fold.out_of_fold`` of the run or runs.

    Raises:
        FigureError: no task has both labels and calls.
    """
    panels = _confusions(tested)
    if not panels:
        raise FigureError("no task has labelled test units that were called; there is nothing to count.")
    with mpl.rc_context(STYLE):
        figure = new_figure(0.6 + 3.1 * len(panels), 3.6)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (headline, (counts, lacking)) in zip(axes, panels.items(), strict=True):
            share = counts.to_numpy(dtype=float) / np.maximum(counts.to_numpy().sum(1, keepdims=True), 1)
            axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
            for (i, j), n in np.ndenumerate(counts.to_numpy()):
                axis.text(
                    j, i, f"{n}", ha="center", va="center", color="white" if share[i, j] > 0.5 else "black"
                )
            axis.set_xticks(range(len(counts.columns)), counts.columns, rotation=30 if len(counts) > 5 else 0)
            axis.set_yticks(range(len(counts.index)), counts.index)
            axis.set(xlabel="called", ylabel="label")
            name = title_of(headline).partition(",")[0]
            axis.set_title(f"{name}\n({lacking} units without a threshold left out)" if lacking else name)
        if title:
            figure.suptitle(title)
        save_figure(figure, path)


def _confusions(tested: pd.DataFrame) -> dict[str, tuple[pd.DataFrame, int]]:
    """Headline -> counts (label x called), and how many labelled units were not called; headlines without a call
    are left out.
    """
    confusions: dict[str, tuple[pd.DataFrame, int]] = {}
    classes: list[tuple[Any, str]]
    for headline in headlines_of(tested):
        labelled = headline_rows(tested, headline)
        if labelled.empty:
            continue
        exclusive = labelled["family"].iloc[0] == "classes"
        if exclusive:
            known = called_classes(labelled)
            known = known.assign(label=known["task"], called=known["called_task"])
            classes = [(t, short_name(t)) for t in sorted(labelled["task"].unique())]
        else:
            known = labelled[labelled["called"].notna()]
            two_class = family_of(labelled).two_class
            classes = [(0, "no"), (1, "yes")] if two_class else [(g, str(g)) for g in GRADES]
        if len(known):
            counts = pd.crosstab(known["label"], known["called"])
            values, names = zip(*classes, strict=True)
            counts = (
                counts.reindex(index=values, columns=values, fill_value=0)
                .set_axis(names)
                .set_axis(names, axis=1)
            )
            confusions[headline] = (counts, 0 if exclusive else len(labelled) - len(known))
    return confusions


def curve_headlines(tested: pd.DataFrame) -> list[str]:
    """Headlines of two-class tasks in which both classes occur: those that `run_curves` draws."""
    return [h for h in headlines_of(tested) if _two_classes(headline_rows(tested, h))]


def run_curves(tested: pd.DataFrame, path: Path, *, title: str = "") -> None:
    """ROC, precision-recall and reliability of each binary headline of a run.

    Args:
        tested: ``out_of_fold.out_of_fold`` of the run or runs. Lesions are drawn as one curve each, in grey, for
            ROC and PR.

    Raises:
        FigureError: no binary task has both classes.
    """
    headlines = curve_headlines(tested)
    if not headlines:
        raise FigureError("no task has labelled test units of both classes; there is no curve to draw.")
    with mpl.rc_context(STYLE):
        # Below the panels of several tasks, a strip for their names: inside, the names would cover the curves.
        named = [len(_ranked_tasks(headline_rows(tested, h))) for h in headlines]
        strips = [0.5 + 0.2 * -(-n // 2) if n > 1 else 0.02 for n in named]
        heights = [size for strip in strips for size in (3.6, strip)]
        figure = new_figure(11.5, sum(heights))
        grid = figure.add_gridspec(2 * len(headlines), 3, height_ratios=heights)
        for i, headline in enumerate(headlines):
            labelled = headline_rows(tested, headline)
            roc, precision_recall, calibration = (figure.add_subplot(grid[2 * i, k]) for k in range(3))
            strip = figure.add_subplot(grid[2 * i + 1, :])
            strip.set_axis_off()
            _roc_and_pr(roc, precision_recall, strip, labelled)
            _reliability(calibration, labelled)
            n, n_compounds = labelled["unit_id"].nunique(), labelled["compound"].nunique()
            roc.set_title(
                f"{title_of(headline).removesuffix(', macro average')}: ROC\n{units_of(n, n_compounds)}"
            )
            precision_recall.set_title("precision and recall")
        if title:
            figure.suptitle(title)
        save_figure(figure, path)


def _ranked_tasks(labelled: pd.DataFrame) -> list[str]:
    return [str(t) for t, part in labelled.groupby("task") if part["label"].nunique() == 2]


def _two_classes(labelled: pd.DataFrame) -> bool:
    if labelled.empty or not family_of(labelled).two_class:
        return False
    return bool((labelled.groupby("task")["label"].nunique() == 2).any())


def _roc_and_pr(roc: Axes, precision_recall: Axes, strip: Axes, labelled: pd.DataFrame) -> None:
    """Curves; thin where a class has fewer than ``SMALL`` units, for such a curve is a few steps of luck."""
    tasks = _ranked_tasks(labelled)
    for i, task in enumerate(tasks):
        part = labelled[labelled["task"] == task]
        label, score = part["label"].to_numpy(), part["score"].to_numpy()
        positive = int(label.sum())
        look: dict[str, Any] = {"color": CYCLE[i % len(CYCLE)],
                                "linewidth": 1.8 if min(positive, len(part) - positive) >= SMALL else 0.8,
                                "linestyle": ("-", "--", ":")[(i // len(CYCLE)) % 3]}  # fmt: skip
        x, y, _ = sk.roc_curve(label, score)
        area, average = sk.roc_auc_score(label, score), sk.average_precision_score(label, score)
        # The last point, precision 1 at recall 0, is no threshold of these scores.
        precision, recall, _ = sk.precision_recall_curve(label, score)
        # A curve is of all folds together; the headline ranks within them.
        of_all = " of all folds" if part["fold"].nunique() > 1 else ""
        names = [f"AUROC{of_all} {area:.2f}", f"average precision {average:.2f} (chance {label.mean():.2f})"]
        if len(tasks) > 1:
            strip.plot(
                [],
                [],
                label=f"{short_name(task)} ({positive} of {len(part)}): {', '.join(names)}",
                **look,
            )
        roc.plot(x, y, label=names[0], **look)
        precision_recall.step(recall[:-1], precision[:-1], where="post", label=names[1], **look)
        if len(tasks) == 1:
            precision_recall.axhline(label.mean(), color=GREY, linestyle=":", linewidth=1.2)
    roc.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
    roc.set(
        xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal"
    )
    precision_recall.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.05))
    if len(tasks) > 1:
        thin = f"in brackets: positives of all; thin: fewer than {SMALL} of a class"
        strip.legend(fontsize=8, loc="center", ncols=2, title=thin, title_fontsize=8)
    else:
        roc.legend(fontsize=8, loc="lower right")
        precision_recall.legend(fontsize=8, loc="best")


def _reliability(axis: Axes, labelled: pd.DataFrame) -> None:
    n_bins = int(np.clip(len(labelled) // 20, 3, 10))
    curves = [("as predicted", "score", BLUE, "o"), ("calibrated on validation", "calibrated", ORANGE, "s")]
    axis.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
    for name, column, colour, marker in curves:
        if labelled[column].notna().all():
            curve = reliability(labelled["label"].to_numpy(), labelled[column].to_numpy(), n_bins)
            axis.plot(
                curve.mean_score, curve.observed, color=colour, marker=marker, linewidth=1.4, label=name
            )
    pooled = ", tasks pooled" if labelled["task"].nunique() > 1 else ""
    axis.set_title(f"calibration\n{n_bins} bins of about {len(labelled) / n_bins:.0f}{pooled}")
    axis.set(
        xlabel="mean score of bin",
        ylabel="observed share",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
    )
    axis.legend(fontsize=8, loc="upper left")
