"""One Visium section out of a SpatialData store: OME-Zarr image, shapes of the spots, and the table about them.

Places of spots become pixels of the image by the transformations that the store itself carries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tifffile

from toxfusion.study.files import replacing
from toxfusion.study.importers.tables import ImportTableError

INSTALL = "reading a SpatialData store needs the package spatialdata; pip install 'toxfusion[spatialdata]'"
TILE = 256
ARRAY = ("array_row", "array_col")


@dataclass(frozen=True)
class StoredSection:
    """What a store holds of one section.

    Attributes:
        spots: indexed by barcode, columns array_row, array_col (array), pixel_x, pixel_y (level 0 of the image) and
            in_tissue (bool).
        counts: [n_spots, n_genes], the same index; genes may have one name twice.
        image: name of the image. pixels: its level 0, an array [channel, y, x] that may not be in memory yet.
    """

    spots: pd.DataFrame
    counts: pd.DataFrame
    image: str
    pixels: Any


def is_store(folder: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup"))


def read_store(
    folder: Path, *, image: str | None, table: str | None, coordinate_system: str
) -> StoredSection:
    """Read a section.

    Args:
        image, table: names of elements; None where the store has one.
        coordinate_system: in which image and spots lie together.

    Raises:
        ImportTableError: the package is not there, the folder is none of SpatialData, an element is missing or one of
            several, the table annotates no shapes or lacks a column, or an element has no place in the system.
    """
    try:
        import spatialdata
    except ImportError as error:
        raise ImportTableError(f"{folder}: {INSTALL}") from error
    try:
        store = spatialdata.read_zarr(folder)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise ImportTableError(f"{folder}: cannot be read as a SpatialData store: {error}") from error
    table_name = _only(folder, "table", store.tables, table)
    annotated = store.tables[table_name]
    where = f"{folder}, table {table_name!r}"
    region, instance = _annotation(annotated, where)
    missing = [column for column in (*ARRAY, region, instance) if column not in annotated.obs]
    if missing:
        raise ImportTableError(
            f"{where}, obs column {missing[0]!r}: is missing; a Visium table has the place of each spot on the array"
        )
    shapes = sorted(set(annotated.obs[region].astype(str)))
    if len(shapes) != 1 or shapes[0] not in store.shapes:
        raise ImportTableError(
            f"{where}, obs column {region!r}, value {', '.join(shapes)!r}: name one element of shapes; there are "
            f"{sorted(store.shapes)}"
        )
    image_name = _only(folder, "image", store.images, image)
    spots = store.shapes[shapes[0]]
    to_system, from_image = (
        _affine(element, coordinate_system, f"{folder}, {kind} {name!r}")
        for element, kind, name in (
            (spots, "shapes", shapes[0]),
            (store.images[image_name], "image", image_name),
        )
    )
    ids = annotated.obs[instance].to_numpy()
    strange = ids[~pd.Index(ids).isin(spots.index)]
    if len(strange):
        raise ImportTableError(
            f"{where}, obs column {instance!r}, value {strange[0]!r}: is no spot of shapes {shapes[0]!r}"
        )
    centre = spots.loc[ids].geometry.centroid
    own = np.column_stack([centre.x, centre.y, np.ones(len(centre))])
    pixel = own @ (np.linalg.inv(from_image) @ to_system).T
    obs = annotated.obs
    placed = pd.DataFrame(
        {
            **{name: obs[name].to_numpy(np.float64) for name in ARRAY},
            "pixel_x": pixel[:, 0],
            "pixel_y": pixel[:, 1],
            "in_tissue": obs["in_tissue"].to_numpy() == 1 if "in_tissue" in obs else True,
        },
        index=pd.Index(annotated.obs_names.astype(str)),
    )
    twice = placed.index[placed.index.duplicated()]
    if len(twice):
        raise ImportTableError(f"{where}: spot {twice[0]!r} appears twice; keep one row")
    pixels = spatialdata.get_pyramid_levels(store.images[image_name], n=0)
    return StoredSection(placed, annotated.to_df(), image_name, pixels)


def write_image(section: StoredSection, path: Path, mpp: float, store: Path) -> None:
    """Level 0 as a tiled TIFF, one row of tiles in memory at a time; at once or not at all.

    Args:
        mpp: um per pixel, written as its resolution.
        store: named in errors.

    Raises:
        ImportTableError: the image has not three channels of 8 bits.
    """
    pixels = section.pixels
    channels, height, width = pixels.shape
    if channels != 3 or pixels.dtype != np.uint8:
        raise ImportTableError(
            f"{store}, image {section.image!r}: has {channels} channels of {pixels.dtype}; H&E has three of uint8; "
            "name another with source.image"
        )

    def tiles() -> Iterator[npt.NDArray[np.uint8]]:
        for y in range(0, height, TILE):
            band = np.moveaxis(np.asarray(pixels[:, y : y + TILE]), 0, 2)
            for x in range(0, width, TILE):
                cut = band[:, x : x + TILE]
                yield np.pad(cut, ((0, TILE - cut.shape[0]), (0, TILE - cut.shape[1]), (0, 0)), mode="edge")

    with replacing(path) as draft:
        tifffile.imwrite(
            draft,
            tiles(),
            shape=(height, width, 3),
            dtype=np.uint8,
            tile=(TILE, TILE),
            photometric="rgb",
            compression="zlib",
            resolution=(1e4 / mpp, 1e4 / mpp),
            resolutionunit="CENTIMETER",
            bigtiff=True,
        )


def _only(store: Path, kind: str, elements: Mapping[str, Any], name: str | None) -> str:
    """The name of the element that is asked for, or of the only one."""
    names = sorted(elements)
    if name is not None and name in elements:
        return name
    if name is None and len(names) == 1:
        return names[0]
    wanted = f"no {kind} {name!r}" if name is not None else f"{len(names)} elements of this kind"
    raise ImportTableError(
        f"{store}: has {wanted}; name one with source.{kind}: {', '.join(names) or 'there is none'}"
    )


def _annotation(table: Any, where: str) -> tuple[str, str]:
    """Columns of obs that name the shapes and the spot of each row."""
    keys = table.uns.get("spatialdata_attrs", {})
    if "region_key" not in keys or "instance_key" not in keys:
        raise ImportTableError(f"{where}: annotates no shapes; give the table of the spots with source.table")
    return str(keys["region_key"]), str(keys["instance_key"])


def _affine(element: Any, system: str, where: str) -> npt.NDArray[np.float64]:
    """[3, 3], from the element's own x and y to those of a coordinate system."""
    from spatialdata.transformations import get_transformation

    known = get_transformation(element, get_all=True)
    if system not in known:
        raise ImportTableError(
            f"{where}: has no place in the coordinate system {system!r}; name one that image and spots share with "
            f"source.coordinate_system: {', '.join(sorted(known)) or 'there is none'}"
        )
    return np.asarray(known[system].to_affine_matrix(("x", "y"), ("x", "y")), np.float64)
