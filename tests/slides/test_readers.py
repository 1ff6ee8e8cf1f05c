"""Readers: the right pixels at the right place and scale, and a clear reason for what cannot be read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from toxfusion.slides import readers
from toxfusion.slides.colour import rgb
from toxfusion.slides.faults import SlideUnreadable, SlideUnsuitable
from toxfusion.slides.readers import Slide, open_slide
from toxfusion.slides.resolution import IN_SLIDES_TABLE, ON_THE_COMMAND_LINE, believed_mpp
from toxfusion.slides.tiff import TiffSource

WriteSlide = Callable[..., Path]
Section = Callable[..., np.ndarray]

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "slides"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/slides is not there")


def test_a_pyramid_is_opened_by_openslide_with_the_mpp_of_its_tags(write_slide: WriteSlide) -> None:
    with open_slide(write_slide("a.tif", mpp=0.5)) as slide:
        assert (slide.backend, slide.dimensions, slide.downsamples) == ("OpenSlide", (640, 512), (1, 2, 4))
        assert slide.mpp == pytest.approx(0.5, rel=1e-3)
        assert [slide.level_for(mpp) for mpp in (0.25, 0.5, 0.99, 1.0, 1.9, 2.0, 9.0)] == [
            0,
            0,
            0,
            1,
            1,
            2,
            2,
        ]


@pytest.mark.parametrize("mpp", [0.5, 0.7, 1.0, 1.3, 2.0, 4.0])
def test_a_region_shows_the_same_place_at_every_resolution(tmp_path: Path, mpp: float) -> None:
    y, x = np.mgrid[0:512, 0:512]
    ramp = np.stack([x // 3, y // 3, np.full_like(x, 90)], axis=2).astype(np.uint8)
    path = tmp_path / "ramp.tif"
    with tifffile.TiffWriter(path) as writer:
        for level in range(3):
            per_cm = 1e4 / (0.5 * 2**level)
            writer.write(
                ramp[:: 2**level, :: 2**level],
                tile=(128, 128),
                photometric="rgb",
                metadata=None,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=int(level > 0),
            )
    with open_slide(path) as slide:
        region = slide.read_region(100, 160, 50, 40, mpp)
    assert region.shape == (40, 50, 3)
    scale = mpp / 0.5
    expected_x = (100 + scale * (np.arange(50) + 0.5)) / 3
    expected_y = (160 + scale * (np.arange(40) + 0.5)) / 3
    inside_x, inside_y = expected_x < 168, expected_y < 168
    assert np.abs(region[0, inside_x, 0] - expected_x[inside_x]).max() < 2
    assert np.abs(region[inside_y, 0, 1] - expected_y[inside_y]).max() < 2


def write_ome(path: Path, picture: np.ndarray, size: float, unit: str, **options: object) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit, "PhysicalSizeY": size}
    metadata["PhysicalSizeYUnit"] = unit
    tifffile.imwrite(path, picture, ome=True, photometric="rgb", metadata=metadata, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "unit"), [(0.25, "µm"), (250.0, "nm"), (0.00025, "mm")])
def test_ome_tiff_by_tifffile_with_its_physical_size(
    section: Section, tmp_path: Path, size: float, unit: str
) -> None:
    path = tmp_path / "a.ome.tif"
    write_ome(path, section(300, 200), size, unit)
    with open_slide(path) as slide:
        assert slide.backend == "tifffile"
        assert "OpenSlide" in slide.remarks[0]
        assert slide.mpp == pytest.approx(0.25)


LAYOUTS = {
    "tiles": {"tile": (64, 48)},
    "deflated tiles": {"tile": (64, 64), "compression": "zlib"},
    "strips": {"rowsperstrip": 17},
    "planes": {"tile": (64, 64), "planarconfig": "separate"},
}


@pytest.fixture(scope="module", params=LAYOUTS)
def tiff(
    request: pytest.FixtureRequest, section: Section, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TiffSource, np.ndarray]:
    picture = section(301, 203)
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    options = dict(LAYOUTS[request.param])
    data = np.moveaxis(picture, 2, 0) if options.get("planarconfig") == "separate" else picture
    tifffile.imwrite(path, data, photometric="rgb", metadata=None, **options)
    return TiffSource(path), picture


@given(
    x=st.integers(-40, 320), y=st.integers(-40, 220), width=st.integers(1, 150), height=st.integers(1, 150)
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_region_of_a_tiff_equals_that_part_of_the_array(
    tiff: tuple[TiffSource, np.ndarray], x: int, y: int, width: int, height: int
) -> None:
    source, picture = tiff
    padded = np.pad(picture, ((300, 300), (300, 300), (0, 0)), constant_values=255)
    expected = padded[y + 300 : y + 300 + height, x + 300 : x + 300 + width]
    np.testing.assert_array_equal(source.read_level(0, x, y, width, height), expected)


def test_pixels_of_tifffile_and_openslide_agree(write_slide: WriteSlide) -> None:
    path = write_slide("a.tif")
    first, second = readers.OpenSlideSource(path), TiffSource(path)
    assert (first.dimensions, first.downsamples) == (second.dimensions, second.downsamples)
    assert first.mpp == pytest.approx(second.mpp, rel=1e-4)
    for level in (1, 2):
        np.testing.assert_array_equal(
            first.read_level(level, 64, 128, 90, 70), second.read_level(level, 64, 128, 90, 70)
        )


@given(st.integers(-80, 700), st.integers(-80, 600), st.integers(1, 300), st.integers(1, 300), st.booleans())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_finest_level_has_openslides_pixels_wherever_it_is_read(
    write_slide: WriteSlide, x: int, y: int, width: int, height: int, jpeg: bool
) -> None:
    path = write_slide(f"{jpeg}.tif", jpeg=jpeg)
    with openslide.OpenSlide(path) as slide:
        expected = rgb(slide.read_region((x, y), 0, (width, height)))
    source = readers.OpenSlideSource(path)
    assert source._finest is not None
    np.testing.assert_array_equal(source.read_level(0, x, y, width, height), expected)
    source.close()


def test_where_tifffile_has_other_pixels_openslide_reads(
    write_slide: WriteSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_slide("a.tif")
    decoded = TiffSource.read_level
    monkeypatch.setattr(TiffSource, "read_level", lambda *arguments: decoded(*arguments) ^ 1)
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        np.testing.assert_array_equal(
            slide.source.read_level(0, 100, 90, 200, 150),
            np.asarray(reference.read_region((100, 90), 0, (200, 150)).convert("RGB")),
        )


def test_a_plain_picture_needs_an_override_and_then_reads_like_the_array(
    section: Section, tmp_path: Path
) -> None:
    picture = section(200, 150)
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    with pytest.raises(SlideUnsuitable, match="mpp_override"):
        open_slide(path)
    with open_slide(path, mpp_override=0.5) as slide:
        assert slide.backend == "PIL"
        np.testing.assert_array_equal(slide.read_region(10, 20, 50, 40, 0.5), picture[20:60, 10:60])
        outside = slide.read_region(-10, -10, 20, 20, 0.5)
        assert (outside[:10] == 255).all()
        np.testing.assert_array_equal(outside[10:, 10:], picture[:10, :10])


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:4] = (200, 100, 150, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp_override=1.0) as slide:
        pixels = slide.read_region(0, 0, 8, 8, 1.0)
    assert (pixels[:4] == (200, 100, 150)).all()
    assert (pixels[4:] == 255).all()


def test_the_overview_covers_the_slide_and_does_not_depend_on_the_blocks(
    write_slide: WriteSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_slide(write_slide("a.tif", width=1030, height=700, levels=1)) as slide:
        whole = slide.overview(4.0)
        assert whole.shape == (88, 129, 3)
        real = Slide.read_region
        sizes: list[tuple[int, int]] = []

        def counted(self: Slide, x: int, y: int, width: int, height: int, mpp: float) -> np.ndarray:
            sizes.append((width, height))
            return real(self, x, y, width, height, mpp)

        monkeypatch.setattr(Slide, "read_region", counted)
        monkeypatch.setattr(readers, "OVERVIEW_SOURCE_PX", 512)
        blocks = slide.overview(4.0)
        assert len(sizes) == 6
        assert max(max(size) for size in sizes) == 64
        np.testing.assert_array_equal(blocks, whole)


@pytest.mark.parametrize(
    ("override", "message"),
    [(0.01, "outside 0.05 to 4"), (250.0, "outside 0.05 to 4"), (-1.0, "outside"), (float("inf"), "outside")],
)
def test_an_override_that_cannot_be_is_refused(
    write_slide: WriteSlide, override: float, message: str
) -> None:
    with pytest.raises(SlideUnsuitable, match=message):
        open_slide(write_slide("a.tif"), mpp_override=override)


@pytest.mark.parametrize(
    ("of_file", "override", "remedy"),
    [(0.5, 9.0, "correct"), (28.97, None, "set"), (0.01, None, "set")],
)
@pytest.mark.parametrize("said_by", [ON_THE_COMMAND_LINE, IN_SLIDES_TABLE])
def test_what_is_to_be_corrected_is_where_it_can_be_given(
    of_file: float, override: float | None, remedy: str, said_by: str
) -> None:
    other = {ON_THE_COMMAND_LINE: "slides.parquet", IN_SLIDES_TABLE: "command line"}[said_by]
    with pytest.raises(SlideUnsuitable, match=rf"a\.svs: .*{remedy} {said_by}$") as refused:
        believed_mpp(Path("a.svs"), (of_file, of_file), override, said_by)
    assert other not in str(refused.value)


def test_an_override_wins_over_the_file_and_nan_means_none(write_slide: WriteSlide) -> None:
    path = write_slide("a.tif", mpp=0.5)
    assert open_slide(path, mpp_override=0.7).mpp == 0.7
    assert open_slide(path, mpp_override=float("nan")).mpp == pytest.approx(0.5, rel=1e-3)
    assert open_slide(path, mpp_override=0.7).doubt == ""
    for far in (0.1, 0.25, 1.0):
        said = (
            f"{far:g} um/px by mpp_override in slides.parquet; did you mean the 0.5 of the file's metadata?"
        )
        assert open_slide(path, mpp_override=far).doubt == said


def test_the_dots_per_inch_of_an_image_program_are_no_mpp(
    write_slide: WriteSlide, tmp_path: Path, section: Section
) -> None:
    with pytest.raises(SlideUnsuitable, match="does not say how many micrometres"):
        open_slide(write_slide("none.tif", mpp=None))
    picture = section(300, 200)
    tifffile.imwrite(
        tmp_path / "dpi.tif", picture, photometric="rgb", resolution=(72, 72), resolutionunit="INCH"
    )
    with pytest.raises(SlideUnsuitable, match="mpp_override"):
        open_slide(tmp_path / "dpi.tif")
    with tifffile.TiffWriter(tmp_path / "oblong.tif") as writer:
        writer.write(picture, photometric="rgb", resolution=(20_000, 10_000), resolutionunit="CENTIMETER")
    with pytest.raises(SlideUnsuitable, match="not square"):
        open_slide(tmp_path / "oblong.tif")


def test_no_colour_is_unsuitable(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((64, 64, 3), np.uint16), photometric="rgb")
    tifffile.imwrite(tmp_path / "grey.tif", np.zeros((64, 64), np.uint8))
    Image.new("L", (64, 64)).save(tmp_path / "grey.png")
    for name in ("deep.tif", "grey.tif", "grey.png"):
        with pytest.raises(SlideUnsuitable, match="not 8-bit RGB"):
            open_slide(tmp_path / name, mpp_override=0.5)


def test_files_that_cannot_be_opened_say_why(tmp_path: Path, write_slide: WriteSlide) -> None:
    (tmp_path / "empty.svs").touch()
    (tmp_path / "noise.svs").write_bytes(np.random.default_rng(0).bytes(2000))
    (tmp_path / "head.tif").write_bytes(write_slide("whole.tif").read_bytes()[:60])
    (tmp_path / "text.ndpi").write_text("this is no slide")
    (tmp_path / "folder.svs").mkdir()
    for name, message in [
        ("empty.svs", "the file is empty"),
        ("noise.svs", "no reader opens it.*OpenSlide.*tifffile.*PIL"),
        ("head.tif", "no reader opens it"),
        ("text.ndpi", "no reader opens it"),
        ("folder.svs", "is a folder"),
        ("absent.svs", "no such file"),
    ]:
        with pytest.raises(SlideUnreadable, match=message):
            open_slide(tmp_path / name)


def test_a_wrong_extension_does_not_matter(section: Section, tmp_path: Path, write_slide: WriteSlide) -> None:
    Image.fromarray(section(90, 60)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.svs")
    assert open_slide(tmp_path / "a.svs", mpp_override=0.5).backend == "PIL"
    assert open_slide(write_slide("b.tif").rename(tmp_path / "b [1] ü.jpg")).backend == "OpenSlide"


def test_a_file_cut_short_fails_where_it_is_read(write_slide: WriteSlide) -> None:
    path = write_slide("a.tif", levels=1, jpeg=False)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) - 100_000])
    with open_slide(path) as slide:
        assert "OpenSlide" in slide.remarks[0]
        with pytest.raises(SlideUnreadable, match="damaged or cut short"):
            slide.overview(4.0)


def test_damaged_jpeg_tiles_are_an_error_and_never_pixels(write_slide: WriteSlide) -> None:
    path = write_slide("a.tif", levels=1)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[5]
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = bytes(40)
    path.write_bytes(content)
    for source in (readers.OpenSlideSource, TiffSource):
        with pytest.raises(SlideUnreadable):
            Slide(path, source(path), source.__name__, 0.5).overview(4.0)


def test_tiatoolbox_is_imported_only_when_it_is_needed() -> None:
    code = (
        "import sys, toxfusion.slides.readers as r\n"
        "try: r.open_slide('absent.svs')\n"
        "except r.SlideUnreadable: pass\n"
        "assert 'tiatoolbox' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_real
def test_real_slides_open_and_agree_with_their_libraries() -> None:
    with open_slide(REAL / "small_HE.svs") as slide:
        assert (slide.backend, slide.mpp, slide.dimensions) == ("OpenSlide", 0.499, (2220, 2967))
        reference = openslide.OpenSlide(REAL / "small_HE.svs").read_region((700, 900), 0, (300, 200))
        np.testing.assert_array_equal(
            slide.read_region(700, 900, 300, 200, slide.mpp), np.asarray(reference)[..., :3]
        )
    with open_slide(REAL / "OS-1-detail.ome.tif") as slide:
        assert slide.backend == "tifffile"
        assert slide.mpp == pytest.approx(0.2271, abs=1e-4)
        np.testing.assert_array_equal(
            slide.read_region(400, 500, 300, 200, slide.mpp),
            tifffile.imread(REAL / "OS-1-detail.ome.tif")[500:700, 400:700],
        )


@needs_real
def test_real_slides_that_cannot_be_used_say_why() -> None:
    with pytest.raises(SlideUnreadable, match="no reader opens it"):
        open_slide(REAL / "broken.svs")
    with pytest.raises(SlideUnsuitable, match=r"28\.97 um/px"):
        open_slide(REAL / "camelyon_coarse.dcm")
