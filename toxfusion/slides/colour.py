"""Pixels as RGB on a white ground, by what the tags of a TIFF or the mode of a picture say that they are.

What the tags do not say is not guessed: a fourth sample of unknown meaning is no transparency, and three samples that
nobody called red, green and blue are no colours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from toxfusion.slides.faults import SlideUnsuitable

Pixels = npt.NDArray[np.uint8]
WHITE = 255

_PHOTOMETRIC = tifffile.PHOTOMETRIC
_CONVERTED_BY_DECODER = (
    tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.OJPEG, tifffile.COMPRESSION.APERIO_JP2000_YCBC,
)  # fmt: skip
#: the range of YCbCr that JFIF has, and the weights of ITU-R BT.601: what Pillow converts by
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
_BT601 = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Colour:
    """What the samples of a page are.

    Attributes:
        convert: decoded samples, uint8 [h, w, samples], to RGB on white [h, w, 3].
        white: samples of a white pixel.
    """

    convert: Callable[[Pixels], Pixels]
    white: tuple[int, ...]


def tiff_colour(page: tifffile.TiffPage) -> Colour:
    """What the samples of a page are, by its tags.

    Raises:
        SlideUnsuitable: the samples are no colours that the tags say how to convert.
    """
    samples, photometric = page.samplesperpixel, page.photometric
    if page.dtype != np.uint8 or page.imagedepth != 1 or samples not in (3, 4):
        raise SlideUnsuitable(f"the image is {page.dtype} with {samples} samples a pixel, not 8-bit RGB")
    if photometric == _PHOTOMETRIC.YCBCR and page.compression not in _CONVERTED_BY_DECODER:
        return _from_ycbcr(page)
    if photometric == _PHOTOMETRIC.SEPARATED:
        return _from_cmyk(page)
    if photometric not in (_PHOTOMETRIC.RGB, _PHOTOMETRIC.YCBCR):
        name = getattr(photometric, "name", photometric)
        raise SlideUnsuitable(
            f"its {samples} samples a pixel are {name} by the tag PhotometricInterpretation, not RGB; convert it to RGB"
        )
    if samples == 3:
        return Colour(np.ascontiguousarray, (WHITE,) * 3)
    kind = page.extrasamples[0] if page.extrasamples else tifffile.EXTRASAMPLE.UNSPECIFIED
    if kind == tifffile.EXTRASAMPLE.UNASSALPHA:
        return Colour(on_white, (WHITE,) * 4)
    if kind == tifffile.EXTRASAMPLE.ASSOCALPHA:
        return Colour(premultiplied_on_white, (WHITE,) * 4)
    return Colour(_first_three, (WHITE,) * 4)


def is_plain_rgb(page: tifffile.TiffPage) -> bool:
    """Whether every reader takes the samples of a page for the same colours."""
    plain = page.photometric in (_PHOTOMETRIC.RGB, _PHOTOMETRIC.YCBCR) and page.samplesperpixel == 3
    return (
        plain
        and page.dtype == np.uint8
        and (page.photometric == _PHOTOMETRIC.RGB or page.compression in _CONVERTED_BY_DECODER)
    )


def _first_three(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[..., :3])


def _from_ycbcr(page: tifffile.TiffPage) -> Colour:
    """Conversion by the tags, which must be those of JFIF: other weights or ranges are refused."""
    subsampling = tuple(page.subsampling or (1, 1))
    weights = _fractions(page, "YCbCrCoefficients") or _BT601
    range_ = _fractions(page, "ReferenceBlackWhite") or _FULL_RANGE
    fits = np.allclose(weights, _BT601, atol=1e-3) and np.allclose(range_, _FULL_RANGE, atol=0.5)
    if page.samplesperpixel != 3 or subsampling != (1, 1) or not fits:
        raise SlideUnsuitable(
            f"it is YCbCr with subsampling {subsampling}, weights {tuple(np.round(weights, 3).tolist())} and range "
            f"{tuple(np.round(range_, 1).tolist())}, which is not converted here; convert it to RGB"
        )
    return Colour(partial(_by_pillow, "YCbCr"), (255, 128, 128))


def _from_cmyk(page: tifffile.TiffPage) -> Colour:
    inks = page.tags["InkSet"].value if "InkSet" in page.tags else 1
    if page.samplesperpixel != 4 or inks != 1:
        raise SlideUnsuitable(
            f"it is of {page.samplesperpixel} inks, set {int(inks)}, not CMYK; convert it to RGB"
        )
    return Colour(partial(_by_pillow, "CMYK"), (0, 0, 0, 0))


def _by_pillow(mode: str, pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    picture = Image.frombytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes())
    return np.array(picture.convert("RGB"), dtype=np.uint8)


def _fractions(page: tifffile.TiffPage, tag: str) -> tuple[float, ...] | None:
    """The numbers of a tag of fractions, None where the page has it not."""
    if tag not in page.tags:
        return None
    values = np.asarray(page.tags[tag].value, dtype=np.float64).reshape(-1, 2)
    return tuple((values[:, 0] / values[:, 1]).tolist())


def on_white(pixels: Pixels) -> Pixels:
    """RGBA [h, w, 4] on a white ground, as RGB [h, w, 3]."""
    alpha = pixels[..., 3:]
    if (alpha == 255).all():
        return np.ascontiguousarray(pixels[..., :3])
    weight = alpha.astype(np.uint16)
    mixed = pixels[..., :3] * weight + WHITE * (255 - weight)
    return ((mixed + 127) // 255).astype(np.uint8)


def premultiplied_on_white(pixels: Pixels) -> Pixels:
    """RGBA [h, w, 4] whose colours are multiplied by alpha already, on a white ground."""
    ground = WHITE - pixels[..., 3:].astype(np.uint16)
    return np.minimum(pixels[..., :3] + ground, WHITE).astype(np.uint8)


def rgb(picture: Image.Image) -> Pixels:
    """A picture of any colour mode as RGB on a white ground."""
    opaque = picture.mode in ("RGB", "CMYK", "YCbCr") and "transparency" not in picture.info
    if opaque or (picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (255, 255)):
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)
    return on_white(np.asarray(picture.convert("RGBA"), dtype=np.uint8))
