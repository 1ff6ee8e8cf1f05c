"""What a linear probe finds of the planted lesions in the slides of a virtual study: is it the encoder, or the slides?

    python benchmarks/visibility.py --study studies/tuning                      # colour and texture, no learning
    python benchmarks/visibility.py --study studies/tuning --features NAME      # a feature store of the study

Pools the tiles of each animal (mean), subtracts the other vehicle controls of its experiment, and fits ridge regression
on the planted severities of the digitised piece, over compound-disjoint folds. Prints, for every lesion that reaches
severity 1 in 15 animals, the AUROC for it. Reads ``truth/``: a check of the study and never a result of a method.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from toxfusion.data.stain_augmentation import STAIN_DENSITY
from toxfusion.study.study import Study

SCALES_PX = (0.7, 1.4, 2.8, 5.6)
LEVELS = (1, 5, 25, 50, 75, 95, 99)
FEWEST = 15


def colour_and_texture(tile: np.ndarray) -> np.ndarray:
    """Quantiles of each stain's optical density, and of its differences of Gaussians at four scales: float32 [81]."""
    stains = np.array(STAIN_DENSITY, np.float32)
    unmix = np.linalg.inv(stains / np.linalg.norm(stains, axis=1, keepdims=True))
    density = -np.log((tile.astype(np.float32) + 1) / 256) @ unmix
    found: list[float] = []
    for channel in np.ascontiguousarray(density.transpose(2, 0, 1)):
        found += list(np.percentile(channel, LEVELS))
        finer = channel
        for scale in SCALES_PX:
            coarser = cv2.GaussianBlur(channel, (0, 0), scale)
            band = finer - coarser
            found += [*np.percentile(band, (1, 5, 95, 99)), float(band.std())]
            finer = coarser
    return np.array(found, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--tiles", default="default", help="tile store that colour and texture are taken of")
    parser.add_argument("--features", help="a feature store of the study instead")
    parser.add_argument("--components", type=int, default=30)
    given = parser.parse_args()
    study = Study.open(given.study)
    store = study.features(given.features) if given.features else study.tiles(given.tiles)

    def pooled(slide: str) -> np.ndarray:
        rows = store.rows(slide)
        return (rows if given.features else np.stack([colour_and_texture(tile) for tile in rows])).mean(
            0, dtype=np.float64
        )

    slides = {s: [pooled(x) for x in study.slides_of(s) if x in store] for s in study.sample_ids}
    means = pd.DataFrame({s: np.mean(rows, axis=0) for s, rows in slides.items() if rows}).T
    controls = means.index[study.obs.loc[means.index, "is_control"]]
    group = study.obs["control_group"].astype(str)
    relative = {}
    for sample in means.index:
        others = [c for c in controls if group[c] == group[sample] and c != sample]
        if others:
            relative[sample] = means.loc[sample] - means.loc[others].mean()
    values = pd.DataFrame(relative).T
    truth = (
        pd.read_parquet(given.study / "truth" / "animals.parquet").set_index("sample_id").loc[values.index]
    )
    severity = truth[[c for c in truth if c.startswith("slide:")]]
    probe = make_pipeline(
        StandardScaler(), PCA(given.components, whiten=True, random_state=0), Ridge(alpha=given.components)
    )
    compounds = study.obs.loc[values.index, "compound"].astype(str)
    found = np.zeros(severity.shape)
    for seen, unseen in GroupKFold(5).split(values, groups=compounds):
        found[unseen] = probe.fit(values.iloc[seen], severity.iloc[seen]).predict(values.iloc[unseen])
    rows = [
        {"lesion": name.partition(":")[2], "animals": int(there.sum()), "AUROC": roc_auc_score(there, score)}
        for (name, there), score in zip((severity > 1).items(), found.T, strict=True)
        if there.sum() >= FEWEST
    ]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="%.2f"))
    print(f"mean of {len(table)} lesions: {table['AUROC'].mean():.3f}, {len(values)} animals")


if __name__ == "__main__":
    main()
