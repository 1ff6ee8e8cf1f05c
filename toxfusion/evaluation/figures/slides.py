"""A slide beside the same slide under its attention."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from toxfusion.evaluation.figures.canvas import STYLE, FigureError, new_figure, save_figure

HEATMAP = "heatmap_"
"""How the file name of a slide under its attention begins, in a folder of figures."""


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
