"""Where the tiles of a slide lie: a regular grid at a target resolution, and an evenly spread part of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toxfusion.slides.faults import SlideUnsuitable
from toxfusion.slides.readers import Slide

COARSER_ALLOWED = 1.1

Corners = npt.NDArray[np.int32]


class GridError(ValueError):
    """A grid that cannot be laid."""


@dataclass(frozen=True)
class TileGrid:
    """The grid of a run; it is part of the provenance of what is stored.

    Attributes:
        mpp: target micrometres per pixel of a tile.
        tile_px: side of a tile in pixels.
        stride_px: distance of neighbouring tiles in pixels; None = tile_px, so that tiles touch.
        min_tissue: least share of a tile that must be tissue, 0 to 1.
        max_pen: largest share of a tile that may be pen, 0 to 1.
        max_tiles: at most so many tiles a slide, evenly spread over the tissue; None = all.

    Raises:
        GridError: a value out of its range.
    """

    mpp: float
    tile_px: int
    stride_px: int | None = None
    min_tissue: float = 0.5
    max_pen: float = 0.05
    max_tiles: int | None = None

    def __post_init__(self) -> None:
        for name, lowest in (("mpp", 0.0), ("tile_px", 1), ("stride_px", 1), ("max_tiles", 1)):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= lowest and value > 0):
                raise GridError(f"grid.{name}={value}: must be a number above 0")
        for name in ("min_tissue", "max_pen"):
            if not 0 <= getattr(self, name) <= 1:
                raise GridError(f"grid.{name}={getattr(self, name)}: must lie within 0 and 1")

    @property
    def stride(self) -> int:
        """Distance of neighbouring tiles in pixels."""
        return self.stride_px or self.tile_px

    def provenance(self) -> dict[str, Any]:
        """What a store must not mix, as plain JSON values."""
        return {
            "mpp": float(self.mpp),
            "tile_px": self.tile_px,
            "stride_px": self.stride,
            "min_tissue": float(self.min_tissue),
            "max_pen": float(self.max_pen),
            "max_tiles": self.max_tiles,
        }

    def tile_size(self, mpp0: float) -> float:
        """Side of a tile in level-0 pixels of a slide of `mpp0` um/px."""
        return self.tile_px * self.mpp / mpp0


@dataclass(frozen=True)
class Region:
    """A rectangle in level-0 pixels; (x, y) is its top-left corner."""

    x: int
    y: int
    width: int
    height: int


def check_resolution(slide: Slide, grid: TileGrid) -> None:
    """Refuse a slide that is more than 10 % coarser than the target: sharpness cannot be invented.

    Raises:
        SlideUnsuitable: with both numbers.
    """
    if slide.mpp > grid.mpp * COARSER_ALLOWED:
        raise SlideUnsuitable(
            f"{slide.path.name}: {slide.mpp:.4g} um/px is {slide.mpp / grid.mpp:.3g} times as coarse as the "
            f"target of {grid.mpp:g} um/px, and {COARSER_ALLOWED} times is allowed: "
            f"use grid.mpp={slide.mpp:.3g} or more, in a store of its own: "
            "name=coarse, say, and data.grid=coarse in training"
        )


def clip_region(slide: Slide, region: Region | None) -> Region:
    """The part of a region that lies on the slide; the whole slide for None.

    Raises:
        SlideUnsuitable: nothing of it does.
    """
    width, height = slide.dimensions
    if region is None:
        return Region(0, 0, width, height)
    x0, y0 = max(region.x, 0), max(region.y, 0)
    x1, y1 = min(region.x + region.width, width), min(region.y + region.height, height)
    if x1 <= x0 or y1 <= y0:
        raise SlideUnsuitable(
            f"{slide.path.name}: the region {region} lies outside of the slide ({width} x {height} px); "
            "correct x, y, width, height in slides.parquet"
        )
    return Region(x0, y0, x1 - x0, y1 - y0)


def tile_corners(region: Region, grid: TileGrid, mpp0: float) -> Corners:
    """Top-left corners of all whole tiles within a region, the grid centred in it.

    Returns:
        int32 [n, 2], (x, y) in level-0 pixels, row by row; empty when the region is smaller than a tile.
    """
    side, stride = grid.tile_size(mpp0), grid.stride * grid.mpp / mpp0
    axes = []
    for start, extent in ((region.x, region.width), (region.y, region.height)):
        n = max(0, math.floor((extent - side) / stride + 1e-6) + 1)
        margin = (extent - (side + (n - 1) * stride)) / 2
        axes.append(np.floor(start + max(margin, 0.0) + stride * np.arange(n)).astype(np.int32))
    x, y = np.meshgrid(*axes)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def spread_evenly(corners: Corners, n: int | None) -> npt.NDArray[np.int64]:
    """Indices of at most `n` corners, evenly spread, in the order of `corners`; always the same.

    Corners are put in Morton (Z) order, in which neighbours on the slide stay near each other, and every
    (len / n)-th is taken, so that each part of the tissue is represented in proportion to its area.
    """
    if n is None or len(corners) <= n:
        return np.arange(len(corners))
    offset = corners.astype(np.int64) - corners.min(axis=0)
    # Ranks instead of pixels, so that the order does not depend on the scale of the slide.
    ranks = np.stack([np.unique(offset[:, axis], return_inverse=True)[1] for axis in (0, 1)], axis=1)
    order = np.argsort(_interleaved(ranks[:, 0]) | (_interleaved(ranks[:, 1]) << 1), kind="stable")
    taken = np.floor((np.arange(n) + 0.5) * len(corners) / n).astype(np.int64)
    return np.sort(order[taken])


def _interleaved(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Bits of each value (below 2^31) moved to the even places."""
    spread = np.zeros(len(values), np.int64)
    for bit in range(31):
        spread |= ((values.astype(np.int64) >> bit) & 1) << (2 * bit)
    return spread
