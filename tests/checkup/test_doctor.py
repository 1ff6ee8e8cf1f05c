"""doctor: what is amiss in a study is named, and only that."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from toxfusion import doctor
from toxfusion.checkup import installation, study_checks
from toxfusion.study.bag_store import BagStore
from toxfusion.study.split import write_manifest
from toxfusion.study.splits import CompoundKFold
from toxfusion.study.store_spec import StoreSpec
from toxfusion.study.study import Study


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


def test_a_study_without_a_pair_says_what_to_train(study: Study) -> None:
    expression = study.expression.copy()
    expression[np.asarray(study.has_slide)] = np.nan
    said = list(study_checks.describe(replace(study, expression=expression)))
    assert "pretrain.warm_start.kind=none" in said[-1]
    assert not any("warm_start" in line for line in study_checks.describe(study))


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


def edit_slides(study: Study, change: Callable[[pd.DataFrame], None]) -> None:
    path = study.root / "slides.parquet"
    slides = pd.read_parquet(path)
    change(slides)
    slides.to_parquet(path)


def give_a_region_after_the_store(study: Study) -> None:
    def change(slides: pd.DataFrame) -> None:
        slides.loc[slides.index[0], ["x", "y", "width", "height"]] = [1e5, 1e5, 1e3, 1e3]

    edit_slides(study, change)


def give_two_slides_one_file(study: Study) -> None:
    first, second = (study.slide_path(slide_id) for slide_id in study.slides.index[:2])
    second.unlink()
    second.symlink_to(first)


def copy_a_slide(study: Study) -> None:
    for slide_id in study.slides.index[:2]:
        study.slide_path(slide_id).write_bytes(b"the same pixels")
    study.slide_path(study.slides.index[2]).write_bytes(b"other, as long.")


def box_one_region_twice(study: Study) -> None:
    def change(slides: pd.DataFrame) -> None:
        slides.loc[slides.index[:3], ["x", "y", "width", "height"]] = [0.0, 0.0, 9999.0, 9999.0]
        slides.loc[slides.index[2], "width"] = 8888.0
        slides.loc[slides.index[:3], "path"] = slides["path"].iloc[0]

    for slide_id in study.slides.index[1:3]:
        study.slide_path(slide_id).unlink()
    edit_slides(study, change)


def override_out_of_range(study: Study) -> None:
    edit_slides(
        study, lambda slides: slides.__setitem__("mpp_override", [40.0] + [np.nan] * (len(slides) - 1))
    )
    shutil.rmtree(study.root / "features")  # its resolutions would differ too


def lose_both_modalities(study: Study) -> None:
    profiled = study.has_expression & study.has_slide
    bare = int(np.flatnonzero(~study.has_expression & study.has_slide)[0])
    assert not profiled[bare]
    gone = study.slides_of(study.sample_ids[bare])
    for slide_id in gone:
        study.slide_path(slide_id).unlink()
    shutil.rmtree(study.root / "features")
    path = study.root / "slides.parquet"
    slides = pd.read_parquet(path)
    slides[~slides["slide_id"].isin(gone)].to_parquet(path)


def leak_in_a_split(study: Study) -> None:
    split = CompoundKFold(n_folds=3, valid_fraction=0.3)(study)
    write_manifest(split, study.root / "splits" / "sound.json")
    moved = replace(split, train=[*split.train, split.test[0]], test=split.test[1:])
    write_manifest(moved, study.root / "splits" / "kfold" / "fold0.json")


def damage_a_manifest(study: Study) -> None:
    (study.root / "splits").mkdir()
    (study.root / "splits" / "fold0.json").write_text('{"train": [')


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (give_two_slides_one_file, "the whole is 2 slides"),
        (copy_a_slide, "2 files of equal content"),
        (box_one_region_twice, "the part (0, 0, 9999, 9999) is 2 slides"),
        (override_out_of_range, "mpp_override 40 is outside 0.05 to 4"),
        (lose_both_modalities, "with neither slides nor expression"),
        (leak_in_a_split, "fold0.json"),
        (damage_a_manifest, "not a split manifest"),
        (damage_a_specification, "cannot be read as the specification"),
        (change_a_resolution, "was stored at 0.5 um per level-0 px, slides.parquet says 0.25"),
        (give_a_region_after_the_store, "lie outside of its region in slides.parquet"),
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
    assert "1 problem" in output


def test_a_study_without_any_tissue_has_no_problem(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(study.root / "features")
    for slide_id in study.slides.index:
        study.slide_path(slide_id).unlink()
    slides = pd.read_parquet(study.root / "slides.parquet")
    slides.iloc[:0].to_parquet(study.root / "slides.parquet")
    table = anndata.read_h5ad(study.root / "expression.h5ad")
    table.X = np.full(table.shape, np.nan, np.float32)
    table.write_h5ad(study.root / "expression.h5ad")
    status, output = run(capsys, tmp_path, f"study={study.root}")
    assert "0 with expression, 0 with slides" in output
    assert status == 0, output


def test_without_checksums_no_row_is_read(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage_a_bag(study)
    status, output = run(capsys, tmp_path, f"study={study.root}", "checksums=false")
    assert status == 0
    assert "no problems" in output


def no_study(root: Path) -> None:
    shutil.rmtree(root)


def an_empty_folder(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def a_file(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("no folder")


def torn_expression(root: Path) -> None:
    path = root / "expression.h5ad"
    path.write_bytes(path.read_bytes()[:3000])


def empty_slides(root: Path) -> None:
    (root / "slides.parquet").write_bytes(b"")


def slides_without_paths(root: Path) -> None:
    pd.read_parquet(root / "slides.parquet").drop(columns="path").to_parquet(root / "slides.parquet")


def slides_of_no_sample(root: Path) -> None:
    pd.read_parquet(root / "slides.parquet").assign(sample_id="nobody").to_parquet(root / "slides.parquet")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (no_study, "expression.h5ad is missing"),
        (an_empty_folder, "expression.h5ad is missing"),
        (a_file, "expression.h5ad is missing"),
        (torn_expression, "expression.h5ad cannot be read"),
        (empty_slides, "slides.parquet cannot be read"),
        (slides_without_paths, "'path'"),
        (slides_of_no_sample, "belongs to no sample of the study"),
    ],
)
def test_what_is_no_study_is_refused_in_one_line(
    own_tiny_study: Study,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], None],
    message: str,
) -> None:
    harm(own_tiny_study.root)
    with pytest.raises(SystemExit) as end:
        doctor.main([f"study={own_tiny_study.root}", f"paths.outputs={tmp_path / 'outputs'}"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_folder_that_takes_nothing_is_said_so(tmp_path: Path) -> None:
    line = installation.disk(tmp_path / "not" / "yet")
    assert line.startswith(f"{'disk':<18}{tmp_path}: ")
    assert "GiB free" in line
    assert "MB/s written" in line
    assert "cannot be written" in installation.disk(Path("/proc"))


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
    for line in (
        "torch",
        "tiled JPEG TIFF: OpenSlide",
        "OME-TIFF: tifffile",
        "PNG: PIL",
        "virchow2",
        "torchrun: works",
        "disk",
    ):
        assert line in output
    assert "does not work" not in output
    assert "missing" not in output


def test_many_problems_of_a_kind_are_one_line_with_examples_and_a_file(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study that has features and no slide files printed a line a slide."""
    for slide_id in study.slides.index:
        study.slide_path(slide_id).unlink()
    n = len(study.slides)
    status, output = run(capsys, tmp_path, f"study={study.root}")
    assert status == 1
    assert f"slide file that is missing: {n} times, such as" in output
    assert output.count("is missing\n") == 3
    assert f"{n} problems" in output
    (file,) = (tmp_path / "outputs").rglob("problems.csv")
    assert str(file) in output
    assert len(pd.read_csv(file)) == n
