"""The small study of ``tests.conftest`` with random tile features."""

from __future__ import annotations

from pathlib import Path

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
            rows = rng.normal(i, 1.0, (n, DIM)).astype(np.float16)
            places = rng.integers(0, 2000, (n, 2)).astype(np.int32)
            writer.append(slide, rows, places, tile_size=224.0, mpp0=0.5)
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
