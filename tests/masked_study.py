"""The small study of ``tests.conftest`` as if the generator had written it: masks, severities, and tile features that
show them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from tests.conftest import tiny_tables
from toxfusion.study.bag_store import BagStore
from toxfusion.study.store_spec import StoreSpec
from toxfusion.study.study import Study, write_study
from toxfusion.synthetic.slide_spec import MASK_MPP, PHENOTYPES

ACROSS, SIDE, MPP = 4, 112, 1.0
LESION, PROGRAMME, SHIFT = "vacuolization", "A4", 6.0
SEVERITY = {"control": 0.0, "low": 0.5, "high": 3.0}
"""Of an animal; only that of a high dose is drawn, in a row of `ACROSS` tiles."""


def masked_study(root: Path, dim: int = 6, **provenance: object) -> Study:
    """Slides of 4 x 4 tiles, of which one row has the lesion at the high dose, and `SHIFT` in feature 0.

    Feature 1 differs between animals by as much, whatever they have.
    """
    made = {"setting": "realistic", "generator_version": 3}
    study = write_study(root, **{**tiny_tables(), "provenance": made})
    about = {"encoder": "test", "mpp": MPP, "tile_px": SIDE, "trained_on": [], **provenance}
    store = BagStore.create(study.root / "features" / "test", StoreSpec("features", "float16", (dim,), about))
    corners = SIDE * np.stack(np.meshgrid(np.arange(ACROSS), np.arange(ACROSS)), -1).reshape(-1, 2)
    truth = study.root / "truth"
    (truth / "masks").mkdir(parents=True)
    step = round(SIDE * MPP / MASK_MPP)
    with store.writer() as writer:
        for i, slide in enumerate(study.slides.index):
            ill = study.obs.at[study.slides.at[slide, "sample_id"], "dose_level"] == "high"
            rng = np.random.default_rng(i)
            tiles = rng.normal(size=(ACROSS**2, dim))
            tiles[:, 1] += SHIFT * rng.normal()
            bits = np.zeros((ACROSS * step, ACROSS * step), np.uint16)
            if ill:
                row = i % ACROSS
                tiles[row * ACROSS : (row + 1) * ACROSS, 0] += SHIFT
                bits[row * step : (row + 1) * step] = 1 << PHENOTYPES.index(LESION)
            assert cv2.imwrite(str(truth / "masks" / f"{slide}.png"), bits)
            writer.append(slide, tiles.astype(np.float16), corners.astype(np.int32), tile_size=SIDE, mpp0=MPP)
    severity = study.obs["dose_level"].map(SEVERITY)
    animals = {f"slide:{p}": severity * (p == LESION) for p in PHENOTYPES}
    animals |= {f"activity:{PROGRAMME}": severity / 3, "activity:A1": 0.0 * severity}
    pd.DataFrame(animals).rename_axis("sample_id").reset_index().to_parquet(truth / "animals.parquet")
    slides = study.slides[["sample_id"]].reset_index()
    slides.to_parquet(truth / "slides.parquet")
    extent = (slides["sample_id"].map(severity) > 1) / ACROSS
    lesions = slides[["slide_id"]].assign(phenotype=LESION, area_fraction=extent)
    lesions.to_parquet(truth / "lesions.parquet")
    return study
