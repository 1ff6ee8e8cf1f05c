"""Random tile features for the small study of ``tests.conftest``."""

from __future__ import annotations

import numpy as np

from toxfusion.data.bag_store import BagStore, StoreSpec
from toxfusion.data.study import Study

DIM = 8


def write_features(
    study: Study, name: str = "test", trained_on: tuple[str, ...] = (), mpp: float = 0.5
) -> BagStore:
    """Random features of every slide of the small study, 3 to 9 tiles each."""
    spec = StoreSpec(
        "features", "float16", (DIM,), {"encoder": name, "mpp": mpp, "trained_on": list(trained_on)}
    )
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
