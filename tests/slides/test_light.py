"""What is no transmitted light is refused with its numbers; every kind of H&E passes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from toxfusion.slides.faults import SlideUnsuitable
from toxfusion.slides.light import check_light


def spots(ground: tuple[int, int, int], nucleus: tuple[int, int, int]) -> np.ndarray:
    rng = np.random.default_rng(0)
    picture = np.full((256, 256, 3), ground, np.uint8)
    for x, y in rng.integers(0, 256, (150, 2)):
        cv2.circle(picture, (int(x), int(y)), 5, nucleus, -1)
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("ground", "nucleus"),
    [
        ((1, 0, 45), (2, 1, 120)),  # DAPI of an NDPI, hardly exposed
        ((0, 0, 0), (20, 40, 255)),  # DAPI, stretched
        ((10, 12, 9), (240, 240, 240)),  # one channel in grey
        ((0, 90, 0), (0, 10, 220)),  # two channels
    ],
)
def test_fluorescence_is_refused_with_its_numbers(ground: tuple[int, ...], nucleus: tuple[int, ...]) -> None:
    with pytest.raises(SlideUnsuitable, match=r"a\.ndpi: does not look like transmitted light.*mean RGB"):
        check_light(spots(ground, nucleus), "a.ndpi")


@pytest.mark.parametrize(
    ("ground", "nucleus"),
    [
        ((244, 243, 245), (110, 70, 150)),  # glass and nuclei
        ((226, 150, 190), (90, 50, 140)),  # tissue without glass
        ((120, 60, 130), (70, 30, 105)),  # thick and dark throughout
        ((210, 190, 170), (110, 65, 40)),  # immunohistochemistry, brown
    ],
)
def test_stained_tissue_passes(ground: tuple[int, ...], nucleus: tuple[int, ...]) -> None:
    check_light(spots(ground, nucleus), "a.svs")


def test_a_black_frame_about_a_slide_is_no_fluorescence() -> None:
    framed = np.zeros((600, 600, 3), np.uint8)
    framed[:256, :256] = spots((244, 243, 245), (110, 70, 150))
    check_light(framed, "a.svs")


def test_a_white_band_about_fluorescence_does_not_hide_it() -> None:
    picture = spots((0, 0, 90), (20, 40, 255))
    picture[:60] = 255
    with pytest.raises(SlideUnsuitable, match=r"a\.png.*has a colour of no stain; its mean RGB"):
        check_light(picture, "a.png")
