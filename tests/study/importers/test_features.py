"""Features of other tools: every layout read, every file accounted for, and a round trip through CLAM's files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toxfusion import extract, prepare
from toxfusion.prepare import near_names
from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.feature_files import (
    FeatureFileError,
    feature_files,
    read_coordinates,
    read_header,
    read_rows,
    write_clam_h5,
)
from toxfusion.study.importers.features import FeatureImportError, import_features
from toxfusion.study.store_spec import StoreMismatch, StoreSpec
from toxfusion.study.study import Study

DIM = 6
N_SLIDES = 8


def tiles(n: int = 5, seed: int = 0, dim: int = DIM) -> tuple[np.ndarray, np.ndarray]:
    """Features that float16 holds exactly, and corners on a grid of 448 level-0 px."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, dim)).astype(np.float16).astype(np.float32), rng.integers(
        0, 20, (n, 2)
    ) * 448


def write_trident(path: Path, rows: np.ndarray, corners: np.ndarray, **changes: Any) -> None:
    about = {"patch_size": 224, "patch_size_level0": 448, "target_magnification": 20, "name": path.stem}
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = rows, corners
        file["coords"].attrs.update({k: v for k, v in (about | changes).items() if v is not None})
        file["features"].attrs["encoder"] = "uni_v1"


def write_stamp(
    path: Path, rows: np.ndarray, corners: np.ndarray, mpp0: float = 0.25, **changes: Any
) -> None:
    about = {"extractor": "mahmood-uni", "unit": "um", "tile_size_um": 448 * mpp0, "tile_size_px": 224}
    with h5py.File(path, "w") as file:
        file["feats"], file["coords"] = rows.astype(np.float16), corners * mpp0
        file.attrs.update({k: v for k, v in (about | changes).items() if v is not None})


def write_clam_patches(path: Path, corners: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["coords"] = corners
        file["coords"].attrs.update({"patch_size": 224, "patch_level": 1, "downsample": (2.0, 2.0)})


@pytest.fixture
def study(own_tiny_study: Study) -> Study:
    """A study of eight slides at 0.25 um per level-0 px, one of them a region of its image."""
    path = own_tiny_study.root / "slides.parquet"
    slides = pd.read_parquet(path).head(N_SLIDES).assign(mpp_override=0.25)
    slides["path"] = [f"slides/image {i}.ome.tif" for i in range(N_SLIDES)]
    slides.loc[7, ["x", "y", "width", "height"]] = [448.0, 0.0, 896.0, 448.0]
    slides.to_parquet(path)
    return Study.open(own_tiny_study.root)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def dropped(study: Study) -> dict[str, str]:
    """id -> reason of what the last import into each store left out."""
    records = Audit.read(study.root / "audit.json").records
    return {r.id: r.reason for r in records if r.stage.startswith("features/") and r.outcome == "dropped"}


@pytest.mark.parametrize("layout", ["trident", "stamp", "clam", "pt", "pt table"])
def test_each_layout_gives_the_same_bag(study: Study, folder: Path, layout: str) -> None:
    rows, corners = tiles()
    slide_id = study.slides.index[0]
    settings: dict[str, Any] = {}
    if layout == "trident":
        write_trident(folder / f"{slide_id}.h5", rows[None], corners)
    elif layout == "stamp":
        write_stamp(folder / f"{slide_id}.h5", rows, corners)
    elif layout == "pt table":
        torch.save(
            {"feats": torch.from_numpy(rows), "coords": torch.from_numpy(corners)}, folder / f"{slide_id}.pt"
        )
        settings = {"encoder": "uni", "tile_px": 224, "mpp": 0.5}
    else:
        write_clam_patches(folder.parent / "patches" / f"{slide_id}.h5", corners)
        settings = {"encoder": "uni", "coordinates": str(folder.parent / "patches")}
        if layout == "pt":
            torch.save(torch.from_numpy(rows), folder / f"{slide_id}.pt")
        else:
            with h5py.File(folder / f"{slide_id}.h5", "w") as file:
                file["features"] = rows
    import_features(study.root, files=str(folder), name="imported", **settings)
    store = study.features("imported")
    assert store.slide_ids == [slide_id]
    np.testing.assert_array_equal(store.rows(slide_id), rows)
    np.testing.assert_array_equal(store.coordinates(slide_id), corners)
    assert (store.tile_size(slide_id), store.mpp0(slide_id)) == (448.0, 0.25)
    assert store.spec.provenance["tile_px"] == 224
    assert store.spec.provenance["mpp"] == pytest.approx(0.5)
    assert store.spec.provenance["encoder"] == {"trident": "uni_v1", "stamp": "mahmood-uni"}.get(
        layout, "uni"
    )
    assert store.spec.provenance["trained_on"] == []


def test_a_file_is_found_by_slide_by_image_and_by_the_name_inside(study: Study, folder: Path) -> None:
    ids = list(study.slides.index)
    write_trident(folder / f"{ids[0]}.h5", *tiles(seed=0))
    write_trident(folder / "image 1.h5", *tiles(seed=1))
    write_trident(folder / "no name.h5", *tiles(seed=2), name=ids[2])
    write_trident(folder / "stranger.h5", *tiles(seed=3))
    import_features(study.root, files=str(folder))
    store = study.features("uni_v1")
    assert store.slide_ids == sorted(ids[:3])
    np.testing.assert_array_equal(store.rows(ids[2]), tiles(seed=2)[0])
    assert dropped(study) == {"stranger.h5": "no slide_id and no image of slides.parquet has its name"}


def test_a_region_takes_the_tiles_that_lie_whole_within_it(study: Study, folder: Path) -> None:
    rows, _ = tiles(4)
    corners = np.array([[0, 0], [448, 0], [896, 0], [897, 0]])
    write_trident(folder / "image 7.h5", rows, corners)
    import_features(study.root, files=str(folder))
    region = study.slides.index[7]
    np.testing.assert_array_equal(study.features("uni_v1").coordinates(region), corners[1:3])
    np.testing.assert_array_equal(study.features("uni_v1").rows(region), rows[1:3])


def test_every_unusable_file_is_audited_with_its_reason_and_the_rest_imported(
    study: Study, folder: Path
) -> None:
    ids = list(study.slides.index)
    rows, corners = tiles()
    for i, value in ((0, np.nan), (1, np.inf), (2, 1e6)):
        wrong = rows.copy()
        wrong[3, 1] = value
        write_trident(folder / f"{ids[i]}.h5", wrong, corners)
    write_trident(folder / f"{ids[3]}.h5", rows, corners[:4])
    write_trident(folder / f"{ids[4]}.h5", rows, corners, patch_size_level0=896)
    write_trident(folder / f"{ids[5]}.h5", rows, corners)
    torch.save(torch.from_numpy(rows), folder / f"{ids[5]}.pt")
    with h5py.File(folder / f"{ids[6]}.h5", "w") as file:
        file["features"] = rows
    write_trident(folder / "slide.h5", rows[0], corners)
    write_trident(folder / f"{ids[7]}.h5", rows, np.full_like(corners, 10**6))
    (folder / "empty.h5").touch()
    (folder / "cut.h5").write_bytes((folder / f"{ids[0]}.h5").read_bytes()[:900])
    (folder / "folder.h5").mkdir()
    (folder / "loop.h5").symlink_to(folder / "loop.h5")
    (folder / "process_list.csv").touch()
    write_trident(folder / "image 0 [b] ü.h5", rows, corners)
    write_stamp(folder / "old.h5", rows, corners, unit=None)
    torch.save(
        {"features": torch.from_numpy(rows).long(), "coords": torch.from_numpy(corners)}, folder / "whole.pt"
    )
    slides = pd.read_parquet(study.root / "slides.parquet")
    extra = slides.iloc[[0]].assign(slide_id="sound", path="slides/s.tif")
    unscaled = slides.iloc[[0]].assign(slide_id="unscaled", path="slides/u.tif", mpp_override=np.nan)
    pd.concat([slides, extra, unscaled]).to_parquet(study.root / "slides.parquet")
    write_trident(folder / "sound.h5", rows, corners)
    write_trident(folder / "unscaled.h5", rows, corners)

    import_features(study.root, files=str(folder), mpp=0.5)
    assert study.features("uni_v1").slide_ids == [ids[5], "sound"]
    assert study.features("uni_v1").verify() == []
    reasons = dropped(study)
    for name, reason in {
        ids[0]: "is nan, not a finite float16",
        ids[1]: "is inf, not a finite float16",
        ids[2]: "not a finite float16",
        ids[3]: "5 rows of features, and coordinates of shape (4, 2)",
        ids[4]: "1 um/px, more than 10% off the 0.5",
        f"{ids[5]}.pt": "has no coordinates",
        f"{ids[6]}.h5": "has no coordinates",
        ids[7]: "no tile of its file lies within its region",
        "slide.h5": "not [tiles, dimension]",
        "empty.h5": "cannot be read",
        "cut.h5": "cannot be read",
        "folder.h5": "cannot be read",
        "loop.h5": "cannot be read",
        "process_list.csv": "is no file of features",
        "image 0 [b] ü.h5": "no slide_id and no image",
        "old.h5": "no unit (STAMP before 2.0)",
        "whole.pt": "int64, not floating",
        "unscaled": "set mpp_override in slides.parquet, or source.mpp0",
    }.items():
        assert reason in reasons.pop(name), name
    assert reasons == {}


def test_a_file_of_no_slide_is_told_the_name_near_it_before_what_it_lacks(study: Study, folder: Path) -> None:
    """A misspelt file has no patches/<slide>.h5 beside it either: its name is what is wrong."""
    ids = list(study.slides.index)
    rows, corners = tiles()
    write_trident(folder / f"{ids[0]}.h5", rows, corners)
    write_trident(folder / "Image-2.h5", rows, corners)
    for stem in (ids[1].upper(), "entirely other", ids[3]):
        torch.save(torch.from_numpy(rows), folder / f"{stem}.pt")
    import_features(study.root, files=str(folder))
    reasons = dropped(study)
    unknown = "no slide_id and no image of slides.parquet has its name"
    assert reasons["Image-2.h5"] == f"{unknown}; did you mean 'image 2'?"
    assert reasons[f"{ids[1].upper()}.pt"] == f"{unknown}; did you mean {ids[1]!r}?"
    assert reasons["entirely other.pt"] == unknown
    assert "has no coordinates" in reasons[f"{ids[3]}.pt"]


def test_two_files_of_a_slide_are_both_left_out(study: Study, folder: Path) -> None:
    ids = list(study.slides.index)
    write_trident(folder / f"{ids[0]}.h5", *tiles())
    write_trident(folder / "image 0.h5", *tiles(seed=1))
    write_trident(folder / f"{ids[1]}.h5", *tiles())
    import_features(study.root, files=str(folder))
    assert study.features("uni_v1").slide_ids == [ids[1]]
    assert "2 files hold its features" in dropped(study)[ids[0]]


def _other_dimension(path: Path) -> None:
    write_trident(path, *tiles(dim=DIM + 1))


def _other_side(path: Path) -> None:
    write_trident(path, *tiles(), patch_size=256)


def _other_encoder(path: Path) -> None:
    write_stamp(path, *tiles())


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_other_dimension, r"dimension are mixed: 6 in 2 \(such as .*\); 7 in 1"),
        (_other_side, "side in pixels of are mixed: 224 in 2 .*256 in 1"),
        (_other_encoder, "encoder are mixed: uni_v1 in 2 .*mahmood-uni in 1"),
    ],
)
def test_files_unlike_one_another_are_refused_before_anything_is_written(
    study: Study, folder: Path, write: Callable[[Path], None], message: str
) -> None:
    ids = list(study.slides.index)
    for slide_id in ids[:2]:
        write_trident(folder / f"{slide_id}.h5", *tiles())
    write(folder / f"{ids[2]}.h5")
    with pytest.raises(FeatureImportError, match=message):
        import_features(study.root, files=str(folder))
    assert not (study.root / "features").exists()


def test_what_must_be_given_is_asked_for(study: Study, folder: Path) -> None:
    ids = list(study.slides.index)
    with pytest.raises(FeatureFileError, match="holds no file"):
        import_features(study.root, files=str(folder))
    with pytest.raises(FeatureFileError, match="no such file or folder"):
        import_features(study.root, files=[str(folder / "gone.h5")])
    rows, corners = map(torch.from_numpy, tiles())
    torch.save({"features": rows, "coords": corners}, folder / f"{ids[0]}.pt")
    for settings_, message in (
        ({}, "set source.tile_px"),
        ({"tile_px": 224}, "set source.mpp"),
        ({"tile_px": 224, "mpp": 0.5}, "set source.encoder"),
        ({"tile_px": 224, "mpp": 0.5, "encoder": "../x"}, "source.name"),
    ):
        with pytest.raises(FeatureImportError, match=message):
            import_features(study.root, files=str(folder), **settings_)
    assert not (study.root / "features").exists()


def test_a_pickle_that_carries_code_is_never_run(study: Study, folder: Path) -> None:
    class Carrier:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return os.mkdir, (str(folder / "ran"),)

    torch.save({"features": Carrier()}, folder / f"{study.slides.index[0]}.pt")
    with pytest.raises(FeatureImportError, match="could run code, and is refused"):
        import_features(study.root, files=str(folder))
    assert not (folder / "ran").exists()


def test_a_repeated_import_takes_what_is_new_and_its_audit_replaces_the_former(
    study: Study, folder: Path
) -> None:
    ids = list(study.slides.index)
    write_trident(folder / f"{ids[0]}.h5", *tiles(seed=0))
    (folder / f"{ids[1]}.h5").touch()
    import_features(study.root, files=str(folder))
    assert set(dropped(study)) == {f"{ids[1]}.h5"}
    before = study.features("uni_v1").digest()
    import_features(study.root, files=str(folder))
    assert study.features("uni_v1").digest() == before
    write_trident(folder / f"{ids[1]}.h5", *tiles(seed=1))
    import_features(study.root, files=str(folder))
    assert dropped(study) == {}
    assert study.features("uni_v1").slide_ids == sorted(ids[:2])
    with pytest.raises(StoreMismatch, match="encoder"):
        import_features(study.root, files=str(folder), name="uni_v1", encoder="uni2_h")


bags = st.dictionaries(
    st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12),
    st.tuples(st.integers(1, 9), st.integers(0, 99)),
    min_size=1,
    max_size=4,
)


@given(bags, st.floats(0.05, 4.0), st.floats(1.0, 5000.0), st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_a_bag_written_as_clam_reads_back_as_it_was(
    lengths: dict[str, tuple[int, int]], mpp0: float, tile_size: float, dim: int
) -> None:
    about = {"encoder": "own", "weights": "abc", "mpp": 1.0, "tile_px": 112, "trained_on": ["b", "ü, c"]}
    with tempfile.TemporaryDirectory() as folder:
        store = BagStore.create(Path(folder) / "store", StoreSpec("features", "float16", (dim,), about))
        with store.writer() as writer:
            for slide_id, (n, seed) in lengths.items():
                writer.append(slide_id, *tiles(n, seed, dim), tile_size=tile_size, mpp0=mpp0)
        for i, slide_id in enumerate(lengths):
            path = Path(folder) / "h5" / f"{i}.h5"
            write_clam_h5(store, slide_id, path)
            with h5py.File(path) as file:  # what CLAM reads
                assert file["features"].dtype == np.float32
                np.testing.assert_array_equal(file["coords"], store.coordinates(slide_id))
            found = read_header(path)
            assert slide_id in found.names
            assert (found.mpp0, found.tile_size, found.tile_px) == (mpp0, tile_size, 112)
            assert (found.encoder, found.weights, found.trained_on) == ("own", "abc", ("b", "ü, c"))
            rows = np.concatenate(list(read_rows(found, np.ones(found.n, bool))))
            np.testing.assert_array_equal(rows, store.rows(slide_id))
            np.testing.assert_array_equal(read_coordinates(found, mpp0), store.coordinates(slide_id))
        assert feature_files([Path(folder) / "h5"]) == sorted((Path(folder) / "h5").iterdir())


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_file_cut_or_changed_anywhere_is_read_or_refused_and_never_a_traceback(data: st.DataObject) -> None:
    rows, corners = tiles(3)
    kind = data.draw(st.sampled_from(["trident", "stamp", "pt"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.pt" if kind == "pt" else "a.h5")
        if kind == "pt":
            torch.save({"features": torch.from_numpy(rows), "coords": torch.from_numpy(corners)}, path)
        else:
            {"trident": write_trident, "stamp": write_stamp}[kind](path, rows, corners)
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            del content[at:]
        else:
            content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        try:
            found = read_header(path)
            read_coordinates(found, 0.25)
            list(read_rows(found, np.ones(found.n, bool)))
        except FeatureFileError as error:
            assert str(error)  # noqa: PT017


def test_damage_that_the_library_does_not_see_is_refused(tmp_path: Path) -> None:
    """One changed byte makes a text a list of numbers, or a dataset a type."""
    path = tmp_path / "a.h5"
    write_trident(path, *tiles(3))
    with h5py.File(path, "a") as file:
        numbers = np.empty(1, object)
        numbers[0] = np.array([1, 2], np.int8)
        file["coords"].attrs.create("name", numbers, dtype=h5py.vlen_dtype(np.int8))
    with pytest.raises(FeatureFileError, match="attribute name is neither a number nor text"):
        read_header(path)
    write_stamp(path, *tiles(3))
    whole = read_header(path)
    with h5py.File(path, "a") as file:
        del file["coords"]
        file["coords"] = np.dtype("f8")
    with pytest.raises(FeatureFileError, match="is it whole"):
        read_coordinates(whole, 0.25)


def test_export_and_import_on_the_command_line(
    study: Study, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = f"paths.outputs={tmp_path / 'outputs'}"
    ids = list(study.slides.index[:7])
    for i, slide_id in enumerate(ids):
        write_trident(folder / f"{slide_id}.h5", *tiles(3 + i, i))
    (folder / "stray.h5").touch()
    prepare.main(
        ["source=features", f"output={study.root}", f"source.files={folder}", "source.name=first", outputs]
    )
    printed = capsys.readouterr().out
    assert "features 'first': 7 of 8 slides, 42 tiles" in printed
    assert "1 file dropped in features/first" in printed
    extract.main([f"study={study.root}", "output=h5", "name=first", "into=clam", outputs])
    exported = tmp_path / "outputs" / "extract" / "clam" / "h5_files"
    assert f"7 files in {exported}; 1 slides have no features" in capsys.readouterr().out
    prepare.main(
        ["source=features", f"output={study.root}", f"source.files={exported}", "source.name=second", outputs]
    )
    first, second = study.features("first"), study.features("second")
    assert second.digest() == first.digest()
    assert json.loads((study.root / "audit.json").read_text())[-1]["id"] == "stray.h5"


def test_bags_without_coordinates_are_imported_and_said_to_be(study: Study, folder: Path) -> None:
    """A slide that is a region of its image is left out: which tiles are its own, nobody knows."""
    for i in (0, 1, 7):
        torch.save(torch.from_numpy(tiles(4 + i, seed=i)[0]).half(), folder / f"{study.slides.index[i]}.pt")
    with pytest.raises(FeatureImportError, match=r"source\.coordinates=none"):
        import_features(study.root, files=str(folder), encoder="hipt")
    import_features(study.root, files=str(folder), encoder="hipt", coordinates="none")
    store = study.features("hipt")
    assert not store.placed
    assert store.slide_ids == sorted(study.slides.index[[0, 1]])
    np.testing.assert_array_equal(store.rows(study.slides.index[1]), tiles(5, seed=1)[0])
    assert store.spec.provenance["coordinates"] == "none"
    assert store.spec.made_by == {
        "encoder": "hipt", "weights": None, "mpp": None, "tile_px": None, "stain": None
    }  # fmt: skip
    assert "region of its image" in dropped(study)[study.slides.index[7]]
    write_clam_h5(store, study.slides.index[0], folder / "back.h5")
    assert read_header(folder / "back.h5", placed=False).coordinates_path is None
    with pytest.raises(FeatureFileError, match="no coordinates"):
        read_header(folder / "back.h5")


class TestWhatSaysNothing:
    GRID = np.stack(np.divmod(np.arange(400), 20), axis=1)

    @pytest.mark.parametrize(
        ("corners", "message"),
        [
            (np.random.default_rng(0).random((400, 2)), "lie upon one another"),
            (np.zeros((400, 2)), "lie upon one another"),
            (GRID, "lie upon one another .x from 0 to 19, y from 0 to 19, for 400 tiles of 448 px"),
            (GRID[:5], "lie upon one another"),
            (-448 * GRID, "outside of the slide: x from -8512 to 0"),
        ],
        ids=["shares", "one place", "grid", "a small grid", "negative"],
    )
    def test_coordinates_that_are_no_places_are_refused(
        self, study: Study, folder: Path, corners: np.ndarray, message: str
    ) -> None:
        rows, _ = tiles(n=len(corners))
        write_trident(folder / f"{study.slides.index[0]}.h5", rows, corners)
        with pytest.raises(FeatureImportError, match=message):
            import_features(study.root, files=str(folder))

    def test_tiles_that_overlap_or_are_listed_twice_are_places(self, study: Study, folder: Path) -> None:
        ids = list(study.slides.index)
        for slide_id, corners in zip(
            ids, (self.GRID * 112, np.repeat(self.GRID[:200] * 448, 2, axis=0)), strict=False
        ):
            write_trident(folder / f"{slide_id}.h5", tiles(n=400)[0] + ids.index(slide_id), corners)
        import_features(study.root, files=str(folder))
        assert [study.features("uni_v1").n_rows(i) for i in sorted(ids[:2])] == [400, 400]

    def test_features_of_an_encoder_that_never_ran_are_refused(self, study: Study, folder: Path) -> None:
        rows, corners = tiles()
        first, second, third = map(str, study.slides.index[:3])
        write_trident(folder / f"{first}.h5", rows * 0, corners)
        write_trident(folder / f"{second}.h5", rows[:1].repeat(5, axis=0), corners)
        write_trident(folder / f"{third}.h5", rows, corners)
        import_features(study.root, files=str(folder))
        assert study.features("uni_v1").slide_ids == [third]
        assert dropped(study) == {
            first: "its features are zeros: make them anew",
            second: "its features are the same in every tile: make them anew",
        }

    def test_features_of_another_slide_are_asked_about(self, study: Study, folder: Path) -> None:
        first, second = map(str, study.slides.index[:2])
        for slide_id in (first, second):
            write_trident(folder / f"{slide_id}.h5", *tiles())
        import_features(study.root, files=str(folder))
        asked = near_names(Audit.read(study.root / "audit.json"))
        assert [f"Those of {second}.h5 are those of {first}.h5" in line for line in asked] == [True]

    def test_a_tensor_that_wants_a_gradient_is_read(self, study: Study, folder: Path) -> None:
        slide_id = str(study.slides.index[0])
        rows = torch.from_numpy(tiles()[0]).requires_grad_()
        torch.save(rows, folder / f"{slide_id}.pt")
        import_features(study.root, files=str(folder), coordinates="none", encoder="own")
        assert study.features("own").rows(slide_id).tolist() == rows.tolist()

    def test_a_magnification_is_no_resolution(self, study: Study, folder: Path) -> None:
        for key in ("mpp", "mpp0"):
            with pytest.raises(
                FeatureImportError, match=rf"source\.{key}=20: is in micrometres per pixel, and no"
            ):
                import_features(study.root, files=str(folder), **{key: 20.0})

    def test_what_a_folder_or_a_table_holds_instead_is_named(self, study: Study, folder: Path) -> None:
        (folder / "A.zarr").mkdir()
        with pytest.raises(
            FeatureFileError, match=r"holds no file but the folders A\.zarr; correct source\.files"
        ):
            import_features(study.root, files=str(folder))
        torch.save({"embeddings": torch.ones(2, 3)}, folder / f"{study.slides.index[0]}.pt")
        with pytest.raises(FeatureImportError, match="holds a table with embeddings, and neither a tensor"):
            import_features(study.root, files=str(folder))
