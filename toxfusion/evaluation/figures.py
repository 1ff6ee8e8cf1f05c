"""Figures that read at a glance: comparison, paired differences, embedding map, attention on a slide, curves
of a run.

Every function writes one PNG (matplotlib's Agg canvas, no display) in the colours of Okabe and Ito.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from sklearn import metrics as sk
from sklearn.decomposition import PCA

from toxfusion.evaluation.calibration import reliability
from toxfusion.evaluation.comparison import METRIC_NAMES, TITLES, Comparison
from toxfusion.evaluation.predictions import MAX_GRADE
from toxfusion.evaluation.scoring import (
    HEADLINES,
    LESIONS,
    SUBTYPE,
    called_classes,
    chance_of,
    headline_metric,
    headline_rows,
    out_of_fold,
)

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
CYCLE = (BLUE, ORANGE, GREEN, RED, SKY, PINK, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
GREY = "#8a8a8a"
DOSE_COLOURS = {"control": "#bdbdbd", "low": SKY, "middle": ORANGE, "high": RED}
INJURY_COLOURS = {"no label": "#d9d9d9", "not injured": BLUE, "injured": RED}
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 150,
}
_MOST_COMPOUNDS_NAMED = 16
HEATMAP = "heatmap_"
"""How the file name of a slide under its attention begins, in a folder of figures."""


class FigureError(ValueError):
    """Nothing to draw, or arrays that do not fit together."""


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")


def comparison(found: Comparison, path: Path) -> None:
    """Each experiment's value with its 95 % interval, one panel a task, with lines at chance and at the
    oracle.
    """
    _panels(found, path, differences_only=False)


def differences(found: Comparison, path: Path) -> None:
    """Forest plot: paired difference of each experiment from the reference with its 95 % interval.

    Raises:
        FigureError: there is no experiment beside the reference.
    """
    _panels(found, path, differences_only=True)


def _panels(found: Comparison, path: Path, *, differences_only: bool) -> None:
    experiments = found.table["experiment"].drop_duplicates().tolist()
    if differences_only:
        experiments = [e for e in experiments if e != found.reference]
    if not experiments:
        raise FigureError(f"only {found.reference!r} has finished runs; there is nothing to set beside it.")
    headlines = found.headlines
    with mpl.rc_context(_STYLE):
        figure = _figure(1.8 + 2.7 * len(headlines), 1.5 + 0.34 * len(experiments))
        axes = figure.subplots(1, len(headlines), sharey=True, squeeze=False)[0]
        for axis, headline in zip(axes, headlines, strict=True):
            rows = (
                found.table[found.table["headline"] == headline].set_index("experiment").reindex(experiments)
            )
            draw = _differences if differences_only else _values
            draw(axis, rows, found.reference, headline)
            axis.set_title(TITLES[headline].replace(", ", ",\n"))
        axes[0].set_yticks(range(len(experiments)), experiments)
        axes[0].set_ylim(len(experiments) - 0.4, -0.6)
        _save(figure, path)


def _errorbar(axis: Axes, rows: pd.DataFrame, columns: tuple[str, str, str], colours: Sequence[str]) -> None:
    value, low, high = (rows[c].to_numpy(dtype=float) for c in columns)
    for y, colour in enumerate(colours):
        if np.isfinite(value[y]):
            spread = [[value[y] - low[y]], [high[y] - value[y]]] if np.isfinite(low[y]) else None
            axis.errorbar(
                value[y], y, xerr=spread, fmt="o", color=colour, markersize=6, capsize=3, linewidth=1.6
            )


def _values(axis: Axes, rows: pd.DataFrame, reference: str, headline: str) -> None:
    chance = chance_of(headline_metric(headline))
    axis.axvline(chance, color=GREY, linestyle=":", linewidth=1.4)
    # Left of its line, as the oracle's name stands right of its own: the two may nearly coincide.
    axis.annotate("chance", (chance, 1), xycoords=("data", "axes fraction"), xytext=(-2, -2), ha="right",
                  textcoords="offset points", color="#555555", fontsize=8, va="top")  # fmt: skip
    oracle = rows["oracle"].dropna()
    if len(oracle):
        axis.axvline(oracle.iloc[0], color=GREEN, linewidth=1.4)
        axis.annotate("oracle", (oracle.iloc[0], 1), xycoords=("data", "axes fraction"), xytext=(2, -2),
                      textcoords="offset points", color=GREEN, fontsize=8, va="top")  # fmt: skip
    if reference in rows.index:
        low, high = (
            float(rows[c].to_numpy(dtype=float)[rows.index.get_loc(reference)]) for c in ("low", "high")
        )
        axis.axvspan(low, high, color=BLUE, alpha=0.10, linewidth=0)
    _errorbar(axis, rows, ("value", "low", "high"), [BLUE if e == reference else BLACK for e in rows.index])
    axis.set_xlabel(METRIC_NAMES[headline_metric(headline)])
    axis.grid(axis="y", color="#eeeeee")
    axis.set_axisbelow(True)


def _differences(axis: Axes, rows: pd.DataFrame, reference: str, headline: str) -> None:
    axis.axvline(0, color=GREY, linewidth=1.2)
    sure = rows["p_holm"].to_numpy(dtype=float) < 0.05
    colours = [RED if s else BLACK for s in sure]
    _errorbar(axis, rows, ("difference", "difference_low", "difference_high"), colours)
    axis.set_xlabel(f"{METRIC_NAMES[headline_metric(headline)]} minus {reference}\n(coloured: Holm p < 0.05)")
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="y", color="#eeeeee")
    axis.set_axisbelow(True)


def embedding_map(
    embedding: np.ndarray,
    obs: pd.DataFrame,
    path: Path,
    *,
    method: Literal["pca", "umap"] = "pca",
    seed: int = 0,
) -> None:
    """Samples in two dimensions, coloured by dose level, by injury of their group and by compound.

    Args:
        embedding: float [n, d].
        obs: n rows with dose_level, injury (1, 0, NaN) and compound, in the order of ``embedding``.
        method: ``pca``, or ``umap`` (needs umap-learn).

    Raises:
        FigureError: shapes that do not fit, NaN, fewer than three samples, or umap-learn is not installed.
    """
    embedding = np.asarray(embedding, dtype=np.float64)
    if embedding.ndim != 2 or len(embedding) != len(obs) or len(obs) < 3 or not np.isfinite(embedding).all():
        raise FigureError(
            f"a finite embedding [n >= 3, d] of {len(obs)} samples is needed, not {embedding.shape}."
        )
    points, names = _project(embedding, method, seed)
    with mpl.rc_context(_STYLE):
        figure = _figure(13, 5.2)
        axes = figure.subplots(1, 3, sharex=True, sharey=True)
        dose = obs["dose_level"].astype(str).replace("", "not given")
        injury = obs["injury"].astype(float).map({1.0: "injured", 0.0: "not injured"}).fillna("no label")
        _categories(axes[0], points, dose, DOSE_COLOURS, "dose level")
        _categories(axes[1], points, injury, INJURY_COLOURS, "injury of the dose group")
        _compounds(axes[2], points, obs["compound"].astype(str))
        for axis in axes:
            axis.set_xlabel(names[0])
            axis.set_xticks([])
            axis.set_yticks([])
        axes[0].set_ylabel(names[1])
        _save(figure, path)


def _project(embedding: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, tuple[str, str]]:
    if method == "pca":
        if embedding.shape[1] == 1:
            raise FigureError("a map needs an embedding of two dimensions or more.")
        fitted = PCA(2, random_state=seed)
        points = fitted.fit_transform(embedding)
        share = 100 * fitted.explained_variance_ratio_
        return points, (f"PC 1 ({share[0]:.0f} % of variance)", f"PC 2 ({share[1]:.0f} %)")
    try:
        from umap import UMAP
    except ImportError as error:
        raise FigureError(
            "umap-learn is not installed; install it, or draw the map with method='pca'."
        ) from error
    return UMAP(random_state=seed, n_jobs=1).fit_transform(embedding), ("UMAP 1", "UMAP 2")


def _categories(
    axis: Axes, points: np.ndarray, values: pd.Series, colours: dict[str, str], title: str
) -> None:
    present = {name: colour for name, colour in colours.items() if (values == name).any()}
    for name in sorted(set(values) - set(colours)):
        present[name] = GREY
    for name, colour in present.items():
        chosen = (values == name).to_numpy()
        axis.scatter(
            points[chosen, 0],
            points[chosen, 1],
            s=16,
            color=colour,
            linewidths=0.2,
            edgecolors="white",
            label=f"{name} ({chosen.sum()})",
        )
    axis.set_title(title)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, markerscale=1.6, handletextpad=0.2)


def _compounds(axis: Axes, points: np.ndarray, compound: pd.Series) -> None:
    """Each compound its own colour and marker; named in a legend while they are few."""
    names = sorted(compound.unique())
    for i, name in enumerate(names):
        chosen = (compound == name).to_numpy()
        axis.scatter(
            points[chosen, 0],
            points[chosen, 1],
            s=18,
            color=CYCLE[i % len(CYCLE)],
            marker=MARKERS[(i // len(CYCLE)) % len(MARKERS)],
            linewidths=0.2,
            edgecolors="white",
            label=name,
        )
    axis.set_title(f"compound ({len(names)})")
    if len(names) <= _MOST_COMPOUNDS_NAMED:
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.08), "ncols": 4}
        axis.legend(**below, markerscale=1.3, handletextpad=0.2, columnspacing=1.0, fontsize=8)


def slide_attention(
    thumbnail: np.ndarray,
    coordinates: np.ndarray,
    tile_size: float,
    weights: np.ndarray,
    path: Path,
    *,
    downsample: float,
    mpp0: float,
    title: str = "",
) -> None:
    """A slide beside the same slide under its attention.

    Args:
        thumbnail: uint8 [h, w, 3], RGB.
        coordinates: [n, 2], x and y of each tile's top-left corner, level-0 px from the thumbnail's own
            corner.
        tile_size: side of a tile, level-0 px.
        weights: [n], attention; drawn as a multiple of the uniform weight, colours clipped at the 99th
            percentile.
        downsample: level-0 px per thumbnail px.
        mpp0: um per level-0 px, for the scale bar.

    Raises:
        FigureError: no tiles, arrays of different lengths, or weights that are negative or not finite.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if len(weights) == 0 or len(coordinates) != len(weights):
        raise FigureError(
            f"{len(coordinates)} tiles and {len(weights)} weights; there must be as many, and some."
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
        raise FigureError("attention weights must be finite, not negative and not all zero.")
    relative = weights * len(weights) / weights.sum()
    map_of_tiles = _tile_map(
        thumbnail.shape[:2], np.asarray(coordinates) / downsample, tile_size / downsample, relative
    )
    height, width = thumbnail.shape[:2]
    with mpl.rc_context(_STYLE):
        figure = _figure(11, 0.8 + 5.0 * height / width)
        left, right = figure.subplots(1, 2)
        left.imshow(thumbnail)
        right.imshow(thumbnail)
        bottom, top = float(relative.min()), float(np.percentile(relative, 99))
        colours = Normalize(bottom, max(top, bottom + 1e-9), clip=True)
        opacity = 0.1 + 0.65 * colours(map_of_tiles.filled(bottom))
        right.imshow(map_of_tiles, cmap="viridis", norm=colours, alpha=opacity, interpolation="nearest")
        shades = ScalarMappable(colours, "viridis")
        bar = figure.colorbar(shades, ax=right, fraction=0.046, pad=0.02, shrink=0.9, extend="max")
        bar.set_label("attention (1 = uniform over tiles)")
        for axis, name in ((left, title or "H&E"), (right, "attention")):
            axis.set_title(textwrap.fill(name, 56), fontsize="small")
            axis.set_axis_off()
        _scale_bar(left, width, height, mpp0 * downsample)
        _save(figure, path)


def _tile_map(
    shape: tuple[int, ...], corners: np.ndarray, side: float, values: np.ndarray
) -> np.ma.MaskedArray:
    """Masked float [h, w]: mean value of the tiles that cover each pixel; masked where there is none."""
    total, count = np.zeros(shape), np.zeros(shape)
    for (x, y), value in zip(corners, values, strict=True):
        rows = slice(max(round(y), 0), max(round(y + side), round(y) + 1))
        columns = slice(max(round(x), 0), max(round(x + side), round(x) + 1))
        total[rows, columns] += value
        count[rows, columns] += 1
    return np.ma.masked_where(count == 0, total / np.maximum(count, 1))


def _scale_bar(axis: Axes, width: int, height: int, um_per_px: float) -> None:
    """A bar of a round length, about a fifth of the image, in its lower left corner."""
    wanted = width * um_per_px / 5
    power = 10.0 ** np.floor(np.log10(wanted))
    length = float(max(step * power for step in (1, 2, 5) if step * power <= wanted))
    left, below = 0.04 * width, 0.95 * height
    axis.plot(
        [left, left + length / um_per_px], [below, below], color="black", linewidth=3, solid_capstyle="butt"
    )
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} um"
    axis.text(left, below - 0.02 * height, label, fontsize=9, va="bottom",
              bbox={"facecolor": "white", "alpha": 0.7, "pad": 1, "linewidth": 0})  # fmt: skip


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
    out, and counted in the panel's title); lesions are counted together; severity by the rounded expected grade;
    subtypes by the class of highest probability. Colours are shares of a row.

    Args:
        tested: ``scoring.out_of_fold`` of the run or runs.

    Raises:
        FigureError: no task has both labels and calls.
    """
    panels = _confusions(tested)
    if not panels:
        raise FigureError("no task has labelled test units that were called; there is nothing to count.")
    with mpl.rc_context(_STYLE):
        figure = _figure(0.6 + 3.1 * len(panels), 3.6)
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
            name = TITLES[headline].partition(",")[0]
            axis.set_title(f"{name}\n({lacking} units without a threshold left out)" if lacking else name)
        if title:
            figure.suptitle(title)
        _save(figure, path)


def _confusions(tested: pd.DataFrame) -> dict[str, tuple[pd.DataFrame, int]]:
    """Headline -> counts (label x called), and how many labelled units were not called; headlines without a call
    are left out.
    """
    found: dict[str, tuple[pd.DataFrame, int]] = {}
    classes: list[tuple[Any, str]]
    for headline in ("dili", "injury", LESIONS, "severity", SUBTYPE):
        rows = headline_rows(tested, headline)
        if headline == SUBTYPE:
            known = called_classes(rows)
            known = known.assign(label=known["task"], called=known["called_task"])
            classes = [(t, t.partition(":")[2]) for t in sorted(rows["task"].unique())]
        else:
            known = rows[rows["called"].notna()]
            grades = range(MAX_GRADE + 1)
            classes = [(g, str(g)) for g in grades] if headline == "severity" else [(0, "no"), (1, "yes")]
        if len(known):
            counts = pd.crosstab(known["label"], known["called"])
            values, names = zip(*classes, strict=True)
            counts = (
                counts.reindex(index=values, columns=values, fill_value=0)
                .set_axis(names)
                .set_axis(names, axis=1)
            )
            found[headline] = (counts, 0 if headline == SUBTYPE else len(rows) - len(known))
    return found


def curve_headlines(tested: pd.DataFrame) -> list[str]:
    """Headlines of two-class tasks in which both classes occur: those that `run_curves` draws."""
    ranked = [h for h in HEADLINES if headline_metric(h) == "auroc"]
    return [h for h in ranked if _two_classes(headline_rows(tested, h))]


def run_curves(tested: pd.DataFrame, path: Path, *, title: str = "") -> None:
    """ROC, precision-recall and reliability of each binary headline of a run.

    Args:
        tested: ``scoring.out_of_fold`` of the run or runs. Lesions are drawn as one curve each, in grey, for
            ROC and PR.

    Raises:
        FigureError: no binary task has both classes.
    """
    headlines = curve_headlines(tested)
    if not headlines:
        raise FigureError("no task has labelled test units of both classes; there is no curve to draw.")
    with mpl.rc_context(_STYLE):
        figure = _figure(11.5, 3.6 * len(headlines))
        axes = figure.subplots(len(headlines), 3, squeeze=False)
        for (roc, precision_recall, calibration), headline in zip(axes, headlines, strict=True):
            rows = headline_rows(tested, headline)
            _roc_and_pr(roc, precision_recall, rows)
            _reliability(calibration, rows)
            roc.set_title(f"{TITLES[headline].removesuffix(', macro average')}: ROC")
            precision_recall.set_title("precision and recall")
            calibration.set_title("calibration")
        if title:
            figure.suptitle(title)
        _save(figure, path)


def _two_classes(rows: pd.DataFrame) -> bool:
    return bool((rows.groupby("task")["label"].nunique() == 2).any())


def _roc_and_pr(roc: Axes, precision_recall: Axes, rows: pd.DataFrame) -> None:
    tasks = [str(t) for t, part in rows.groupby("task") if part["label"].nunique() == 2]
    for i, task in enumerate(tasks):
        part = rows[rows["task"] == task]
        label, score = part["label"].to_numpy(), part["score"].to_numpy()
        look: dict[str, Any] = {"color": CYCLE[i % len(CYCLE)], "linewidth": 1.6,
                                "linestyle": ("-", "--", ":")[(i // len(CYCLE)) % 3]}  # fmt: skip
        name = task.partition(":")[2] if len(tasks) > 1 else ""
        x, y, _ = sk.roc_curve(label, score)
        roc.plot(x, y, label=f"{name} {sk.roc_auc_score(label, score):.2f}".strip(), **look)
        precision, recall, _ = sk.precision_recall_curve(label, score)
        average = sk.average_precision_score(label, score)
        precision_recall.step(
            recall, precision, where="post", label=f"{average:.2f} (chance {label.mean():.2f})", **look
        )
        if len(tasks) == 1:
            precision_recall.axhline(label.mean(), color=GREY, linestyle=":", linewidth=1.2)
    roc.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
    roc.set(
        xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal"
    )
    precision_recall.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.05))
    roc.legend(title="AUROC", fontsize=8, title_fontsize=8, loc="lower right")
    precision_recall.legend(title="average precision", fontsize=8, title_fontsize=8, loc="best")


def _reliability(axis: Axes, rows: pd.DataFrame) -> None:
    n_bins = int(np.clip(len(rows) // 20, 3, 10))
    curves = [("as predicted", "score", BLUE, "o"), ("temperature-scaled", "scaled", ORANGE, "s")]
    axis.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
    for name, column, colour, marker in curves:
        if rows[column].notna().all():
            curve = reliability(rows["label"].to_numpy(), rows[column].to_numpy(), n_bins)
            axis.plot(
                curve.mean_score, curve.observed, color=colour, marker=marker, linewidth=1.4, label=name
            )
    axis.set(
        xlabel="mean score of bin",
        ylabel="observed share",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
    )
    axis.legend(fontsize=8, loc="upper left")


def few_shot(table: pd.DataFrame, path: Path, *, by: str = "embedding", title: str = "") -> None:
    """AUROC over the number of shots a class, one panel a task, one line an embedding or experiment.

    Args:
        table: rows of probe ``few_shot`` (others are passed over), one for each ``by``, task and k; bars are low to
            high. Where a k averages fewer lesions than another of its line does, the point is hollow.
        by: the column whose values are lines.

    Raises:
        FigureError: no row has a value.
    """
    rows = table[(table["probe"] == "few_shot") & table["value"].notna()]
    tasks = [t for t in HEADLINES if (rows["task"] == t).any()]
    if not tasks:
        raise FigureError("no few-shot probe has a value; there is no curve to draw.")
    names = rows[by].drop_duplicates().tolist()
    with mpl.rc_context(_STYLE):
        figure, axes = _curves(tasks, names, title)
        for axis, task in zip(axes, tasks, strict=True):
            of_task = rows[rows["task"] == task]
            ks = sorted(of_task["k"].unique())
            for i, name in enumerate(names):
                line = of_task[of_task[by] == name].sort_values("k")
                beside = 1.06 ** (i - (len(names) - 1) / 2)  # so that bars of one k do not cover each other
                _curve(axis, line, line["k"].to_numpy(dtype=float) * beside, i, line["reason"].to_numpy())
            axis.set_xscale("log")
            axis.set_xticks(ks, [f"{k:.0f}" for k in ks])
            axis.minorticks_off()
            axis.set(xlabel="shots a class", xlim=(min(ks) / 1.4, max(ks) * 1.4))
        _save(figure, path)


def missing_modality(table: pd.DataFrame, path: Path, *, title: str = "") -> None:
    """Headline metrics over the share of test samples a modality is hidden from, one line a modality.

    Args:
        table: rows of probe ``missing_modality`` (others are passed over).

    Raises:
        FigureError: no row has a value.
    """
    rows = table[(table["probe"] == "missing_modality") & table["value"].notna()]
    tasks = [t for t in HEADLINES if (rows["task"] == t).any()]
    if not tasks:
        raise FigureError("no score with a modality hidden; there is no curve to draw.")
    names = {"slide": "slides hidden", "expression": "expression hidden"}
    with mpl.rc_context(_STYLE):
        figure, axes = _curves(tasks, list(names.values()), title)
        for axis, task in zip(axes, tasks, strict=True):
            for i, hidden in enumerate(names):
                line = rows[(rows["task"] == task) & (rows["hidden"] == hidden)].sort_values("share")
                _curve(axis, line, 100 * line["share"].to_numpy(dtype=float) + 2 * i - 1, i)
            axis.set_xticks([0, 25, 50, 75, 100])
            axis.set_xlabel("% of test samples that lose it")
        _save(figure, path)


def _curves(tasks: Sequence[str], names: Sequence[str], title: str) -> tuple[Figure, Sequence[Axes]]:
    """A panel for each task, with a line at chance, and the names of the lines below."""
    figure = _figure(1.0 + 3.3 * len(tasks), 3.9)
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axis, task in zip(axes, tasks, strict=True):
        metric = headline_metric(task)
        axis.axhline(chance_of(metric), color=GREY, linestyle=":", linewidth=1.4)
        axis.set_title(TITLES[task].replace(", ", ",\n"))
        axis.set_ylabel(METRIC_NAMES[metric])
    look: list[dict[str, Any]] = [_look(i) for i in range(len(names))]
    keys = [axes[0].plot([], [], label=name, **kw)[0] for name, kw in zip(names, look, strict=True)]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(names), 4))
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, axes


def _look(i: int) -> dict[str, Any]:
    return {
        "color": CYCLE[i % len(CYCLE)],
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 5,
        "linewidth": 1.5,
    }


def _curve(axis: Axes, line: pd.DataFrame, x: np.ndarray, i: int, notes: np.ndarray | None = None) -> None:
    value, low, high = (line[c].to_numpy(dtype=float) for c in ("value", "low", "high"))
    look = _look(i)
    spread = np.nan_to_num(np.stack([value - low, high - value]))
    axis.errorbar(x, value, yerr=spread, fmt="none", color=look["color"], linewidth=1, capsize=2, alpha=0.6)
    axis.plot(x, value, **look)
    if notes is not None and len(set(notes)) > 1:
        fewer = notes != notes[0]
        hollow = {**look, "linewidth": 0, "markerfacecolor": "white"}
        axis.plot(x[fewer], value[fewer], **hollow)
