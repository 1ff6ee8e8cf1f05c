"""The small study of ``tests.conftest`` with random tiles or tile features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import tiny_tables
from toxfusion.study.bag_store import BagStore
from toxfusion.study.store_spec import StoreSpec
from toxfusion.study.study import Study, write_study

DIM = 8


def write_features(
    study: Study, name: str = "test", trained_on: tuple[str, ...] = (), mpp: float = 0.5, **provenance: str
) -> BagStore:
    """Random features of every slide of the small study, 3 to 9 tiles each."""
    about = {"encoder": name, "mpp": mpp, "trained_on": list(trained_on), **provenance}
    spec = StoreSpec("features", "float16", (DIM,), about)
    store = BagStore.create(study.root / "features" / name, spec)
    with store.writer() as writer:
        for i, slide in enumerate(study.slides.index):
            rng = np.random.default_rng(i)
            n = 3 + i % 7
            features = rng.normal(i, 1.0, (n, DIM)).astype(np.float16)
            places = rng.integers(0, 2000, (n, 2)).astype(np.int32)
            writer.append(slide, features, places, tile_size=224.0, mpp0=0.5)
    store.refresh()
    return store


def featured_study(root: Path, mpp_override: float | None = None) -> Study:
    """The small study at ``root`` with random features; with ``mpp_override`` for every slide, um per level-0 px."""
    tables = tiny_tables()
    if mpp_override is not None:
        tables["slides"]["mpp_override"] = mpp_override
    study = write_study(root, **tables)
    write_features(study)
    return study


def tiled_study(root: Path, seed: int = 0, tables: dict[str, Any] | None = None) -> Study:
    """A tiny study (or one of other tables) with a store of random tiles."""
    study = write_study(root, **(tables or tiny_tables()))
    spec = StoreSpec("tiles", "uint8", (32, 32, 3), {"mpp": 1.0, "tile_px": 32, "grid": "default"})
    store = BagStore.create(study.root / "tiles" / "default", spec)
    rng = np.random.default_rng(seed)
    with store.writer() as writer:
        for slide in study.slides.index:
            tiles = rng.integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
            writer.append(slide, tiles, np.arange(6).reshape(3, 2).astype(np.int32), tile_size=64.0, mpp0=0.5)
    return study
