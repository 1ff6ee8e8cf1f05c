"""Opening a slide with the first library that can, and reading regions of it at a wanted resolution.

Here: back ends (OpenSlide, tifffile, PIL; tiatoolbox for what these cannot open), micrometres per pixel.
Not here: which regions are worth reading (tissue.py, grid.py).
"""

from __future__ import annotations

import math
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import cv2
import numpy as np
import openslide
import tifffile
from PIL import Image, ImageOps

from toxfusion.slides.colour import WHITE, Pixels, is_plain_rgb, rgb
from toxfusion.slides.faults import SlideUnreadable, SlideUnsuitable
from toxfusion.slides.resolution import (
    IN_SLIDES_TABLE,
    as_pair,
    believed_mpp,
    doubted_mpp,
    resolution_mpp,
)
from toxfusion.slides.tiff import TiffSource, finest_page, main_series

if TYPE_CHECKING:
    from tiatoolbox.wsicore.wsireader import WSIReader

PLAIN_IMAGE_PIXELS = 600_000_000
OVERVIEW_SOURCE_PX = 4096
#: What decoders raise on a damaged file; anything else is a fault of ours and must be seen.
_DECODER_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    TypeError,
    AttributeError,
    MemoryError,
    EOFError,
    struct.error,
    openslide.OpenSlideError,
    tifffile.TiffFileError,
    Image.DecompressionBombError,
)

Image.MAX_IMAGE_PIXELS = PLAIN_IMAGE_PIXELS


class LevelSource(Protocol):
    """What a back end offers.

    Attributes:
        dimensions: (width, height) of level 0 in pixels.
        mpp: (x, y) micrometres per level-0 pixel by the file's metadata, None when it has none.
        downsamples: for each level, finest first, level-0 pixels per pixel of the level.
    """

    dimensions: tuple[int, int]
    mpp: tuple[float, float] | None
    downsamples: tuple[float, ...]

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """uint8 RGB [height, width, 3] of a level; (x, y) in level-0 pixels; white outside of the slide."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Slide:
    """An open slide whose resolution is known.

    Attributes:
        path: the file.
        source: the back end.
        backend: its name.
        mpp: micrometres per level-0 pixel.
        remarks: why earlier back ends did not open it, one text each; empty when the first did.
        doubt: a question about its resolution, "" for none.
    """

    path: Path
    source: LevelSource
    backend: str
    mpp: float
    remarks: tuple[str, ...] = ()
    doubt: str = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.source.close()

    @property
    def dimensions(self) -> tuple[int, int]:
        """(width, height) of level 0 in pixels."""
        return self.source.dimensions

    @property
    def downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of each level, finest level first."""
        return self.source.downsamples

    def level_for(self, mpp: float) -> int:
        """The coarsest level that is not coarser than `mpp` (by more than 1 %), else level 0."""
        fit = [i for i, factor in enumerate(self.downsamples) if factor * self.mpp <= mpp * 1.01]
        return max(fit, key=lambda i: self.downsamples[i], default=0)

    def read_region(self, x: int, y: int, width: int, height: int, mpp: float) -> Pixels:
        """Read a rectangle at a wanted resolution.

        Args:
            x, y: top-left corner in level-0 pixels.
            width, height: size of the result in pixels of `mpp`.
            mpp: micrometres per pixel of the result.

        Returns:
            uint8 RGB [height, width, 3]; white outside of the slide.

        Raises:
            SlideUnreadable: the file is damaged there.
        """
        level = self.level_for(mpp)
        factor = mpp / (self.mpp * self.downsamples[level])
        size = max(1, round(width * factor)), max(1, round(height * factor))
        try:
            pixels = self.source.read_level(level, x, y, *size)
        except _DECODER_ERRORS as error:
            raise SlideUnreadable(
                f"{self.path.name}: {self.backend} cannot read {size[0]} x {size[1]} px of level {level} at "
                f"({x}, {y}): {_told(error)}; the file is damaged or cut short"
            ) from error
        if size == (width, height):
            return pixels
        smaller = size[0] >= width and size[1] >= height
        method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(pixels, (width, height), interpolation=method), dtype=np.uint8)

    def overview(self, mpp: float) -> Pixels:
        """The whole slide at `mpp`, uint8 RGB; in blocks, so that one without a pyramid fits in memory."""
        scale = mpp / self.mpp
        width, height = (max(1, math.ceil(side / scale)) for side in self.dimensions)
        block = max(64, int(OVERVIEW_SOURCE_PX / (scale / self.downsamples[self.level_for(mpp)])))
        picture = np.full((height, width, 3), WHITE, np.uint8)
        for top in range(0, height, block):
            for left in range(0, width, block):
                h, w = min(block, height - top), min(block, width - left)
                part = self.read_region(round(left * scale), round(top * scale), w, h, mpp)
                picture[top : top + h, left : left + w] = part
        return picture


class OpenSlideSource:
    """Slides that OpenSlide knows: SVS, NDPI, MRXS, SCN, BIF, Philips, DICOM, generic tiled TIFF.

    The finest level of a TIFF is read through tifffile, several times as fast, where that gives the very same pixels;
    samples of the slide decide when it is opened. Coarser levels are OpenSlide's: it interpolates between their pixels.
    """

    _SAMPLES, _SAMPLE_PX = 5, 64

    def __init__(self, path: Path) -> None:
        self._slide = openslide.OpenSlide(path)
        self.dimensions = self._slide.dimensions
        if self._slide.properties.get(openslide.PROPERTY_NAME_VENDOR) == "generic-tiff":
            self._refuse_unless_plain(path)
        self.downsamples = tuple(float(d) for d in self._slide.level_downsamples)
        properties = self._slide.properties
        self.mpp = as_pair(
            properties.get(openslide.PROPERTY_NAME_MPP_X), properties.get(openslide.PROPERTY_NAME_MPP_Y)
        ) or resolution_mpp(
            properties.get("tiff.XResolution"),
            properties.get("tiff.YResolution"),
            properties.get("tiff.ResolutionUnit"),
        )
        self._finest = self._same_by_tifffile(path)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        if level == 0 and self._finest is not None:
            return self._finest.read_level(0, x, y, width, height)
        return rgb(self._slide.read_region((x, y), level, (width, height)))

    def close(self) -> None:
        self._slide.close()
        if self._finest is not None:
            self._finest.close()

    def _refuse_unless_plain(self, path: Path) -> None:
        """Leave to tifffile a TIFF that OpenSlide would take for something else: one with a fourth sample, with other
        colours than 8-bit RGB, or with a thumbnail before its picture."""
        with tifffile.TiffFile(path) as file:
            page = finest_page(main_series(file)[1])
            if not is_plain_rgb(page):
                what = "its samples are not plain RGB, and its tags say more of them than OpenSlide reads"
            elif (page.imagewidth, page.imagelength) != self.dimensions:
                what = "its first image is not its largest, which OpenSlide does not read"
            else:
                return
        self._slide.close()
        raise ValueError(what)

    def _same_by_tifffile(self, path: Path) -> TiffSource | None:
        """The slide opened by tifffile if its finest level has the same size and samples; else None."""
        source = None
        same = False
        try:
            source = TiffSource(path)
            same = source.dimensions == self.dimensions and all(
                np.array_equal(
                    source.read_level(0, x, y, self._SAMPLE_PX, self._SAMPLE_PX),
                    rgb(self._slide.read_region((x, y), 0, (self._SAMPLE_PX, self._SAMPLE_PX))),
                )
                for x, y in self._samples()
            )
        except (SlideUnsuitable, *_DECODER_ERRORS):
            same = False  # no TIFF, or damaged: OpenSlide says so where it is read
        if source is not None and not same:
            source.close()
        return source if same else None

    def _samples(self) -> list[tuple[int, int]]:
        """Corners of the samples, along the diagonal of the slide."""
        shares = (np.arange(self._SAMPLES) + 0.5) / self._SAMPLES
        return [(int(x), int(y)) for x, y in np.outer(shares, self.dimensions)]


class ImageSource:
    """A plain picture (PNG, JPEG ...) by PIL, held in memory, turned as its EXIF says. It has no mpp of its own."""

    def __init__(self, path: Path) -> None:
        with Image.open(path) as picture:
            if picture.mode not in ("RGB", "RGBA", "P", "CMYK", "YCbCr"):
                raise SlideUnsuitable(f"the image is of mode {picture.mode}, not 8-bit RGB")
            self._pixels = rgb(ImageOps.exif_transpose(picture))
        self.dimensions = self._pixels.shape[1], self._pixels.shape[0]
        self.mpp: tuple[float, float] | None = None
        self.downsamples: tuple[float, ...] = (1.0,)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        w, h = self.dimensions
        out = np.full((height, width, 3), WHITE, np.uint8)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, w), min(y + height, h)
        if x1 > x0 and y1 > y0:
            out[y0 - y : y1 - y, x0 - x : x1 - x] = self._pixels[y0:y1, x0:x1]
        return out

    def close(self) -> None:
        self._pixels = np.empty((0, 0, 3), np.uint8)


class TiatoolboxSource:
    """What only tiatoolbox has a reader for: DICOM that OpenSlide refuses, JP2, OME-Zarr. Slow to import."""

    SUFFIXES = (".dcm", ".dicom", ".jp2", ".zarr")

    def __init__(self, path: Path) -> None:
        from tiatoolbox.wsicore.wsireader import WSIReader

        with _library_errors():
            self._reader: WSIReader = WSIReader.open(path)
        info = self._reader.info
        self.dimensions = int(info.slide_dimensions[0]), int(info.slide_dimensions[1])
        self.downsamples = tuple(float(d) for d in info.level_downsamples)
        self.mpp = None if info.mpp is None else (float(info.mpp[0]), float(info.mpp[1]))
        self._lock = threading.Lock()

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        with self._lock, _library_errors():
            pixels = self._reader.read_rect((x, y), (width, height), resolution=level, units="level")
        return np.ascontiguousarray(pixels[..., :3], dtype=np.uint8)

    def close(self) -> None:
        """tiatoolbox closes a slide when its reader goes."""
        del self._reader


@contextmanager
def _library_errors() -> Iterator[None]:
    """The exceptions that tiatoolbox and the DICOM libraries below it have of their own, as a ValueError."""
    import pydicom.errors
    import wsidicom.errors
    from tiatoolbox.utils import exceptions

    # Each class of these modules stands by itself: there is no common base to catch.
    kinds = tuple(
        kind
        for module in (exceptions, pydicom.errors, wsidicom.errors)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    )
    try:
        yield
    except kinds as error:
        raise ValueError(_told(error)) from error


_BACKENDS: tuple[tuple[str, Callable[[Path], LevelSource]], ...] = (
    ("OpenSlide", OpenSlideSource),
    ("tifffile", TiffSource),
    ("PIL", ImageSource),
    ("tiatoolbox", TiatoolboxSource),
)


def open_slide(
    path: Path | str, *, mpp_override: float | None = None, said_by: str = IN_SLIDES_TABLE
) -> Slide:
    """Open a slide with the first back end that can.

    Args:
        path: the file.
        mpp_override: micrometres per level-0 pixel, which overrides the metadata.
        said_by: where it was given, for messages.

    Raises:
        SlideUnreadable: no file, an empty one, or one that no back end opens; the reason of each is given.
        SlideUnsuitable: not 8-bit colour, or no resolution that can be believed.
    """
    path = Path(path)
    source, backend, remarks = _open_source(path)
    try:
        mpp = believed_mpp(path, source.mpp, mpp_override, said_by)
        return Slide(path, source, backend, mpp, tuple(remarks), doubted_mpp(source.mpp, mpp, said_by))
    except SlideUnsuitable:
        source.close()
        raise


def _open_source(path: Path) -> tuple[LevelSource, str, list[str]]:
    try:
        about = path.stat()
    except FileNotFoundError as error:
        raise SlideUnreadable(f"{path}: no such file; {_why_missing(path)}") from error
    except OSError as error:  # no permission, a link to itself, a name too long
        raise SlideUnreadable(f"{path}: cannot be reached ({_told(error)})") from error
    if stat.S_ISDIR(about.st_mode):
        if path.suffix != ".zarr":
            raise SlideUnreadable(f"{path}: is a folder; give the slide file itself")
    elif not stat.S_ISREG(about.st_mode):
        raise SlideUnreadable(f"{path}: is no regular file (a pipe, socket or device)")
    elif about.st_size == 0:
        raise SlideUnreadable(f"{path}: the file is empty; copy it again")
    remarks: list[str] = []
    for name, backend in _BACKENDS:
        if backend is TiatoolboxSource and path.suffix.lower() not in TiatoolboxSource.SUFFIXES:
            continue
        try:
            return backend(path), name, remarks
        except SlideUnsuitable as error:
            raise SlideUnsuitable(f"{path.name}: {error}") from error
        except _DECODER_ERRORS as error:
            remarks.append(f"{name}: {_told(error)}")
    raise SlideUnreadable(
        f"{path.name}: no reader opens it ({'; '.join(remarks)}); is it damaged, or no image?"
    )


def _why_missing(path: Path) -> str:
    if os.sep == "/" and "\\" in str(path):
        return (
            "its separator \\ is that of Windows and means nothing here: write / in `path` of slides.parquet"
        )
    return "correct `path` in slides.parquet, or mount the disk"


def _told(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
