"""Sums over tiles: the values of plain arithmetic, kept beside the store, and never those of other tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toxfusion.data.tile_moments import NAME, Moments, tile_moments
from toxfusion.study.bag_store import BagStore
from toxfusion.study.store_spec import StoreSpec

DIM = 5


def features(seed: int, n: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 2, (n, DIM)).astype(np.float16)


def add(store: BagStore, slide: str, tiles: np.ndarray) -> None:
    with store.writer() as writer:
        writer.append(slide, tiles, np.zeros((len(tiles), 2), np.int32), tile_size=112.0, mpp0=1.0)


@pytest.fixture
def store(tmp_path: Path) -> BagStore:
    made = BagStore.create(tmp_path / "features", StoreSpec("features", "float16", (DIM,), {}))
    for seed, slide in enumerate(("a", "b")):
        add(made, slide, features(seed))
    return made


def check(moments: Moments, tiles: np.ndarray) -> None:
    tiles = tiles.astype(np.float64)
    assert moments.n == len(tiles)
    np.testing.assert_allclose(moments.mean, tiles.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, tiles.var(0), rtol=1e-9)


def test_sums_add_up_to_mean_and_variance_with_a_reference_or_without(store: BagStore) -> None:
    moments = tile_moments(store, ["b", "a", "b", "absent"])
    assert list(moments) == ["b", "a"]
    reference = np.arange(DIM) - 2.5
    check(moments["a"] + moments["b"], np.concatenate([features(0), features(1)]))
    check(moments["a"].less(reference), features(0).astype(np.float64) - reference)
    many = features(3, n=3000)
    check(Moments.of(many), many)
    assert np.isnan(Moments.none(DIM).mean).all()


def test_what_was_summed_once_is_not_read_again(store: BagStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tile_moments(store, ["a"])
    add(store, "c", features(2))
    read: list[str] = []
    of_store = BagStore.rows
    monkeypatch.setattr(BagStore, "rows", lambda s, slide: read.append(slide) or of_store(s, slide))
    again = tile_moments(BagStore.open(store.root), ["a", "b", "c"])
    assert sorted(read) == ["b", "c"]
    np.testing.assert_array_equal(again["a"].total, first["a"].total)
    read.clear()
    assert tile_moments(store, ["a", "b", "c"]).keys() == {"a", "b", "c"}
    assert read == []


def test_tiles_stored_anew_are_summed_anew_and_a_damaged_file_is_no_use(
    store: BagStore, tmp_path: Path
) -> None:
    tile_moments(store, ["a", "b"])
    kept = (store.root / NAME).read_bytes()
    other = BagStore.create(tmp_path / "other", store.spec)
    add(other, "a", features(5))
    add(other, "b", features(1))
    for content in (kept, kept[:-40], b"", b"no archive"):
        (other.root / NAME).write_bytes(content)
        moments = tile_moments(other, ["a", "b"])
        check(moments["a"], features(5))
        check(moments["b"], features(1))


def test_a_folder_that_cannot_be_written_is_read_each_time(
    store: BagStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr("toxfusion.study.files.os.replace", refuse)
    check(tile_moments(store, ["a"])["a"], features(0))
    assert not (store.root / NAME).exists()
