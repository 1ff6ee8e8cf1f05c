"""Which part of a slide is tissue, at low power, and a picture that lets a person check it.

Here: the tissue and pen masks, shares per tile, previews. Not here: tiles at full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from toxfusion.slides.colour import Pixels
from toxfusion.slides.grid import Corners, Region
from toxfusion.slides.readers import Slide

Mask = npt.NDArray[np.bool_]
MaskKind = Literal["tissue", "pen"]

MASK_MPP = 4.0
MASK_SIDE = 4096
#: The Otsu threshold on colour density is held within these limits: below the first lies the colour noise of
#: glass, above the second nothing but tissue. So a slide without glass is all tissue, an empty one none.
DENSITY_LIMITS = (0.05, 0.10)
CLOSING_UM = 24.0
SMALLEST_TISSUE_UM2 = 10_000.0
SMALLEST_TISSUE_SHARE = 0.05
LARGEST_HOLE_UM2 = 40_000.0
PREVIEW_SIDE = 512
_TISSUE_COLOUR, _TILE_COLOUR, _PEN_COLOUR = (0, 130, 60), (30, 60, 200), (230, 120, 0)


@dataclass(frozen=True)
class TissueMask:
    """Masks of a slide at low power.

    Attributes:
        overview: uint8 RGB [h, w, 3], the slide at the scale of the masks.
        tissue: bool [h, w]; holes and small lumina count as tissue, pen does not.
        pen: bool [h, w], blue, green and black marker.
        scale: level-0 pixels per mask pixel.
    """

    overview: Pixels
    tissue: Mask
    pen: Mask
    scale: float

    def shares(self, kind: MaskKind, corners: Corners, tile_size: float) -> npt.NDArray[np.float64]:
        """Share of each tile that a mask covers, float [n]; corners and tile_size in level-0 pixels."""
        return self._shares(kind, corners, corners + tile_size)

    def region_share(self, kind: MaskKind, region: Region) -> float:
        """Share of a region that a mask covers."""
        low = np.array([[region.x, region.y]])
        return float(self._shares(kind, low, low + np.array([[region.width, region.height]]))[0])

    @cached_property
    def _sums(self) -> dict[MaskKind, npt.NDArray[np.float64]]:
        """For each mask its sums over all rectangles from the corner, [h + 1, w + 1]."""
        masks: dict[MaskKind, Mask] = {"tissue": self.tissue, "pen": self.pen}
        return {
            kind: np.asarray(cv2.integral(mask.astype(np.uint8), sdepth=cv2.CV_64F), dtype=np.float64)
            for kind, mask in masks.items()
        }

    def _shares(
        self, kind: MaskKind, low: npt.NDArray[Any], high: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        height, width = self.tissue.shape
        first = np.floor(low / self.scale).astype(np.int64)
        last = np.ceil(high / self.scale).astype(np.int64)
        x0, x1 = (np.clip(edge[:, 0], 0, width) for edge in (first, last))
        y0, y1 = (np.clip(edge[:, 1], 0, height) for edge in (first, last))
        sums = self._sums[kind]
        inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
        return np.asarray(inside / np.maximum((x1 - x0) * (y1 - y0), 1), dtype=np.float64)


def find_tissue(slide: Slide) -> TissueMask:
    """Masks of a whole slide at 4 um/px (coarser for a slide of more than 16 mm).

    Raises:
        SlideUnreadable: the file is damaged.
    """
    longest_um = max(slide.dimensions) * slide.mpp
    mpp = max(MASK_MPP, slide.mpp, longest_um / MASK_SIDE)
    overview = slide.overview(mpp)
    pen = pen_mask(overview, mpp)
    return TissueMask(overview, tissue_mask(overview, mpp) & ~pen, pen, mpp / slide.mpp)


def tissue_mask(overview: Pixels, mpp: float) -> Mask:
    """Tissue as what has colour: Otsu on the colour density, closed, freed of specks and holes.

    Colour density is the largest less the smallest optical density of the three channels, which is near 0 for
    glass, dust and grey shadows alike; both stains of H&E have it.

    Args:
        overview: uint8 RGB [h, w, 3].
        mpp: its micrometres per pixel.
    """
    density = optical_density(_without_noise(overview))
    colour = cv2.GaussianBlur(density.max(axis=2) - density.min(axis=2), (0, 0), max(0.8, 6.0 / mpp))
    levels = np.clip(colour * 255, 0, 255).astype(np.uint8)
    otsu, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    threshold = float(np.clip(otsu / 255, *DENSITY_LIMITS))
    raw = (colour > threshold).astype(np.uint8)
    side = 2 * max(1, round(CLOSING_UM / mpp / 2)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    closed = cv2.morphologyEx(raw, cv2.MORPH_CLOSE, kernel).astype(bool)
    kept = _without_small(closed, min(SMALLEST_TISSUE_UM2 / mpp**2, SMALLEST_TISSUE_SHARE * closed.size))
    return kept | _small_holes(kept, LARGEST_HOLE_UM2 / mpp**2)


def pen_mask(overview: Pixels, mpp: float) -> Mask:
    """Blue, green and black marker, bool [h, w].

    Blue and green absorb red more than green light, which no stain of H&E does. Black absorbs all three nearly
    alike; haematoxylin absorbs less than half as much blue as green. Red marker is left in: it looks like blood.
    """
    density = optical_density(_without_noise(overview))
    cold = density[..., 0] - density[..., 1] > 0.12
    least, most = density.min(axis=2), density.max(axis=2)
    black = (least > 0.5) & (least > 0.6 * most)
    spots = _without_small(cold | black, SMALLEST_TISSUE_UM2 / 4 / mpp**2)
    side = 2 * max(1, round(CLOSING_UM / mpp / 2)) + 1
    return cv2.dilate(spots.astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)


def _without_noise(overview: Pixels) -> Pixels:
    return np.asarray(cv2.medianBlur(overview, 3), dtype=np.uint8)


def optical_density(pixels: Pixels) -> npt.NDArray[np.float32]:
    """-log10((I + 1) / 256), float32 of the shape of `pixels`."""
    table = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
    return np.asarray(table[pixels], dtype=np.float32)


def _without_small(mask: Mask, least: float) -> Mask:
    """A mask without its connected parts of fewer than `least` pixels."""
    n, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= least
    large[0] = False
    return np.asarray(large[labels], dtype=np.bool_) if n > 1 else np.zeros_like(mask)


def _small_holes(mask: Mask, most: float) -> Mask:
    """Parts of at most `most` pixels that a mask encloses; what touches the edge of the picture is no hole."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] <= most
    small[0] = False
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        small[np.unique(edge)] = False
    return np.asarray(small[labels], dtype=np.bool_)


def preview(mask: TissueMask, region: Region, corners: Corners, tile_size: float) -> Pixels:
    """A thumbnail of a region with the outline of the tissue (green), pen (orange) and the kept tiles (blue).

    Returns:
        uint8 RGB, the longer side 512 pixels.
    """
    x0, y0 = round(region.x / mask.scale), round(region.y / mask.scale)
    x1, y1 = (
        max(x0 + 1, round((region.x + region.width) / mask.scale)),
        max(y0 + 1, round((region.y + region.height) / mask.scale)),
    )
    part = mask.overview[y0:y1, x0:x1]
    zoom = PREVIEW_SIDE / max(part.shape[:2])
    size = max(1, round(part.shape[1] * zoom)), max(1, round(part.shape[0] * zoom))
    picture = cv2.resize(part, size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC)
    for shape, colour in ((mask.tissue, _TISSUE_COLOUR), (mask.pen, _PEN_COLOUR)):
        scaled = cv2.resize(shape[y0:y1, x0:x1].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(scaled, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, 2)
    factor = zoom / mask.scale
    for x, y in corners:
        low = round((x - region.x) * factor), round((y - region.y) * factor)
        high = round((x + tile_size - region.x) * factor), round((y + tile_size - region.y) * factor)
        cv2.rectangle(picture, low, high, _TILE_COLOUR, 1)
    return np.asarray(picture, dtype=np.uint8)


def write_picture(path: Path, picture: Pixels) -> None:
    """Write RGB pixels as a PNG.

    Raises:
        OSError: the file cannot be written.
    """
    done, content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(f"{path}: the picture could not be encoded as PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.tobytes())


def contact_sheet(pictures: Sequence[tuple[str, Pixels]], columns: int = 6, side: int = 256) -> Pixels:
    """Previews side by side, each with its name right below it, uint8 RGB; a row is as high as its highest picture."""
    caption = 18
    bands = []
    for first in range(0, len(pictures), columns):
        small = [_within(picture, side) for _, picture in pictures[first : first + columns]]
        height = max(picture.shape[0] for picture in small)
        band = np.full((height + caption, columns * side, 3), 255, np.uint8)
        for i, picture in enumerate(small):
            name, left = pictures[first + i][0], i * side
            band[: picture.shape[0], left : left + picture.shape[1]] = picture
            label = name if len(name) <= 36 else f"{name[:16]}...{name[-17:]}"
            place = (left + 2, picture.shape[0] + 13)
            cv2.putText(band, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
        bands.append(band)
    return np.concatenate(bands) if bands else np.full((0, columns * side, 3), 255, np.uint8)


def _within(picture: Pixels, side: int) -> Pixels:
    """The picture at the size that just fits a square, uint8 RGB."""
    zoom = side / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * zoom)), max(1, round(picture.shape[0] * zoom))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
