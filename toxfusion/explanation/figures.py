"""Pictures of an explanation: scores over a slide, tiles, curves of deletion and insertion, gates."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from toxfusion.evaluation.figures.canvas import (
    BLUE,
    DOSE_COLOURS,
    GREY,
    STYLE,
    FigureError,
    new_figure,
    save_figure,
)
from toxfusion.evaluation.figures.slides import scale_bar, tile_map
from toxfusion.slides.readers import Slide
from toxfusion.study.vocabulary import short_name

SIGNED = ("contribution", "integrated", "likeness")
"""Scores with a meaning at 0, whatever the values of one slide are."""
SMOOTHING = 0.35
"""Standard deviation of the smoothing over a slide, in sides of a tile."""
OPACITY = 0.6
PANEL = 4.6
"""Width of a slide in a picture, inches."""
MOST_SETS, SETS_A_TASK = 24, 5
"""Gene sets in one picture, and of each task those with the largest scores."""


@dataclass(frozen=True)
class View:
    """A part of a slide at one resolution.

    Attributes:
        pixels: uint8 [h, w, 3].
        left, top: of its corner, level-0 px.
        mpp: um per px of ``pixels``.
        downsample: level-0 px per px of ``pixels``.
    """

    pixels: np.ndarray
    left: float
    top: float
    mpp: float
    downsample: float


def whole_slide(slide: Slide, most_px: int) -> View:
    """The slide, as large as fits within ``most_px``."""
    downsample = max(1.0, max(slide.dimensions) / most_px)
    return View(slide.overview(slide.mpp * downsample), 0.0, 0.0, slide.mpp * downsample, downsample)


def field_around(slide: Slide, centre: tuple[float, float], mpp: float, most_px: int) -> View:
    """At most ``most_px`` of the slide around a place (level-0 px), at ``mpp`` or the slide's own if coarser."""
    mpp = max(mpp, slide.mpp)
    downsample = mpp / slide.mpp
    sides = [min(most_px, max(1, int(length / downsample))) for length in slide.dimensions]
    corner = [
        min(max(0.0, place - side * downsample / 2), max(0.0, length - side * downsample))
        for place, side, length in zip(centre, sides, slide.dimensions, strict=True)
    ]
    x, y = (int(c) for c in corner)
    return View(slide.read_region(x, y, sides[0], sides[1], mpp), x, y, mpp, downsample)


def smooth_map(
    shape: tuple[int, ...], corners: np.ndarray, side: float, values: np.ndarray
) -> np.ma.MaskedArray:
    """Masked float [h, w]: means of overlapping tiles, then a Gaussian mean over the pixels that tiles cover.

    The normalised convolution of the covered pixels: no value leaks from uncovered ones, and none spreads into them.

    Args:
        corners: [n, 2], x and y of tiles in px of the map. side: of a tile, in the same px.
    """
    raw = tile_map(shape, corners, side, values)
    there = (~np.ma.getmaskarray(raw)).astype(np.float64)
    sigma = SMOOTHING * side
    total = cv2.GaussianBlur(raw.filled(0.0), (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    weight = cv2.GaussianBlur(there, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    return np.ma.masked_where(there == 0, total / np.maximum(weight, 1e-12))


@dataclass(frozen=True)
class ScoreColours:
    """How a score becomes colours: its 2nd to 98th percentile, around 0 where it has a sign.

    Attributes:
        signed: in two colours around 0.
        low, high: ends of the colours.
        colour_map: name of matplotlib's.
    """

    signed: bool
    low: float
    high: float
    colour_map: str

    @property
    def norm(self) -> Normalize:
        return Normalize(self.low, self.high)

    def opacity(self, values: np.ndarray) -> np.ndarray:
        """0.25 at 0 to 1 at the ends of the colours where there is a sign, else 1."""
        if not self.signed:
            return np.ones_like(values)
        return 0.25 + 0.75 * np.clip(np.abs(values) / self.high, 0, 1)


def score_colours(column: str, values: np.ndarray) -> ScoreColours:
    """The colours of a column of `regions.tile_scores` with these values, float [n].

    A score of `SIGNED` is in two colours around 0, and so is any other that has a value below 0.
    """
    low, high = (float(v) for v in np.percentile(values, [2, 98]))
    if column.partition(":")[0] in SIGNED or (values < 0).any():
        bound = max(abs(low), abs(high), 1e-12)
        return ScoreColours(True, -bound, bound, "RdBu_r")
    return ScoreColours(False, low, max(high, low + 1e-12), "viridis")


def slide_scores(
    view: View, of_slide: pd.DataFrame, columns: dict[str, str], path: Path, *, title: str
) -> None:
    """H&E beside itself under each score, with a scale bar and a colour bar each.

    Args:
        of_slide: tiles of one slide, of `regions.tile_scores`.
        columns: column -> what stands over it; colours are those of `score_colours` for the whole slide.

    Raises:
        FigureError: no tile, or a value that is not finite.
    """
    if of_slide.empty or not np.isfinite(of_slide[list(columns)].to_numpy(np.float64)).all():
        raise FigureError(
            f"{title}: {len(of_slide)} tiles; scores must be finite, and there must be some tiles."
        )
    height, width = view.pixels.shape[:2]
    with mpl.rc_context(STYLE):
        figure = new_figure((1 + len(columns)) * PANEL, 0.5 + 0.85 * PANEL * height / width)
        axes = np.atleast_1d(figure.subplots(1, 1 + len(columns)))
        axes[0].imshow(view.pixels)
        axes[0].set_title(textwrap.fill(title, 48), fontsize="small")
        for axis, (column, name) in zip(axes[1:], columns.items(), strict=True):
            draw_scores(axis, view, of_slide, column, name)
        for axis in axes:
            scale_bar(axis, width, height, view.mpp)
            axis.set_axis_off()
        save_figure(figure, path)


def draw_scores(axis: Axes, view: View, of_slide: pd.DataFrame, column: str, name: str) -> None:
    """A view of a slide under one score of its tiles, smoothed, with a colour bar."""
    corners = (of_slide[["x", "y"]].to_numpy(np.float64) - [view.left, view.top]) / view.downsample
    side = float(of_slide["side"].iloc[0]) / view.downsample
    height, width = view.pixels.shape[:2]
    inside = (corners > -side).all(1) & (corners < [width, height]).all(1)
    values = of_slide[column].to_numpy(np.float64)
    colours = score_colours(column, values)
    axis.imshow(view.pixels)
    if inside.any():
        drawn = smooth_map(view.pixels.shape[:2], corners[inside], side, values[inside])
        opacity = OPACITY * colours.opacity(drawn.filled(0.0 if colours.signed else colours.low))
        there = ~np.ma.getmaskarray(drawn)
        axis.imshow(drawn, cmap=colours.colour_map, norm=colours.norm, alpha=opacity * there)
    mappable = ScalarMappable(colours.norm, colours.colour_map)
    bar = axis.figure.colorbar(mappable, ax=axis, fraction=0.046, pad=0.02, extend="both")
    bar.ax.tick_params(labelsize="x-small")
    axis.set_title(textwrap.fill(name, 48), fontsize="small")


def tile_sheet(tiles: pd.DataFrame, pixels: list[np.ndarray], column: str, path: Path, *, title: str) -> None:
    """Top tiles in one row, bottom tiles in the next, with their scores.

    Args:
        tiles: of `regions.extreme_tiles`. pixels: uint8 [p, p, 3] of each row.
    """
    most = int(tiles["rank"].max())
    with mpl.rc_context(STYLE):
        width = 1.5 * most + 0.6
        figure = new_figure(width, 4.2)
        axes = figure.subplots(2, most, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for tile, image in zip(tiles.to_dict("records"), pixels, strict=True):
            axis = axes[0 if tile["end"] == "top" else 1, tile["rank"] - 1]
            axis.imshow(image)
            axis.set_title(f"{tile['end']} {tile['rank']}: {tile[column]:+.2g}", fontsize="x-small")
        figure.suptitle(textwrap.fill(title, int(12 * width)), fontsize="small")
        save_figure(figure, path)


def deletion_insertion(curves: pd.DataFrame, areas: dict[str, float], path: Path, *, title: str) -> None:
    """A task's number over the share of tiles, by score and at random (mean, and the range of the draws)."""
    with mpl.rc_context(STYLE):
        figure = new_figure(8, 3.4)
        for axis, (name, means) in zip(figure.subplots(1, 2), curves.groupby("curve"), strict=True):
            axis.fill_between(
                means["share"], means["random_low"], means["random_high"], color=GREY, alpha=0.3
            )
            axis.plot(means["share"], means["random"], color=GREY, label="random order, mean and range")
            axis.plot(means["share"], means["value"], color=BLUE, marker="o", markersize=3, label="by score")
            axis.set_title(f"{name}: area between {areas[str(name)]:+.3f}", fontsize="small")
            axis.set_ylabel("number that is explained")
            axis.set_xlabel(f"share of tiles {'taken away' if name == 'deletion' else 'put in'}")
            axis.legend(fontsize="x-small")
        figure.suptitle(textwrap.fill(title, 100), fontsize="small")
        save_figure(figure, path)


def gates(samples: pd.DataFrame, path: Path, *, title: str) -> None:
    """The slide's gate of samples with both modalities, by dose level and time."""
    both = samples[samples["has_slide"] & samples["has_expression"]]
    with mpl.rc_context(STYLE):
        figure = new_figure(9, 3.6)
        left, right = figure.subplots(1, 2, sharey=True)
        levels = [d for d in DOSE_COLOURS if (both["dose_level"] == d).any()] or sorted(
            both["dose_level"].unique()
        )
        gate_strips(left, both, "dose_level", levels, "dose level")
        gate_strips(right, both, "time_h", sorted(both["time_h"].dropna().unique()), "time, h")
        left.set_ylabel("share of the slide in what is fused")
        figure.suptitle(title, fontsize="small")
        save_figure(figure, path)


def gate_strips(axis: Axes, table: pd.DataFrame, column: str, values: list, name: str) -> None:
    """The slide's gate, one strip of points a value of a column, with its mean."""
    for i, value in enumerate(values):
        gate = table.loc[table[column] == value, "gate_slide"].to_numpy()
        spread = np.linspace(-0.3, 0.3, len(gate)) if len(gate) > 1 else np.zeros(len(gate))
        axis.scatter(i + spread, gate, s=8, color=DOSE_COLOURS.get(value, GREY), edgecolor="none")
        axis.plot([i - 0.35, i + 0.35], [gate.mean()] * 2, color="black")
    axis.set_xticks(range(len(values)), [f"{v:g}" if isinstance(v, float) else str(v) for v in values])
    axis.set_xlabel(name)
    axis.set_ylim(0, 1)


def enrichment(gsea: pd.DataFrame, null: pd.DataFrame, path: Path, *, fdr: float) -> None:
    """Normalised enrichment scores of the leading gene sets, one column a task, * where the FDR is below ``fdr``.

    Args:
        gsea: of `pathways.enrichment` with a column task. null: task, sets, passing, shuffled_mean and draws of each.

    Raises:
        FigureError: no set.
    """
    if gsea.empty:
        raise FigureError("no gene set was tested; there is nothing to draw.")
    gsea = gsea.assign(key=gsea["source"] + "\n" + gsea["set"])
    tasks = gsea["task"].drop_duplicates().tolist()
    order = gsea.assign(size=gsea["nes"].abs()).sort_values("size", ascending=False, kind="stable")
    leading = order.groupby("task", sort=False).head(SETS_A_TASK)["key"].drop_duplicates().head(MOST_SETS)
    nes, below = (
        gsea.pivot(index="key", columns="task", values=c).loc[leading, tasks] for c in ("nes", "fdr")
    )
    # Sets of one kind stand together: by their mean score over tasks.
    ordered = nes.mean(axis=1).fillna(0.0).sort_values(ascending=False, kind="stable").index
    scores = nes.loc[ordered].to_numpy(np.float64)
    starred = below.loc[ordered].to_numpy(np.float64) < fdr
    names = gsea.drop_duplicates("key").set_index("key")["name"]
    chance = null.set_index("task")
    with mpl.rc_context(STYLE):
        figure = new_figure(4.6 + 0.85 * max(len(tasks), 3), 2.6 + 0.3 * len(ordered))
        axis = figure.subplots()
        bound = max(2.0, float(np.nanmax(np.abs(scores), initial=0.0)))
        drawn = axis.imshow(scores, cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto")
        for (i, j), value in np.ndenumerate(scores):
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.55 * bound else "black"
                text = f"{value:.1f}{'*' if starred[i, j] else ''}"
                axis.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
        axis.set_yticks(
            range(len(ordered)),
            [textwrap.shorten(names[k], 60, placeholder=" ...") for k in ordered],
            fontsize=9,
        )
        axis.set_xticks(range(len(tasks)), [textwrap.fill(short_name(t), 14) for t in tasks], fontsize=8)
        axis.tick_params(axis="x", rotation=45 if len(tasks) > 2 else 0)
        axis.spines[:].set_visible(False)
        bar = figure.colorbar(drawn, ax=axis, fraction=0.03, pad=0.02)
        bar.set_label("normalised enrichment score", fontsize=8)
        counts = [f"{n:.0f}" for n in chance.loc[tasks, "passing"]]
        by_chance = chance["shuffled_mean"].mean()
        beside = "" if np.isnan(by_chance) else f"; genes shuffled: {by_chance:.1f} on average"
        axis.set_title(
            f"gene sets associated with the tasks, * FDR < {fdr:.0%}\nsets with *, of {int(chance['sets'].iloc[0])}, "
            f"task by task: {', '.join(counts)}{beside}",
            fontsize="small",
        )
        save_figure(figure, path)
