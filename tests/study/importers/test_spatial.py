"""Spatial sections: microns per pixel from the pitch, a box about each spot, neighbours spared, every loss audited."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from toxfusion.study.audit import Audit
from toxfusion.study.importers.spatial import import_spatial, microns_per_pixel
from toxfusion.study.importers.tables import ImportTableError
from toxfusion.study.splits import GroupKFold

PITCH_PX = 100.0


def grid(side: int, angle: float = 0.0, scatter: float = 0.0) -> pd.DataFrame:
    """side x side spots, PITCH_PX apart, turned by an angle in degrees."""
    x, y = (a.ravel() for a in np.meshgrid(np.arange(side), np.arange(side)))
    turn = np.deg2rad(angle)
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": x,
            "y": y,
            "pixel_x": 500
            + PITCH_PX * (np.cos(turn) * x - np.sin(turn) * y)
            + rng.normal(0, scatter, len(x)),
            "pixel_y": 200
            + PITCH_PX * (np.sin(turn) * x + np.cos(turn) * y)
            + rng.normal(0, scatter, len(x)),
        }
    )


def write_section(folder: Path, name: str, genes: list[str], side: int = 6) -> Path:
    """A section as it is published: counts of all spots but the last, the first one nearly empty."""
    place = folder / name
    place.mkdir()
    spots = grid(side)
    spots.assign(new_x=spots["x"], new_y=spots["y"], selected=[1] * (len(spots) - 2) + [0, 1]).to_csv(
        place / f"{name}_selection.tsv", sep="\t", index=False
    )
    counts = pd.DataFrame(
        50, index=[f"{x}x{y}" for x, y in zip(spots["x"], spots["y"], strict=True)], columns=genes
    )
    counts.iloc[0] = 1
    counts.iloc[1, 0] = 150
    counts.loc[counts.index[4:], "Rare"] = 0
    counts.iloc[:-1].to_csv(place / f"{name}.tsv.gz", sep="\t")
    cv2.imwrite(str(place / "image.jpg"), np.full((8, 8, 3), 200, np.uint8))
    return place


@pytest.fixture
def sections(tmp_path: Path) -> list[str]:
    return [
        str(write_section(tmp_path, "C2", ["ACTB", "Rare", "GAPDH", "ONLY2"])),
        str(write_section(tmp_path, "C4", ["GAPDH", "ACTB", "Rare"])),
    ]


def write_visium(folder: Path, name: str, *, header: bool, px_per_um: float) -> Path:
    """Six rows of six spots on Visium's hexagonal array, the last not under tissue; counts in a 10x .h5."""
    place = folder / name
    (place / "spatial").mkdir(parents=True)
    rows = pd.DataFrame(
        [(r, c) for r in range(6) for c in range(r % 2, 12, 2)], columns=["array_row", "array_col"]
    )
    rows.insert(0, "in_tissue", [1] * (len(rows) - 1) + [0])
    rows.insert(0, "barcode", [f"B{i}-1" for i in range(len(rows))])
    rows["pxl_row_in_fullres"] = (
        (50 + rows["array_row"] * 100 * np.sqrt(0.75) * px_per_um).round().astype(int)
    )
    rows["pxl_col_in_fullres"] = (80 + rows["array_col"] * 50 * px_per_um).round().astype(int)
    file = "tissue_positions.csv" if header else "tissue_positions_list.csv"
    rows.to_csv(place / "spatial" / file, index=False, header=header)
    counts = sparse.csc_matrix(np.full((3, len(rows)), 40))
    with h5py.File(place / "filtered_feature_bc_matrix.h5", "w") as out:
        group = out.create_group("matrix")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(counts, key)
        group["shape"], group["barcodes"] = counts.shape, rows["barcode"].to_numpy("S")
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG0000000000{i}" for i in range(3)], "S")
        features["name"] = np.array(["ACTB", "GAPDH", "GAPDH"], "S")
        features["feature_type"] = np.array(["Gene Expression"] * 3, "S")
        features["genome"] = np.array(["GRCh38"] * 3, "S")
    cv2.imwrite(str(place / "image.jpg"), np.full((8, 8, 3), 200, np.uint8))
    return place


def test_visium_sections_of_either_layout(tmp_path: Path) -> None:
    places = [
        write_visium(tmp_path, "V1", header=True, px_per_um=2.0),
        write_visium(tmp_path, "V2", header=False, px_per_um=4.0),
    ]
    study = import_spatial(
        tmp_path / "study", sections=[str(p) for p in places], min_counts=100, radius_um=60
    )
    assert study.provenance["mpp"] == {
        "V1": pytest.approx(0.5, rel=0.01),
        "V2": pytest.approx(0.25, rel=0.01),
    }
    assert len(study.obs) == 70
    assert study.var.index.tolist() == ["ACTB", "GAPDH"]
    assert anndata.read_h5ad(study.root / "expression.h5ad").layers["counts"][0].tolist() == [40, 80]
    box = study.slides.loc["V1_B7-1"]  # row 1, column 3: 80 + 300 px across, 50 + 173 px down
    assert (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) == pytest.approx((380, 223), abs=2)
    lost = {r.id: r.reason for r in Audit.read(study.root / "audit.json").records if r.kind == "spot"}
    assert lost == dict.fromkeys(("V1_B35-1", "V2_B35-1"), "not under tissue (in_tissue is 0)")
    (places[0] / "spatial" / "tissue_positions.csv").write_text("barcode,x\nB0-1,3\n")
    with pytest.raises(ImportTableError, match=r"tissue_positions\.csv: has 2 columns"):
        import_spatial(tmp_path / "other", sections=[str(places[0])])


@pytest.mark.parametrize("angle", [0.0, 30.0, 200.0])
def test_microns_per_pixel_does_not_depend_on_rotation(angle: float) -> None:
    assert microns_per_pixel(grid(5, angle), 200.0) == pytest.approx(200 / PITCH_PX)
    assert microns_per_pixel(grid(12, angle, scatter=5.0), 200.0) == pytest.approx(200 / PITCH_PX, rel=0.01)


def test_spots_of_one_line_have_no_pitch() -> None:
    with pytest.raises(ImportTableError, match="one line"):
        microns_per_pixel(grid(5).query("y == 0"), 200.0)


def test_sections_become_samples(tmp_path: Path, sections: list[str]) -> None:
    study = import_spatial(tmp_path / "study", sections=sections, min_counts=100, min_spot_share=0.2)
    # 36 spots less one deselected, one without counts and one nearly empty, in each section.
    assert study.obs["study"].value_counts().to_dict() == {"C2": 33, "C4": 33}
    assert study.var.index.tolist() == ["ACTB", "GAPDH"]
    assert study.has_expression.all()
    assert study.has_slide.all()
    assert study.obs[["dili", "injury", "dose", "time_h"]].isna().all(axis=None)
    assert not study.obs["is_control"].any()
    assert set(study.obs["patient"]) == {"C"}
    # 150 and 50 counts of 10,000.
    assert study.expression[0] == pytest.approx([np.log2(7501), np.log2(2501)], rel=1e-5)
    layer = anndata.read_h5ad(study.root / "expression.h5ad").layers["counts"]
    assert layer[0].tolist() == [150, 50]


def test_the_slide_of_a_spot_is_the_box_about_it(tmp_path: Path, sections: list[str]) -> None:
    study = import_spatial(tmp_path / "study", sections=sections, min_counts=100, radius_um=150)
    # At 2 um per pixel 150 um are 75 px; spot 3x2 lies at (500 + 300, 200 + 200).
    row = study.slides.loc["C2_3x2"]
    assert row[["x", "y", "width", "height", "mpp_override"]].tolist() == pytest.approx(
        [725, 325, 150, 150, 2.0]
    )
    assert study.slide_path("C2_3x2") == Path(sections[0]) / "image.jpg"
    assert study.provenance["mpp"] == {"C2": 2.0, "C4": 2.0}


def test_boxes_stop_at_the_edge_of_the_image(tmp_path: Path, sections: list[str]) -> None:
    study = import_spatial(tmp_path / "study", sections=sections, min_counts=100, radius_um=800)
    row = study.slides.loc["C2_1x0"]
    assert row[["x", "y", "width", "height"]].tolist() == [200, 0, 800, 600]


def test_losses_are_audited(tmp_path: Path, sections: list[str]) -> None:
    study = import_spatial(tmp_path / "study", sections=sections, min_counts=100, min_spot_share=0.2)
    lost = {(r.kind, r.id): r.reason for r in Audit.read(study.root / "audit.json").records}
    assert "selected is 0" in lost["spot", "C2_4x5"]
    assert "no counts" in lost["spot", "C4_5x5"]
    assert "fewer than 100" in lost["spot", "C2_0x0"]
    assert "every section" in lost["gene", "ONLY2"]
    assert "20%" in lost["gene", "Rare"]


def test_neighbours_share_a_block_of_one_tiling_or_the_other(tmp_path: Path, sections: list[str]) -> None:
    study = import_spatial(tmp_path / "study", sections=sections, min_counts=100, block_um=800)
    obs = study.obs
    for section, spots in obs.groupby("study"):
        um = spots[["x_um", "y_um"]].to_numpy()
        near = np.linalg.norm(um[:, None] - um, axis=2) < 201
        kin = np.zeros_like(near)
        for column in ("group_id", "animal_id"):
            blocks = spots[column].to_numpy()
            assert all(b.startswith(section) for b in blocks)
            kin |= blocks[:, None] == blocks
        assert kin[near].all()
        assert not kin.all()
    # Diagonal neighbours where the corners of the two tilings cross are the rest.
    assert 0.9 < study.provenance["neighbour_pairs_spared"] <= 1.0


def test_a_section_can_be_left_out_with_validation_blocks_of_the_others(
    tmp_path: Path, sections: list[str]
) -> None:
    study = import_spatial(tmp_path / "study", sections=sections, min_counts=100, block_um=400)
    split = GroupKFold(column="study", n_folds=2, valid_column="group_id")(study)
    assert study.obs.loc[split.test, "study"].nunique() == 1
    assert split.valid
    assert set(study.obs.loc[split.train, "study"]).isdisjoint(study.obs.loc[split.test, "study"])


def test_faults_are_named(tmp_path: Path, sections: list[str]) -> None:
    with pytest.raises(ImportTableError, match="nowhere: no such folder"):
        import_spatial(tmp_path / "s", sections=[str(tmp_path / "nowhere")])
    with pytest.raises(ImportTableError, match="own name"):
        import_spatial(tmp_path / "s", sections=[sections[0], sections[0]], min_counts=100)
    with pytest.raises(ImportTableError, match="no spot"):
        import_spatial(tmp_path / "s", sections=sections, min_counts=10**6)
    (Path(sections[0]) / "second.png").write_bytes(b"")
    with pytest.raises(ImportTableError, match="2 images"):
        import_spatial(tmp_path / "s", sections=sections)
    (Path(sections[1]) / "C4_selection.tsv").unlink()
    with pytest.raises(ImportTableError, match=r"C4.*0 files \*_selection"):
        import_spatial(tmp_path / "s", sections=sections[1:])


def test_real_sections(tmp_path: Path) -> None:
    folder = Path(__file__).parents[4] / "shared" / "data" / "her2st"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    study = import_spatial(tmp_path / "study", sections=[str(folder / "C2"), str(folder / "C4")])
    assert study.provenance["mpp"]["C2"] == pytest.approx(0.69, abs=0.01)
    assert study.provenance["mpp"]["C4"] == pytest.approx(0.69, abs=0.01)
    # 187 and 184 spots with counts, of which two in all have fewer than 500.
    assert len(study.obs) == 369
    genes = [r for r in Audit.read(study.root / "audit.json").records if r.reason == "not in every section"]
    assert len(genes) == 15706 + 15842 - 2 * 15020
    assert study.provenance["neighbour_pairs_spared"] > 0.9


def test_one_section_needs_no_list(tmp_path: Path, sections: list[str]) -> None:
    study = import_spatial(tmp_path / "x", sections=sections[0], min_counts=10)
    assert study.provenance["mpp"].keys() == {"C2"}


def test_names_of_spots_that_match_no_position_are_shown(tmp_path: Path, sections: list[str]) -> None:
    file = tmp_path / "C2" / "C2.tsv.gz"
    counts = pd.read_csv(file, sep="\t", index_col=0)
    counts.set_axis([f"X{spot}" for spot in counts.index]).to_csv(file, sep="\t")
    with pytest.raises(
        ImportTableError,
        match=r"C2\.tsv\.gz: none of its 35 spots has a position: 'X0x0' .*'0x0'.*use the same",
    ):
        import_spatial(tmp_path / "x", sections=sections, min_counts=10)


def test_a_spot_far_from_its_place_is_refused(tmp_path: Path, sections: list[str]) -> None:
    file = tmp_path / "C4" / "C4_selection.tsv"
    spots = pd.read_csv(file, sep="\t")
    spots.loc[7, "pixel_x"] *= 100
    spots.to_csv(file, sep="\t", index=False)
    with pytest.raises(ImportTableError, match=r"C4: spot '1x1' at pixel \(60000, 300\): lies \d+ px from"):
        import_spatial(tmp_path / "x", sections=sections, min_counts=10)


def places(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    file = folder / "C2" / "C2_selection.tsv"
    change(pd.read_csv(file, sep="\t")).to_csv(file, sep="\t", index=False)


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        (lambda t: t, []),
        (
            lambda t: t.rename(columns={"pixel_x": "pixel_y", "pixel_y": "pixel_x"}),
            ["exchange pixel_x and pixel_y?"],
        ),
        (
            lambda t: t.assign(pixel_x=t.pixel_x / 10, pixel_y=t.pixel_y / 10),
            ["20 um per pixel, which no slide has"],
        ),
    ],
    ids=["as they are", "exchanged", "of a thumbnail"],
)
def test_positions_that_are_exchanged_or_of_a_smaller_picture_are_asked_about(
    tmp_path: Path, sections: list[str], change: Callable[[pd.DataFrame], pd.DataFrame], asked: list[str]
) -> None:
    places(tmp_path, change)
    study = import_spatial(tmp_path / "x", sections=sections[0], min_counts=10)
    reasons = [r.reason for r in Audit.read(study.root / "audit.json").records if r.kind == "section"]
    assert len(reasons) == len(asked)
    assert all(said in reason for said, reason in zip(asked, reasons, strict=True))


def test_spots_outside_of_the_image_are_refused(tmp_path: Path, sections: list[str]) -> None:
    places(tmp_path, lambda t: t.assign(pixel_x=-t.pixel_x))
    with pytest.raises(
        ImportTableError, match=r"C2: spot '0x0' lies at pixel \(-500, 200\), outside of the image"
    ):
        import_spatial(tmp_path / "x", sections=sections, min_counts=10)


@pytest.mark.parametrize(
    "setting", [{"pitch_um": -1.0}, {"counts_total": float("nan")}, {"block_um": 0.0}, {"radius_um": -5.0}]
)
def test_lengths_are_above_0(tmp_path: Path, sections: list[str], setting: dict[str, float]) -> None:
    with pytest.raises(ImportTableError, match=rf"source\.{next(iter(setting))}=.*: give a number above 0"):
        import_spatial(tmp_path / "x", sections=sections, min_counts=10, **setting)
