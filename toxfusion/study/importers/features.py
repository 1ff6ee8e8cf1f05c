"""Tile features that other tools computed, into the feature store of a study: CLAM, TRIDENT, STAMP, ``.pt``.

Here: which slide a file belongs to, what is missing, what must not be mixed. Not here: the layouts of the files
(toxfusion.study.feature_files).
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore, BagWriter
from toxfusion.study.feature_files import (
    SUFFIXES,
    FeatureFile,
    FeatureFileError,
    feature_files,
    read_coordinates,
    read_header,
    read_rows,
)
from toxfusion.study.names import NEAR, strangers
from toxfusion.study.rules import AUDIT_FILE
from toxfusion.study.store_spec import UNPLACED, BagRejected, StoreSpec
from toxfusion.study.study import Study

STAGE = "import features"
#: Marks a store as imported, so that ``doctor`` says how to fill what it dropped.
SOURCE = "imported"
#: Slides whose tiles are more than this share coarser or finer than those of the store are left out.
MPP_TOLERANCE = 0.1
#: Above this a resolution in micrometres per pixel is a magnification.
COARSEST_MPP = 8.0
#: So many tiles where one would fit side by side have no pixels of level 0 as their places.
MOST_TILES_A_PLACE = 64


class FeatureImportError(ValueError):
    """Files of features cannot become a store: they were made unlike one another, or none can be used."""


@dataclass(frozen=True)
class _Bag:
    """A file that is one slide's. tile_px: pixels; tile_size: level-0 px; mpp0: um per level-0 px.

    Of tiles without a place tile_px may be None, and the other two are 1 and mean nothing.
    """

    slide_id: str
    file: FeatureFile
    tile_px: int | None
    tile_size: float = 1.0
    mpp0: float = 1.0

    @property
    def placed(self) -> bool:
        return self.file.coordinates_path is not None

    @property
    def mpp(self) -> float | None:
        """um per pixel of the tile as the encoder saw it; None without a place."""
        return self.tile_size * self.mpp0 / self.tile_px if self.placed and self.tile_px else None


def import_features(
    root: Path | str,
    *,
    files: str | Sequence[str],
    coordinates: str | None = None,
    name: str | None = None,
    encoder: str | None = None,
    weights: str | None = None,
    trained_on: Sequence[str] | str | None = None,
    tile_px: int | None = None,
    mpp: float | None = None,
    mpp0: float | None = None,
    dtype: str = "float16",
) -> Study:
    """Import one file of features a slide into ``features/<name>`` of a study that is there already.

    A file belongs to the slide whose slide_id, or else whose image's file name without suffix, is the file's name
    without suffix or the name written inside. For a slide that is a region of its image the tiles that lie whole
    within the region are taken. Whole bags are stored one by one: an interrupted import is repeated, and only what
    is missing is read. Every file and slide left out is in the study's audit with its reason.

    Args:
        root: the study folder.
        files: a folder, a file, or several.
        coordinates: folder of the coordinates, for files without (CLAM's patches/<slide>.h5, also with _patches);
            "none" for tiles that have no place on their slide, which the provenance of the store then says.
        name: of the store; None = the encoder's.
        encoder, weights: what made the features; None = by the files. trained_on: compounds its training saw, where
            the files do not say; a split refuses the features when one of them is in its test part.
        tile_px: side of a tile in pixels as the encoder saw it, mpp: their micrometres per pixel; None = by the files.
        mpp0: micrometres per level-0 pixel, for slides where neither slides.parquet nor the file says it.
        dtype: float16, or float32 for features beyond its range.

    Raises:
        FeatureImportError: dimensions, encoders or tile sides are mixed, a name is missing, or no file is usable.
        FeatureFileError: ``files`` names nothing.
        StudyError: there is no study at ``root``.
        StoreError: the store holds other features, or cannot be written; what is stored stays.
    """
    for key, value in {"tile_px": tile_px, "mpp": mpp, "mpp0": mpp0}.items():
        if value is not None and not 0 < value < math.inf:
            raise FeatureImportError(
                f"source.{key}={value:g}: give a number above 0, or null where the files say it"
            )
        if value is not None and key != "tile_px" and value > COARSEST_MPP:
            raise FeatureImportError(
                f"source.{key}={value:g}: is in micrometres per pixel, and no magnification; that of 20x is about 0.5, "
                "of 40x about 0.25"
            )
    study = Study.open(root)
    audit = Audit()
    places = [files] if isinstance(files, str) else list(files)
    headers = _headers([Path(place) for place in places], coordinates, _names_of_slides(study), audit)
    of_slides = _files_of_slides(study, headers, audit)
    if coordinates == UNPLACED:
        bags = _unplaced(study, of_slides, tile_px, audit)
    else:
        bags = _bags(study, of_slides, tile_px, mpp, mpp0, audit)
    if not bags:
        raise FeatureImportError(f"{', '.join(places)}: no file can be imported\n{audit.summary()}")
    made_by = {"encoder": encoder, "weights": weights, "trained_on": compounds_seen(trained_on, study, audit)}
    store = _store(study, bags, name, made_by, mpp, dtype)
    with store.writer() as writer:
        for bag in _of_one_resolution(bags, store, audit):
            if bag.slide_id not in store:
                _append(study, bag, writer, audit)
    _ask_of_copies(store, bags, audit)
    _write_audit(study.root / AUDIT_FILE, audit, f"features/{store.root.name}")
    if not any(bag.slide_id in store for bag in bags):
        raise FeatureImportError(f"{', '.join(places)}: no file can be imported\n{audit.summary()}")
    return study


def _ask_of_copies(store: BagStore, bags: Sequence[_Bag], audit: Audit) -> None:
    """Tell of slides whose features are those of another slide, in another file."""
    first: dict[tuple[int, int], _Bag] = {}
    for bag in bags:
        if bag.slide_id in store:
            other = first.setdefault(store.fingerprint(bag.slide_id), bag)
            if other.file.path != bag.file.path:
                audit.change(
                    STAGE, "slide", bag.slide_id,
                    f"kept; {NEAR} other features? Those of {bag.file.path.name} are those of {other.file.path.name}",
                )  # fmt: skip


def compounds_seen(names: Sequence[str] | str | None, study: Study, audit: Audit) -> list[str]:
    """The compounds that an encoder saw, sorted; one that is spelt unlike a compound of the study is audited.

    Args:
        names: one or several, or None.
    """
    seen = sorted({names} if isinstance(names, str) else set(map(str, names if names is not None else ())))
    odd = strangers(seen, study.obs["compound"])
    for name, near in odd.near.items():
        if near:
            audit.change(
                STAGE, "compound", name, f"of trained_on is no compound of the study{odd.told(name)}"
            )
    return seen


def _names_of_slides(study: Study) -> list[str]:
    """What a file of features may be called: the slide_ids, and the images without their suffix."""
    return [*map(str, study.slides.index), *(_image_name(path) for path in study.slides["path"])]


def _image_name(path: object) -> str:
    return Path(str(path)).stem.removesuffix(".ome")


def _no_slide(names: Sequence[str], known: Sequence[str]) -> str:
    near = next(filter(None, strangers(names, known).near.values()), "")
    return f"no slide_id and no image of slides.parquet has its name{f'; {NEAR} {near!r}?' if near else ''}"


def _headers(
    places: Sequence[Path], coordinates: str | None, known: Sequence[str], audit: Audit
) -> list[FeatureFile]:
    """What each file says of itself; those of no use are audited, a name that is unknown before all else."""
    headers = []
    for path in feature_files(places):
        if path.suffix.lower() not in SUFFIXES:
            audit.drop(STAGE, "file", path.name, f"is no file of features ({', '.join(SUFFIXES)})")
            continue
        beside = (
            []
            if coordinates is None or coordinates == UNPLACED
            else [Path(coordinates) / f"{path.stem}{end}.h5" for end in ("", "_patches")]
        )
        try:
            place = next(filter(os.path.isfile, beside), None)
            headers.append(read_header(path, place, placed=coordinates != UNPLACED))
        except FeatureFileError as error:
            unknown = path.stem not in known and "has no coordinates" in str(error)
            audit.drop(STAGE, "file", path.name, _no_slide([path.stem], known) if unknown else str(error))
    return headers


def _files_of_slides(study: Study, headers: Sequence[FeatureFile], audit: Audit) -> dict[str, FeatureFile]:
    """The one file of each slide. Files of no slide, and slides of two files, are audited."""
    by_image: dict[str, list[str]] = defaultdict(list)
    for slide_id, path in study.slides["path"].items():
        by_image[_image_name(path)].append(str(slide_id))
    files: dict[str, list[FeatureFile]] = defaultdict(list)
    for file in headers:
        named = [name for name in file.names if name in study.slides.index]
        slide_ids = named[:1] or next((by_image[name] for name in file.names if name in by_image), [])
        if not slide_ids:
            audit.drop(STAGE, "file", file.path.name, _no_slide(file.names, _names_of_slides(study)))
        for slide_id in slide_ids:
            files[slide_id].append(file)
    for slide_id, several in files.items():
        if len(several) > 1:
            names = ", ".join(sorted(str(file.path) for file in several))
            audit.drop(
                STAGE, "slide", slide_id, f"{len(several)} files hold its features ({names}): keep one"
            )
    return {slide_id: several[0] for slide_id, several in files.items() if len(several) == 1}


def _bags(
    study: Study,
    files: dict[str, FeatureFile],
    tile_px: int | None,
    mpp: float | None,
    mpp0: float | None,
    audit: Audit,
) -> list[_Bag]:
    """Side and resolution of the tiles of each slide, which nothing is guessed for; what is missing is audited."""
    bags = []
    overrides = study.slides["mpp_override"].dropna().to_dict()
    for slide_id, file in sorted(files.items()):
        level0 = overrides.get(slide_id) or file.mpp0 or mpp0
        px = tile_px or file.tile_px
        if level0 is None:
            reason = "um per level-0 pixel is not known: set mpp_override in slides.parquet, or source.mpp0"
        elif px is None:
            reason = "the side of its tiles is not known: set source.tile_px (pixels as the encoder saw them)"
        else:
            size = file.tile_size or (file.tile_um / level0 if file.tile_um else None)
            if size is None and mpp is not None:
                size = px * mpp / level0
            if size is not None:
                bags.append(_Bag(slide_id, file, px, size, level0))
                continue
            reason = "um per pixel of its tiles is not known: set source.mpp"
        audit.drop(STAGE, "slide", slide_id, reason)
    return bags


def _unplaced(study: Study, files: dict[str, FeatureFile], tile_px: int | None, audit: Audit) -> list[_Bag]:
    """Bags of tiles without a place; a slide that is a part of its image cannot be told from the rest of it."""
    bags = []
    is_part = study.slides["x"].notna()
    for slide_id, file in sorted(files.items()):
        if is_part[slide_id]:
            reason = "is a region of its image, and tiles without coordinates cannot be told to lie in it"
            audit.drop(STAGE, "slide", slide_id, reason)
        else:
            bags.append(_Bag(slide_id, file, tile_px or file.tile_px))
    return bags


def _store(
    study: Study,
    bags: Sequence[_Bag],
    name: str | None,
    made_by: dict[str, Any],
    mpp: float | None,
    dtype: str,
) -> BagStore:
    """The store of these bags, made if it is not there; a resolution that nobody gave is that of the store, or the
    median over slides."""
    dim = _common(bags, "features of dimension", lambda bag: bag.file.dim)
    tile_px = _common(bags, "tiles of a side in pixels of", lambda bag: bag.tile_px)
    encoder = made_by["encoder"] or _common(bags, "features of encoder", lambda bag: bag.file.encoder)
    weights = made_by["weights"] or _common(bags, "features of weights", lambda bag: bag.file.weights)
    trained_on = _common(bags, "encoders trained on", lambda bag: bag.file.trained_on)
    if encoder is None:
        raise FeatureImportError("the files do not say which encoder made them: set source.encoder")
    name = name or encoder
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise FeatureImportError(f"store name {name!r}: set source.name to letters, digits, '.', '_' and '-'")
    place = study.root / "features" / name
    if mpp is None and (place / "store.json").exists():
        mpp = BagStore.open(place).spec.provenance.get("mpp")
    known = [bag.mpp for bag in bags if bag.mpp is not None]
    provenance = {
        "encoder": encoder,
        "weights": weights,
        "mpp": mpp or (round(median(known), 4) if known else None),
        "tile_px": tile_px,
        "trained_on": made_by["trained_on"] if trained_on is None else sorted(trained_on),
        "source": SOURCE,
        **({} if bags[0].placed else {"coordinates": UNPLACED}),
    }
    return BagStore.create(place, StoreSpec("features", dtype, (dim,), provenance))


def _common(bags: Sequence[_Bag], what: str, value: Callable[[_Bag], Hashable]) -> Any:
    """The one value that all bags have.

    Raises:
        FeatureImportError: there are several; each is named with the number of files and one of them.
    """
    holders: dict[Hashable, list[_Bag]] = defaultdict(list)
    for bag in bags:
        holders[value(bag)].append(bag)
    if len(holders) > 1:
        told = "; ".join(
            f"{'not said' if key is None else key} in {len(holding)} (such as {holding[0].file.path.name})"
            for key, holding in sorted(holders.items(), key=lambda item: -len(item[1]))
        )
        raise FeatureImportError(f"{what} are mixed: {told}. Import each kind under a name of its own")
    return next(iter(holders))


def _of_one_resolution(bags: Sequence[_Bag], store: BagStore, audit: Audit) -> list[_Bag]:
    wanted = store.spec.provenance["mpp"]
    fitting = []
    for bag in bags:
        if bag.mpp is not None and abs(bag.mpp - wanted) > MPP_TOLERANCE * wanted:
            off = f"more than {MPP_TOLERANCE:.0%} off the {wanted:.4g} of the store"
            reason = f"its tiles have {bag.mpp:.4g} um/px, {off}"
            audit.drop(STAGE, "slide", bag.slide_id, reason)
        else:
            fitting.append(bag)
    return fitting


def _append(study: Study, bag: _Bag, writer: BagWriter, audit: Audit) -> None:
    """Store one bag; a file that turns out damaged, or features that are not finite, are audited."""
    try:
        if not bag.placed:
            everything, nowhere = np.ones(bag.file.n, dtype=bool), np.zeros((bag.file.n, 2), np.int32)
            tiles = _not_blank(read_rows(bag.file, everything))
            writer.append(bag.slide_id, tiles, nowhere, tile_size=bag.tile_size, mpp0=bag.mpp0)
            return
        corners = read_coordinates(bag.file, bag.mpp0)
        region = study.slides.loc[[bag.slide_id], ["x", "y", "width", "height"]].to_numpy(np.float64)[0]
        inside = _inside(region, corners, bag.tile_size)
        if not inside.any():
            audit.drop(
                STAGE, "slide", bag.slide_id, "no tile of its file lies within its region of the image"
            )
            return
        _refuse_no_places(corners, bag.tile_size)
        features = _not_blank(read_rows(bag.file, inside))
        writer.append(bag.slide_id, features, corners[inside], tile_size=bag.tile_size, mpp0=bag.mpp0)
    except (FeatureFileError, BagRejected) as error:
        audit.drop(STAGE, "slide", bag.slide_id, str(error))


def _refuse_no_places(corners: npt.NDArray[np.int64], tile_size: float) -> None:
    """Raise FeatureFileError for coordinates [n, 2] that are no corners of tiles in level-0 pixels: shares of the
    slide, rows and columns of a grid, or places wholly left of or above the slide."""
    n = len(corners)
    low, high = corners.min(axis=0), corners.max(axis=0)
    shown = f"x from {low[0]} to {high[0]}, y from {low[1]} to {high[1]}, for {n} tiles of {tile_size:g} px"
    if (low <= -tile_size).any():
        raise FeatureFileError(f"tiles lie outside of the slide: {shown}; coordinates are in level-0 pixels")
    distinct = len(np.unique(corners[:, 0] * 2**32 + corners[:, 1]))
    side_by_side = float(np.prod((high - low + tile_size) / tile_size))
    close = n > 3 and (high - low).max() < tile_size / 4
    if 2 * distinct < n or close or n > MOST_TILES_A_PLACE * side_by_side:
        raise FeatureFileError(
            f"its tiles lie upon one another ({shown}): its coordinates are shares of the slide, or rows and columns "
            "of a grid; write them in level-0 pixels, or do without by source.coordinates=none"
        )


def _not_blank(blocks: Iterator[npt.NDArray[Any]]) -> Iterator[npt.NDArray[Any]]:
    """The blocks of rows as they come.

    Raises:
        FeatureFileError: there are several rows, and all are the same: the encoder never ran.
    """
    first: npt.NDArray[Any] | None = None
    n, differs = 0, False
    for block in blocks:
        first = block[0] if first is None else first
        n += len(block)
        differs = differs or bool((block != first).any())
        yield block
    if first is not None and not differs and (n > 1 or not first.any()):
        what = "zeros" if not first.any() else "the same in every tile"
        raise FeatureFileError(f"its features are {what}: make them anew")


def _inside(
    region: npt.NDArray[np.float64], corners: npt.NDArray[np.int64], tile_size: float
) -> npt.NDArray[np.bool_]:
    """bool [n]: tiles whole within a region (x, y, width, height); all of them where it is NaN."""
    if np.isnan(region).any():
        return np.ones(len(corners), dtype=bool)
    inside = (corners >= region[:2]) & (corners + tile_size <= region[:2] + region[2:])
    return np.asarray(inside.all(axis=1))


def _write_audit(path: Path, audit: Audit, stage: str) -> None:
    """Put what was left out into the study's audit, in place of what an earlier import into the store said."""
    earlier = Audit.read(path).records if path.exists() else []
    kept = [record for record in earlier if record.stage != stage]
    Audit.write_new(path, Audit([*kept, *(replace(record, stage=stage) for record in audit.records)]))
