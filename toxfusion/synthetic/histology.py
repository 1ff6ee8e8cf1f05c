"""Virtual H&E slides of rat liver: from a `SlideSpec` to pixels, a pyramidal TIFF, a lesion mask and the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toxfusion.synthetic.painting import BLOCK, SlidePainter, mask_length
from toxfusion.synthetic.slide_file import write_mask, write_pyramid
from toxfusion.synthetic.slide_spec import (
    ARTEFACTS,
    MASK_MPP,
    PHENOTYPES,
    ZONES,
    Lesion,
    SlideSpec,
    SlideSpecError,
    SlideTruth,
    Stain,
)

__all__ = [
    "ARTEFACTS",
    "MASK_MPP",
    "PHENOTYPES",
    "ZONES",
    "Lesion",
    "SlideSpec",
    "SlideSpecError",
    "SlideTruth",
    "Stain",
    "render_mask",
    "render_region",
    "render_slide",
]


def render_slide(spec: SlideSpec, path: Path, mask_path: Path | None = None) -> SlideTruth:
    """Write a slide as a pyramidal tiled JPEG TIFF and its lesion mask.

    Memory does not grow with the slide beyond its second pyramid level, its mask and its list of cells.

    Args:
        spec: the slide.
        path: .tif file to write; replaced at once when complete.
        mask_path: 16-bit PNG of lesion bits at `MASK_MPP` over the same field of view, or None.

    Returns:
        The truth about the slide.
    """
    painter = SlidePainter(spec)
    bits = np.zeros((mask_length(spec.height, spec.mpp), mask_length(spec.width, spec.mpp)), np.uint16)
    tissue = np.zeros(bits.shape, bool)

    def strip(row: int) -> NDArray[np.uint8]:
        painted = np.empty((min(BLOCK, spec.height - row * BLOCK), spec.width, 3), np.uint8)
        for column in range(painter.blocks[1]):
            rgb, truth = painter.block(row, column)
            bits[truth.place], tissue[truth.place] = truth.bits, truth.tissue
            painted[:, column * BLOCK : column * BLOCK + rgb.shape[1]] = rgb
        return painted

    strips = (strip(row) for row in range(painter.blocks[0]))
    write_pyramid(path, strips, spec.height, spec.width, mpp=spec.mpp, quality=spec.stain.jpeg_quality)
    if mask_path is not None:
        write_mask(mask_path, bits)
    return _truth(spec, painter, bits, tissue)


def render_region(spec: SlideSpec, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
    """Level-0 pixels of a window that lies inside the slide, before JPEG compression; uint8 [height, width, 3].

    Raises:
        SlideSpecError: the window leaves the slide.
    """
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > spec.width or y + height > spec.height:
        raise SlideSpecError(
            f"render_region: window x={x} y={y} {width} x {height} leaves slide {spec.slide_id!r} of "
            f"{spec.width} x {spec.height} px"
        )
    painter = SlidePainter(spec)
    out = np.empty((height, width, 3), np.uint8)
    for row in range(y // BLOCK, (y + height - 1) // BLOCK + 1):
        for column in range(x // BLOCK, (x + width - 1) // BLOCK + 1):
            rgb, _ = painter.block(row, column)
            top, left = row * BLOCK, column * BLOCK
            y0, y1 = max(y, top), min(y + height, top + rgb.shape[0])
            x0, x1 = max(x, left), min(x + width, left + rgb.shape[1])
            out[y0 - y : y1 - y, x0 - x : x1 - x] = rgb[y0 - top : y1 - top, x0 - left : x1 - left]
    return out


def render_mask(spec: SlideSpec) -> tuple[NDArray[np.uint16], SlideTruth]:
    """Lesion bits uint16 [rows, columns] at `MASK_MPP` and the truth, without writing files."""
    painter = SlidePainter(spec)
    bits = np.zeros((mask_length(spec.height, spec.mpp), mask_length(spec.width, spec.mpp)), np.uint16)
    tissue = np.zeros(bits.shape, bool)
    for row in range(painter.blocks[0]):
        for column in range(painter.blocks[1]):
            truth = painter.mask_block(row, column)
            bits[truth.place], tissue[truth.place] = truth.bits, truth.tissue
    return bits, _truth(spec, painter, bits, tissue)


def _truth(
    spec: SlideSpec, painter: SlidePainter, bits: NDArray[np.uint16], tissue: NDArray[np.bool_]
) -> SlideTruth:
    total = max(int(tissue.sum()), 1)
    area = {name: float(((bits >> k) & 1).sum() / total) for k, name in enumerate(PHENOTYPES)}
    return SlideTruth(
        slide_id=spec.slide_id,
        area_fraction=area,
        tissue_fraction=float(tissue.mean()),
        n_hepatocyte_nuclei=painter.objects.hepatocyte,
        n_other_nuclei=painter.objects.other,
        mask_mpp=MASK_MPP,
    )
