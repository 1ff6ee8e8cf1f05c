"""Extraction: every slide ends in a state with a reason, and stopping at any moment costs nothing."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from toxfusion import extract
from toxfusion.data.encoding import BagEncoder
from toxfusion.slides.grid import Region, TileGrid
from toxfusion.slides.ledger import Ledger, SlideRecord, summary, write_audit
from toxfusion.slides.pipeline import (
    ExtractionError,
    TileSink,
    extract_slides,
    in_order,
    shard_of,
    tasks_of_files,
)
from toxfusion.slides.planning import SlideTask, file_name
from toxfusion.slides.readers import open_slide
from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.store_spec import StoreSpec

WriteSlide = Callable[..., Path]
Section = Callable[..., np.ndarray]
GRID = TileGrid(mpp=1.0, tile_px=32, max_tiles=12)
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "slides"


def tile_store(root: Path, grid: TileGrid = GRID) -> BagStore:
    return BagStore.create(root, StoreSpec("tiles", "uint8", (32, 32, 3), grid.provenance()))


def run(
    tasks: list[SlideTask], store: BagStore, grid: TileGrid = GRID, jobs: int = 2
) -> dict[str, SlideRecord]:
    ledger = Ledger(store.root / "extraction.csv")
    previews = store.root / "previews"
    return extract_slides(tasks, store, grid, TileSink, jobs=jobs, ledger=ledger, previews=previews)


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return {row["slide_id"]: row for row in csv.DictReader(file)}


@pytest.fixture
def mixed(tmp_path: Path, write_slide: WriteSlide, section: Section) -> list[SlideTask]:
    """Two sound slides with odd names among every kind of unsound one."""
    folder = tmp_path / "slides"
    write_slide("slides/good [1] ü(a).tif")
    write_slide("slides/other.tif", seed=1)
    write_slide("slides/coarse.tif", mpp=2.0)
    write_slide("slides/unscaled.tif", mpp=None)
    Image.fromarray(np.full((300, 300, 3), 244, np.uint8)).save(folder / "glass.png")
    Image.fromarray(section(40, 40)).save(folder / "tiny.png")
    Image.fromarray(np.full((300, 300, 3), (9, 9, 60), np.uint8)).save(folder / "black.png")
    (folder / "empty.svs").touch()
    (folder / "noise.svs").write_bytes(b"no slide at all")
    cut = write_slide("slides/cut.tif", levels=1, jpeg=False)
    cut.write_bytes(cut.read_bytes()[:-200_000])
    tasks = tasks_of_files([folder])
    override = {"glass": 0.5, "tiny": 0.5, "black": 0.5}
    tasks = [SlideTask(t.slide_id, t.path, override.get(t.slide_id)) for t in tasks]
    return [*tasks, SlideTask("absent", folder / "absent.svs"), SlideTask("folder", folder)]


def test_every_slide_ends_in_a_state_with_a_reason(tmp_path: Path, mixed: list[SlideTask]) -> None:
    store = tile_store(tmp_path / "store")
    records = run(mixed, store)
    expected = {
        "good [1] ü(a)": ("done", ""),
        "other": ("done", ""),
        "coarse": ("skipped", "2 times as coarse"),
        "unscaled": ("skipped", "mpp_override"),
        "glass": ("skipped", "none of 16 tiles has at least 50% tissue"),
        "tiny": ("skipped", "smaller than one tile"),
        "black": ("skipped", "does not look like transmitted light"),
        "empty": ("failed", "the file is empty"),
        "noise": ("failed", "no reader opens it"),
        "cut": ("failed", "cut short"),
        "absent": ("failed", "no such file"),
        "folder": ("failed", "is a folder"),
    }
    assert {name: record.state for name, record in records.items()} == {
        n: s for n, (s, _) in expected.items()
    }
    table = rows_of(tmp_path / "store" / "extraction.csv")
    for name, (state, reason) in expected.items():
        assert reason in records[name].reason
        assert (table[name]["state"], table[name]["reason"]) == (state, records[name].reason)
    assert store.slide_ids == ["good [1] ü(a)", "other"]
    # Every slide whose tissue was looked for is seen, those without a tile among them.
    seen = {path.stem for path in (store.root / "previews").iterdir()}
    assert seen == {file_name(name) for name in ("good [1] ü(a)", "other", "glass", "tiny", "black")}
    assert table["other"]["n_tiles"] == "12"
    assert store.verify() == []
    text = summary(records.values())
    assert "12 slides: 2 done (24 tiles), 5 skipped, 5 failed" in text
    assert all(name in text for name, (state, _) in expected.items() if state != "done")


def test_tiles_are_the_pixels_at_their_coordinates(tmp_path: Path, write_slide: WriteSlide) -> None:
    path = write_slide("a.tif")
    store = tile_store(tmp_path / "store")
    run([SlideTask("a", path)], store)
    assert store.mpp0("a") == pytest.approx(0.5, rel=1e-3)
    assert store.tile_size("a") == pytest.approx(64, rel=1e-3)
    with open_slide(path) as slide:
        for tile, (x, y) in zip(store.rows("a"), store.coordinates("a"), strict=True):
            np.testing.assert_array_equal(tile, slide.read_region(int(x), int(y), 32, 32, 1.0))


def test_an_override_far_from_the_metadata_is_asked_about(tmp_path: Path, write_slide: WriteSlide) -> None:
    path = write_slide("a.tif", mpp=0.5)
    records = run(
        [SlideTask("a", path, mpp_override=1.0), SlideTask("b", path)], tile_store(tmp_path / "store")
    )
    said = "1 um/px by mpp_override in slides.parquet; did you mean the 0.5 of the file's metadata?"
    assert summary(records.values()).endswith(f"  look at a: {said}")
    write_audit(tmp_path / "audit.json", records.values())
    asked = Audit.read(tmp_path / "audit.json").records
    assert [(r.id, r.reason, r.outcome) for r in asked] == [("a", said, "changed")]


def test_regions_of_one_image_are_slides_of_their_own(tmp_path: Path, write_slide: WriteSlide) -> None:
    path = write_slide("a.tif")
    left, right = Region(100, 100, 200, 300), Region(340, 100, 200, 300)
    store = tile_store(tmp_path / "store")
    tasks = [SlideTask("left", path, None, left), SlideTask("right", path, None, right)]
    tasks.append(SlideTask("beside", path, None, Region(9000, 0, 10, 10)))
    records = run(tasks, store)
    assert records["beside"].state == "skipped"
    for name, region in (("left", left), ("right", right)):
        x, y = store.coordinates(name).T
        side = store.tile_size(name)
        assert x.min() >= region.x
        assert (x + side).max() <= region.x + region.width + 1
        assert y.min() >= region.y
        assert (y + side).max() <= region.y + region.height + 1


def test_a_second_run_does_only_what_is_missing_and_forgets_what_was_mended(
    tmp_path: Path, write_slide: WriteSlide
) -> None:
    good, late = write_slide("good.tif"), tmp_path / "late.tif"
    tasks = [SlideTask("good", good), SlideTask("late", late)]
    store = tile_store(tmp_path / "store")
    first = run(tasks, store)
    write_audit(tmp_path / "audit.json", first.values())
    assert [record.id for record in Audit.read(tmp_path / "audit.json").records] == ["late"]
    before = store.digest()
    write_slide("late.tif", seed=3)
    good.unlink()  # not needed any more
    second = run(tasks, BagStore.open(tmp_path / "store"))
    assert {record.state for record in second.values()} == {"done"}
    assert second["good"].sharpness == pytest.approx(first["good"].sharpness, rel=1e-4)
    write_audit(tmp_path / "audit.json", second.values())
    assert len(Audit.read(tmp_path / "audit.json")) == 0
    assert BagStore.open(tmp_path / "store").digest() != before


def test_the_number_of_threads_changes_nothing(tmp_path: Path, write_slide: WriteSlide) -> None:
    tasks = [SlideTask(f"s{i}", write_slide(f"s{i}.tif", seed=i)) for i in range(4)]
    grid = TileGrid(1.0, 32)
    for jobs in (1, 4):
        run(tasks, tile_store(tmp_path / f"store{jobs}", grid), grid, jobs)
    assert BagStore.open(tmp_path / "store1").digest() == BagStore.open(tmp_path / "store4").digest()


def test_shards_part_the_slides_and_join_in_one_store(tmp_path: Path, write_slide: WriteSlide) -> None:
    image = write_slide("shared.tif", seed=9)
    tasks = [SlideTask(f"s{i}", write_slide(f"s{i}.tif", seed=i)) for i in range(3)]
    tasks += [SlideTask(f"part{i}", image, None, Region(120 * i, 100, 240, 300)) for i in range(1, 4)]
    shards = [shard_of(tasks, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(t.slide_id for shard in shards for t in shard) == sorted(t.slide_id for t in tasks)
    assert any({"part1", "part2", "part3"} <= {t.slide_id for t in shard} for shard in shards)
    for shard in shards:
        run(shard, tile_store(tmp_path / "sharded"))
    run(tasks, tile_store(tmp_path / "whole"))
    assert BagStore.open(tmp_path / "sharded").digest() == BagStore.open(tmp_path / "whole").digest()
    for wrong in ("0/3", "4/3", "1", "a/b"):
        with pytest.raises(ExtractionError, match="shard="):
            shard_of(tasks, wrong)


def encode_slides(root: Path, slides: Path, fatal_batch: int | None = None) -> None:
    """Extract features with a small network; SIGKILL this process in place of batch number `fatal_batch`."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16)
    ).eval()
    batches: list[int] = []

    def encoder(tiles: torch.Tensor) -> torch.Tensor:
        batches.append(len(tiles))
        if len(batches) == fatal_batch:
            os.kill(os.getpid(), signal.SIGKILL)
        features: torch.Tensor = network(tiles.permute(0, 3, 1, 2) / 255)
        return features

    extract_slides(
        tasks_of_files([slides]),
        BagStore.create(root, StoreSpec("features", "float16", (16,), GRID.provenance())),
        GRID,
        lambda writer, ended: BagEncoder(encoder, writer, batch_size=5, device="cpu", ended=ended),
        jobs=2,
        ledger=Ledger(root / "extraction.csv"),
        previews=None,
    )


def test_killed_half_way_and_resumed_gives_equal_bits(tmp_path: Path, write_slide: WriteSlide) -> None:
    for i in range(5):
        write_slide(f"slides/s{i}.tif", seed=i)
    killed, whole, slides = tmp_path / "killed", tmp_path / "whole", tmp_path / "slides"
    # Three batches a slide: the eighth is in the middle of the third slide.
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path\n"
        f"from test_pipeline import encode_slides\n"
        f"encode_slides(Path({str(killed)!r}), Path({str(slides)!r}), fatal_batch=8)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert len(BagStore.open(killed)) == 2
    encode_slides(killed, slides)
    encode_slides(whole, slides)
    assert len(BagStore.open(whole)) == 5
    assert BagStore.open(killed).digest() == BagStore.open(whole).digest()
    assert BagStore.open(killed).verify() == []
    states = {name: row["state"] for name, row in rows_of(killed / "extraction.csv").items()}
    assert states == {f"s{i}": "done" for i in range(5)}


def test_nan_features_fail_their_slide_and_the_run_goes_on(tmp_path: Path, write_slide: WriteSlide) -> None:
    tasks = [SlideTask(f"s{i}", write_slide(f"s{i}.tif", seed=i)) for i in range(3)]
    store = BagStore.create(tmp_path / "store", StoreSpec("features", "float16", (3,)))
    calls: list[int] = []

    def encoder(tiles: torch.Tensor) -> torch.Tensor:
        calls.append(len(tiles))
        features = tiles.float().mean(dim=(1, 2))
        return features / 0 if len(calls) == 2 else features

    records = extract_slides(
        tasks,
        store,
        GRID,
        lambda writer, ended: BagEncoder(encoder, writer, batch_size=12, device="cpu", ended=ended),
        jobs=1,
        ledger=Ledger(store.root / "extraction.csv"),
        previews=None,
    )
    assert [records[f"s{i}"].state for i in range(3)] == ["done", "failed", "done"]
    assert "not a finite float16" in records["s1"].reason
    assert store.slide_ids == ["s0", "s2"]


def test_the_table_survives_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "extraction.csv"
    ledger = Ledger(path)
    ledger.put(SlideRecord("a, b", "x\ny", "done", 'a "reason"', mpp0=0.25, n_tiles=3))
    ledger.put(SlideRecord("c", "z", "failed", "no such file"))
    path.write_text(path.read_text()[:-25])
    again = Ledger(path)
    assert again.records["a, b"] == SlideRecord("a, b", "x\ny", "done", 'a "reason"', mpp0=0.25, n_tiles=3)
    again.write()
    again.put(SlideRecord("d", "z", "done"))
    assert "d" in Ledger(path).records


def test_results_come_in_order_and_an_error_stops_the_rest() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        assert list(in_order(pool, lambda i: i * i, range(20), depth=4)) == [i * i for i in range(20)]
        started: list[int] = []

        def failing(i: int) -> int:
            started.append(i)
            if i == 3:
                raise KeyError(i)
            return i

        with pytest.raises(KeyError):
            list(in_order(pool, failing, range(1000), depth=4))
        assert len(started) < 20


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_a_slide_cut_or_changed_anywhere_ends_in_a_state_with_a_reason(data: st.DataObject) -> None:
    picture = np.random.default_rng(0).integers(60, 200, (96, 96, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / ("a" + data.draw(st.sampled_from([".tif", ".svs", ".png", ".mrxs"])))
        tifffile.imwrite(
            path, picture, tile=(32, 32), photometric="rgb", resolution=(10_000, 10_000), resolutionunit=3
        )
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, 400) | st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            del content[at:]
        else:
            content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        store = tile_store(Path(name) / "store")
        (record,) = run(tasks_of_files([path]), store).values()
        assert record.state in ("done", "skipped", "failed")
        assert record.state == "done" or record.reason
        assert store.slide_ids == (["a"] if record.state == "done" else [])
        assert store.verify() == []


def test_entries_that_are_no_slides_end_failed_and_cost_no_other_slide(
    tmp_path: Path, write_slide: WriteSlide
) -> None:
    sound = write_slide("slides/sound [1] (a).tif")
    folder = sound.parent
    (folder / "loop.svs").symlink_to(folder / "loop.svs")
    (folder / "dangling.svs").symlink_to(folder / "gone.svs")
    (folder / "linked.tif").symlink_to(sound)
    (folder / "a folder.svs").mkdir()
    (folder / "companion").mkdir()
    os.mkfifo(folder / "pipe.tif")
    (folder / "text.svs").write_text("no slide")
    (folder / "no dicom.dcm").write_text("no slide, and tiatoolbox has exceptions of its own")
    shutil.copy(sound, folder / "wrong extension.jpg")
    ended = run(tasks_of_files([folder]), tile_store(tmp_path / "store"))
    reasons = {
        "sound [1] (a)": "",
        "linked": "",
        "wrong extension": "",
        "loop": "cannot be reached",
        "dangling": "no such file",
        "a folder": "is a folder",
        "pipe": "is no regular file",
        "text": "no reader opens it",
        "no dicom": "no reader opens it",
    }
    assert set(ended) == set(reasons)
    for slide_id, reason in reasons.items():
        assert ended[slide_id].state == ("failed" if reason else "done"), ended[slide_id].reason
        assert reason in ended[slide_id].reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_slide_without_permission_fails_by_name(tmp_path: Path, write_slide: WriteSlide) -> None:
    locked, other = write_slide("locked.tif"), write_slide("inside/other.tif")
    locked.chmod(0)
    other.parent.chmod(0)
    ended = run([SlideTask("locked", locked), SlideTask("other", other)], tile_store(tmp_path / "store"))
    other.parent.chmod(0o700)
    assert [record.state for record in ended.values()] == ["failed", "failed"]
    assert "cannot be reached" in ended["other"].reason


def test_files_with_one_stem_keep_their_suffix(tmp_path: Path) -> None:
    for name in ("a.svs", "a.tif", "b.ome.tif", ".hidden"):
        (tmp_path / name).touch()
    assert [task.slide_id for task in tasks_of_files([tmp_path])] == ["a.svs", "a.tif", "b"]
    with pytest.raises(ExtractionError, match="no such file or folder"):
        tasks_of_files([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExtractionError, match="holds no file"):
        tasks_of_files([tmp_path / "empty"])


def command(folder: Path, *arguments: str) -> None:
    extract.main([*arguments, f"paths.outputs={folder}", "jobs=2", "grid.tile_px=32", "grid.max_tiles=12"])


def test_tiles_of_a_former_region_are_refused(
    own_tiny_study: object, write_slide: WriteSlide, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pandas as pd

    root = own_tiny_study.root  # type: ignore[attr-defined]
    slides = pd.read_parquet(root / "slides.parquet").head(1)
    (root / "slides").mkdir()
    write_slide("one.tif").rename(root / slides["path"].iloc[0])
    slides.to_parquet(root / "slides.parquet")
    command(tmp_path, f"study={root}")
    slides.assign(x=0.0, y=0.0, width=40.0, height=40.0).to_parquet(root / "slides.parquet")
    with pytest.raises(SystemExit):
        command(tmp_path, f"study={root}")
    assert "lie outside of their region in the slide table" in capsys.readouterr().err
    command(tmp_path, f"study={root}", "name=region")


def test_the_command_extracts_a_study_and_puts_what_is_left_out_into_its_audit(
    own_tiny_study: object, write_slide: WriteSlide, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pandas as pd

    root = own_tiny_study.root  # type: ignore[attr-defined]
    slides = pd.read_parquet(root / "slides.parquet")
    kept = slides.head(4)
    kept.to_parquet(root / "slides.parquet")
    (root / "slides").mkdir()
    for i, path in enumerate(kept["path"].iloc[:3]):
        shutil.copy(write_slide(f"s{i}.tif", seed=i), root / path)
    command(tmp_path, f"study={root}", "output=tiles")
    assert "4 slides: 3 done (36 tiles), 0 skipped, 1 failed" in capsys.readouterr().out
    dropped = [
        record for record in json.loads((root / "audit.json").read_text()) if record["stage"] == "extract"
    ]
    assert len(dropped) == 1
    assert "no such file" in dropped[0]["reason"]
    assert (root / "tiles" / "default" / "contact_sheet.png").exists()
    assert len(list((root / "tiles" / "default" / "previews").glob("*.png"))) == 3
    command(tmp_path, f"study={root}", "output=features", "input=tiles", "encoder=resnet18", "random=true")
    command(
        tmp_path,
        f"study={root}",
        "output=features",
        "encoder=resnet18",
        "random=true",
        "name=direct",
        "previews=false",
    )
    from_tiles = BagStore.open(root / "features" / "resnet18")
    direct = BagStore.open(root / "features" / "direct")
    assert from_tiles.slide_ids == direct.slide_ids
    assert from_tiles.spec.provenance["weights"] == "random:0"
    assert from_tiles.spec.provenance["trained_on"] == []
    for slide_id in direct.slide_ids:
        np.testing.assert_array_equal(from_tiles.rows(slide_id), direct.rows(slide_id))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output=rows", "slides=."], "output=rows"),
        ([], "give either study=FOLDER or slides="),
        (["slides=.", "input=tiles"], "input=tiles makes features"),
        (["slides=.", "grid.mpp=-1"], "grid.mpp=-1"),
        (["slides=absent"], "no such file or folder"),
        (["slides=.", "shard=5/4"], "shard=5/4"),
        (["slides=.", "output=features", "encoder=virchow2"], "weights=FILE"),
        (["slides=.", "output=features", "encoder=resnet"], "unknown encoder 'resnet'"),
        (["slides=.", "stain=pink"], "stain=pink"),
        (["slides=.", "stain_target=a.png"], "stain_target goes with"),
        (["slides=.", "stain=macenko", "output=features", "input=tiles"], "as they are read from slides"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.svs").touch()
    with pytest.raises(SystemExit):
        command(tmp_path, *arguments)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/slides is not there")
def test_the_real_slides_end_as_they_should(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(tmp_path, f"slides={REAL}", "output=tiles", "into=real")
    output = capsys.readouterr().out
    assert "4 slides: 2 done (24 tiles), 1 skipped, 1 failed" in output
    assert "no reader opens it" in output
    assert "28.97 um/px" in output
