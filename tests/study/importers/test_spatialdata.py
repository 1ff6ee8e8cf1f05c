"""A SpatialData store, written by its own package, is the same study as the section in the layout of Space Ranger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from tests.study.importers.test_spatial import write_visium
from toxfusion.study.importers.spatial import import_spatial
from toxfusion.study.importers.tables import ImportTableError

spatialdata = pytest.importorskip("spatialdata", reason="pip install 'toxfusion[spatialdata]'")

SIDE = 900
SETTINGS: dict[str, Any] = {"min_counts": 100, "radius_um": 60}


def visium(folder: Path) -> Path:
    """A section with a true image, no two windows of which are alike."""
    place = write_visium(folder, "V1", header=True, px_per_um=1.0)
    (place / "image.jpg").unlink()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (SIDE // 20, SIDE // 20, 3), dtype=np.uint8)
    cv2.imwrite(str(place / "image.png"), cv2.resize(image, (SIDE + 7, SIDE), interpolation=cv2.INTER_CUBIC))
    return place


def stored(folder: Path, place: Path, **change: Any) -> Path:
    """The section of `visium` as a store: the image scaled by 2 and moved, the spots in full-resolution pixels."""
    import anndata
    from geopandas import GeoDataFrame, points_from_xy
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Affine, Identity

    from toxfusion.study.audit import Audit
    from toxfusion.study.importers.tenx import read_counts

    at = pd.read_csv(place / "spatial" / "tissue_positions.csv", index_col="barcode")
    rgb = cv2.cvtColor(cv2.imread(str(place / "image.png")), cv2.COLOR_BGR2RGB)
    system = change.get("system", "global")
    # The spots lie in a system of microns: half as large, and 30 um to the right.
    to_um = Affine([[0.5, 0, 30], [0, 0.5, 0], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    image = Image2DModel.parse(
        np.moveaxis(rgb, 2, 0).astype(change.get("dtype", np.uint8)),
        dims=("c", "y", "x"),
        scale_factors=[2],
        transformations={system: to_um},
    )
    um = at[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy() * 0.5 + [30, 0]
    spots = ShapesModel.parse(
        GeoDataFrame({"radius": 27.5}, geometry=points_from_xy(*um.T), index=np.arange(len(at))),
        transformations={"global": Identity()},
    )
    counts = read_counts(place / "filtered_feature_bc_matrix.h5", Audit())
    table = anndata.AnnData(counts[at.index].X, obs=at[["in_tissue", "array_row", "array_col"]].copy())
    table.var_names = counts.var["symbol"].astype(str).tolist()
    table.obs["region"], table.obs["spot"] = pd.Categorical(["spots"] * len(at)), np.arange(len(at))
    for column in change.get("without", ()):
        del table.obs[column]
    annotated = TableModel.parse(table, region="spots", region_key="region", instance_key="spot")
    images = dict.fromkeys(change.get("images", ["hires"]), image)
    made = spatialdata.SpatialData(images=images, shapes={"spots": spots}, tables={"table": annotated})
    target = folder / "store" / "V1.zarr"
    made.write(target)
    return target


def test_a_store_is_the_same_study_as_the_folder(tmp_path: Path) -> None:
    place = visium(tmp_path)
    wanted = import_spatial(tmp_path / "folder", sections=[str(place)], **SETTINGS)
    store = stored(tmp_path, place)
    study = import_spatial(tmp_path / "stored", sections=[str(store)], **SETTINGS)
    pd.testing.assert_frame_equal(study.obs, wanted.obs)
    pd.testing.assert_frame_equal(study.var, wanted.var)
    np.testing.assert_array_equal(study.expression, wanted.expression)
    pd.testing.assert_frame_equal(study.slides.drop(columns="path"), wanted.slides.drop(columns="path"))
    assert study.provenance["mpp"] == wanted.provenance["mpp"]
    written = Path(study.slides["path"].iloc[0])
    assert written == (tmp_path / "stored" / "images" / "V1.tif").resolve()
    rgb = cv2.cvtColor(cv2.imread(str(place / "image.png")), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(tifffile.imread(written), rgb)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"images": ["hires", "lowres"]}, {}, r"V1\.zarr: has 2 elements.*source\.image: hires, lowres"),
        ({}, {"image": "he"}, r"has no image 'he'; name one with source\.image: hires"),
        ({}, {"table": "cells"}, r"has no table 'cells'; name one with source\.table: table"),
        ({"system": "slide"}, {}, r"image 'hires': has no place in the coordinate system 'global'.*: slide"),
        ({"without": ["array_col"]}, {}, r"table 'table', obs column 'array_col': is missing"),
        ({"dtype": np.uint16}, {}, r"image 'hires': has 3 channels of uint16"),
    ],
)
def test_what_a_store_lacks_is_named(
    tmp_path: Path, change: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    store = stored(tmp_path, visium(tmp_path), **change)
    with pytest.raises(ImportTableError, match=message):
        import_spatial(tmp_path / "study", sections=[str(store)], **SETTINGS, **settings)
    assert not (tmp_path / "study" / "expression.h5ad").exists()


def test_a_store_of_something_else_is_refused(tmp_path: Path) -> None:
    import zarr

    zarr.open_group(tmp_path / "V1.zarr", mode="w").create_group("cells")
    with pytest.raises(ImportTableError, match=r"V1\.zarr: (cannot be read|has 0 elements)"):
        import_spatial(tmp_path / "study", sections=[str(tmp_path / "V1.zarr")], **SETTINGS)
