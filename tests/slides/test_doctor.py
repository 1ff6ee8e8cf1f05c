"""doctor: what is amiss in a study is named, and only that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from toxfusion import doctor
from toxfusion.data.bag_store import BagStore, StoreSpec
from toxfusion.data.study import Study


@pytest.fixture
def study(own_tiny_study: Study) -> Study:
    """A study whose slides are all there and whose feature store is complete."""
    for slide_id in own_tiny_study.slides.index:
        path = own_tiny_study.slide_path(slide_id)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    store = BagStore.create(own_tiny_study.root / "features" / "tiny", StoreSpec("features", "float16", (4,)))
    with store.writer() as writer:
        for slide_id in own_tiny_study.slides.index:
            writer.append(
                slide_id, np.ones((2, 4), np.float16), np.zeros((2, 2), int), tile_size=8.0, mpp0=0.5
            )
    return own_tiny_study


def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str) -> tuple[int, str]:
    status = 0
    try:
        doctor.main([*arguments, f"paths.outputs={tmp_path / 'outputs'}"])
    except SystemExit as end:
        status = int(str(end.code))
    return status, capsys.readouterr().out


def test_a_sound_study_has_no_problems(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, output = run(capsys, tmp_path, f"study={study.root}")
    assert status == 0
    assert "52 samples of 6 compounds" in output
    assert "no problems" in output


def lose_a_slide(study: Study) -> None:
    study.slide_path(study.slides.index[0]).unlink()


def add_a_file(study: Study) -> None:
    (study.root / "slides" / "stray.svs").touch()


def store_a_stranger(study: Study) -> None:
    with study.features("tiny").writer() as writer:
        writer.append("stranger", np.ones((1, 4), np.float16), np.zeros((1, 2), int), tile_size=8.0, mpp0=0.5)


def damage_a_bag(study: Study) -> None:
    (rows,) = (study.root / "features" / "tiny" / "segments").glob("*.rows")
    content = bytearray(rows.read_bytes())
    content[17] ^= 0xFF
    rows.write_bytes(content)


def damage_a_specification(study: Study) -> None:
    (study.root / "tiles" / "odd" / "segments").mkdir(parents=True)
    (study.root / "tiles" / "odd" / "store.json").write_text("{")


def change_a_resolution(study: Study) -> None:
    path = study.root / "slides.parquet"
    slides = pd.read_parquet(path)
    slides.loc[slides.index[0], "mpp_override"] = 0.25
    slides.to_parquet(path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damage_a_specification, "cannot be read as the specification"),
        (change_a_resolution, "was stored at 0.5 um per level-0 px, slides.parquet says 0.25"),
        (lose_a_slide, "is missing"),
        (add_a_file, "1 files are no slides of the study (stray.svs)"),
        (store_a_stranger, "1 slides not in slides.parquet (stranger)"),
        (damage_a_bag, "unlike their checksum"),
    ],
)
def test_each_harm_is_named_and_the_status_is_1(
    study: Study,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Study], None],
    message: str,
) -> None:
    harm(study)
    status, output = run(capsys, tmp_path, f"study={study.root}")
    assert status == 1
    assert message in output
    assert "1 problems" in output


def test_repair_drops_the_damaged_bag_only(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage_a_bag(study)
    n = len(study.slides)
    status, output = run(capsys, tmp_path, f"study={study.root}", "repair=true")
    assert status == 1
    assert "dropped" in output
    assert "1 slides have no bag" in output
    assert len(study.features("tiny")) == n - 1


def test_without_a_study_it_lists_versions_readers_and_encoders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, output = run(capsys, tmp_path)
    assert status == 0
    for line in ("torch", "tiled JPEG TIFF: OpenSlide", "OME-TIFF: tifffile", "PNG: PIL", "virchow2"):
        assert line in output
    assert "does not work" not in output
    assert "missing" not in output
