"""Micrometres per level-0 pixel: what a file says, what a user says, and whether it can be believed."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from toxfusion.slides.faults import SlideUnsuitable
from toxfusion.study.names import NEAR

MPP_RANGE = (0.05, 4.0)
MPP_ANISOTROPY = 0.05
IN_SLIDES_TABLE = "mpp_override in slides.parquet"
ON_THE_COMMAND_LINE = "mpp_override of the command line"
#: by how much an override may differ from the metadata without a question
DOUBTED_RATIO = 1.5
_UM_PER_UNIT = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "um": 1.0, "nm": 1e-3, "inch": 25_400.0}


def believed_mpp(
    path: Path, of_file: tuple[float, float] | None, override: float | None, said_by: str
) -> float:
    """Micrometres per level-0 pixel: the override where there is one, else what the file says of x and y.

    Args:
        path: of the slide, for messages. said_by: where the override is given, or would be.

    Raises:
        SlideUnsuitable: neither says it, or it cannot be believed.
    """
    if override is not None and not math.isnan(override):
        mpp, origin = float(override), said_by
    elif of_file is None:
        raise SlideUnsuitable(
            f"{path.name}: the file does not say how many micrometres a pixel is; "
            "set `mpp_override` in slides.parquet (or mpp_override=... on the command line)"
        )
    else:
        x, y = of_file
        if abs(x - y) > MPP_ANISOTROPY * max(x, y):
            raise SlideUnsuitable(f"{path.name}: its pixels are not square ({x:.4g} x {y:.4g} um)")
        mpp, origin = (x + y) / 2, "the file's metadata"
    if mpp > MPP_RANGE[1] and origin == "the file's metadata":
        raise SlideUnsuitable(
            f"{path.name}: {mpp:.4g} um/px by {origin} is coarser than {MPP_RANGE[1]:g} um/px, too coarse "
            f"for any target mpp; if the metadata are wrong, set {said_by}"
        )
    if not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
        raise SlideUnsuitable(
            f"{path.name}: {mpp:.4g} um/px by {origin} is outside {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g}; "
            f"{'correct' if origin == said_by else 'set'} {said_by}"
        )
    return mpp


def doubted_mpp(of_file: tuple[float, float] | None, mpp: float, said_by: str) -> str:
    """A question where a resolution is far from that of the metadata, which it overrides; "" where it is not.

    Args:
        mpp: micrometres per level-0 pixel, as believed. said_by: where it was given.
    """
    if of_file is None or not all(map(math.isfinite, of_file)):
        return ""
    metadata = sum(of_file) / 2
    if max(mpp, metadata) <= DOUBTED_RATIO * min(mpp, metadata):
        return ""
    return f"{mpp:.4g} um/px by {said_by}; {NEAR} the {metadata:.4g} of the file's metadata?"


def _number(text: object) -> float | None:
    """A positive finite number, None for anything else."""
    try:
        value = float(str(text).strip().replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def as_pair(x: object, y: object) -> tuple[float, float] | None:
    """Two numbers; where only one is known, the pixels are taken to be square."""
    found_x, found_y = _number(x), _number(y)
    if found_x is None and found_y is None:
        return None
    return found_x or found_y or 0.0, found_y or found_x or 0.0


def ratio(value: Any) -> float | None:
    numerator, denominator = value
    return numerator / denominator if denominator else None


def resolution_mpp(x: object, y: object, unit: str | None) -> tuple[float, float] | None:
    """Micrometres per pixel from pixels per inch or centimetre; None outside the range of microscopes.

    Image programs write 72 or 300 dots per inch into every TIFF: such a value is no measurement.
    """
    per_unit = as_pair(x, y)
    unit = {"centimeter": "cm"}.get(unit or "", unit)
    if per_unit is None or unit not in ("cm", "inch"):
        return None
    mpp = _UM_PER_UNIT[unit] / per_unit[0], _UM_PER_UNIT[unit] / per_unit[1]
    return mpp if max(mpp) < 30 else None


def ome_mpp(metadata: str | None, position: int = 0) -> tuple[float, float] | None:
    """PhysicalSizeX and Y of an image of an OME-XML block, by its position, in micrometres."""
    if not metadata:
        return None
    try:
        root = ElementTree.fromstring(metadata)
    except ElementTree.ParseError:
        return None
    images = [node for node in root.iter() if node.tag.rpartition("}")[2] == "Pixels"]
    if position >= len(images):
        return None
    pixels = images[position]
    sizes = []
    for axis in "XY":
        size = _number(pixels.get(f"PhysicalSize{axis}"))
        factor = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        sizes.append(None if size is None or factor is None else size * factor)
    return as_pair(*sizes)
