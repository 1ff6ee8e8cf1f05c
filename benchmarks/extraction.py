"""Tiles a second of our reader against OpenSlide and tiatoolbox on one slide, and bags a second out of the store.

    python benchmarks/extraction.py [slide] [--tiles 400] [--mpp 1.0] [--tile-px 112]

Without a slide a pyramidal JPEG TIFF of 8,192 x 8,192 px at 0.5 um/px is made. Each reader reads the same number of
tiles of the same size at the same resolution; the median of three rounds is printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import openslide
import tifffile

from toxfusion.data.bag_store import BagStore, StoreSpec
from toxfusion.slides.grid import Region, TileGrid, spread_evenly, tile_corners
from toxfusion.slides.readers import TiffSource, open_slide

ROUNDS = 3


def write_slide(path: Path, side: int = 8192) -> Path:
    """A pyramid of a stained texture, in JPEG tiles of 256 px."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(90, 240, (side // 8, side // 8, 3), dtype=np.uint8)
    picture = cv2.GaussianBlur(cv2.resize(coarse, (side, side)), (0, 0), 1.5)
    picture[..., 1] //= 2
    with tifffile.TiffWriter(path) as writer:
        for level in range(5):
            part = cv2.resize(picture, (side >> level, side >> level), interpolation=cv2.INTER_AREA)
            per_cm = 1e4 / (0.5 * 2**level)
            writer.write(
                part,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                metadata=None,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=int(level > 0),
            )
    return path


def rate(read: Callable[[], int]) -> float:
    """Median tiles a second over three rounds."""
    rates = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        n = read()
        rates.append(n / (time.perf_counter() - start))
    return statistics.median(rates)


def reader_rates(path: Path, grid: TileGrid) -> dict[str, float]:
    """Tiles a second of each way to read the same tiles."""
    with open_slide(path) as slide:
        width, height = slide.dimensions
        mpp0, level = slide.mpp, slide.level_for(grid.mpp)
        factor = slide.downsamples[level]
        corners = tile_corners(Region(0, 0, width, height), grid, mpp0)
        corners = corners[spread_evenly(corners, grid.max_tiles)]
    side = grid.tile_px
    source_px = round(side * grid.mpp / (mpp0 * factor))

    def ours(jobs: int) -> int:
        with open_slide(path) as slide, ThreadPoolExecutor(jobs) as pool:
            tiles = pool.map(lambda c: slide.read_region(int(c[0]), int(c[1]), side, side, grid.mpp), corners)
            return sum(tile.shape[0] == side for tile in tiles)

    def by_tifffile() -> int:
        source = TiffSource(path)
        for x, y in corners:
            source.read_level(level, int(x), int(y), source_px, source_px)
        source.close()
        return len(corners)

    def by_openslide() -> int:
        with openslide.OpenSlide(path) as slide:
            for x, y in corners:
                tile = slide.read_region((int(x), int(y)), level, (source_px, source_px)).convert("RGB")
                np.asarray(tile.resize((side, side)))
        return len(corners)

    def by_tiatoolbox() -> int:
        from tiatoolbox.tools.patchextraction import SlidingWindowPatchExtractor
        from tiatoolbox.wsicore.wsireader import WSIReader

        extractor = SlidingWindowPatchExtractor(
            input_img=WSIReader.open(path, mpp=(mpp0, mpp0)),
            patch_size=(side, side),
            resolution=grid.mpp,
            units="mpp",
            within_bound=True,
        )
        n = min(len(corners), len(extractor))
        for i in range(n):
            extractor[i]
        return n

    return {
        "toxfusion, 1 thread": rate(lambda: ours(1)),
        "toxfusion, 2 threads": rate(lambda: ours(2)),
        "toxfusion, tifffile back end": rate(by_tifffile),
        "OpenSlide read_region": rate(by_openslide),
        "tiatoolbox SlidingWindowPatchExtractor": rate(by_tiatoolbox),
    }


def store_rates(folder: Path, n_bags: int = 500, n_rows: int = 2000, dim: int = 512) -> dict[str, float]:
    """Seconds and rates of the feature store at `n_bags` bags of `n_rows` rows."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n_rows, dim)).astype(np.float16)
    coordinates = rng.integers(0, 10_000, (n_rows, 2))
    store = BagStore.create(folder, StoreSpec("features", "float16", (dim,)))
    start = time.perf_counter()
    with store.writer() as writer:
        for i in range(n_bags):
            writer.append(f"s{i:05d}", rows, coordinates, tile_size=224.0, mpp0=0.5)
    written = time.perf_counter() - start
    start = time.perf_counter()
    store = BagStore.open(folder)
    opened = time.perf_counter() - start
    drawn = rng.permutation(n_bags)
    start = time.perf_counter()
    for i in drawn:
        store.rows(f"s{i:05d}", rng.permutation(n_rows)[:512])
    sampled = time.perf_counter() - start
    return {
        "bags written a second": n_bags / written,
        f"milliseconds to open {n_bags} bags": 1e3 * opened,
        "bags of 512 drawn rows a second": n_bags / sampled,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide", nargs="?", type=Path)
    parser.add_argument("--tiles", type=int, default=400)
    parser.add_argument("--mpp", type=float, default=1.0)
    parser.add_argument("--tile-px", type=int, default=112)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.slide or write_slide(Path(folder) / "slide.tif")
        print(f"{given.tiles} tiles of {given.tile_px} px at {given.mpp:g} um/px of {path.name}")
        for name, value in reader_rates(
            path, TileGrid(given.mpp, given.tile_px, max_tiles=given.tiles)
        ).items():
            print(f"  {name:<42}{value:>10.0f} tiles/s")
        print("feature store: 500 bags of 2,000 rows of 512")
        for name, value in store_rates(Path(folder) / "store").items():
            print(f"  {name:<42}{value:>10.1f}")


if __name__ == "__main__":
    main()
