"""Pixels are what the tags of a TIFF say, or the slide is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from toxfusion.slides.faults import SlideUnsuitable
from toxfusion.slides.readers import open_slide

PINK = np.array([226, 150, 190], np.uint8)


def pixels(path: Path) -> np.ndarray:
    with open_slide(path, mpp_override=0.5) as slide:
        return slide.read_region(0, 0, *slide.dimensions, 0.5)


def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(PINK + rng.integers(-20, 20, (64, 96, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("layout", [{"rowsperstrip": 16}, {"tile": (32, 32)}], ids=["strips", "tiles"])
class TestTiff:
    def write(self, path: Path, samples: np.ndarray, layout: dict, **tags: object) -> Path:
        tifffile.imwrite(path / "a.tif", samples, metadata=None, **layout, **tags)
        return path / "a.tif"

    @pytest.mark.parametrize("mode", ["YCbCr", "CMYK"])
    def test_other_colours_are_converted_by_the_tags(self, tmp_path: Path, layout: dict, mode: str) -> None:
        if mode == "CMYK":
            samples = np.dstack([255 - picture(), np.zeros((64, 96), np.uint8)])
            tags = {"photometric": "separated"}
        else:
            samples = np.asarray(Image.fromarray(picture()).convert("YCbCr"))
            tags = {"photometric": "ycbcr"}
        path = self.write(tmp_path, samples, layout, **tags)
        assert np.abs(pixels(path).astype(int) - picture()).max() <= 4, "rounding of the two conversions"
        with open_slide(path, mpp_override=0.5) as slide:
            assert (slide.read_region(-8, -8, 4, 4, 0.5) == 255).all(), "white outside, whatever the colours"

    def test_alpha_is_multiplied_once(self, tmp_path: Path, layout: dict) -> None:
        half = np.full((64, 96, 1), 128, np.uint8)
        colour = np.broadcast_to(PINK, (64, 96, 3))
        expected = np.round(PINK * (128 / 255) + 255 * (1 - 128 / 255))
        straight = self.write(
            tmp_path, np.dstack([colour, half]), layout, photometric="rgb", extrasamples=["unassalpha"]
        )
        assert np.abs(pixels(straight)[5, 5] - expected).max() <= 1
        multiplied = np.round(colour * (128 / 255)).astype(np.uint8)
        other = self.write(
            tmp_path, np.dstack([multiplied, half]), layout, photometric="rgb", extrasamples=["assocalpha"]
        )
        assert np.abs(pixels(other)[5, 5] - expected).max() <= 1

    def test_a_fourth_sample_of_unknown_meaning_is_no_alpha(self, tmp_path: Path, layout: dict) -> None:
        samples = np.dstack([picture(), np.zeros((64, 96), np.uint8)])
        path = self.write(tmp_path, samples, layout, photometric="rgb", extrasamples=["unspecified"])
        np.testing.assert_array_equal(pixels(path), picture())

    @pytest.mark.parametrize("dtype", [np.uint16, np.float32])
    def test_other_depths_are_refused_and_not_cut_to_their_high_bits(
        self, tmp_path: Path, layout: dict, dtype: type
    ) -> None:
        samples = picture().astype(dtype) * 16  # 12 bits, as cameras give
        path = self.write(tmp_path, samples, layout, photometric="rgb")
        with pytest.raises(
            SlideUnsuitable, match=rf"{np.dtype(dtype)} with 3 samples a pixel, not 8-bit RGB"
        ):
            pixels(path)

    def test_the_largest_picture_is_the_slide_whatever_stands_before_it(
        self, tmp_path: Path, layout: dict
    ) -> None:
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            for samples in (picture()[::2, ::2], picture()):
                file.write(np.ascontiguousarray(samples), photometric="rgb", metadata=None, **layout)
        np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), picture())

    @pytest.mark.parametrize("photometric", ["cielab", "minisblack"])
    def test_what_the_tags_call_no_rgb_is_refused(
        self, tmp_path: Path, layout: dict, photometric: str
    ) -> None:
        path = self.write(tmp_path, picture(), layout, photometric=photometric, planarconfig="contig")
        with pytest.raises(SlideUnsuitable, match=f"{photometric.upper()}.*not RGB"):
            pixels(path)


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the right side of the scene is the top row of the file
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), np.rot90(picture(), -1))
