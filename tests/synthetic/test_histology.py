"""Properties of virtual H&E slides."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest

from toxfusion.synthetic.histology import (
    MASK_MPP,
    PHENOTYPES,
    Lesion,
    SlideSpec,
    SlideSpecError,
    Stain,
    render_mask,
    render_region,
    render_slide,
)
from toxfusion.synthetic.lesions import CENTRILOBULAR_BELOW, PERIPORTAL_ABOVE, in_target_zone
from toxfusion.synthetic.lobules import GRID_UM, build_lobules
from toxfusion.synthetic.painting import BLOCK, SlidePainter, mask_pixels
from toxfusion.synthetic.slide_file import level_shapes

SIDE = 700
WIDE = 1100
"""Wider than one block."""

ZONE_OF = {
    "infiltration": "portal",
    "bile_duct_proliferation": "portal",
    "fibrosis": "portal",
    "edema": "portal",
    "microgranuloma": "random",
    "necrosis": "centrilobular",
    "hypertrophy": "centrilobular",
}


def spec(
    *lesions: Lesion, seed: int = 5, width: int = SIDE, height: int = SIDE, **fields: object
) -> SlideSpec:
    return SlideSpec("s", seed, width, height, lesions=lesions, **fields)  # type: ignore[arg-type]


def fraction(phenotype: str, severity: float, seed: int = 5) -> float:
    zone = ZONE_OF.get(phenotype, "diffuse")
    _, truth = render_mask(spec(Lesion(phenotype, severity, zone), seed=seed, width=1300, height=1300))
    return truth.area_fraction[phenotype]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[SlideSpec, Path, Path, object]:
    folder = tmp_path_factory.mktemp("slide")
    slide = spec(Lesion("vacuolization", 2.0, "centrilobular"), width=WIDE, height=1024)
    truth = render_slide(slide, folder / "s.tif", folder / "s.png")
    return slide, folder / "s.tif", folder / "s.png", truth


def test_openslide_reads_pyramid_and_mpp(written: tuple[SlideSpec, Path, Path, object]) -> None:
    painted, path, _, _ = written
    with openslide.OpenSlide(path) as slide:
        assert slide.level_count >= 3
        assert slide.dimensions == (painted.width, painted.height)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(painted.mpp, rel=1e-3)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(painted.mpp, rel=1e-3)
        assert slide.level_dimensions[1] == (painted.width // 2, painted.height // 2)
        read = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")).astype(float)
    drawn = render_region(painted, 0, 0, painted.width, painted.height).astype(float)
    assert np.abs(read - drawn).mean() < 6


def test_no_partial_file_is_left(written: tuple[SlideSpec, Path, Path, object]) -> None:
    assert sorted(p.name for p in written[1].parent.iterdir()) == ["s.png", "s.tif"]


def test_mask_covers_the_field_of_view(written: tuple[SlideSpec, Path, Path, object]) -> None:
    painted, _, mask_path, truth = written
    mask = cv2.imread(str(mask_path), cv2.IMREAD_UNCHANGED)
    assert mask.dtype == np.uint16
    assert mask.shape == (painted.height * painted.mpp / MASK_MPP, painted.width * painted.mpp / MASK_MPP)
    bits, again = render_mask(painted)
    np.testing.assert_array_equal(mask, bits)
    assert again == truth
    assert set(np.unique(mask)) == {0, 1 << PHENOTYPES.index("vacuolization")}


@pytest.mark.slow
def test_tiatoolbox_reads_mpp(written: tuple[SlideSpec, Path, Path, object]) -> None:
    from tiatoolbox.wsicore.wsireader import WSIReader

    painted, path, _, _ = written
    reader = WSIReader.open(path)
    assert reader.info.level_count >= 3
    np.testing.assert_allclose(reader.info.mpp, [painted.mpp, painted.mpp], rtol=1e-3)
    tile = reader.read_rect((300, 300), (64, 64), resolution=1.0, units="mpp")
    assert tile.shape == (64, 64, 3)


def test_same_spec_same_pixels_other_seed_other_tissue() -> None:
    first = render_region(spec(), 0, 0, SIDE, SIDE)
    np.testing.assert_array_equal(first, render_region(spec(), 0, 0, SIDE, SIDE))
    other = render_region(spec(seed=6), 0, 0, SIDE, SIDE)
    a, b = (cv2.GaussianBlur(x[250:450, 250:450, 1].astype(np.float32), (0, 0), 2) for x in (first, other))
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.2


def test_any_window_equals_the_same_part_of_the_whole() -> None:
    folded = spec(Lesion("necrosis", 2.5, "centrilobular"), width=WIDE, artefacts=("fold", "dust", "blur"))
    whole = render_region(folded, 0, 0, folded.width, folded.height)
    window = render_region(folded, BLOCK - 150, 90, 260, 333)
    np.testing.assert_array_equal(window, whole[90 : 90 + 333, BLOCK - 150 : BLOCK + 110])


def test_a_block_inside_one_cord_is_tissue_not_black() -> None:
    """No border between cords lies in the last block of this slide: the distance to one is not infinite."""
    fibrotic = spec(Lesion("fibrosis", 1.0, "diffuse"), seed=1907645045, width=960, height=896)
    assert render_region(fibrotic, BLOCK, BLOCK, 960 - BLOCK, 896 - BLOCK).max(axis=-1).mean() > 120


def test_no_seam_between_blocks() -> None:
    """Across a block border pixels differ no more than across columns inside a block."""
    plain = spec(width=WIDE)
    green = render_region(plain, BLOCK - 60, 0, 120, SIDE)[..., 1].astype(float)
    step = np.abs(np.diff(green, axis=1)).mean(axis=0)
    inside = np.delete(step, [58, 59, 60])
    assert step[59] < inside.mean() + 4 * inside.std()


@pytest.mark.parametrize("phenotype", PHENOTYPES)
def test_lesion_area_grows_with_severity(phenotype: str) -> None:
    areas = [fraction(phenotype, severity) for severity in (0.8, 2.5, 4.2)]
    assert 0.0 < areas[0] < areas[1] < areas[2]


@pytest.mark.parametrize("phenotype", ["hypertrophy", "vacuolization", "glycogen_gain"])
def test_extent_follows_the_grade(phenotype: str) -> None:
    """At severity 2 about 30 % of the target zone's hepatocytes are affected (readers differ by a quarter)."""
    painter = SlidePainter(spec(Lesion(phenotype, 2.0, "centrilobular"), width=1600, height=1600))
    cells = painter.cells
    target = cells.zone < CENTRILOBULAR_BELOW
    hit = (cells.bits & (1 << PHENOTYPES.index(phenotype))) > 0
    assert 0.2 < hit[target].mean() < 0.42
    assert not hit[~target].any()


@pytest.mark.parametrize(
    ("zone", "low", "high"), [("centrilobular", 0, 0.5), ("periportal", 0.5, 1), ("midzonal", 0.25, 0.75)]
)
def test_mask_lies_in_its_zone(zone: str, low: float, high: float) -> None:
    changed = spec(Lesion("eosinophilic_change", 4.0, zone), width=1200, height=1200)
    bits, _ = render_mask(changed)
    lobules = build_lobules(changed.seed, changed.width * changed.mpp, changed.height * changed.mpp)
    pixels, _ = mask_pixels(0, changed.width, changed.mpp)
    index = np.round(((pixels + 0.5) * changed.mpp - lobules.origin) / GRID_UM).astype(int)
    coordinate = lobules.zone[np.ix_(index, index)]
    marked = coordinate[bits > 0]
    assert len(marked) > 100
    assert ((marked >= low) & (marked <= high)).mean() > 0.93


@pytest.mark.parametrize(
    "phenotype", ["hypertrophy", "eosinophilic_change", "glycogen_loss", "anisonucleosis"]
)
def test_contrast_makes_a_lesion_plainer_and_leaves_healthy_tissue_alone(phenotype: str) -> None:
    """Pixels of the affected cells move further from those of the same slide without the lesion."""
    lesion = Lesion(phenotype, 2.0, "diffuse")
    healthy = render_region(spec(), 200, 200, 400, 400).astype(float)
    np.testing.assert_array_equal(render_region(spec(contrast=3.0), 200, 200, 400, 400), healthy)
    mild, plain = (
        render_region(spec(lesion, contrast=contrast), 200, 200, 400, 400).astype(float)
        for contrast in (1.0, 3.0)
    )
    assert np.abs(plain - healthy).mean() > np.abs(mild - healthy).mean() + 0.5


def test_abundance_adds_foci_and_single_cells_and_leaves_the_extent_of_other_lesions() -> None:
    lesions = (Lesion("mitosis", 3.0, "diffuse"), Lesion("hypertrophy", 2.0, "centrilobular"))
    few, many = (SlidePainter(spec(*lesions, abundance=abundance)).cells for abundance in (1.0, 3.0))
    assert many.mitotic.sum() > 10 * few.mitotic.sum()
    hypertrophic = 1 << PHENOTYPES.index("hypertrophy")
    assert ((many.bits & hypertrophic) > 0).mean() == ((few.bits & hypertrophic) > 0).mean()
    infiltrate = Lesion("infiltration", 1.5, "periportal")
    foci = [
        len(SlidePainter(spec(infiltrate, abundance=a, width=1500, height=1500)).stroma.foci["infiltration"])
        for a in (1.0, 3.0)
    ]
    assert foci[1] > 2 * foci[0]


def test_animals_without_a_lesion_differ_less_where_a_setting_says_so() -> None:
    def spread(animals: float) -> float:
        levels = [SlidePainter(spec(seed=s, animals=animals)).cells.glycogen.mean() for s in range(6)]
        return float(np.std(levels))

    assert spread(0.0) < 0.02 < 0.05 < spread(1.0)


def test_zones_part_the_lobule() -> None:
    coordinate = np.linspace(0, 1, 101, dtype=np.float32)
    far = np.full_like(coordinate, 500)
    central = in_target_zone("centrilobular", coordinate, far)
    portal = in_target_zone("periportal", coordinate, far)
    assert not (central & portal).any()
    assert central[0]
    assert portal[-1]
    assert in_target_zone("midzonal", coordinate, far)[50]
    assert in_target_zone("diffuse", coordinate, far).all()
    assert CENTRILOBULAR_BELOW < 0.5 < PERIPORTAL_ABOVE


def test_control_densities_and_sizes() -> None:
    """1,500-1,900 hepatocyte and 600-800 other nuclei per mm2; central-portal distance 350 +- 80 um."""
    hepatocyte, other, tissue_mm2 = 0, 0, 0.0
    for seed in (1, 2):
        painted = spec(seed=seed, width=1600, height=1600)
        bits, truth = render_mask(painted)
        assert not bits.any()
        hepatocyte += truth.n_hepatocyte_nuclei
        other += truth.n_other_nuclei
        tissue_mm2 += truth.tissue_fraction * (1600 * 0.5e-3) ** 2
    assert 1500 <= hepatocyte / tissue_mm2 <= 1900
    assert 600 <= other / tissue_mm2 <= 800
    lobules = build_lobules(1, 4000, 4000)
    tracts = lobules.tracts.centre
    inside = tracts[((tracts > 300) & (tracts < 3700)).all(1)]
    gap = np.hypot(*(inside[:, None] - lobules.central_veins.centre[None]).transpose(2, 0, 1)).min(1)
    assert 270 <= np.median(gap) <= 430


def test_lesions_compose() -> None:
    lesions = (
        Lesion("hypertrophy", 2.0, "centrilobular"),
        Lesion("infiltration", 2.0, "portal"),
        Lesion("vacuolization", 3.0, "diffuse"),
        Lesion("fibrosis", 3.0, "portal"),
    )
    _, truth = render_mask(spec(*lesions, width=1000, height=1000))
    assert all(truth.area_fraction[lesion.phenotype] > 0 for lesion in lesions)
    assert sum(value > 0 for value in truth.area_fraction.values()) == len(lesions)


def test_colour_hardly_tells_a_slight_infiltrate() -> None:
    """A slight infiltrate or a few dead cells shift mean colour less than two slides of controls differ."""
    control = [render_region(spec(seed=seed), 100, 100, 500, 500).mean((0, 1)) for seed in (5, 6, 7)]
    between = np.std(control, axis=0).max()
    for lesion in (Lesion("infiltration", 0.8, "random"), Lesion("single_cell_necrosis", 1.0)):
        shifted = render_region(spec(lesion), 100, 100, 500, 500).mean((0, 1))
        assert np.abs(shifted - control[0]).max() < max(2 * between, 3.0)


def test_stain_moves_colour() -> None:
    pale = render_region(spec(stain=Stain(thickness=0.7)), 250, 250, 200, 200)
    dark = render_region(spec(stain=Stain(thickness=1.3)), 250, 250, 200, 200)
    assert dark.mean() < pale.mean() - 10


@pytest.mark.parametrize(
    "artefact", ["pen", "fold", "blur", "tear", "knife_line", "bubble", "dust", "autolysis"]
)
def test_artefact_changes_pixels_but_not_the_mask(artefact: str) -> None:
    lesion = Lesion("glycogen_gain", 2.0)
    plain, marked = spec(lesion), spec(lesion, artefacts=(artefact,))
    before, after = (render_region(slide, 0, 0, SIDE, SIDE) for slide in (plain, marked))
    assert (before != after).any(-1).mean() > 5e-4
    np.testing.assert_array_equal(render_mask(plain)[0], render_mask(marked)[0])


@pytest.mark.parametrize("mpp", [0.25, 1.0])
def test_other_resolutions(mpp: float) -> None:
    vacuolated = spec(Lesion("vacuolization", 2.0), mpp=mpp, width=400, height=320)
    assert render_region(vacuolated, 0, 0, 400, 320).shape == (320, 400, 3)
    bits, _ = render_mask(vacuolated)
    assert bits.shape == (round(320 * mpp / MASK_MPP), round(400 * mpp / MASK_MPP))


def test_levels_halve() -> None:
    assert level_shapes(1024, 1024) == [(1024, 1024), (512, 512), (256, 256)]
    assert level_shapes(1536, 1001) == [(1536, 1001), (768, 500), (384, 250), (192, 125)]


def test_errors_name_field_and_value() -> None:
    with pytest.raises(SlideSpecError, match=r"Lesion.phenotype: unknown value 'steatosis'"):
        Lesion("steatosis", 1.0)
    with pytest.raises(SlideSpecError, match=r"Lesion.zone: unknown value 'hilar'"):
        Lesion("necrosis", 1.0, "hilar")
    with pytest.raises(SlideSpecError, match=r"Lesion.severity: 5.0"):
        Lesion("necrosis", 5.0)
    with pytest.raises(SlideSpecError, match=r"unknown value 'scratch'"):
        spec(artefacts=("scratch",))
    with pytest.raises(SlideSpecError, match=r"'necrosis' is given twice"):
        spec(Lesion("necrosis", 1.0), Lesion("necrosis", 2.0))
    with pytest.raises(SlideSpecError, match=r"leaves slide 's'"):
        render_region(spec(), 600, 0, 200, 100)
