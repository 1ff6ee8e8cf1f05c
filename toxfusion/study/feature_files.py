"""One file of tile features a slide, as other tools write and read them: CLAM, TRIDENT, STAMP, and ``.pt`` tensors.

Here: the layouts, what each says of itself, and writing CLAM's. Not here: which slide a file belongs to
(toxfusion.study.importers.features), or the store (bag_store.py).

    CLAM     features [n, D] and coords [n, 2] in level-0 px; patch_size, patch_level and downsample at the
             coordinates of its patches/*.h5, nothing in its h5_files/*.h5
    TRIDENT  as CLAM, with patch_size and patch_size_level0 at the coordinates and the encoder at the features
    STAMP    feats [n, D] and coords [n, 2] in um; unit, tile_size_um, tile_size_px and extractor at the file
    .pt      a tensor [n, D], or a table with features (or feats) and coords
"""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toxfusion.study.bag_store import BagStore
from toxfusion.study.files import replacing
from toxfusion.study.store_spec import explained

SUFFIXES = (".h5", ".hdf5", ".pt")
BLOCK_ROWS = 4096
_ROWS_NAMES = ("features", "feats")
_SAYABLE = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING)


class FeatureFileError(ValueError):
    """A file holds no tile features that can be used; the message says why."""


@dataclass(frozen=True)
class FeatureFile:
    """What a file of features says of itself; None where it says nothing.

    Attributes:
        path: the file. coordinates_path: where its coordinates lie, the file itself or CLAM's of the patches; None
            where they are not wanted.
        names: what its slide may be called: the file's name without suffix, and the name written inside.
        n, dim: tiles, and length of a feature vector.
        unit: of the coordinates: level-0 pixels or micrometres.
        tile_px: side of a tile in pixels of the resolution it was read at.
        tile_size, tile_um: the same side in level-0 pixels, in micrometres.
        mpp0: micrometres per level-0 pixel.
        encoder, weights, trained_on: what made the features; the compounds its training saw.
    """

    path: Path
    coordinates_path: Path | None
    names: tuple[str, ...]
    n: int
    dim: int
    unit: Literal["px", "um"] = "px"
    tile_px: int | None = None
    tile_size: float | None = None
    tile_um: float | None = None
    mpp0: float | None = None
    encoder: str | None = None
    weights: str | None = None
    trained_on: tuple[str, ...] | None = None


def read_header(path: Path, coordinates: Path | None = None, *, placed: bool = True) -> FeatureFile:
    """What a file says of itself, without reading its features (of a ``.pt`` they are mapped, not read).

    Args:
        path: .h5, .hdf5 or .pt.
        coordinates: a file with the coordinates of the same tiles, for one that has none (CLAM's patches/*.h5).
        placed: tiles must have coordinates; False passes over those that a file has.

    Raises:
        FeatureFileError: damaged, not readable, of no known layout, or without coordinates that it must have.
    """
    with _explained(path):
        header = _torch_header(path) if path.suffix.lower() == ".pt" else _h5_header(path)
    if not placed:
        return replace(header, coordinates_path=None)
    if header.coordinates_path is None and coordinates is not None:
        with _explained(coordinates), h5py.File(coordinates, "r") as file:
            header = replace(header, coordinates_path=coordinates, **_geometry(file))
    if header.coordinates_path is None:
        raise FeatureFileError(
            "has no coordinates, without which a tile has no place on the slide: name the folder that has them by "
            "source.coordinates, or do without places by source.coordinates=none"
        )
    return header


def read_coordinates(file: FeatureFile, mpp0: float) -> npt.NDArray[np.int64]:
    """Top-left corners [n, 2] of the tiles in level-0 pixels.

    Raises:
        FeatureFileError: not one pair of finite numbers for each tile.
    """
    path = file.coordinates_path or file.path
    with _explained(path):
        if path.suffix.lower() == ".pt":
            corners = _tensors(path)["coords"].numpy()
        else:
            with h5py.File(path, "r") as opened:
                corners = np.asarray(opened["coords"])
        corners = np.asarray(corners[0] if corners.ndim == 3 and len(corners) == 1 else corners, np.float64)
    if corners.shape != (file.n, 2):
        raise FeatureFileError(f"has {file.n} rows of features, and coordinates of shape {corners.shape}")
    if not np.isfinite(corners).all():
        raise FeatureFileError("a coordinate is NaN or infinite")
    return np.rint(corners / mpp0 if file.unit == "um" else corners).astype(np.int64)


def read_rows(file: FeatureFile, chosen: npt.NDArray[np.bool_]) -> Iterator[npt.NDArray[Any]]:
    """The chosen rows [m, dim] in blocks, floating, in the file's order; ``chosen`` is bool [n].

    Raises:
        FeatureFileError: a part cannot be read.
    """
    if file.path.suffix.lower() == ".pt":
        with _explained(file.path):
            features = _squeezed(_tensors(file.path)["features"]).detach()
            wide = features.float() if features.dtype == torch.bfloat16 else features
            blocks = iter([wide[torch.from_numpy(chosen)].numpy()])
        yield from blocks
        return
    for start in range(0, file.n, BLOCK_ROWS):
        part = chosen[start : start + BLOCK_ROWS]
        if part.any():
            with _explained(file.path), h5py.File(file.path, "r") as opened:
                data = opened[_rows_name(opened)]
                block = (
                    data[0, start : start + len(part)] if data.ndim == 3 else data[start : start + len(part)]
                )
            yield np.asarray(block)[part]


def write_clam_h5(store: BagStore, slide_id: str, path: Path) -> None:
    """Write a bag as CLAM reads it: features float32 [n, D] and coords int32 [n, 2] in level-0 pixels.

    Attributes that CLAM ignores say what ``read_header`` can read back: those of TRIDENT, and at the file encoder,
    weights, trained_on and ``mpp0``. The file is written beside its place and renamed.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    with explained(f"{path} cannot be written"), replacing(path) as draft:
        _write_clam(store, slide_id, draft)


def _write_clam(store: BagStore, slide_id: str, path: Path) -> None:
    about = store.spec.provenance
    with h5py.File(path, "w") as file:
        features = store.rows(slide_id)
        data = file.create_dataset("features", features.shape, np.float32)
        for start in range(0, len(features), BLOCK_ROWS):
            data[start : start + BLOCK_ROWS] = features[start : start + BLOCK_ROWS]
        if store.placed:
            corners = file.create_dataset("coords", data=store.coordinates(slide_id))
            corners.attrs["name"] = slide_id
            corners.attrs["patch_size_level0"] = store.tile_size(slide_id)
            if about.get("tile_px") is not None:
                corners.attrs["patch_size"] = about["tile_px"]
            file.attrs["mpp0"] = store.mpp0(slide_id)
        file.attrs["trained_on"] = json.dumps(about.get("trained_on", []))
        for key in ("encoder", "weights"):
            if about.get(key) is not None:
                file.attrs[key] = about[key]
    with open(path, "rb") as written:
        os.fsync(written.fileno())


def _h5_header(path: Path) -> FeatureFile:
    with h5py.File(path, "r") as file:
        name = _rows_name(file)
        n, dim = _row_shape(file[name].shape)
        if not np.issubdtype(file[name].dtype, np.floating):
            raise FeatureFileError(f"its {name} are {file[name].dtype}, not floating")
        about: dict[str, Any] = {
            "encoder": _text(_said("encoder", file[name], file)) or _text(_said("extractor", file)),
            "weights": _text(_said("weights", file)),
            "trained_on": _compounds(_said("trained_on", file)),
            "mpp0": _positive(_said("mpp0", file)),
        }
        names = [path.stem]
        if "coords" in file:
            names.append(_text(_said("name", file["coords"])) or path.stem)
            if name == "feats" and _unit(file) is None:
                raise FeatureFileError(
                    "its coordinates have no unit (STAMP before 2.0): set their attribute unit to um or px"
                )
            about |= _geometry(file)
        place = path if "coords" in file else None
        return FeatureFile(path, place, tuple(dict.fromkeys(names)), n, dim, **about)


def _geometry(file: h5py.File) -> dict[str, Any]:
    """Unit of the coordinates and sides of a tile, as far as a file tells."""
    if "coords" not in file:
        raise FeatureFileError("has no dataset coords")
    corners = file["coords"]
    tile_px = _positive(_said("tile_size_px", file)) or _positive(_said("patch_size", corners))
    tile_size, downsample = _positive(_said("patch_size_level0", corners)), _said("downsample", corners)
    if tile_size is None and tile_px is not None and downsample is not None:
        tile_size = tile_px * float(np.ravel(downsample)[0])
    unit = _unit(file) or "px"
    if unit not in ("px", "um"):
        raise FeatureFileError(f"its coordinates are in {unit!r}, not um or px")
    tile_um = _positive(_said("tile_size_um", file))
    if tile_um is None and unit == "um":
        tile_um = _positive(_said("tile_size", file))
    return {
        "unit": unit,
        "tile_px": None if tile_px is None else round(tile_px),
        "tile_size": tile_size,
        "tile_um": tile_um,
    }


def _unit(file: h5py.File) -> str | None:
    return _text(_said("unit", file["coords"], file))


def _said(key: str, *places: h5py.HLObject) -> Any:
    """An attribute of the first place that has it, or None. Its type is looked at first: HDF5 dies of a damaged one."""
    place = next((place for place in places if key in place.attrs), None)
    if place is None:
        return None
    if place.attrs.get_id(key).get_type().get_class() not in _SAYABLE:
        raise FeatureFileError(f"its attribute {key} is neither a number nor text; is it whole?")
    return place.attrs[key]


def _torch_header(path: Path) -> FeatureFile:
    tensors = _tensors(path)
    features = tensors["features"]
    n, dim = _row_shape(tuple(features.shape))
    if not features.is_floating_point():
        raise FeatureFileError(f"its features are {str(features.dtype).removeprefix('torch.')}, not floating")
    return FeatureFile(path, path if "coords" in tensors else None, (path.stem,), n, dim)


def _tensors(path: Path) -> dict[str, Tensor]:
    """ "features" and, where there are any, "coords" of a ``.pt`` file, mapped into memory."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # written before torch 1.6, which cannot be mapped
        content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, Tensor):
        return {"features": content}
    if isinstance(content, Mapping):
        name = next((name for name in _ROWS_NAMES if isinstance(content.get(name), Tensor)), None)
        if name is not None:
            coords = content.get("coords")
            return {"features": content[name]} | ({"coords": coords} if isinstance(coords, Tensor) else {})
    what = (
        f"a table with {', '.join(map(str, list(content)[:6]))}"
        if isinstance(content, Mapping)
        else "no table"
    )
    raise FeatureFileError(f"holds {what}, and neither a tensor nor a table with features (or feats)")


def _squeezed(features: Tensor) -> Tensor:
    return features[0] if features.ndim == 3 else features


def _rows_name(file: h5py.File) -> str:
    for name in _ROWS_NAMES:
        if isinstance(file.get(name), h5py.Dataset):
            return name
    raise FeatureFileError(f"holds {sorted(file)[:6]}, and no dataset called features or feats")


def _row_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and dimension; one bag in a batch of one is taken, a vector of a whole slide is not."""
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2 or min(shape) < 1:
        raise FeatureFileError(f"its features are of shape {shape}, not [tiles, dimension]")
    return shape[0], shape[1]


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) and value else None


def _positive(value: Any) -> float | None:
    """A finite number above 0, None where nothing is said; anything else is an error."""
    if value is None:
        return None
    number = float(np.ravel(value)[0])
    if not (math.isfinite(number) and number > 0):
        raise FeatureFileError(f"a size or resolution in its attributes is {number}, and must be above 0")
    return number


def _compounds(value: object) -> tuple[str, ...] | None:
    text = _text(value)
    if text is None:
        return None
    names = json.loads(text)
    return (names,) if isinstance(names, str) else tuple(map(str, names))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What libraries raise on a damaged file, as a FeatureFileError that says what to do."""
    try:
        yield
    except FeatureFileError:
        raise
    except pickle.UnpicklingError as error:
        raise FeatureFileError(
            f"{path.name} carries more than tensors and plain types: it could run code, and is refused"
        ) from error
    except (OSError, EOFError, RuntimeError, KeyError, ValueError, IndexError, TypeError) as error:
        raise FeatureFileError(
            f"{path.name} cannot be read ({' '.join(str(error).split())[:160]}); is it whole?"
        ) from error


def feature_files(places: Sequence[Path]) -> list[Path]:
    """Each file, and for a folder each entry right in it, sorted; not hidden ones, nor folders not named as files.

    Raises:
        FeatureFileError: a place is not there, or there is no file.
    """
    paths: list[Path] = []
    for place in places:
        if not os.path.lexists(place):
            raise FeatureFileError(f"{place}: no such file or folder; correct source.files")
        if not os.path.isdir(place):
            paths.append(place)
            continue
        with _explained(place):
            entries = [entry for entry in sorted(place.iterdir()) if not entry.name.startswith(".")]
        paths += (e for e in entries if not os.path.isdir(e) or e.suffix.lower() in SUFFIXES)
    if not paths:
        folders = [entry.name for place in places for entry in sorted(place.iterdir()) if entry.is_dir()]
        beside = f" but the folders {', '.join(folders[:3])}" if folders else ""
        raise FeatureFileError(
            f"{', '.join(map(str, places))}: holds no file{beside}; correct source.files, which names folders of files "
            f"({', '.join(SUFFIXES)}) or the files"
        )
    return paths
