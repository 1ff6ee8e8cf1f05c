"""Regions of a TIFF by tifffile: only the tiles or strips that a region needs are decoded."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from toxfusion.slides.colour import Pixels, tiff_colour
from toxfusion.slides.resolution import ome_mpp, ratio, resolution_mpp


class TiffSource:
    """The largest picture of a TIFF or OME-TIFF, in tiles or strips, by tifffile; only the segments that a region needs
    are decoded."""

    _CACHED_BYTES = 32 * 2**20

    def __init__(self, path: Path) -> None:
        self._file = tifffile.TiffFile(path)
        try:
            self._read_layout()
        except BaseException:
            self._file.close()
            raise

    def _read_layout(self) -> None:
        position, series = main_series(self._file)
        levels = sorted((_page(level) for level in series.levels), key=lambda page: -page.imagewidth)
        first = levels[0]
        self._colours = [tiff_colour(page) for page in levels]
        self._levels = levels
        self.dimensions = first.imagewidth, first.imagelength
        self.downsamples = tuple(first.imagewidth / page.imagewidth for page in levels)
        self.mpp = ome_mpp(self._file.ome_metadata, position) if self._file.is_ome else None
        if self.mpp is None and "XResolution" in first.tags and "ResolutionUnit" in first.tags:
            x, y = (ratio(first.tags[name].value) for name in ("XResolution", "YResolution"))
            unit = {2: "inch", 3: "cm"}.get(int(first.tags["ResolutionUnit"].value))
            self.mpp = resolution_mpp(x, y, unit)
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int], tuple[Pixels, tuple[int, ...]] | None] = OrderedDict()
        self._cached = 0

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        page, factor = self._levels[level], self.downsamples[level]
        left, top = round(x / factor), round(y / factor)
        colour = self._colours[level]
        out = np.full((height, width, page.samplesperpixel), colour.white, np.uint8)
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + width, page.imagewidth), min(top + height, page.imagelength)
        if x1 > x0 and y1 > y0:
            for index in _segments(page, x0, y0, x1, y1):
                if (decoded := self._segment(level, index)) is not None:
                    _paste(out, *decoded, left, top)
        return colour.convert(out)

    def _segment(self, level: int, index: int) -> tuple[Pixels, tuple[int, ...]] | None:
        """Decoded pixels [h, w, samples] of a segment and its (sample, y, x); None for a sparse one."""
        page = self._levels[level]
        with self._lock:
            if (level, index) in self._cache:
                self._cache.move_to_end((level, index))
                return self._cache[level, index]
            handle = self._file.filehandle
            handle.seek(page.dataoffsets[index])
            content = handle.read(page.databytecounts[index])
        if len(content) < page.databytecounts[index]:
            raise ValueError(f"segment {index} is cut short")
        data, (sample, _, y, x, _), shape = page.decode(content or None, index, jpegtables=page.jpegtables)
        segment = None
        if data is not None:  # the padding of the last tile of a row or column is cut off
            h, w = min(shape[1], page.imagelength - y), min(shape[2], page.imagewidth - x)
            segment = data[0, :h, :w], (sample, y, x)
        with self._lock:
            self._cached += 0 if segment is None or (level, index) in self._cache else segment[0].nbytes
            self._cache[level, index] = segment
            while self._cached > self._CACHED_BYTES and len(self._cache) > 1:
                oldest = self._cache.popitem(last=False)[1]
                self._cached -= 0 if oldest is None else oldest[0].nbytes
        return segment

    def close(self) -> None:
        self._file.close()


def _page(level: Any) -> tifffile.TiffPage:
    """The page that holds a level of a series whose levels are one page each."""
    page = level.pages[0]
    return page.aspage() if isinstance(page, tifffile.TiffFrame) else page


def main_series(file: tifffile.TiffFile) -> tuple[int, tifffile.TiffPageSeries]:
    """The series of the largest picture and its position: a thumbnail or a label may stand before it."""

    def pixels(position: int) -> int:
        page = finest_page(file.series[position])
        return int(page.imagewidth * page.imagelength)

    position = max(range(len(file.series)), key=pixels)
    return position, file.series[position]


def finest_page(series: tifffile.TiffPageSeries) -> tifffile.TiffPage:
    return _page(series.levels[0])


def _segments(page: tifffile.TiffPage, x0: int, y0: int, x1: int, y1: int) -> list[int]:
    """Indices of the tiles or strips (of every sample plane) that hold a part of a rectangle of a page."""
    width = page.tilewidth if page.is_tiled else page.imagewidth
    height = page.tilelength if page.is_tiled else page.rowsperstrip
    across, down = math.ceil(page.imagewidth / width), math.ceil(page.imagelength / height)
    planes = page.samplesperpixel if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else 1
    return [
        (plane * down + row) * across + column
        for plane in range(planes)
        for row in range(y0 // height, math.ceil(y1 / height))
        for column in range(x0 // width, math.ceil(x1 / width))
    ]


def _paste(out: Pixels, segment: Pixels, position: tuple[int, ...], left: int, top: int) -> None:
    """Copy the part of a segment at (sample, y, x) that falls into `out`, whose corner is (left, top)."""
    sample, y, x = position
    y0, x0 = max(y, top), max(x, left)
    y1 = min(y + segment.shape[0], top + out.shape[0])
    x1 = min(x + segment.shape[1], left + out.shape[1])
    if y1 <= y0 or x1 <= x0:
        return
    part = segment[y0 - y : y1 - y, x0 - x : x1 - x]
    target = out[y0 - top : y1 - top, x0 - left : x1 - left]
    if segment.shape[2] == out.shape[2]:
        target[...] = part
    else:
        target[..., sample] = part[..., 0]
