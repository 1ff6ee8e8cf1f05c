"""Bag store: whole bags or none, whatever a writer leaves behind; specifications are never mixed."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toxfusion.study import bag_segments, bag_store
from toxfusion.study.bag_store import BagStore
from toxfusion.study.store_spec import StoreError, StoreMismatch, StoreSpec

SPEC = StoreSpec("features", "float16", (3,), {"encoder": "resnet50", "mpp": 1.0, "trained_on": []})


LONG_ID = "b" * 400


def bag(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 3)).astype(np.float16), rng.integers(0, 10_000, (n, 2))


def write(store: BagStore, lengths: dict[str, int]) -> None:
    with store.writer() as writer:
        for seed, (slide_id, n) in enumerate(lengths.items()):
            rows, coordinates = bag(n, seed)
            writer.append(slide_id, rows, coordinates, tile_size=224.0, mpp0=0.25)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.lists(st.integers(1, 6), max_size=4))
@settings(max_examples=25, deadline=None)
def test_what_was_appended_is_read_back_after_reopening(first: list[int], second: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = BagStore.create(folder, SPEC)
        lengths = {f"slide {i}": n for i, n in enumerate(first)}
        more = {f"späte [{i}]\n": n for i, n in enumerate(second)}
        write(store, lengths)
        write(BagStore.open(folder), more)
        reopened = BagStore.open(folder)
        assert reopened.slide_ids == sorted({**lengths, **more})
        for part in (lengths, more):
            for seed, (slide_id, n) in enumerate(part.items()):
                rows, coordinates = bag(n, seed)
                np.testing.assert_array_equal(reopened.rows(slide_id), rows)
                np.testing.assert_array_equal(reopened.coordinates(slide_id), coordinates)
                assert reopened.n_rows(slide_id) == n
        assert (reopened.tile_size("slide 0"), reopened.mpp0("slide 0")) == (224.0, 0.25)
        assert reopened.verify() == []


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written") / "store"
    write(BagStore.create(root, SPEC), {"a": 2, "b": 3, "c": 1})
    return root


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_only_whole_bags_are_seen_when_a_file_is_torn_at_any_byte(written: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["index", "rows", "coordinates"]))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        shutil.copytree(written, root)
        (path,) = root.glob(f"segments/*.{kind}")
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:cut])
        if kind == "index":
            whole = content[:cut].count(b"\n")
        else:
            ends = np.cumsum([2, 3, 1]) * {"rows": 6, "coordinates": 8}[kind]
            whole = int(np.sum(ends <= cut))
        store = BagStore.open(root)
        assert store.slide_ids == ["a", "b", "c"][:whole]
        for slide_id, (seed, n) in zip(store.slide_ids, [(0, 2), (1, 3), (2, 1)], strict=False):
            np.testing.assert_array_equal(store.rows(slide_id), bag(n, seed)[0])
        # A resumed run writes what is missing and the store ends whole.
        with store.writer() as writer:
            for seed, (slide_id, n) in enumerate({"a": 2, "b": 3, "c": 1}.items()):
                if slide_id not in store:
                    rows, coordinates = bag(n, seed)
                    writer.append(slide_id, rows, coordinates, tile_size=224.0, mpp0=0.25)
        assert BagStore.open(root).digest() == BagStore.open(written).digest()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_verify_finds_any_changed_byte(written: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["index", "rows", "coordinates"]))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        shutil.copytree(written, root)
        (path,) = root.glob(f"segments/*.{kind}")
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 2))] ^= 0x55
        path.write_bytes(content)
        store = BagStore.open(root)
        assert store.verify() != []
        # Repair drops what is damaged and nothing else; what is written again makes the store whole.
        store.repair()
        assert store.verify() == []
        assert len(store) >= 1  # a newline turned into another byte joins the lines of two bags
        with store.writer() as writer:
            for seed, (slide_id, n) in enumerate({"a": 2, "b": 3, "c": 1}.items()):
                if slide_id not in store:
                    rows, coordinates = bag(n, seed)
                    writer.append(slide_id, rows, coordinates, tile_size=224.0, mpp0=0.25)
        assert BagStore.open(root).digest() == BagStore.open(written).digest()


def test_a_bag_at_any_place_of_a_file_is_read_ahead_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []

    class Recorded(mmap.mmap):
        def madvise(self, *args: int) -> None:
            asked.append(args)
            super().madvise(*args)

    monkeypatch.setattr(bag_segments.mmap, "mmap", Recorded)
    store = BagStore.create(tmp_path, SPEC)
    lengths = {"unaligned": 1, "pages": 5_000, "last": 3}
    write(store, lengths)
    store = BagStore.open(tmp_path)
    begin = 0
    for slide_id, n in lengths.items():
        store.read_ahead(slide_id)
        advice, start, length = asked.pop()
        end = begin + n * SPEC.row_bytes
        assert advice == mmap.MADV_WILLNEED
        assert start % mmap.PAGESIZE == 0
        assert start <= begin < start + mmap.PAGESIZE
        assert start + length == end
        begin = end
    assert not asked
    with pytest.raises(StoreError, match="no slide 'other'"):
        store.read_ahead("other")


def test_rows_are_a_view_or_a_gather(written: Path) -> None:
    store = BagStore.open(written)
    rows = store.rows("b")
    assert not rows.flags.writeable
    np.testing.assert_array_equal(store.rows("b", [2, 0, 2]), rows[[2, 0, 2]])
    with pytest.raises(IndexError):
        store.rows("b", [3])
    with pytest.raises(StoreError, match="no slide 'z'"):
        store.rows("z")
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.rows("b"), rows)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoder": "uni"}, "encoder"),
        ({"mpp": 0.5}, "mpp"),
        ({"trained_on": ["valproate"]}, "trained_on"),
        ({"tile_px": 224}, "tile_px"),
    ],
)
def test_another_specification_is_refused_by_name(
    written: Path, change: dict[str, object], named: str
) -> None:
    other = StoreSpec("features", "float16", (3,), {**SPEC.provenance, **change})
    for opening in (BagStore.create, BagStore.open):
        with pytest.raises(StoreMismatch, match=named):
            opening(written, other)
    with pytest.raises(StoreMismatch, match="row_shape"):
        BagStore.create(written, StoreSpec("features", "float16", (4,), SPEC.provenance))
    assert BagStore.create(written, SPEC).spec == SPEC


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e6])
def test_a_feature_that_is_not_finite_in_the_store_is_refused(tmp_path: Path, value: float) -> None:
    store = BagStore.create(tmp_path / "store", SPEC)
    rows, coordinates = bag(4)
    wrong = rows.astype(np.float32)
    wrong[2, 1] = value
    with store.writer() as writer:
        writer.append("first", rows, coordinates, tile_size=1.0, mpp0=1.0)
        with pytest.raises(StoreError, match=r"feature \[2, 1\]"):
            writer.append("bad", [rows, wrong], np.concatenate([coordinates] * 2), tile_size=1.0, mpp0=1.0)
        writer.append("last", rows[::-1], coordinates, tile_size=1.0, mpp0=1.0)
    reopened = BagStore.open(tmp_path / "store")
    assert reopened.slide_ids == ["first", "last"]
    np.testing.assert_array_equal(reopened.rows("last"), rows[::-1])
    assert reopened.verify() == []


def test_wrong_bags_are_refused(tmp_path: Path) -> None:
    store = BagStore.create(tmp_path / "store", SPEC)
    rows, coordinates = bag(2)
    with store.writer() as writer:
        writer.append("a", rows, coordinates, tile_size=1.0, mpp0=1.0)
        for arguments, message in [
            (("a", rows, coordinates, 1.0, 1.0), "already"),
            (("b", rows[:, :2], coordinates, 1.0, 1.0), "shape"),
            (("b", rows.astype(np.int32), coordinates, 1.0, 1.0), "floating"),
            (("b", rows, coordinates[:1], 1.0, 1.0), "2 rows but 1 coordinates"),
            (("b", rows, coordinates.astype(float), 1.0, 1.0), "integer"),
            (("b", rows, coordinates + 2**31, 1.0, 1.0), "int32"),
            (("b", rows[:0], coordinates[:0], 1.0, 1.0), "at least one row"),
            (("b", rows, coordinates, 0.0, 1.0), "tile_size"),
            (("b", rows, coordinates, 1.0, float("nan")), "mpp0"),
        ]:
            slide_id, r, c, tile_size, mpp0 = arguments
            with pytest.raises(StoreError, match=message):
                writer.append(slide_id, r, c, tile_size=tile_size, mpp0=mpp0)
    assert BagStore.open(tmp_path / "store").slide_ids == ["a"]


@pytest.mark.parametrize(
    ("kind", "dtype", "shape"),
    [
        ("tiles", "float32", (2, 2, 3)),
        ("features", "uint8", (4,)),
        ("bags", "uint8", (4,)),
        ("tiles", "uint8", ()),
    ],
)
def test_specifications_no_store_can_hold(kind: str, dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(StoreError):
        StoreSpec(kind, dtype, shape)


def test_tiles_must_be_uint8(tmp_path: Path) -> None:
    store = BagStore.create(tmp_path, StoreSpec("tiles", "uint8", (2, 2, 3)))
    with store.writer() as writer, pytest.raises(StoreError, match="uint8"):
        writer.append("a", np.zeros((1, 2, 2, 3)), np.zeros((1, 2), int), tile_size=2.0, mpp0=1.0)


def test_of_two_bags_of_a_slide_the_first_writer_counts(tmp_path: Path) -> None:
    one, two = BagStore.create(tmp_path, SPEC), BagStore.open(tmp_path)
    early, late = one.writer(), two.writer()
    with early, late:
        late.append("a", *bag(3, 1), tile_size=1.0, mpp0=1.0)
        early.append("a", *bag(2, 0), tile_size=1.0, mpp0=1.0)
    for store in (one, two, BagStore.open(tmp_path)):
        problems = store.verify()
        assert len(problems) == 1
        assert "stored twice" in problems[0]
        np.testing.assert_array_equal(store.rows("a"), bag(2, 0)[0])
    assert one.repair() == []
    assert one.verify() == []
    np.testing.assert_array_equal(one.rows("a"), bag(2, 0)[0])


def _append_from(root: str, worker: int) -> None:
    store = BagStore.create(root, SPEC)
    with store.writer() as writer:
        for i in range(15):
            rows, coordinates = bag(1 + i % 4, 100 * worker + i)
            writer.append(f"{worker}-{i}", rows, coordinates, tile_size=1.0, mpp0=1.0)


def test_many_processes_write_at_once_while_a_reader_sees_whole_bags(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    store = BagStore.create(tmp_path / "store", SPEC)
    processes = [context.Process(target=_append_from, args=(str(tmp_path / "store"), w)) for w in range(4)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        store.refresh()
        for slide_id in store.slide_ids:
            worker, i = map(int, slide_id.split("-"))
            np.testing.assert_array_equal(store.rows(slide_id), bag(1 + i % 4, 100 * worker + i)[0])
        processes[0].join(0.01)
    assert [process.exitcode for process in processes] == [0] * 4
    store.refresh()
    assert len(store) == 60
    assert store.verify() == []


def _append_under_limits(root: str, limits: list[int]) -> None:
    """Try to append the same bag under one limit of file size after the other, in a process of its own."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with BagStore.create(root, SPEC).writer() as writer:
        writer.append("a", *bag(3), tile_size=1.0, mpp0=1.0)
        for limit in limits:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            with pytest.raises(StoreError, match="the limit on the size of a file is reached"):
                writer.append(LONG_ID, *bag(50, 1), tile_size=1.0, mpp0=1.0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert BagStore.open(root).slide_ids == ["a"]
        writer.append(LONG_ID, *bag(50, 1), tile_size=1.0, mpp0=1.0)


def test_a_disk_that_takes_no_more_is_a_clear_error_and_the_store_stays_whole(tmp_path: Path) -> None:
    # The first bag has 18 bytes of rows, 24 of coordinates and some 120 of index; the second 300, 400 and more than
    # LONG_ID. The limits fall before its rows, within them, within its coordinates, and within its line.
    process = multiprocessing.get_context("fork").Process(
        target=_append_under_limits, args=(str(tmp_path), [18, 100, 330, 450])
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    reopened = BagStore.open(tmp_path)
    assert reopened.verify() == []
    np.testing.assert_array_equal(reopened.rows(LONG_ID), bag(50, 1)[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_full_and_a_read_only_file_system_are_named(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        store = BagStore.create(tmp_path / "store", SPEC)
        with store.writer() as writer:
            writer.append("a", *bag(3), tile_size=1.0, mpp0=1.0)
            with pytest.raises(StoreError, match="the disk is full: free space and run again"):
                writer.append("b", *bag(20_000, 1), tile_size=1.0, mpp0=1.0)
            writer.append("c", *bag(4, 2), tile_size=1.0, mpp0=1.0)
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        reader = BagStore.open(tmp_path / "store")
        assert reader.slide_ids == ["a", "c"]
        assert reader.verify() == []
        with reader.writer() as writer, pytest.raises(StoreError, match="the file system is read-only"):
            writer.append("b", *bag(2, 1), tile_size=1.0, mpp0=1.0)
        with pytest.raises(StoreError, match="the file system is read-only"):
            BagStore.create(tmp_path / "other", SPEC)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)  # maps of the rows may live on


def test_a_target_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be created"):
        BagStore.create(tmp_path / "file" / "store", SPEC)
    store = BagStore.create(tmp_path / "store", SPEC)
    (tmp_path / "store" / "segments").rmdir()
    with store.writer() as writer, pytest.raises(StoreError, match="cannot be written"):
        writer.append("a", *bag(1), tile_size=1.0, mpp0=1.0)


def test_a_failure_of_the_source_is_passed_on_as_it_is(tmp_path: Path) -> None:
    def blocks() -> object:
        yield bag(2)[0]
        raise OSError("the slide is damaged")

    store = BagStore.create(tmp_path, SPEC)
    with store.writer() as writer:
        with pytest.raises(OSError, match="the slide is damaged"):
            writer.append("a", blocks(), bag(4)[1], tile_size=1.0, mpp0=1.0)  # type: ignore[arg-type]
        writer.append("b", *bag(2), tile_size=1.0, mpp0=1.0)
    np.testing.assert_array_equal(BagStore.open(tmp_path).rows("b"), bag(2)[0])


def test_no_store_and_a_damaged_specification(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="run extract first"):
        BagStore.open(tmp_path)
    (tmp_path / "store.json").write_text('{"format": 1, "kind": "tiles"')
    with pytest.raises(StoreError, match="cannot be read"):
        BagStore.open(tmp_path)
    (tmp_path / "store.json").write_text('{"format": 2}')
    with pytest.raises(StoreError, match="format 2"):
        BagStore.open(tmp_path)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(1, 5)), max_size=14), st.data())
@settings(max_examples=40, deadline=None)
def test_writers_in_any_order_and_a_cut_of_any_file_leave_whole_bags(
    steps: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """Each step: a writer of three appends n rows for a slide, unless it knows that the slide is stored."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        root = Path(folder) / "store"
        BagStore.create(root, SPEC)
        writers = [opened.enter_context(BagStore.open(root).writer()) for _ in range(3)]
        written: dict[str, list[np.ndarray]] = {}
        for seed, (w, slide, n) in enumerate(steps):
            name = f"s{slide}"
            if name not in writers[w].store:
                rows, coordinates = bag(n, seed)
                writers[w].append(name, rows, coordinates, tile_size=1.0, mpp0=1.0)
                written.setdefault(name, []).append(rows)
        assert BagStore.open(root).slide_ids == sorted(written)
        files = sorted(root.glob("segments/*"))
        if files:
            path = data.draw(st.sampled_from(files))
            os.truncate(path, data.draw(st.integers(0, path.stat().st_size)))
        store = BagStore.open(root)
        assert set(store.slide_ids) <= set(written)
        for name in store.slide_ids:
            assert any(np.array_equal(store.rows(name), rows) for rows in written[name])
            assert len(store.coordinates(name)) == store.n_rows(name)


@pytest.fixture
def long_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store whose writer left its index as columns, as of an index of three bags."""
    monkeypatch.setattr(bag_segments, "COLUMNS_FROM", 3)
    write(BagStore.create(tmp_path / "store", SPEC), {"a": 2, "b [é]\n": 3, "c": 1})
    return tmp_path / "store"


def test_columns_stand_for_the_lines_they_were_made_of(
    long_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (columns,) = long_store.glob("segments/*.columns")
    by_columns = BagStore.open(long_store)
    lines: list[bytes] = []
    parse = bag_segments.Entry.parse
    monkeypatch.setattr(bag_segments.Entry, "parse", lambda line: lines.append(line) or parse(line))
    assert BagStore.open(long_store).digest() == by_columns.digest()
    assert lines == []
    columns.unlink()
    assert BagStore.open(long_store).digest() == by_columns.digest()
    assert len(lines) == 3


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_columns_and_damage_behind_them_change_nothing(long_store: Path, data: st.DataObject) -> None:
    (columns,) = long_store.glob("segments/*.columns")
    (index,) = long_store.glob("segments/*.index")
    whole, lines = columns.read_bytes(), index.read_bytes()
    digest = BagStore.open(long_store).digest()
    try:
        changed = bytearray(whole)
        changed[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        columns.write_bytes(changed[: data.draw(st.integers(0, len(whole)))])
        assert BagStore.open(long_store).digest() == digest
        # An index that lost lines, or in which a byte changed, is not what the columns were made of.
        columns.write_bytes(whole)
        index.write_bytes(lines[: data.draw(st.integers(0, len(lines) - 1))])
        assert len(BagStore.open(long_store)) == index.read_bytes().count(b"\n")
    finally:
        columns.write_bytes(whole)
        index.write_bytes(lines)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the kernel does not tell what is mapped")
def test_mapped_pages_are_given_back_and_views_stay_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = StoreSpec("features", "float16", (1024,))
    content = np.arange(2000 * 1024, dtype=np.uint16).view(np.float16).reshape(2000, 1024)
    content = np.where(np.isfinite(content), content, np.float16(0))
    store = BagStore.create(tmp_path, spec)
    with store.writer() as writer:
        for i in range(20):
            writer.append(f"s{i}", content, np.zeros((2000, 2), int), tile_size=1.0, mpp0=1.0)
    kept = store.rows("s0")

    def mapped_kb() -> int:
        """Resident pages of this process's maps of the store."""
        maps = Path("/proc/self/smaps").read_text().split(str(next(tmp_path.glob("segments/*.rows"))))[1:]
        return sum(int(part.split("Rss:")[1].split()[0]) for part in maps)

    monkeypatch.setattr(bag_store, "MAPPED_BYTES", 3 * content.nbytes)
    most = 0
    for i in range(20):
        np.testing.assert_array_equal(store.rows(f"s{i}"), content)
        most = max(most, mapped_kb())
    assert 0 < most * 1024 <= 5 * content.nbytes
    np.testing.assert_array_equal(kept, content)
