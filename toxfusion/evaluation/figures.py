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
from toxfusion.evaluation.comparison import METRIC_NAMES, ORACLE_NAMES, TITLES, Comparison, units_of
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
from toxfusion.evaluation.strata import SMALL

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
CYCLE = (BLUE, ORANGE, GREEN, RED, SKY, PINK, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
GREY = "#8a8a8a"
DOSE_COLOURS = {"control": "#bdbdbd", "low": SKY, "middle": ORANGE, "high": RED}
INJURY_COLOURS = {"no label": "#d9d9d9", "not injured": BLUE, "injured": RED}
DILI_COLOURS = {"no label": "#d9d9d9", "no DILI": BLUE, "DILI": RED}
STYLE: dict[Any, Any] = {
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


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")


def comparison(found: Comparison, path: Path) -> None:
    """Each experiment's value with its 95 % interval, one panel a task, with lines at chance and at the
    oracle.
    """
    _panels(found, path, differences_only=False)


def differences(found: Comparison, path: Path) -> None:
    """Forest plot: paired difference of each experiment from the reference with its 95 % interval, in figures beside
    it, marked where Holm's correction leaves p < 0.05.

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
    views = [] if differences_only else found.oracles["view"].drop_duplicates().tolist()
    names = [*(_marked(found, e) for e in experiments), *(ORACLE_NAMES[v] for v in views)]
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
            rows = (
                found.table[found.table["headline"] == headline].set_index("experiment").reindex(experiments)
            )
            if differences_only:
                _differences(axis, rows, found.reference, headline)
            else:
                known = found.oracles[found.oracles["headline"] == headline].set_index("view").reindex(views)
                _values(axis, rows, known, found.reference, headline)
            axis.set_title(_panel_title(rows, headline), fontsize=10)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        if differences_only:
            note = (
                f"difference from {found.reference}, 95 % interval of a paired bootstrap over compounds or patients; "
                "left of 0: worse.  Filled, *: Holm-corrected p < 0.05.  n: units that both scored"
            )
            figure.supxlabel(textwrap.fill(note, int(12 * figure.get_figwidth())), fontsize=9)
        save_figure(figure, path)


def _marked(found: Comparison, experiment: str) -> str:
    rows = found.table[found.table["experiment"] == experiment]
    raised = {"transductive": rows["transductive"].any(), "null": (rows["null"] != "").any()}
    flags = [name for name, is_raised in raised.items() if is_raised]
    return f"{experiment} ({', '.join(flags)})" if flags else experiment


def _panel_title(rows: pd.DataFrame, headline: str) -> str:
    n, n_compounds = rows["n"].max(), rows["n_compounds"].max()
    title = TITLES[headline].replace(", ", ",\n")
    return f"{title}\n{units_of(int(n), int(n_compounds))}"


def _errorbar(
    axis: Axes,
    rows: pd.DataFrame,
    columns: tuple[str, str, str],
    looks: Sequence[dict[str, Any]],
    first: int = 0,
) -> None:
    value, low, high = (rows[c].to_numpy(dtype=float) for c in columns)
    for i, look in enumerate(looks):
        if np.isfinite(value[i]):
            spread = [[value[i] - low[i]], [high[i] - value[i]]] if np.isfinite(low[i]) else None
            axis.errorbar(value[i], first + i, xerr=spread, capsize=3, linewidth=1.6, **look)


def _point(colour: str, *, filled: bool = True, marker: str = "o") -> dict[str, Any]:
    face = colour if filled else "white"
    return {
        "fmt": marker,
        "color": colour,
        "markersize": 6,
        "markerfacecolor": face,
        "markeredgecolor": colour,
    }


def _values(axis: Axes, rows: pd.DataFrame, oracles: pd.DataFrame, reference: str, headline: str) -> None:
    chance = chance_of(headline_metric(headline))
    axis.axvline(chance, color=GREY, linestyle=":", linewidth=1.4)
    # Left of its line, as the oracle's name stands right of its own: the two may nearly coincide.
    axis.annotate("chance", (chance, 1), xycoords=("data", "axes fraction"), xytext=(-2, -2), ha="right",
                  textcoords="offset points", color="#555555", fontsize=8, va="top")  # fmt: skip
    best = rows["oracle"].dropna()
    if len(best):
        axis.axvline(best.iloc[0], color=GREEN, linewidth=1.4)
        axis.annotate("oracle", (best.iloc[0], 1), xycoords=("data", "axes fraction"), xytext=(2, -2),
                      textcoords="offset points", color=GREEN, fontsize=8, va="top")  # fmt: skip
    if reference in rows.index:
        low, high = (
            float(rows[c].to_numpy(dtype=float)[rows.index.get_loc(reference)]) for c in ("low", "high")
        )
        axis.axvspan(low, high, color=BLUE, alpha=0.10, linewidth=0)
    looks = [
        _point(GREY if null else BLUE if e == reference else BLACK, filled=not null)
        for e, null in zip(rows.index, rows["null"].fillna("") != "", strict=True)
    ]
    _errorbar(axis, rows, ("value", "low", "high"), looks)
    oracle_looks = [_point(GREEN, marker="D")] * len(oracles)
    _errorbar(axis, oracles, ("value", "low", "high"), oracle_looks, first=len(rows))
    axis.set_xlabel(METRIC_NAMES[headline_metric(headline)])
    axis.grid(axis="y", color="#eeeeee")
    axis.set_axisbelow(True)


def _differences(axis: Axes, rows: pd.DataFrame, reference: str, headline: str) -> None:
    axis.axvline(0, color=BLACK, linewidth=1.0)
    sure = rows["p_holm"].to_numpy(dtype=float) < 0.05
    _errorbar(axis, rows, ("difference", "difference_low", "difference_high"),
              [_point(RED if s else BLACK, filled=bool(s)) for s in sure])  # fmt: skip
    columns = ["difference", "difference_low", "difference_high", "n_paired"]
    for y, (value, low, high, n) in enumerate(rows[columns].to_numpy(dtype=float)):
        text = f"{value:+.2f} [{low:+.2f}, {high:+.2f}]{'*' if sure[y] else ''}  n {n:.0f}"
        axis.annotate(text if np.isfinite(value) else "not paired", (1.02, y), xycoords=("axes fraction", "data"),
                      fontsize=7, va="center", color=RED if sure[y] else "#333333")  # fmt: skip
    axis.set_xlabel(f"{METRIC_NAMES[headline_metric(headline)]} minus {reference}")
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
    title: str = "",
) -> None:
    """Samples in two dimensions, coloured by dose level, by injury of their group and by compound.

    Of more compounds than a legend can name, the third panel has the DILI class of treated samples' compounds instead.

    Args:
        embedding: float [n, d].
        obs: n rows with dose_level, injury (1, 0, NaN), compound and, if known, dili (likewise), in the order of
            ``embedding``.
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
    with mpl.rc_context(STYLE):
        figure = new_figure(13, 5.2)
        axes = figure.subplots(1, 3, sharex=True, sharey=True)
        dose = obs["dose_level"].astype(str).replace("", "not given")
        injury = obs["injury"].astype(float).map({1.0: "injured", 0.0: "not injured"}).fillna("no label")
        _categories(axes[0], points, dose, DOSE_COLOURS, "dose level")
        _categories(axes[1], points, injury, INJURY_COLOURS, "injury of the dose group")
        compound = obs["compound"].astype(str)
        if compound.nunique() > _MOST_COMPOUNDS_NAMED and "dili" in obs and obs["dili"].notna().any():
            dili = obs["dili"].astype(float).map({1.0: "DILI", 0.0: "no DILI"}).fillna("no label")
            _categories(
                axes[2], points, dili, DILI_COLOURS, f"DILI of the compound ({compound.nunique()} compounds)"
            )
        else:
            _compounds(axes[2], points, compound)
        for axis in axes:
            axis.set_xlabel(names[0])
            axis.set_xticks([])
            axis.set_yticks([])
        axes[0].set_ylabel(names[1])
        if title:
            figure.suptitle(title, fontsize=11)
        save_figure(figure, path)


def _project(embedding: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, tuple[str, str]]:
    if method == "pca":
        if embedding.shape[1] == 1:
            raise FigureError("a map needs an embedding of two dimensions or more.")
        fitted = PCA(2, random_state=seed)
        points = fitted.fit_transform(embedding)
        share = 100 * fitted.explained_variance_ratio_
        return points, (f"PC 1 ({share[0]:.0f} % of variance)", f"PC 2 ({share[1]:.0f} %)")
    return umap_points(embedding, seed), ("UMAP 1", "UMAP 2")


def umap_points(values: np.ndarray, seed: int, n_neighbors: int = 15) -> np.ndarray:
    """Two dimensions of values [n, D] by UMAP (McInnes et al., 2018), on one thread: float [n, 2].

    Raises:
        FigureError: umap-learn is not installed.
    """
    import torch

    try:
        from umap import UMAP
    except ImportError as error:
        raise FigureError(
            "umap-learn is not installed; install it, or draw the map with method='pca'."
        ) from error
    threads = torch.get_num_threads()
    points = np.asarray(UMAP(n_neighbors=n_neighbors, random_state=seed, n_jobs=1).fit_transform(values))
    # numba has set the threads of OpenMP, which are torch's too: sums would have another order from here on.
    torch.set_num_threads(threads)
    return points


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
    map_of_tiles = tile_map(
        thumbnail.shape[:2], np.asarray(coordinates) / downsample, tile_size / downsample, relative
    )
    height, width = thumbnail.shape[:2]
    with mpl.rc_context(STYLE):
        figure = new_figure(11, 0.8 + 5.0 * height / width)
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
        scale_bar(left, width, height, mpp0 * downsample)
        save_figure(figure, path)


def tile_map(
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


def scale_bar(axis: Axes, width: int, height: int, um_per_px: float) -> None:
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
    out, and counted in the panel's title), and grades by its cut-offs; lesions are counted together; subtypes are
    called by the class of highest probability. Colours are shares of a row.

    Args:
        tested: ``scoring.out_of_fold`` of the run or runs.

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
            name = TITLES[headline].partition(",")[0]
            axis.set_title(f"{name}\n({lacking} units without a threshold left out)" if lacking else name)
        if title:
            figure.suptitle(title)
        save_figure(figure, path)


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
    with mpl.rc_context(STYLE):
        # Below the panels of several tasks, a strip for their names: inside, the names would cover the curves.
        named = [len(_ranked_tasks(headline_rows(tested, h))) for h in headlines]
        strips = [0.5 + 0.2 * -(-n // 2) if n > 1 else 0.02 for n in named]
        heights = [size for strip in strips for size in (3.6, strip)]
        figure = new_figure(11.5, sum(heights))
        grid = figure.add_gridspec(2 * len(headlines), 3, height_ratios=heights)
        for i, headline in enumerate(headlines):
            rows = headline_rows(tested, headline)
            roc, precision_recall, calibration = (figure.add_subplot(grid[2 * i, k]) for k in range(3))
            strip = figure.add_subplot(grid[2 * i + 1, :])
            strip.set_axis_off()
            _roc_and_pr(roc, precision_recall, strip, rows)
            _reliability(calibration, rows)
            n, n_compounds = rows["unit_id"].nunique(), rows["compound"].nunique()
            roc.set_title(
                f"{TITLES[headline].removesuffix(', macro average')}: ROC\n{units_of(n, n_compounds)}"
            )
            precision_recall.set_title("precision and recall")
        if title:
            figure.suptitle(title)
        save_figure(figure, path)


def _ranked_tasks(rows: pd.DataFrame) -> list[str]:
    return [str(t) for t, part in rows.groupby("task") if part["label"].nunique() == 2]


def _two_classes(rows: pd.DataFrame) -> bool:
    return bool((rows.groupby("task")["label"].nunique() == 2).any())


def _roc_and_pr(roc: Axes, precision_recall: Axes, strip: Axes, rows: pd.DataFrame) -> None:
    """Curves; thin where a class has fewer than ``SMALL`` units, for such a curve is a few steps of luck."""
    tasks = _ranked_tasks(rows)
    for i, task in enumerate(tasks):
        part = rows[rows["task"] == task]
        label, score = part["label"].to_numpy(), part["score"].to_numpy()
        positive = int(label.sum())
        look: dict[str, Any] = {"color": CYCLE[i % len(CYCLE)],
                                "linewidth": 1.8 if min(positive, len(part) - positive) >= SMALL else 0.8,
                                "linestyle": ("-", "--", ":")[(i // len(CYCLE)) % 3]}  # fmt: skip
        x, y, _ = sk.roc_curve(label, score)
        area, average = sk.roc_auc_score(label, score), sk.average_precision_score(label, score)
        # The last point, precision 1 at recall 0, is no threshold of these scores.
        precision, recall, _ = sk.precision_recall_curve(label, score)
        names = [f"AUROC {area:.2f}", f"average precision {average:.2f} (chance {label.mean():.2f})"]
        if len(tasks) > 1:
            strip.plot(
                [],
                [],
                label=f"{task.partition(':')[2]} ({positive} of {len(part)}): {', '.join(names)}",
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
    pooled = ", tasks pooled" if rows["task"].nunique() > 1 else ""
    axis.set_title(f"calibration\n{n_bins} bins of about {len(rows) / n_bins:.0f}{pooled}")
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
    asked = table[table["probe"] == "few_shot"]
    rows = asked[asked["value"].notna()]
    tasks = [t for t in HEADLINES if (rows["task"] == t).any()]
    if not tasks:
        raise FigureError("no few-shot probe has a value; there is no curve to draw.")
    names = rows[by].drop_duplicates().tolist()
    with mpl.rc_context(STYLE):
        note = "bars: 2.5th to 97.5th percentile over draws of the shots, the test compounds being the same"
        if "finetuned" in names:
            note += "; finetuned has seen every training label"
        figure, axes = _curves(tasks, names, title, note)
        for axis, task in zip(axes, tasks, strict=True):
            of_task = rows[rows["task"] == task]
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
    rows = table[(table["probe"] == "missing_modality") & table["value"].notna()]
    tasks = [t for t in HEADLINES if (rows["task"] == t).any()]
    if not tasks:
        raise FigureError("no score with a modality hidden; there is no curve to draw.")
    names = {"slide": "slides hidden", "expression": "expression hidden"}
    with mpl.rc_context(STYLE):
        note = "bars: 95 % intervals over test compounds; one draw of the hidden samples"
        figure, axes = _curves(tasks, list(names.values()), title, note)
        for axis, task in zip(axes, tasks, strict=True):
            for i, hidden in enumerate(names):
                line = rows[(rows["task"] == task) & (rows["hidden"] == hidden)].sort_values("share")
                _curve(axis, line, 100 * line["share"].to_numpy(dtype=float) + 2 * i - 1, i)
            axis.set_xticks([0, 25, 50, 75, 100])
            axis.set_xlabel("% of test samples that lose it")
        save_figure(figure, path)


def risks(units: pd.DataFrame, path: Path, *, title: str = "") -> None:
    """Risk of each unit with the range over runs, highest first, beside its distance; units abstained on in grey.

    Args:
        units: rows of one task of ``toxfusion.runs.new_study.Scores.units``.

    Raises:
        FigureError: no rows.
    """
    if not len(units):
        raise FigureError("no unit has a risk; there is nothing to draw.")
    rows = units.sort_values("risk", ascending=False, kind="stable").reset_index(drop=True)
    with mpl.rc_context(STYLE):
        figure = new_figure(8.5, 1.6 + 0.2 * len(rows))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        for called, colour, name in ((True, BLUE, "scored"), (False, GREY, "abstained")):
            y = rows.index[rows["abstain"] != called].to_numpy()
            if not len(y):
                continue
            chosen = rows.loc[y]
            value = chosen["risk"].to_numpy()
            over_runs = np.stack([value - chosen["low"], chosen["high"] - value])
            look: dict[str, Any] = {"color": colour, "markersize": 5, "linewidth": 1.4}
            look |= {} if called else {"markerfacecolor": "white"}
            left.errorbar(value, y, xerr=over_runs, fmt="o", label=f"{name} ({len(y)})", **look)
            right.barh(y, chosen["distance_percentile"], color=colour, height=0.6)
        left.axvline(0.5, color=GREY, linestyle=":", linewidth=1.2)
        kind = "calibrated risk" if rows["calibrated"].all() else "risk, not calibrated"
        left.set(xlabel=f"{kind} (bar: range over {rows['n_runs'].max()} runs)", xlim=(-0.02, 1.02))
        right.set(xlabel="distance from training\n(percentile of validation)", xlim=(0, 100))
        left.set_yticks(range(len(rows)), rows["unit_id"], fontsize=8)
        left.set_ylim(len(rows) - 0.4, -0.6)
        left.grid(axis="y", color="#eeeeee")
        left.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=2)
        if title:
            figure.suptitle(title, fontsize=11)
        save_figure(figure, path)


def _curves(
    tasks: Sequence[str], names: Sequence[str], title: str, note: str
) -> tuple[Figure, Sequence[Axes]]:
    """A panel for each task, with a line at chance; below them the names of the lines and what the bars are."""
    figure = new_figure(1.0 + 3.3 * len(tasks), 4.1)
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    ranked = [axis for axis, task in zip(axes, tasks, strict=True) if chance_of(headline_metric(task)) == 0.5]
    for axis in ranked[1:]:
        axis.sharey(ranked[0])
    for axis, task in zip(axes, tasks, strict=True):
        metric = headline_metric(task)
        axis.axhline(chance_of(metric), color=GREY, linestyle=":", linewidth=1.4)
        axis.set_title(TITLES[task].replace(", ", ",\n"))
        axis.set_ylabel(METRIC_NAMES[metric])
    look: list[dict[str, Any]] = [_look(i) for i in range(len(names))]
    keys = [axes[0].plot([], [], label=name, **kw)[0] for name, kw in zip(names, look, strict=True)]
    figure.legend(
        handles=keys, loc="outside lower center", ncols=min(len(names), 4), title=note, title_fontsize=8
    )
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
