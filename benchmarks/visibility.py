"""Ceilings of a virtual study's slides: what linear probes find of the lesions that were planted in them.

    python benchmarks/visibility.py --study studies/control --features imagenet-default
    python benchmarks/visibility.py --study studies/control               # colour and texture of tiles, no learning
    python benchmarks/visibility.py --study studies/control --planted     # what the truth alone says, in seconds

Four questions, the first three over compound-disjoint folds, on features relative to the vehicle controls of the
experiment:

tiles: with labels of the masks. A tile counts as positive with a tenth of its area in the lesion (a hundredth, where a
    lesion is single cells or foci), as negative with none. AUROC and average precision beside the prevalence.
slides: with the planted severity of the animal. Mean of tiles, minus the other controls; AUROC for a severity above 1,
    of the same test animals, by the number of compounds that the probe learns from. Beside it what limits: the extent
    of the lesion that was planted in the field ("extent"), and the mean over tiles of the first probe ("masks").
activities: of expression programmes, from slides; correlation on unseen compounds. Beside it the same from the planted
    severities, from the planted extents, and from the first probe.
DILI: how much of it compounds teach, were the planted lesions and programmes known exactly. Logistic regression on the
    parts of the liability, by the number of compounds that it learns from; mean AUROC on compounds of another seed.

Reads ``truth/``: a check of the study and never a result of a method.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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
SHARE, POINT_LIKE_SHARE = 0.1, 0.01
"""Least share of a tile that a lesion fills, and one of single cells or foci, in a tile that counts as positive."""
FEWEST, ENOUGH = 15, 100
EXTENT, SEVERITY, BY_MASKS = "extent", "severity", "masks"
"""What is read of a slide beside its features: see `Probes.of_slides`."""
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


def tile_probe() -> Pipeline:
    """What learns lesions of tiles from masks."""
    return make_pipeline(StandardScaler(), Ridge(TILE_PENALTY))


def out_of_fold(
    probe: Pipeline,
    values: NDArray[np.floating],
    target: Values,
    groups: NDArray,
    used: NDArray[np.bool_] | None = None,
) -> Values:
    """Predictions for groups that the probe has not seen.

    Args:
        used: of the units, which ones the probe may learn from; None = all.
    """
    taught = np.arange(len(values)) if used is None else np.flatnonzero(used)
    predicted = np.zeros(target.shape)
    for seen, tested in GroupKFold(FOLDS).split(taught, groups=groups[taught]):
        probe.fit(values[taught[seen]], target[taught[seen]])
        # Groups without a unit to learn from are unseen by every probe; the last one scores them.
        unseen = np.isin(groups, groups[taught[tested]]) | ~np.isin(groups, groups[taught])
        predicted[unseen] = probe.predict(values[unseen]).reshape(-1, *target.shape[1:])
    return predicted


class Planted:
    """What a virtual study has planted, by animal with a slide.

    Attributes:
        severity: float64 [animals, phenotypes] of each lesion on the slide; below 0 is absent.
        extents: float64 [animals, phenotypes], share of the tissue in the field that the mask marks.
        activity: float64 [animals, axes] of each expression programme.
        compound: str [animals].
    """

    def __init__(self, study: Study) -> None:
        truth = study.root / "truth"
        slides = pd.read_parquet(truth / "slides.parquet").set_index("slide_id")
        lesions = pd.read_parquet(truth / "lesions.parquet")
        shares = lesions.pivot(index="slide_id", columns="phenotype", values="area_fraction")
        shares = shares.reindex(index=slides.index, columns=list(PHENOTYPES)).fillna(0.0)
        self.extents = shares.groupby(slides["sample_id"]).mean()
        animals = pd.read_parquet(truth / "animals.parquet").set_index("sample_id").loc[self.extents.index]
        self.severity = animals[[f"slide:{p}" for p in PHENOTYPES]].set_axis(list(PHENOTYPES), axis=1)
        self.activity = animals.filter(regex="^activity:").rename(
            columns=lambda column: column.removeprefix("activity:")
        )
        self.compound = study.obs.loc[self.extents.index, "compound"].astype(str)

    def told(self, score: pd.DataFrame) -> dict[str, float]:
        """AUROC of each score, [animals, phenotypes], for a severity of its lesion above 1, where enough have it."""
        severe = self.severity.loc[score.index] > 1
        return {
            p: float(roc_auc_score(severe[p], score[p]))
            for p in PHENOTYPES
            if p in score and p not in SINGLE_CELLS and severe[p].sum() >= FEWEST
        }

    def read(self, probe: Pipeline, values: pd.DataFrame) -> dict[str, float]:
        """Correlation of each programme's activity with what a probe reads in values, [animals, d].

        The probe has learned from other compounds.
        """
        activity = self.activity.loc[values.index]
        compounds = self.compound.loc[values.index].to_numpy()
        predicted = out_of_fold(probe, values.to_numpy(), activity.to_numpy(), compounds)
        return {
            str(name): float(np.corrcoef(activity[name], predicted[:, k])[0, 1])
            for k, name in enumerate(activity)
            if np.ptp(activity[name]) > 0
        }

    def ceilings(self, animals: pd.Index) -> dict[str, dict[str, float]]:
        """`read` of what was planted in the slide itself."""
        probe = make_pipeline(StandardScaler(), Ridge())
        return {
            SEVERITY: self.read(probe, self.severity.loc[animals]),
            EXTENT: self.read(probe, self.extents.loc[animals]),
        }


class Probes:
    """The tiles of a study, their features and what was planted in them.

    Args:
        features: name of a feature store; None = colour and texture of the tiles of the tile store.
    """

    def __init__(self, study: Study, features: str | None, tiles: str) -> None:
        self.study, self.planted = study, Planted(study)
        store = study.features(features) if features else study.tiles(tiles)
        obs = study.obs
        self.slides = [
            (s, x) for s in study.sample_ids for x in study.slides_of(s) if x in store and store.n_rows(x)
        ]
        bags = [
            store.rows(x).astype(np.float32)
            if features
            else np.stack([colour_and_texture(tile) for tile in store.rows(x)])
            for _, x in self.slides
        ]
        self.shares = np.concatenate([tile_shares(study, store, x) for _, x in self.slides])
        self.sample = np.repeat([s for s, _ in self.slides], [len(r) for r in bags])
        self.means = pd.DataFrame(
            [r.mean(0, dtype=np.float64) for r in bags], index=[s for s, _ in self.slides]
        )
        self.means = self.means.groupby(level=0, sort=False).mean()
        self.is_control = obs.loc[self.means.index, "is_control"].to_numpy(bool)
        self.experiment = obs.loc[self.means.index, "control_group"].astype(str).to_numpy()
        reference = self.means[self.is_control].groupby(self.experiment[self.is_control]).mean()
        self.tiles = np.concatenate(bags)
        at = obs.loc[self.sample, "control_group"].astype(str).to_numpy()
        known = np.isin(at, reference.index)
        self.tiles, self.shares, self.sample = self.tiles[known], self.shares[known], self.sample[known]
        self.tiles -= reference.loc[at[known]].to_numpy(np.float32)
        self.compound = obs.loc[self.sample, "compound"].astype(str).to_numpy()

    def labels(self, phenotypes: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each tile shows any of the lesions, and whether it is labelled: shows one, or nothing of them."""
        shares = self.shares[:, [PHENOTYPES.index(p) for p in phenotypes]]
        least = [POINT_LIKE_SHARE if p in POINT_LIKE else SHARE for p in phenotypes]
        positive = np.any(shares >= least, axis=1)
        return positive, positive | np.all(shares == 0, axis=1)

    def is_enough(self, positive: NDArray[np.bool_]) -> bool:
        """Whether enough tiles of enough compounds are positive for a probe over folds of compounds."""
        return bool(positive.sum() >= FEWEST and len(np.unique(self.compound[positive])) >= FOLDS)

    def tile_scores(self) -> pd.DataFrame:
        """Score of each tile by a probe taught by masks of other compounds: [T, lesions that enough tiles show]."""
        scores = {}
        for phenotype in PHENOTYPES:
            positive, used = self.labels([phenotype])
            if self.is_enough(positive):
                label = positive.astype(float)
                scores[phenotype] = out_of_fold(tile_probe(), self.tiles, label, self.compound, used)
        return pd.DataFrame(scores)

    def of_tiles(self, scores: pd.DataFrame) -> pd.DataFrame:
        """One row a lesion of `tile_scores`."""
        lesions = []
        for phenotype in map(str, scores):
            positive, used = self.labels([phenotype])
            label, score = positive[used], scores[phenotype].to_numpy()[used]
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

    def relative(self, of_animals: pd.DataFrame) -> pd.DataFrame:
        """Values of each animal minus the mean of the other controls of its experiment; animals without are left out.

        Args:
            of_animals: a row an animal of ``means``, in its order.
        """
        differences = {}
        for place, sample in enumerate(of_animals.index):
            others = self.is_control & (self.experiment == self.experiment[place])
            others[place] = False
            if others.any():
                differences[sample] = of_animals.iloc[place] - of_animals[others].mean()
        return pd.DataFrame(differences).T

    def of_animals(self, of_tiles: pd.DataFrame) -> pd.DataFrame:
        """Mean over the tiles of each animal of ``means``."""
        return of_tiles.groupby(self.sample).mean().reindex(self.means.index)

    def of_slides(self, components: int, scores: pd.DataFrame) -> pd.DataFrame:
        """AUROC of each lesion (rows) by what is read of a slide (columns).

        Columns: the extent that was planted in the field; mean over tiles of a probe that masks taught; features, by
        the number of compounds whose severities taught the probe.
        """
        values = self.relative(self.means)
        severity = self.planted.severity.loc[values.index].to_numpy()
        compounds = self.planted.compound.loc[values.index].to_numpy()
        table = {
            EXTENT: self.planted.told(self.planted.extents.loc[values.index]),
            BY_MASKS: self.planted.told(self.relative(self.of_animals(scores)).loc[values.index]),
        }
        names = np.random.default_rng(0).permutation(np.unique(compounds))
        sizes = [n for n in COHORTS if n < 0.8 * len(names)] + [int(0.8 * len(names))]
        for size in sizes:
            score = np.zeros(severity.shape)
            for part in np.array_split(names, FOLDS):
                unseen = np.isin(compounds, part)
                seen = np.isin(compounds, [n for n in names if n not in part][:size])
                depth = min(components, seen.sum() - 1)
                score[unseen] = _slide_probe(depth).fit(values[seen], severity[seen]).predict(values[unseen])
            of_size = pd.DataFrame(score, index=values.index, columns=list(PHENOTYPES))
            table[str(size)] = self.planted.told(of_size)
        return pd.DataFrame(table)

    def of_activities(self, components: int, scores: pd.DataFrame) -> pd.DataFrame:
        """Correlation of each programme's activity (rows) by what is read of a slide (columns)."""
        values = self.relative(self.means)
        by_masks = self.relative(self.of_animals(scores)).loc[values.index]
        return pd.DataFrame(
            {
                **self.planted.ceilings(values.index),
                BY_MASKS: self.planted.read(make_pipeline(StandardScaler(), Ridge()), by_masks),
                "features": self.planted.read(_slide_probe(components), values),
            }
        )


def _slide_probe(components: int) -> Pipeline:
    """What learns severities and activities from the features of a slide."""
    return make_pipeline(
        StandardScaler(), PCA(components, whiten=True, random_state=0), Ridge(alpha=components)
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


def print_means(table: pd.DataFrame) -> None:
    """A table, and the mean of each column."""
    print(table.to_string(float_format="%.2f"))
    print("mean " + ", ".join(f"{column} {value:.3f}" for column, value in table.mean().items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--tiles", default="default", help="tile store that colour and texture are taken of")
    parser.add_argument("--features", help="a feature store of the study instead")
    parser.add_argument("--components", type=int, default=60)
    parser.add_argument(
        "--planted", action="store_true", help="only what is to be had of the truth: no tile is read"
    )
    arguments = parser.parse_args()
    study = Study.open(arguments.study)
    made = study.provenance
    print(f"{study.name}: setting {made['setting']}, generator {made['generator_version']}")
    if arguments.planted:
        planted = Planted(study)
        told = pd.DataFrame({EXTENT: planted.told(planted.extents)})
        print(f"\nslides, planted severity above 1, from the planted extent ({len(planted.extents)} animals)")
        print_means(told)
        print("\nactivities of programmes, correlation on unseen compounds, by what is read")
        print_means(pd.DataFrame(planted.ceilings(planted.extents.index)))
        return
    probes = Probes(study, arguments.features, arguments.tiles)
    scores = probes.tile_scores()
    tiles = probes.of_tiles(scores)
    print(f"\ntiles, labels of the masks ({len(probes.tiles)} tiles of {len(probes.slides)} slides)")
    print(tiles.to_string(index=False, float_format="%.2f"))
    counted = ~tiles["lesion"].isin(SINGLE_CELLS) & (tiles["tiles"] >= ENOUGH)
    print(
        f"mean of {counted.sum()} lesions of tissue with {ENOUGH} tiles: {tiles.loc[counted, 'AUROC'].mean():.3f}, "
        f"of all {len(tiles)}: {tiles['AUROC'].mean():.3f}"
    )
    slides = probes.of_slides(arguments.components, scores)
    print(
        f"\nslides, planted severity above 1, from what was planted in the field, from the probe of tiles, and from "
        f"features by compounds in training ({len(probes.means)} animals)"
    )
    print_means(slides)
    activities = probes.of_activities(arguments.components, scores)
    print("\nactivities of programmes from slides, correlation on unseen compounds, by what is read")
    print_means(activities)
    print(f"\nDILI of {TAUGHT} compounds from planted parts of the liability, by compounds in training")
    print(dili_taught(made["setting"]).to_string(float_format="%.2f"))


if __name__ == "__main__":
    main()
