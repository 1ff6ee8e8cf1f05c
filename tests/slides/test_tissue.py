"""Tissue mask: the whole tissue and nothing else, on slides with and without glass, shadows and pen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from toxfusion.slides.grid import Region
from toxfusion.slides.readers import open_slide
from toxfusion.slides.tissue import (
    TissueMask,
    contact_sheet,
    find_tissue,
    optical_density,
    pen_mask,
    preview,
    tissue_mask,
    write_picture,
)

Section = Callable[..., np.ndarray]


def noisy(colour: tuple[int, int, int], height: int = 200, width: int = 300) -> np.ndarray:
    noise = np.random.default_rng(1).integers(-4, 5, (height, width, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def test_optical_density_of_known_intensities() -> None:
    pixels = np.array([[[255, 127, 0]]], np.uint8)
    np.testing.assert_allclose(optical_density(pixels)[0, 0], [0.0, np.log10(2), np.log10(256)], rtol=1e-6)


def test_an_ellipse_of_tissue_is_found_to_within_a_few_percent(write_slide: Callable[..., Path]) -> None:
    with open_slide(write_slide("a.tif", width=2400, height=2000)) as slide:
        mask = find_tissue(slide)
    truth = np.zeros(mask.tissue.shape, np.uint8)
    height, width = truth.shape
    cv2.ellipse(truth, (width // 2, height // 2), (int(0.4 * width), int(0.4 * height)), 0, 0, 360, 1, -1)
    overlap = (mask.tissue & (truth == 1)).sum() / (mask.tissue | (truth == 1)).sum()
    assert overlap > 0.93
    assert not mask.pen.any()
    assert mask.scale == pytest.approx(8.0, rel=1e-3)


@pytest.mark.parametrize("colour", [(226, 150, 190), (203, 160, 215), (235, 205, 222)])
def test_a_field_without_glass_is_all_tissue(colour: tuple[int, int, int]) -> None:
    assert tissue_mask(noisy(colour), 4.0).all()


@pytest.mark.parametrize("colour", [(244, 243, 246), (255, 255, 255), (225, 224, 222), (180, 180, 180)])
def test_glass_and_grey_shadow_are_no_tissue(colour: tuple[int, int, int]) -> None:
    assert not tissue_mask(noisy(colour), 4.0).any()
    assert not tissue_mask(noisy(colour, 40, 40), 4.0).any()


def test_specks_are_left_out_and_small_lumina_filled(section: Section) -> None:
    picture = noisy((244, 243, 246))
    picture[20:24, 20:24] = (226, 150, 190)  # 16 um: a speck
    picture[50:150, 60:240] = (226, 150, 190)
    picture[90:100, 100:110] = (250, 250, 250)  # 40 um: a vein
    mask = tissue_mask(picture, 4.0)
    assert not mask[15:30, 15:30].any()
    assert mask[90:100, 100:110].all()
    assert mask.mean() == pytest.approx(100 * 180 / (200 * 300), rel=0.05)


@pytest.mark.parametrize("ink", [(40, 60, 170), (30, 140, 80), (20, 20, 25), (45, 38, 55)])
def test_pen_is_found_and_is_no_tissue(
    ink: tuple[int, int, int], write_slide: Callable[..., Path], section: Section
) -> None:
    picture = section(600, 500)
    clean = pen_mask(picture, 4.0)
    cv2.line(picture, (150, 150), (420, 330), ink, 14)
    mask = pen_mask(picture, 4.0)
    assert not clean.any()
    assert mask[240, 285]
    assert 0.01 < mask.mean() < 0.06


def test_haematoxylin_and_blood_are_no_pen() -> None:
    for colour in [(96, 62, 142), (70, 45, 120), (190, 40, 60), (120, 20, 60), (80, 20, 80), (60, 35, 100)]:
        assert not pen_mask(noisy(colour), 4.0).any()


def test_the_share_of_a_tile_counts_mask_pixels() -> None:
    tissue = np.zeros((20, 30), bool)
    tissue[5:10, 10:20] = True
    mask = TissueMask(np.zeros((20, 30, 3), np.uint8), tissue, ~tissue, scale=8.0)
    corners = np.array([[80, 40], [120, 40], [0, 0], [80, 0]], np.int32)
    np.testing.assert_allclose(mask.shares("tissue", corners, 80.0), [0.5, 0.25, 0.0, 0.5], atol=1e-12)
    np.testing.assert_allclose(mask.shares("pen", corners, 80.0), [0.5, 0.75, 1.0, 0.5], atol=1e-12)
    assert mask.region_share("tissue", Region(80, 40, 80, 40)) == 1.0


def test_the_preview_outlines_tissue_and_tiles_and_the_sheet_holds_all(tmp_path: Path) -> None:
    tissue = np.zeros((100, 200), bool)
    tissue[20:80, 20:180] = True
    mask = TissueMask(np.full((100, 200, 3), 240, np.uint8), tissue, np.zeros_like(tissue), scale=8.0)
    picture = preview(mask, Region(0, 0, 1600, 800), np.array([[400, 240]], np.int32), 200.0)
    assert picture.shape == (256, 512, 3)
    blue = (picture == (30, 60, 200)).all(axis=2)
    ys, xs = np.where(blue)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (77, 141, 128, 192)
    assert (picture == (0, 130, 60)).all(axis=2).any()
    sheet = contact_sheet(
        [(f"slide {i} with a long name that does not fit at all", picture) for i in range(7)]
    )
    assert sheet.shape == (2 * (128 + 18), 6 * 256, 3), "a row is as high as its pictures"
    assert (sheet[128:146, :250] < 100).any(), "the name stands right below its picture"
    write_picture(tmp_path / "deep" / "sheet [1].png", sheet)
    assert (tmp_path / "deep" / "sheet [1].png").stat().st_size > 0
