"""The grid: whole tiles at the right pitch inside the region, and a subset that leaves no part out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toxfusion.slides.faults import SlideUnsuitable
from toxfusion.slides.grid import (
    GridError,
    Region,
    TileGrid,
    check_resolution,
    clip_region,
    spread_evenly,
    tile_corners,
)
from toxfusion.slides.readers import open_slide


def test_corners_worked_out_by_hand() -> None:
    grid = TileGrid(mpp=1.0, tile_px=100)
    # 0.5 um/px: a tile is 200 level-0 px; 450 px hold two, 25 px remain on either side; 210 px hold one.
    corners = tile_corners(Region(1000, 2000, 450, 210), grid, mpp0=0.5)
    np.testing.assert_array_equal(corners, [[1025, 2005], [1225, 2005]])
    assert corners.dtype == np.int32
    overlapping = tile_corners(Region(0, 0, 400, 200), TileGrid(mpp=1.0, tile_px=100, stride_px=50), 0.5)
    np.testing.assert_array_equal(overlapping, [[0, 0], [100, 0], [200, 0]])
    assert tile_corners(Region(0, 0, 199, 500), grid, 0.5).shape == (0, 2)


@given(
    x=st.integers(0, 5000),
    y=st.integers(0, 5000),
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    mpp0=st.floats(0.1, 1.1),
    tile_px=st.integers(16, 256),
    stride=st.none() | st.integers(16, 256),
)
def test_tiles_lie_within_the_region_and_no_further_one_would_fit(
    x: int, y: int, width: int, height: int, mpp0: float, tile_px: int, stride: int | None
) -> None:
    grid = TileGrid(1.0, tile_px, stride)
    side, step = grid.tile_size(mpp0), grid.stride / mpp0
    corners = tile_corners(Region(x, y, width, height), grid, mpp0)
    for axis, (start, extent) in enumerate(((x, width), (y, height))):
        places = np.unique(corners[:, axis])
        if side > extent + 0.01:
            assert len(corners) == 0
        elif len(corners):
            assert places[0] >= start
            assert places[-1] + side <= start + extent + 1
            assert len(places) * step + side > extent - 0.01


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 200))
def test_a_spread_subset_has_the_size_asked_for_and_keeps_the_order(across: int, down: int, n: int) -> None:
    y, x = np.mgrid[0:down, 0:across]
    corners = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int32) * 224
    chosen = spread_evenly(corners, n)
    assert len(chosen) == min(n, across * down)
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, spread_evenly(corners * 3 + 17, n))


def test_a_spread_subset_represents_every_part_by_its_area() -> None:
    y, x = np.mgrid[0:64, 0:64]
    corners = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int32) * 100
    chosen = corners[spread_evenly(corners, 64)] // 800
    cells, counts = np.unique(chosen, axis=0, return_counts=True)
    assert len(cells) == 64
    assert (counts == 1).all()
    np.testing.assert_array_equal(spread_evenly(corners, None), np.arange(4096))


def test_a_slide_coarser_than_the_target_is_refused_with_the_numbers(
    write_slide: Callable[..., Path],
) -> None:
    with open_slide(write_slide("a.tif", mpp=0.5)) as slide:
        check_resolution(slide, TileGrid(0.46, 112))
        with pytest.raises(SlideUnsuitable, match=r"0\.5 um/px is 2 times as coarse as the target of 0\.25"):
            check_resolution(slide, TileGrid(0.25, 112))


def test_a_region_is_clipped_to_the_slide_or_refused(write_slide: Callable[..., Path]) -> None:
    with open_slide(write_slide("a.tif", width=640, height=512)) as slide:
        assert clip_region(slide, None) == Region(0, 0, 640, 512)
        assert clip_region(slide, Region(-20, 500, 100, 100)) == Region(0, 500, 80, 12)
        with pytest.raises(SlideUnsuitable, match="outside of the slide"):
            clip_region(slide, Region(640, 0, 10, 10))


@pytest.mark.parametrize(
    "wrong",
    [
        {"mpp": 0.0},
        {"mpp": float("nan")},
        {"tile_px": 0},
        {"stride_px": 0},
        {"max_tiles": 0},
        {"min_tissue": 1.2},
    ],
)
def test_a_grid_that_cannot_be_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(GridError, match=f"grid.{next(iter(wrong))}"):
        TileGrid(**{"mpp": 1.0, "tile_px": 112, **wrong})  # type: ignore[arg-type]
