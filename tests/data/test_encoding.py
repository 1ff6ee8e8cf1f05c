"""Tiles to features: every tile once, in its bag, in its order, however the batches fall."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from toxfusion.data.encoding import BagEncoder, encode_tile_store
from toxfusion.study.bag_store import BagStore
from toxfusion.study.store_spec import BagRejected, StoreError, StoreSpec

SIDE = 4


def mean_colour(tiles: Tensor) -> Tensor:
    return tiles.float().mean(dim=(1, 2))


def tiles_of(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def corners_of(n: int) -> np.ndarray:
    return np.arange(2 * n, dtype=np.int32).reshape(n, 2)


def stores(root: Path, lengths: list[int]) -> tuple[BagStore, BagStore]:
    tiles = BagStore.create(root / "tiles", StoreSpec("tiles", "uint8", (SIDE, SIDE, 3)))
    with tiles.writer() as writer:
        for i, n in enumerate(lengths):
            writer.append(f"s{i}", tiles_of(n, i), corners_of(n), tile_size=8.0, mpp0=0.5)
    return tiles, BagStore.create(root / "features", StoreSpec("features", "float32", (3,)))


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 12), st.integers(1, 5), st.booleans()
)
@settings(max_examples=30, deadline=None)
def test_features_do_not_depend_on_batches_or_blocks(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], batch_size: int, block: int, across: bool
) -> None:
    root = tmp_path_factory.mktemp("bags")
    store = BagStore.create(root, StoreSpec("features", "float32", (3,)))
    sizes: list[int] = []

    def encoder(tiles: Tensor) -> Tensor:
        sizes.append(len(tiles))
        return mean_colour(tiles)

    with store.writer() as writer:
        bags = BagEncoder(encoder, writer, batch_size=batch_size, device="cpu", across_bags=across)
        for i, n in enumerate(lengths):
            tiles = tiles_of(n, i)
            blocks = (tiles[start : start + block] for start in range(0, n, block))
            bags.add(f"s{i}", blocks, corners_of(n), tile_size=8.0, mpp0=0.5)
        bags.flush()
    for i, n in enumerate(lengths):
        np.testing.assert_allclose(store.rows(f"s{i}"), tiles_of(n, i).mean(axis=(1, 2)), rtol=1e-5)
        np.testing.assert_array_equal(store.coordinates(f"s{i}"), corners_of(n))
    assert sum(sizes) == sum(lengths)
    if across:
        assert all(size == batch_size for size in sizes[:-1])


def test_a_tile_store_is_encoded_once_and_only_what_is_missing(tmp_path: Path) -> None:
    tiles, features = stores(tmp_path, [3, 5, 2])
    assert encode_tile_store(tiles, features, mean_colour, batch_size=4, device="cpu", slide_ids=["s1"]) == [
        "s1"
    ]
    seen: list[str] = []
    done = encode_tile_store(
        tiles, features, mean_colour, batch_size=4, device="cpu", progress=lambda: seen.append("x")
    )
    assert done == ["s0", "s2"]
    assert len(seen) == 2
    assert encode_tile_store(tiles, features, mean_colour, batch_size=4, device="cpu") == []
    assert (features.tile_size("s0"), features.mpp0("s0")) == (8.0, 0.5)


def test_without_filling_across_bags_the_batches_of_a_bag_are_its_own(tmp_path: Path) -> None:
    """Bits of a feature may depend on its batch: then an interrupted run must see the same batches again."""
    batches: list[tuple[int, ...]] = []

    def encoder(tiles: Tensor) -> Tensor:
        batches.append(tuple(tiles[:, 0, 0, 0].tolist()))
        return mean_colour(tiles)

    tiles, features = stores(tmp_path / "a", [3, 5, 2])
    encode_tile_store(tiles, features, encoder, batch_size=4, device="cpu")
    whole = list(batches)
    batches.clear()
    tiles, features = stores(tmp_path / "b", [3, 5, 2])
    encode_tile_store(tiles, features, encoder, batch_size=4, device="cpu", slide_ids=["s2"])
    encode_tile_store(tiles, features, encoder, batch_size=4, device="cpu")
    assert sorted(batches) == sorted(whole)
    assert [len(batch) for batch in whole] == [3, 4, 1, 2]


def test_nan_features_fail_their_slide_and_no_other(tmp_path: Path) -> None:
    def encoder(tiles: Tensor) -> Tensor:
        features = mean_colour(tiles)
        return torch.where(tiles[:, :1, 0, 0] == 7, torch.nan, features)

    store = BagStore.create(tmp_path, StoreSpec("features", "float16", (3,)))
    good, bad = tiles_of(3, 0) | 8, tiles_of(3, 1) | 8
    bad[1, 0, 0, 0] = 7
    ends: dict[str, BagRejected | None] = {}
    with store.writer() as writer:
        bags = BagEncoder(
            encoder,
            writer,
            batch_size=4,
            device="cpu",
            across_bags=True,
            ended=lambda s, e: ends.update({s: e}),
        )
        for name, tiles in (("a", good), ("bad", bad), ("b", good)):
            bags.add(name, [tiles], corners_of(3), tile_size=8.0, mpp0=0.5)
        bags.flush()
    assert BagStore.open(tmp_path).slide_ids == ["a", "b"]
    assert ends["a"] is None
    assert "nan" in str(ends["bad"])
    tiles_store, features = stores(tmp_path / "x", [1])
    with pytest.raises(StoreError, match="feature"):
        encode_tile_store(tiles_store, features, lambda t: mean_colour(t) / 0, batch_size=1, device="cpu")


def test_a_bag_whose_source_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield tiles_of(3, 5)
        raise OSError("damaged")

    store = BagStore.create(tmp_path, StoreSpec("features", "float32", (3,)))
    with store.writer() as writer:
        bags = BagEncoder(mean_colour, writer, batch_size=4, device="cpu", across_bags=True)
        bags.add("a", [tiles_of(2, 0)], corners_of(2), tile_size=8.0, mpp0=0.5)
        with pytest.raises(OSError, match="damaged"):
            bags.add("broken", failing(), corners_of(9), tile_size=8.0, mpp0=0.5)
        bags.add("b", [tiles_of(3, 1)], corners_of(3), tile_size=8.0, mpp0=0.5)
        bags.flush()
    assert store.slide_ids == ["a", "b"]
    np.testing.assert_allclose(store.rows("b"), tiles_of(3, 1).mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda tiles: tiles.float(), "not one vector a tile"),
        (lambda tiles: mean_colour(tiles)[:1], "not one vector a tile"),
        (nn.Sequential(nn.Flatten(), nn.Dropout()).train(), "training mode"),
    ],
)
def test_encoders_that_would_give_wrong_features_are_refused(
    tmp_path: Path, encoder: Callable[[Tensor], Tensor], message: str
) -> None:
    tiles, features = stores(tmp_path, [3])
    with pytest.raises(ValueError, match=message):
        encode_tile_store(tiles, features, encoder, batch_size=4, device="cpu")
    assert features.slide_ids == []
