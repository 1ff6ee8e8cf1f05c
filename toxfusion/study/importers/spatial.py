"""Spatial transcriptomics sections as a study: a spot is a sample, the tissue around it its slide.

A section is a folder with one full-resolution image and, in the her2st layout, one counts table (*.tsv.gz, spots x
genes) and one *_selection.tsv (array and pixel position of every spot); or, in Visium's, filtered_feature_bc_matrix
(.h5 or folder) and spatial/tissue_positions.csv. Or it is a SpatialData store of Visium (*.zarr). Spots lie on an array
of known pitch, which gives the microns per pixel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from toxfusion.study.audit import Audit
from toxfusion.study.importers.counts import looks_processed
from toxfusion.study.importers.genes import GeneIds
from toxfusion.study.importers.spatialdata_store import StoredSection, is_store, read_store, write_image
from toxfusion.study.importers.tables import STAGE, ImportTableError, log2_per
from toxfusion.study.importers.tenx import read_counts
from toxfusion.study.names import NEAR, strangers
from toxfusion.study.number_columns import numbers
from toxfusion.study.study import Study, write_study
from toxfusion.study.tables import read_table, read_values

IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".svs")
#: um between neighbouring spots of the first arrays (her2st) and of Visium
PITCH_UM, VISIUM_PITCH_UM = 200.0, 100.0
#: um per pixel above which positions are of a smaller picture than the image, or source.pitch_um is of another array
COARSEST_MPP = 4.0
VISIUM_COUNTS = ("filtered_feature_bc_matrix.h5", "filtered_feature_bc_matrix")
VISIUM_POSITIONS = ("spatial/tissue_positions.csv", "spatial/tissue_positions_list.csv")
_VISIUM_COLUMNS = (
    "barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres",
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        name: of its folder.
        image: path of its image.
        mpp: um per pixel, from the pitch of the spots.
        pitch_um: distance of neighbouring spots.
        spots: indexed by spot (``10x21``, or the barcode), columns x, y (array, neighbours 1 apart) and pixel_x,
            pixel_y (image, level 0).
        counts: float [n_spots, n_genes], the same index.
        genes: how the genes were named.
    """

    name: str
    image: Path
    mpp: float
    pitch_um: float
    spots: pd.DataFrame
    counts: pd.DataFrame
    genes: dict[str, Any]


def import_spatial(
    root: Path | str,
    *,
    sections: Sequence[str] | str,
    pitch_um: float | None = None,
    image: str | None = None,
    table: str | None = None,
    coordinate_system: str = "global",
    radius_um: float = 150.0,
    block_um: float = 800.0,
    min_counts: int = 500,
    min_spot_share: float = 0.05,
    counts_total: float = 1e4,
    gene_ids: GeneIds = GeneIds(),  # noqa: B008  frozen
    species: str = "Homo sapiens",
    name: str = "spatial",
) -> Study:
    """Write a study of sections.

    A spot's expression is log2(1 + counts scaled to ``counts_total``), its raw counts a layer. Its slide
    is the square of side 2 ``radius_um`` about it in the section's image, so one image holds many samples.
    Sections are studies and compounds (so that folds keep them apart); spots are never controls and have
    no label.

    ``group_id`` and ``animal_id`` are square blocks of side ``block_um``, the second tiling shifted by half a
    block: contrastive learning takes no negatives from a sample's own group or animal, so that nearly all pairs
    of neighbouring spots are spared (their share is in the provenance). ``patient`` holds the tumour.

    Args:
        sections: folders, or SpatialData stores; or one of them.
        pitch_um: distance of neighbouring spots of the array; None = 200 in the her2st layout, 100 of Visium.
        image, table: elements of the stores; None where each has one.
        coordinate_system: of the stores, in which image and spots lie together.
        min_counts: spots with fewer are dropped.
        min_spot_share: genes seen in a smaller share of the spots of all sections are dropped, as are
            genes that a section lacks.
        gene_ids: what the genes of each section become before that.

    Raises:
        ImportTableError: a section lacks a file or a column, two have one name, no spot or gene is left, or a length is
            not above 0.
    """
    lengths = {
        "pitch_um": pitch_um,
        "radius_um": radius_um,
        "block_um": block_um,
        "counts_total": counts_total,
    }
    for key, value in lengths.items():
        if value is not None and not 0 < value < math.inf:
            raise ImportTableError(f"source.{key}={value:g}: give a number above 0")
    sections = [sections] if isinstance(sections, str) else list(sections)
    audit = Audit()
    layouts = [_layout(Path(s), Path(root), image, table, coordinate_system, audit) for s in sections]
    read = [read_section(layout, pitch_um, min_counts, gene_ids, audit) for layout in layouts]
    names = [s.name for s in read]
    if not read or len(set(names)) < len(names):
        raise ImportTableError(
            f"source.sections {sections}: name at least one folder, each with its own name"
        )
    counts = _common_genes(read, min_spot_share, audit)
    for layout, section in zip(layouts, read, strict=True):
        if layout.stored is not None:
            write_image(layout.stored, section.image, section.mpp, layout.folder)
    obs = pd.concat([_obs(section, block_um) for section in read])
    genes = counts.columns
    return write_study(
        root,
        obs=obs,
        var=pd.DataFrame({"symbol": genes, "human_ortholog": genes}, index=pd.Index(genes, name="gene_id")),
        expression=log2_per(counts.to_numpy(), counts_total),
        findings=pd.DataFrame(index=obs.index),
        slides=pd.concat([_regions(section, radius_um) for section in read]),
        counts=counts.to_numpy(np.float32),
        provenance={
            "source": "spatial sections",
            "mpp": {s.name: round(s.mpp, 4) for s in read},
            "radius_um": radius_um,
            "block_um": block_um,
            "neighbour_pairs_spared": round(_pairs_spared(obs, 1.5 * max(s.pitch_um for s in read)), 3),
            "counts_total": counts_total,
            "gene_ids": {s.name: s.genes for s in read},
        },
        name=name,
        species=species,
        virtual=False,
        audit=audit,
    )


@dataclass(frozen=True)
class Layout:
    """A section as its folder lays it out.

    Attributes:
        folder: it lies in. name: of the section.
        placed: spots, columns x, y, pixel_x, pixel_y and selected (under tissue).
        counts: [n_spots, n_genes], as they are there. table: they came from.
        image: path of the image, which is written first where ``stored`` is not None.
        visium: of Visium's array.
        stored: of a SpatialData store.
    """

    folder: Path
    name: str
    placed: pd.DataFrame
    counts: pd.DataFrame
    table: Path
    image: Path
    visium: bool
    stored: StoredSection | None = None


def _layout(
    folder: Path, root: Path, image: str | None, table: str | None, coordinate_system: str, audit: Audit
) -> Layout:
    if not folder.is_dir():
        raise ImportTableError(f"{folder}: no such folder; source.sections names one folder a section")
    if is_store(folder):
        stored = read_store(folder, image=image, table=table, coordinate_system=coordinate_system)
        at, name = stored.spots, folder.name.removesuffix(".zarr")
        placed = _on_visium_array(at["array_row"], at["array_col"]).assign(
            pixel_x=at["pixel_x"], pixel_y=at["pixel_y"], selected=at["in_tissue"]
        )
        written = (root / "images" / f"{name}.tif").resolve()
        return Layout(folder, name, placed, stored.counts, folder, written, True, stored)
    visium = any((folder / name).exists() for name in VISIUM_COUNTS)
    placed, counts, file = _read_visium(folder, audit) if visium else _read_array(folder)
    images = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGES]
    if len(images) != 1:
        raise ImportTableError(f"{folder}: holds {len(images)} images; keep one, of a type in {IMAGES}")
    return Layout(folder, folder.name, placed, counts, file, images[0].resolve(), visium)


def _on_visium_array(row: pd.Series, column: pd.Series) -> pd.DataFrame:
    """x and y of spots on the hexagonal array, neighbours 1 apart.

    Rows are sin 60 degrees of the pitch apart, and the columns of a row two numbers.
    """
    return pd.DataFrame({"x": column / 2, "y": row * np.sqrt(3) / 2})


def read_section(
    layout: Layout, pitch_um: float | None, min_counts: int, gene_ids: GeneIds, audit: Audit
) -> Section:
    """Read one section; spots without position, without counts, deselected or nearly empty are audited."""
    folder, placed, counts, table = layout.folder, layout.placed, layout.counts, layout.table
    if not (counts.to_numpy() >= 0).all():
        raise ImportTableError(f"{table}: holds negative or missing counts; give raw counts")
    if kind := looks_processed(counts.to_numpy(np.float64)):
        raise ImportTableError(f"{table}: its values look like {kind}; give raw counts")
    if not counts.index.isin(placed.index).any():
        odd = strangers(counts.index, placed.index)
        raise ImportTableError(
            f"{table}: none of its {len(counts)} spots has a position: {odd.all_told()}; the positions are of "
            f"{', '.join(map(repr, placed.index[:3]))}; use the same names, one row a spot"
        )
    counts, genes = gene_ids.named(counts, audit, path=table, counts=True)
    spots = placed[placed["selected"]]
    total = counts.sum(axis=1)
    rich = counts.index[total >= min_counts]
    for lost, reason in (
        (
            placed.index[~placed["selected"]],
            f"not under tissue ({'in_tissue' if layout.visium else 'selected'} is 0)",
        ),
        (spots.index.difference(counts.index), "has a position but no counts"),
        (counts.index.difference(placed.index), "has counts but no position"),
        (spots.index.intersection(counts.index).difference(rich), f"fewer than {min_counts} counts"),
    ):
        for spot in lost:
            audit.drop(STAGE, "spot", f"{layout.name}_{spot}", reason)
    kept = spots.index[spots.index.isin(rich)]
    if not len(kept):
        raise ImportTableError(
            f"{folder}: no spot with a position and {min_counts} counts; lower source.min_counts"
        )
    pitch = pitch_um or (VISIUM_PITCH_UM if layout.visium else PITCH_UM)
    try:
        mpp = microns_per_pixel(spots, pitch)
    except ImportTableError as error:
        raise ImportTableError(f"{folder}: {error}") from error
    _ask_of_places(layout.name, spots, mpp, pitch, audit)
    return Section(
        layout.name,
        layout.image,
        mpp,
        pitch,
        spots.loc[kept],
        counts.loc[kept].astype(np.float64),
        genes,
    )


def _read_array(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    """Spots, counts and the file of the counts in the her2st layout."""
    placed = _read_spots(_only(folder, "*_selection.tsv", "the pixel positions of the spots"))
    table = _only(folder, "*.tsv.gz", "the counts")
    return placed, read_values(table), table


def _read_visium(folder: Path, audit: Audit) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    """Spots, counts (genes called by symbol) and the file of the counts in Visium's layout."""
    table = next(folder / name for name in VISIUM_COUNTS if (folder / name).exists())
    positions = next((folder / name for name in VISIUM_POSITIONS if (folder / name).is_file()), None)
    if positions is None:
        raise ImportTableError(
            f"{folder}: {VISIUM_POSITIONS[0]} is missing, the pixel positions of the spots"
        )
    spots = read_table(positions, header=False)
    if str(spots.iat[0, 0]) == _VISIUM_COLUMNS[0]:
        spots = spots.iloc[1:]
    if spots.shape[1] != len(_VISIUM_COLUMNS):
        raise ImportTableError(
            f"{positions}: has {spots.shape[1]} columns, not {', '.join(_VISIUM_COLUMNS)}; give the file of Space "
            "Ranger"
        )
    spots = spots.set_axis(list(_VISIUM_COLUMNS), axis=1).set_index("barcode")
    at = spots.apply(lambda column: numbers(column, positions))
    _refuse_missing_position(at, positions)
    placed = _on_visium_array(at["array_row"], at["array_col"]).assign(
        pixel_x=at["pxl_col_in_fullres"],
        pixel_y=at["pxl_row_in_fullres"],
        selected=at["in_tissue"] == 1,
    )
    twice = placed.index[placed.index.duplicated()]
    if len(twice):
        raise ImportTableError(f"{positions}: spot {twice[0]!r} appears twice; keep one row")
    cells = read_counts(table, audit)
    return placed, cells.to_df().set_axis(cells.var["symbol"].tolist(), axis=1), table


def microns_per_pixel(spots: pd.DataFrame, pitch_um: float) -> float:
    """um per pixel from the affine map, by least squares, of array positions to pixels.

    One step of the array is ``pitch_um``; the area of a cell of the array in pixels is the determinant of the
    map, which neither a rotation of the section nor the scatter of single spots disturbs.

    Raises:
        ImportTableError: the spots lie on one line, or one lies further than a step from where the map has it.
    """
    array = np.column_stack([spots["x"], spots["y"], np.ones(len(spots))])
    pixels = spots[["pixel_x", "pixel_y"]].to_numpy(np.float64)
    fitted, _, rank, _ = np.linalg.lstsq(array, pixels, rcond=None)
    area = abs(np.linalg.det(fitted[:2]))
    if rank < 3 or area == 0:
        raise ImportTableError("the spots lie on one line: their pitch cannot be measured; give more spots")
    away = np.hypot(*(pixels - array @ fitted).T)
    if away.max() > np.sqrt(area):
        spot = spots.iloc[int(away.argmax())]
        raise ImportTableError(
            f"spot {spot.name!r} at pixel ({spot['pixel_x']:.0f}, {spot['pixel_y']:.0f}): lies {away.max():.0f} px "
            f"from where its place in the array has it, and spots are {np.sqrt(area):.0f} px apart; correct it"
        )
    return float(pitch_um / np.sqrt(area))


def _ask_of_places(name: str, spots: pd.DataFrame, mpp: float, pitch_um: float, audit: Audit) -> None:
    """Refuse spots outside of any image, and ask about positions that are most likely exchanged or of a smaller image.

    Raises:
        ImportTableError: a spot lies left of or above the image.
    """
    pixels = spots[["pixel_x", "pixel_y"]]
    if (outside := (pixels < 0).any(axis=1)).any():
        spot = spots[outside].iloc[0]
        raise ImportTableError(
            f"{name}: spot {spot.name!r} lies at pixel ({spot['pixel_x']:.0f}, {spot['pixel_y']:.0f}), outside of the "
            "image; give positions from its upper left corner"
        )
    along = [abs(np.corrcoef(spots[axis], spots[f"pixel_{axis}"])[0, 1]) for axis in "xy"]
    across = [abs(np.corrcoef(spots[axis], spots[f"pixel_{other}"])[0, 1]) for axis, other in ("xy", "yx")]
    if max(along) < min(across):
        audit.change(
            STAGE, "section", name,
            f"kept; {NEAR} to exchange pixel_x and pixel_y? x of the array runs along pixel_y, as in an image that is "
            "turned by a right angle",
        )  # fmt: skip
    if mpp > COARSEST_MPP:
        audit.change(
            STAGE, "section", name,
            f"kept; {NEAR} the positions in the full image? Spots {pitch_um:g} um apart give {mpp:.3g} um per pixel, "
            "which no slide has",
        )  # fmt: skip


def _only(folder: Path, pattern: str, what: str) -> Path:
    matching = sorted(folder.glob(pattern))
    if len(matching) != 1:
        raise ImportTableError(f"{folder}: holds {len(matching)} files {pattern}; keep one, {what}")
    return matching[0]


def _read_spots(path: Path) -> pd.DataFrame:
    """Positions by spot, with a flag ``selected``: under tissue."""
    at = ("x", "y", "pixel_x", "pixel_y")
    table = read_table(path, required=at)
    spots = pd.DataFrame({c: numbers(table[c], path) for c in at})
    _refuse_missing_position(spots, path)
    selected = table.get("selected")
    spots["selected"] = True if selected is None else numbers(selected, path) == 1
    spots.index = pd.Index([f"{x:.0f}x{y:.0f}" for x, y in zip(spots["x"], spots["y"], strict=True)])
    twice = spots.index[spots.index.duplicated()]
    if len(twice):
        raise ImportTableError(f"{path}: spot {twice[0]!r} appears twice; keep one row")
    return spots


def _refuse_missing_position(spots: pd.DataFrame, path: Path) -> None:
    missing = np.argwhere(spots.isna().to_numpy())
    if len(missing):
        spot, column = missing[0]
        raise ImportTableError(
            f"{path}, column {spots.columns[column]!r}, row {spots.index[spot]!r}: is missing; give every spot its "
            "place"
        )


def _common_genes(sections: Sequence[Section], min_spot_share: float, audit: Audit) -> pd.DataFrame:
    """Counts of all spots, the genes that every section has and enough spots show."""
    shared = set.intersection(*(set(s.counts.columns) for s in sections))
    for gene in sorted(set().union(*(s.counts.columns for s in sections)) - shared):
        audit.drop(STAGE, "gene", gene, "not in every section")
    columns = [g for g in sections[0].counts.columns if g in shared]
    counts = pd.concat([s.counts[columns].set_axis(_sample_ids(s)) for s in sections])
    share = (counts > 0).mean()
    for gene in counts.columns[share < min_spot_share]:
        audit.drop(STAGE, "gene", gene, f"seen in fewer than {min_spot_share:.0%} of the spots")
    counts = counts.loc[:, share >= min_spot_share]
    if counts.empty:
        raise ImportTableError("no gene is in every section and enough spots; lower source.min_spot_share")
    return counts


def _sample_ids(section: Section) -> pd.Index:
    return pd.Index([f"{section.name}_{spot}" for spot in section.spots.index], name="sample_id")


def _obs(section: Section, block_um: float) -> pd.DataFrame:
    um = section.spots[["pixel_x", "pixel_y"]].to_numpy() * section.mpp
    patient = re.match(r"^([A-Za-z]+)\d+$", section.name)
    return pd.DataFrame(
        {
            "animal_id": _blocks(section.name, um, block_um, block_um / 2),
            "compound": section.name,
            "dose": np.nan,
            "dose_level": "",
            "time_h": np.nan,
            "study": section.name,
            "batch": section.name,
            "is_control": False,
            "control_group": "",
            "group_id": _blocks(section.name, um, block_um, 0.0),
            "dili": np.nan,
            "injury": np.nan,
            # Sections of one tumour are named by its letter and their number (C2, C4).
            "patient": patient[1] if patient else section.name,
            "x_um": um[:, 0],
            "y_um": um[:, 1],
        },
        index=_sample_ids(section),
    )


def _blocks(section: str, um: np.ndarray, side: float, shift: float) -> list[str]:
    """The block of every spot in a square tiling of the section."""
    cells = ((um - um.min(axis=0) + shift) // side).astype(int)
    kind = "shifted" if shift else "block"
    return [f"{section}_{kind}{x}x{y}" for x, y in cells]


def _regions(section: Section, radius_um: float) -> pd.DataFrame:
    """One slide a spot: the square about it, cut off at the image's left and upper edge."""
    half = radius_um / section.mpp
    centre = section.spots[["pixel_x", "pixel_y"]].to_numpy()
    corner = np.maximum(centre - half, 0.0)
    size = centre + half - corner
    return pd.DataFrame(
        {
            "sample_id": _sample_ids(section),
            "path": str(section.image),
            "mpp_override": section.mpp,
            "x": corner[:, 0].round(),
            "y": corner[:, 1].round(),
            "width": size[:, 0].round(),
            "height": size[:, 1].round(),
        },
        index=pd.Index(_sample_ids(section), name="slide_id"),
    )


def _pairs_spared(obs: pd.DataFrame, radius_um: float) -> float:
    """Share of the pairs of spots of a section nearer than ``radius_um`` that share a group or an animal."""
    same = total = 0
    for _, spots in obs.groupby("study"):
        pairs = cKDTree(spots[["x_um", "y_um"]].to_numpy()).query_pairs(radius_um, output_type="ndarray")
        blocks = spots[["group_id", "animal_id"]].to_numpy()
        same += int((blocks[pairs[:, 0]] == blocks[pairs[:, 1]]).any(axis=1).sum())
        total += len(pairs)
    return same / total if total else 1.0
