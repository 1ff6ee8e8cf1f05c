"""Ceilings of a virtual study's slides: what linear probes find of the lesions that were planted in them.

    python benchmarks/visibility.py --study studies/control --features imagenet-default
    python benchmarks/visibility.py --study studies/control               # colour and texture of tiles, no learning

Four questions, the first three over compound-disjoint folds, on features relative to the vehicle controls of the
experiment:

tiles: with labels of the masks. A tile counts as positive with a tenth of its area in the lesion (a hundredth, where a
    lesion is single cells or foci), as negative with none. AUROC and average precision beside the prevalence.
slides: with the planted severity of the animal. Mean of tiles, minus the other controls; AUROC for a severity above 1,
    of the same test animals, by the number of compounds that the probe learns from.
activities: of expression programmes, from slides; correlation on unseen compounds.
DILI: how much of it compounds teach, were the planted lesions and programmes known exactly. Logistic regression on the
    parts of the liability, by the number of compounds that it learns from; mean AUROC on compounds of another seed.

Reads ``truth/``: a check of the study and never a result of a method.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from toxfusion.data.stain_augmentation import STAIN_DENSITY
from toxfusion.explanation.truth import lesion_mask
from toxfusion.study.bag_store import BagStore
from toxfusion.study.study import Study
from toxfusion.synthetic.cohort import draw_compounds
from toxfusion.synthetic.liability import components, dili
from toxfusion.synthetic.oracle import POPULATION_SEED
from toxfusion.synthetic.slide_spec import MASK_MPP, PHENOTYPES

SCALES_PX = (0.7, 1.4, 2.8, 5.6)
LEVELS = (1, 5, 25, 50, 75, 95, 99)
FEWEST, ENOUGH = 15, 100
SINGLE_CELLS = ("single_cell_necrosis", "mitosis")
POINT_LIKE = frozenset((*SINGLE_CELLS, "infiltration", "microgranuloma"))
COHORTS = (20, 40, 80, 160)
TEACHING, TEACHING_DRAWS, TAUGHT = (40, 160, 640), 40, 2_000
"""Compounds that DILI is learned from, draws of them, and compounds that it is asked of."""
LIABILITY_PARTS = {
    "lesions": [0],
    "programmes": [1],
    "both, their sum": [0, 1],
    "both, with every interaction": [0, 1, 2, 3, 4],
}
"""Columns of `liability.components`."""
FOLDS = 5
TILE_PENALTY = 1000.0

Values = NDArray[np.float64]


def colour_and_texture(tile: np.ndarray) -> np.ndarray:
    """Quantiles of each stain's optical density, and of its differences of Gaussians at four scales: float32 [81]."""
    stains = np.array(STAIN_DENSITY, np.float32)
    unmix = np.linalg.inv(stains / np.linalg.norm(stains, axis=1, keepdims=True))
    density = -np.log((tile.astype(np.float32) + 1) / 256) @ unmix
    quantiles: list[float] = []
    for channel in np.ascontiguousarray(density.transpose(2, 0, 1)):
        quantiles += list(np.percentile(channel, LEVELS))
        finer = channel
        for scale in SCALES_PX:
            coarser = cv2.GaussianBlur(channel, (0, 0), scale)
            band = finer - coarser
            quantiles += [*np.percentile(band, (1, 5, 95, 99)), float(band.std())]
            finer = coarser
    return np.array(quantiles, np.float32)


def tile_shares(study: Study, store: BagStore, slide_id: str) -> Values:
    """[tiles, phenotypes]: share of each tile's area that the mask marks."""
    mask = lesion_mask(study, slide_id)
    step = MASK_MPP / store.mpp0(slide_id)
    side = round(store.tile_size(slide_id) / step)
    shares = []
    for x, y in np.round(store.coordinates(slide_id) / step).astype(int):
        bits = mask[y : y + side, x : x + side]
        shares.append([((bits >> k) & 1).mean() for k in range(len(PHENOTYPES))])
    return np.array(shares)


def out_of_fold(probe: Pipeline, values: Values, target: Values, groups: NDArray) -> Values:
    """Predictions for groups that the probe has not seen."""
    predicted = np.zeros(target.shape)
    for seen, unseen in GroupKFold(FOLDS).split(values, groups=groups):
        predicted[unseen] = (
            probe.fit(values[seen], target[seen]).predict(values[unseen]).reshape(-1, *target.shape[1:])
        )
    return predicted


class Probes:
    """The tiles of a study, their features and what was planted in them.

    Args:
        features: name of a feature store; None = colour and texture of the tiles of the tile store.
    """

    def __init__(self, study: Study, features: str | None, tiles: str) -> None:
        self.study = study
        store = study.features(features) if features else study.tiles(tiles)
        obs = study.obs
        self.slides = [
            (s, x) for s in study.sample_ids for x in study.slides_of(s) if x in store and store.n_rows(x)
        ]
        bags = [
            store.rows(x).astype(np.float64)
            if features
            else np.stack([colour_and_texture(tile) for tile in store.rows(x)]).astype(np.float64)
            for _, x in self.slides
        ]
        self.shares = np.concatenate([tile_shares(study, store, x) for _, x in self.slides])
        self.sample = np.repeat([s for s, _ in self.slides], [len(r) for r in bags])
        self.means = pd.DataFrame([r.mean(0) for r in bags], index=[s for s, _ in self.slides])
        self.means = self.means.groupby(level=0, sort=False).mean()
        self.is_control = obs.loc[self.means.index, "is_control"].to_numpy(bool)
        self.experiment = obs.loc[self.means.index, "control_group"].astype(str).to_numpy()
        reference = self.means[self.is_control].groupby(self.experiment[self.is_control]).mean()
        self.tiles = np.concatenate(bags)
        at = obs.loc[self.sample, "control_group"].astype(str).to_numpy()
        known = np.isin(at, reference.index)
        self.tiles, self.shares, self.sample = self.tiles[known], self.shares[known], self.sample[known]
        self.tiles -= reference.loc[at[known]].to_numpy()
        self.compound = obs.loc[self.sample, "compound"].astype(str).to_numpy()

    def of_tiles(self) -> pd.DataFrame:
        """One row a lesion that enough tiles of enough compounds show."""
        lesions = []
        probe = make_pipeline(StandardScaler(), Ridge(TILE_PENALTY))
        for k, phenotype in enumerate(PHENOTYPES):
            positive = self.shares[:, k] >= (0.01 if phenotype in POINT_LIKE else 0.1)
            used = positive | (self.shares[:, k] == 0)
            if positive.sum() < FEWEST or len(np.unique(self.compound[positive])) < FOLDS:
                continue
            label = positive[used].astype(float)
            score = out_of_fold(probe, self.tiles[used], label, self.compound[used])
            lesions.append(
                {
                    "lesion": phenotype,
                    "tiles": int(positive.sum()),
                    "prevalence": label.mean(),
                    "AUROC": roc_auc_score(label, score),
                    "AP": average_precision_score(label, score),
                }
            )
        return pd.DataFrame(lesions)

    def relative(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Of each animal: mean features minus those of the other controls of its experiment, and what was planted."""
        differences = {}
        for place, sample in enumerate(self.means.index):
            others = self.is_control & (self.experiment == self.experiment[place])
            others[place] = False
            if others.any():
                differences[sample] = self.means.iloc[place] - self.means[others].mean()
        values = pd.DataFrame(differences).T
        truth = pd.read_parquet(self.study.root / "truth" / "animals.parquet").set_index("sample_id")
        return values, truth.loc[values.index]

    def of_slides(self, components: int) -> pd.DataFrame:
        """AUROC of each lesion (rows) by the number of compounds in training (columns)."""
        values, truth = self.relative()
        severity = truth[[f"slide:{p}" for p in PHENOTYPES]].to_numpy()
        compounds = self.study.obs.loc[values.index, "compound"].astype(str).to_numpy()
        table: dict[str, dict[int, float]] = {}
        names = np.random.default_rng(0).permutation(np.unique(compounds))
        sizes = [n for n in COHORTS if n < 0.8 * len(names)] + [int(0.8 * len(names))]
        for size in sizes:
            score = np.zeros(severity.shape)
            for part in np.array_split(names, FOLDS):
                unseen = np.isin(compounds, part)
                seen = np.isin(compounds, [n for n in names if n not in part][:size])
                depth = min(components, seen.sum() - 1)
                probe = make_pipeline(
                    StandardScaler(), PCA(depth, whiten=True, random_state=0), Ridge(alpha=depth)
                )
                score[unseen] = probe.fit(values[seen], severity[seen]).predict(values[unseen])
            for k, phenotype in enumerate(PHENOTYPES):
                there = severity[:, k] > 1
                if there.sum() >= FEWEST and phenotype not in SINGLE_CELLS:
                    table.setdefault(phenotype, {})[size] = roc_auc_score(there, score[:, k])
        return pd.DataFrame(table).T

    def of_activities(self, components: int) -> pd.Series:
        """Correlation of predicted and planted activity of each programme, on unseen compounds."""
        values, truth = self.relative()
        activity = truth.filter(regex="^activity:")
        compounds = self.study.obs.loc[values.index, "compound"].astype(str).to_numpy()
        probe = make_pipeline(
            StandardScaler(), PCA(components, whiten=True, random_state=0), Ridge(alpha=components)
        )
        predicted = out_of_fold(probe, values.to_numpy(), activity.to_numpy(), compounds)
        names = [str(column).removeprefix("activity:") for column in activity]
        pairs = {name: (activity.iloc[:, k], predicted[:, k]) for k, name in enumerate(names)}
        return pd.Series(
            {
                name: np.corrcoef(true, score)[0, 1]
                for name, (true, score) in pairs.items()
                if np.ptp(true) > 0
            }
        )


def dili_taught(setting: str) -> pd.DataFrame:
    """AUROC of DILI from planted parts of the liability (rows) by the number of compounds in training (columns)."""
    drawn = max(TEACHING) * TEACHING_DRAWS
    teaching = draw_compounds(POPULATION_SEED, range(drawn), setting)
    asked = draw_compounds(POPULATION_SEED + 1, range(TAUGHT), setting)
    known, label = components(teaching, setting), dili(teaching, setting)
    asked_of, truth = components(asked, setting), dili(asked, setting)
    probe = make_pipeline(StandardScaler(), LogisticRegression())
    table: dict[str, dict[int, float]] = {}
    for part, columns in LIABILITY_PARTS.items():
        for size in TEACHING:
            aurocs = []
            for draw in range(TEACHING_DRAWS):
                of = slice(draw * size, (draw + 1) * size)
                probe.fit(known[of][:, columns], label[of])
                aurocs.append(roc_auc_score(truth, probe.decision_function(asked_of[:, columns])))
            table.setdefault(part, {})[size] = float(np.mean(aurocs))
    return pd.DataFrame(table).T


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--tiles", default="default", help="tile store that colour and texture are taken of")
    parser.add_argument("--features", help="a feature store of the study instead")
    parser.add_argument("--components", type=int, default=60)
    arguments = parser.parse_args()
    study = Study.open(arguments.study)
    made = study.provenance
    print(f"{study.name}: setting {made['setting']}, generator {made['generator_version']}")
    probes = Probes(study, arguments.features, arguments.tiles)
    tiles = probes.of_tiles()
    print(f"\ntiles, labels of the masks ({len(probes.tiles)} tiles of {len(probes.slides)} slides)")
    print(tiles.to_string(index=False, float_format="%.2f"))
    counted = ~tiles["lesion"].isin(SINGLE_CELLS) & (tiles["tiles"] >= ENOUGH)
    print(
        f"mean of {counted.sum()} lesions of tissue with {ENOUGH} tiles: {tiles.loc[counted, 'AUROC'].mean():.3f}, "
        f"of all {len(tiles)}: {tiles['AUROC'].mean():.3f}"
    )
    slides = probes.of_slides(arguments.components)
    print(f"\nslides, planted severity above 1, by compounds in training ({len(probes.means)} animals)")
    print(slides.to_string(float_format="%.2f"))
    print("mean " + ", ".join(f"{n} compounds {value:.3f}" for n, value in slides.mean().items()))
    activities = probes.of_activities(arguments.components)
    print("\nactivities of programmes from slides, correlation on unseen compounds")
    print(activities.round(2).to_string())
    print(f"mean {activities.mean():.3f}")
    print(f"\nDILI of {TAUGHT} compounds from planted parts of the liability, by compounds in training")
    print(dili_taught(made["setting"]).to_string(float_format="%.2f"))


if __name__ == "__main__":
    main()
