"""Tiles a second of our reader against OpenSlide and tiatoolbox, of extraction against its encoder, and peak memory.

    python benchmarks/extraction.py readers [slide] [--tiles 400] [--mpp 1.0] [--tile-px 112]
    python benchmarks/extraction.py features [slide] [--tiles 400] [--mpp 0.5] [--tile-px 224] [--encoder imagenet]
    python benchmarks/extraction.py memory [--sides 5000 20000]

Without a slide a pyramidal JPEG TIFF of 8,192 x 8,192 px at 0.5 um/px is made.

readers: each reads the same number of tiles of the same size at the same resolution; the median of five rounds, which
go through all readers in turn. Before that the pixels of each tile are compared with OpenSlide's, scaled alike.
features: the encoder on tiles that lie in memory, and the whole of `extract output=features`, from slide to store, in
turn; medians of three rounds, and the share of the second in the first. Encoders without weights get random ones.
memory: peak resident memory of a process that extracts every tile of a square slide of each size.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import openslide
import tifffile
import torch

from toxfusion.data.encoding import BagEncoder, encode
from toxfusion.models.published import ENCODERS, load_encoder
from toxfusion.slides.grid import Region, TileGrid, spread_evenly, tile_corners
from toxfusion.slides.ledger import Ledger
from toxfusion.slides.pipeline import default_jobs, extract_slides
from toxfusion.slides.planning import SlideTask
from toxfusion.slides.readers import open_slide
from toxfusion.study.bag_store import BagStore
from toxfusion.study.store_spec import StoreSpec

SOURCE_TILE = 256


def write_slide(path: Path, side: int = 8192) -> Path:
    """A pyramid of one stained texture, in JPEG tiles of 256 px; made tile by tile, of any size."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(90, 240, (SOURCE_TILE // 8, SOURCE_TILE // 8, 3), dtype=np.uint8)
    enlarged = cv2.resize(coarse, (SOURCE_TILE, SOURCE_TILE))
    texture = np.asarray(cv2.GaussianBlur(enlarged, (0, 0), 1.5), np.uint8)
    texture[..., 1] //= 2
    encoded = bytes(
        imagecodecs.jpeg8_encode(
            texture, level=90, colorspace="RGB", outcolorspace="YCBCR", subsampling="444"
        )
    )
    with tifffile.TiffWriter(path) as writer:
        for level in range(5):
            per_cm = 1e4 / (0.5 * 2**level)
            writer.write(
                itertools.repeat(encoded, (-(-(side >> level) // SOURCE_TILE)) ** 2),
                shape=(side >> level, side >> level, 3),
                dtype=np.uint8,
                tile=(SOURCE_TILE, SOURCE_TILE),
                photometric="ycbcr",
                subsampling=(1, 1),
                compression="jpeg",
                metadata=None,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=int(level > 0),
            )
    return path


def in_turn(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Median tiles a second of each way, after one round to warm up; a round goes through all ways."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, read in ways.items():
            start = time.perf_counter()
            n = read()
            rates[name].append(n / (time.perf_counter() - start))
    return {name: statistics.median(by_round[1:]) for name, by_round in rates.items()}


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

    def by_openslide(slide: openslide.OpenSlide, x: int, y: int) -> np.ndarray:
        tile = np.asarray(slide.read_region((x, y), level, (source_px, source_px)).convert("RGB"))
        method = cv2.INTER_AREA if source_px >= side else cv2.INTER_LINEAR
        return tile if source_px == side else np.asarray(cv2.resize(tile, (side, side), interpolation=method))

    with open_slide(path) as ours, openslide.OpenSlide(path) as theirs:
        for x, y in corners.tolist():
            if not np.array_equal(ours.read_region(x, y, side, side, grid.mpp), by_openslide(theirs, x, y)):
                raise SystemExit(f"the tile at ({x}, {y}) differs from OpenSlide's")

    def read_ours(jobs: int) -> int:
        with open_slide(path) as slide, ThreadPoolExecutor(jobs) as pool:
            tiles = pool.map(lambda c: slide.read_region(int(c[0]), int(c[1]), side, side, grid.mpp), corners)
            return sum(tile.shape[0] == side for tile in tiles)

    def read_openslide() -> int:
        with openslide.OpenSlide(path) as slide:
            return sum(by_openslide(slide, x, y).shape[0] == side for x, y in corners.tolist())

    def read_tiatoolbox() -> int:
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

    return in_turn(
        {
            "toxfusion, 1 thread": lambda: read_ours(1),
            "toxfusion, 2 threads": lambda: read_ours(2),
            "OpenSlide read_region": read_openslide,
            "tiatoolbox SlidingWindowPatchExtractor": read_tiatoolbox,
        },
        rounds=5,
    )


def feature_rates(path: Path, grid: TileGrid, name: str, batch_size: int = 32) -> dict[str, float]:
    """Tiles a second of the encoder alone, and from the slide into the store."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    random = ENCODERS[name].packaged is None
    loaded, _ = load_encoder(
        name, weights=None, random=random, seed=0, mpp=grid.mpp, tile_px=grid.tile_px, device=device
    )

    def extract() -> int:
        with tempfile.TemporaryDirectory() as folder:
            store = BagStore.create(
                folder, StoreSpec("features", "float16", (loaded.dim,), grid.provenance())
            )
            extract_slides(
                [SlideTask("slide", path)],
                store,
                grid,
                lambda writer, ended: BagEncoder(
                    loaded.module, writer, batch_size=batch_size, device=device, ended=ended
                ),
                jobs=default_jobs(),
                ledger=Ledger(store.root / "extraction.csv"),
                previews=None,
            )
            return store.n_rows("slide")

    n = extract()
    tiles = np.random.default_rng(0).integers(
        0, 256, (batch_size, grid.tile_px, grid.tile_px, 3), dtype=np.uint8
    )

    def forward() -> int:
        for start in range(0, n, batch_size):
            encode(loaded.module, tiles[: min(batch_size, n - start)], device)
        return n

    return in_turn({f"{name} on tiles in memory, {device}": forward, "slide to store": extract}, rounds=3)


def extract_all(path: Path) -> None:
    """Every tile of a slide into a feature store, with an encoder that costs nothing; prints the peak memory in MB."""
    grid = TileGrid(0.5, 224)
    store = BagStore.create(path.with_suffix(""), StoreSpec("features", "float16", (3,), grid.provenance()))
    extract_slides(
        [SlideTask("slide", path)],
        store,
        grid,
        lambda writer, ended: BagEncoder(
            lambda tiles: tiles.float().mean(dim=(1, 2)), writer, batch_size=32, device="cpu", ended=ended
        ),
        jobs=default_jobs(),
        ledger=Ledger(store.root / "extraction.csv"),
        previews=store.root / "previews",
    )
    print(store.n_rows("slide"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("readers", "features", "memory", "cell"))
    parser.add_argument("slide", nargs="?", type=Path)
    parser.add_argument("--tiles", type=int, default=400)
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--tile-px", type=int)
    parser.add_argument("--encoder", default="imagenet")
    parser.add_argument("--sides", type=int, nargs="+", default=[5_000, 20_000])
    arguments = parser.parse_args()
    if arguments.what == "cell":
        extract_all(arguments.slide)
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "memory":
            for side in arguments.sides:
                path = write_slide(Path(folder) / f"{side}.tif", side)
                cell = [sys.executable, __file__, "cell", str(path)]
                told = subprocess.run(cell, check=True, capture_output=True, text=True).stdout.split()
                print(f"  {side:,} x {side:,} px: {int(told[0]):,} tiles, peak {float(told[1]):,.0f} MB")
            return
        path = arguments.slide or write_slide(Path(folder) / "slide.tif")
        mpp, side = (1.0, 112) if arguments.what == "readers" else (0.5, 224)
        grid = TileGrid(arguments.mpp or mpp, arguments.tile_px or side, max_tiles=arguments.tiles)
        print(f"{arguments.tiles} tiles of {grid.tile_px} px at {grid.mpp:g} um/px of {path.name}")
        rates = (
            reader_rates(path, grid)
            if arguments.what == "readers"
            else feature_rates(path, grid, arguments.encoder)
        )
        for name, value in rates.items():
            print(f"  {name:<42}{value:>10.1f} tiles/s")
        if arguments.what == "features":
            forward, whole = rates.values()
            print(f"  share of the pure forward: {whole / forward:.2f}")


if __name__ == "__main__":
    main()
