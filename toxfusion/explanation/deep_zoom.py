"""A slide as a pyramid of JPEG tiles (the layout of Deep Zoom), and scores as transparent pictures to lay over it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image

from toxfusion.explanation.figures import OPACITY, ScoreColours, score_colours, smooth_map, whole_slide
from toxfusion.slides.colour import Pixels
from toxfusion.slides.readers import Slide

TILE_PX = 256
JPEG_QUALITY = 82
OVERLAY_TILE_PX, OVERLAY_PX = 16, 1500
"""Side of a slide tile in an overlay, and the longest side that an overlay may have."""
PREVIEW_PX, PREVIEW_GAP = 480, 12


@dataclass(frozen=True)
class Pyramid:
    """What a viewer must know of a pyramid.

    Attributes:
        width, height: of the finest level, px.
        min_level, max_level: the coarsest level written (one tile), and the finest; each level halves the next.
        tile_px: side of a tile; those at the right and lower edge are smaller.
        mpp: um per px of the finest level.
        downsample: level-0 px of the slide per px of the finest level; above 1 where the slide was larger than wished.
    """

    width: int
    height: int
    min_level: int
    max_level: int
    tile_px: int
    mpp: float
    downsample: float


def write_pyramid(slide: Slide, folder: Path, most_px: int) -> Pyramid:
    """Write ``<level>/<column>_<row>.jpg`` of a slide, for any reader, with or without a pyramid of its own.

    Every pixel of the finest level is read once; coarser tiles are means of the four below them. A few tiles a level
    are in memory at a time.

    Args:
        most_px: longest side of the finest level.

    Raises:
        SlideUnreadable: the file is damaged.
    """
    downsample = max(1.0, max(slide.dimensions) / most_px)
    width, height = (math.ceil(side / downsample) for side in slide.dimensions)
    max_level = math.ceil(math.log2(max(width, height, 2)))
    min_level = max(0, max_level - math.ceil(math.log2(max(width, height, TILE_PX) / TILE_PX)))
    made = Pyramid(width, height, min_level, max_level, TILE_PX, slide.mpp * downsample, downsample)
    for level in range(min_level, max_level + 1):
        (folder / str(level)).mkdir(parents=True, exist_ok=True)
    _write_tile(slide, folder, made, min_level, 0, 0)
    return made


def _write_tile(slide: Slide, folder: Path, made: Pyramid, level: int, column: int, row: int) -> Pixels:
    """Write a tile and all below it; uint8 [h, w, 3]."""
    if level == made.max_level:
        left, top = column * TILE_PX, row * TILE_PX
        size = min(TILE_PX, made.width - left), min(TILE_PX, made.height - top)
        x, y = round(left * made.downsample), round(top * made.downsample)
        pixels = slide.read_region(x, y, *size, made.mpp)
    else:
        finer = 2 ** (made.max_level - level - 1)
        across, down = (math.ceil(math.ceil(s / finer) / TILE_PX) for s in (made.width, made.height))
        bands = [
            np.concatenate(
                [
                    _write_tile(slide, folder, made, level + 1, c, r)
                    for c in range(2 * column, min(2 * column + 2, across))
                ],
                axis=1,
            )
            for r in range(2 * row, min(2 * row + 2, down))
        ]
        pixels = _halved(np.concatenate(bands))
    Image.fromarray(pixels).save(folder / str(level) / f"{column}_{row}.jpg", quality=JPEG_QUALITY)
    return pixels


def _halved(pixels: Pixels) -> Pixels:
    """Means of 2 x 2 px; an odd last row or column counts twice."""
    height, width = pixels.shape[:2]
    even = cv2.copyMakeBorder(pixels, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return np.asarray(
        cv2.resize(even, (even.shape[1] // 2, even.shape[0] // 2), interpolation=cv2.INTER_AREA), np.uint8
    )


@dataclass(frozen=True)
class Overlay:
    """A score over a slide.

    Attributes:
        width, height: level-0 px that the picture stands for, from the slide's upper left corner.
        colours: what the colours mean.
    """

    width: float
    height: float
    colours: ScoreColours


def write_overlay(of_slide: pd.DataFrame, column: str, dimensions: tuple[int, int], path: Path) -> Overlay:
    """A score of the tiles of one slide as a PNG, smooth as in the figures, transparent where there is no tile.

    Weak values of a signed score are more transparent than strong ones.

    Args:
        of_slide: of `regions.tile_scores`. dimensions: (width, height) of the slide, level-0 px.
    """
    side = float(of_slide["side"].iloc[0])
    scale = max(side / OVERLAY_TILE_PX, max(dimensions) / OVERLAY_PX)
    width, height = (max(1, math.ceil(length / scale)) for length in dimensions)
    values = of_slide[column].to_numpy(np.float64)
    colours = score_colours(column, values)
    corners = of_slide[["x", "y"]].to_numpy(np.float64) / scale
    drawn = smooth_map((height, width), corners, side / scale, values)
    filled = drawn.filled(0.0 if colours.signed else colours.low)
    pixels = mpl.colormaps[colours.colour_map](colours.norm(filled), bytes=True)
    pixels[..., 3] = np.round(255 * colours.opacity(filled) * ~np.ma.getmaskarray(drawn)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, optimize=True)
    return Overlay(width * scale, height * scale, colours)


def write_preview(slide: Slide, overlay: Path, path: Path) -> None:
    """The slide beside itself under an overlay of `write_overlay`, as a JPEG."""
    plain = Image.fromarray(whole_slide(slide, PREVIEW_PX).pixels)
    over = Image.open(overlay).resize(plain.size, Image.Resampling.BILINEAR)
    over.putalpha(over.getchannel("A").point(lambda a: round(OPACITY * a)))
    both = Image.new("RGB", (2 * plain.width + PREVIEW_GAP, plain.height), "white")
    both.paste(plain, (0, 0))
    both.paste(
        Image.alpha_composite(plain.convert("RGBA"), over).convert("RGB"), (plain.width + PREVIEW_GAP, 0)
    )
    both.save(path, quality=JPEG_QUALITY)
