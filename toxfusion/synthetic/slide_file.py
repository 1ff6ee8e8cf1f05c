"""Writing virtual slides: pyramidal tiled JPEG TIFFs and 16-bit mask PNGs, each replaced at once when complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from toxfusion.study.files import replace_file, replacing

TILE = 256
SMALLEST_LEVEL = 256


class SlideWriteError(OSError):
    """A slide or mask could not be written."""


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes of the pyramid's levels, each half of the one before, down to `SMALLEST_LEVEL` on the longer side."""
    shapes = [(height, width)]
    while max(shapes[-1]) > SMALLEST_LEVEL:
        shapes.append((max(1, shapes[-1][0] // 2), max(1, shapes[-1][1] // 2)))
    return shapes


def write_pyramid(
    path: Path, strips: Iterable[NDArray[np.uint8]], height: int, width: int, *, mpp: float, quality: int
) -> None:
    """Write horizontal strips as a pyramidal TIFF that OpenSlide and tiatoolbox open.

    Args:
        path: file to write.
        strips: uint8 [rows, width, 3] from top to bottom; all but the last have a number of rows divisible by 256.
        height, width: level-0 size.
        mpp: um per level-0 pixel, stored as resolution in pixels per centimetre.
        quality: JPEG quality.

    Raises:
        SlideWriteError: the strips do not add up to `height` rows.
    """
    shapes = level_shapes(height, width)
    reduced = np.empty((*shapes[1], 3), np.uint8) if len(shapes) > 1 else None
    with replacing(path) as draft, tifffile.TiffWriter(draft, bigtiff=True) as tiff:
        _write_level(tiff, _base_tiles(strips, height, width, reduced), shapes[0], mpp, quality, 0)
        level = reduced
        for number, shape in enumerate(shapes[1:], start=1):
            if level is None:
                raise SlideWriteError(f"{path}: pyramid level {number} is missing")
            if number > 1:
                level = np.asarray(cv2.resize(level, shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)
            _write_level(tiff, _tiles(level), shape, mpp * width / shape[1], quality, number)


def write_mask(path: Path, bits: NDArray[np.uint16]) -> None:
    """Write a lesion mask uint16 [rows, columns] as a 16-bit PNG."""
    done, data = cv2.imencode(".png", bits, [cv2.IMWRITE_PNG_COMPRESSION, 2])
    if not done:
        raise SlideWriteError(f"{path}: PNG encoder refused a mask of {bits.shape} {bits.dtype}")
    replace_file(path, data.tobytes())


def _write_level(
    tiff: tifffile.TiffWriter,
    tiles: Iterator[NDArray[np.uint8]],
    shape: tuple[int, int],
    mpp: float,
    quality: int,
    number: int,
) -> None:
    tiff.write(
        tiles,
        shape=(*shape, 3),
        dtype=np.uint8,
        photometric="rgb",
        tile=(TILE, TILE),
        compression="jpeg",
        compressionargs={"level": quality},
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
        subfiletype=1 if number else 0,
        software="toxfusion",
        metadata=None,
    )


def _tiles(image: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Tiles of an image, row by row, edge tiles padded by repeating the border."""
    for y in range(0, image.shape[0], TILE):
        for x in range(0, image.shape[1], TILE):
            tile = image[y : y + TILE, x : x + TILE]
            if tile.shape[:2] != (TILE, TILE):
                pad = ((0, TILE - tile.shape[0]), (0, TILE - tile.shape[1]), (0, 0))
                tile = np.pad(tile, pad, mode="edge")
            yield np.ascontiguousarray(tile)


def _base_tiles(
    strips: Iterable[NDArray[np.uint8]], height: int, width: int, reduced: NDArray[np.uint8] | None
) -> Iterator[NDArray[np.uint8]]:
    """Tiles of level 0 from strips; fills level 1 on the way."""
    row = 0
    for strip in strips:
        if reduced is not None:
            first, last = row // 2, min((row + strip.shape[0]) // 2, reduced.shape[0])
            half = cv2.resize(
                strip[: 2 * (last - first), : 2 * reduced.shape[1]],
                (reduced.shape[1], last - first),
                interpolation=cv2.INTER_AREA,
            )
            reduced[first:last] = half
        row += strip.shape[0]
        yield from _tiles(strip)
    if row != height:
        raise SlideWriteError(f"strips add up to {row} rows of a slide of {height} x {width} px")
