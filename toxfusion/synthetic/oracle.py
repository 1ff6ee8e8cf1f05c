"""Oracles of a virtual study: the probability of each label given the realised latents that a view can see.

``slide`` knows the severities on the digitised piece, ``expression`` the programme activities and the dose that the
compound's own genes betray, ``both`` the two together; what a view cannot see (the pieces that were read, the
other rats of the group, the reader) is marginalised over a virtual population of another seed. ``all`` knows every
latent, also those that neither modality shows: severity of the whole liver, and for DILI human exposure.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score

from toxfusion.study.files import write_parquet
from toxfusion.study.vocabulary import LESION_PREFIX
from toxfusion.synthetic.axes import AXES
from toxfusion.synthetic.cohort import Compounds, Latents, draw_compounds, draw_latents
from toxfusion.synthetic.drawn import Cohort
from toxfusion.synthetic.labels import INJURED_RATS, TERMS, redrawn_readings
from toxfusion.synthetic.liability import dili, dili_probability

VIEWS: tuple[str, ...] = ("both", "slide", "expression")
COLUMNS: tuple[str, ...] = ("task", "level", "unit_id", "view", "label", "score")
ORACLE_FILE = "oracles.parquet"
POPULATION_SEED = 987_654_321
POPULATION_COMPOUNDS = 300
DILI_POPULATION = 6_000
REDRAWS = 24


def oracle_table(cohort: Cohort) -> pd.DataFrame:
    """One row per task, unit and view, with the label of the study and P(label | what the view knows).

    Columns as `COLUMNS`. Units: compounds for ``dili``, treated groups for ``injury``, samples for ``lesion:<term>``
    and ``severity`` (whose score is the expected highest grade).
    """
    return pd.concat([*_dili_rows(cohort), *_animal_rows(cohort)], ignore_index=True)[list(COLUMNS)]


def write_oracles(folder: Path, cohort: Cohort) -> None:
    """Write ``oracles.parquet``, at once or not at all."""
    write_parquet(oracle_table(cohort), folder / ORACLE_FILE)


def marginalise(known: np.ndarray, probability: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """E[P(label | latents) | what a view sees], by regression over a virtual population.

    Args:
        known: [n, d] what the view sees of the population; probability: [n] given all latents.
        seen: [m, d] what the view sees of the study.

    Returns:
        float64 [m], within the range of ``probability``.
    """
    if float(np.ptp(probability)) == 0.0:
        return np.full(len(seen), float(probability[0]))
    model = HistGradientBoostingRegressor(
        max_iter=60, learning_rate=0.1, max_leaf_nodes=12, min_samples_leaf=30, random_state=0
    )
    fitted = model.fit(known, probability).predict(seen)
    return np.clip(fitted, probability.min(), probability.max())


# --------------------------------------------------------------------------------------------- dili


def slide_loadings(compounds: Compounds) -> np.ndarray:
    """[C, A']: log lesion severity at the high dose of the axes that slides show."""
    shown = np.array([axis.slide > 0 for axis in AXES])
    potency = 1.0 / (1.0 + compounds.ed50**compounds.hill)
    return np.log1p(3 * compounds.slide_max * potency)[:, shown]


def expression_loadings(compounds: Compounds) -> np.ndarray:
    """[C, A]: log programme size of all axes."""
    return np.log1p(3 * compounds.expression_max)


def dili_oracles(compounds: Compounds, setting: str, population: Compounds) -> dict[str, np.ndarray]:
    """P(DILI) [C] for the views both, slide, expression and all."""
    target = dili_probability(population, setting, exposure=False)
    return {
        "both": dili_probability(compounds, setting, exposure=False),
        "slide": marginalise(slide_loadings(population), target, slide_loadings(compounds)),
        "expression": marginalise(expression_loadings(population), target, expression_loadings(compounds)),
        "all": dili_probability(compounds, setting, exposure=True),
    }


def _dili_rows(cohort: Cohort) -> Iterator[pd.DataFrame]:
    population = draw_compounds(POPULATION_SEED, range(DILI_POPULATION), cohort.config.setting)
    scores = dili_oracles(cohort.compounds, cohort.config.setting, population)
    for view, score in scores.items():
        yield _rows("dili", "compound", cohort.compounds.names, view, cohort.dili, score)


def _rows(
    task: str, level: str, units: list[str], view: str, label: np.ndarray, score: np.ndarray
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "task": task,
            "level": level,
            "unit_id": units,
            "view": view,
            "label": label.astype(float),
            "score": score,
        }
    )


# ------------------------------------------------------------------------------- lesions, severity, injury


def reading_probabilities(
    compounds: Compounds, latents: Latents, rng: np.random.Generator, redraws: int = REDRAWS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P(term reported) [C, T, L, 5, n_terms], expected highest grade [C, T, L, 5], P(injury) [C, T, L].

    By drawing sections, readers and, for injury, the rats of the group anew given the latents.
    """
    shape = latents.reading.shape[:4]
    reported, highest, injured = np.zeros((*shape, len(TERMS))), np.zeros(shape), np.zeros(shape[:3])
    for _ in range(redraws):
        reading = redrawn_readings(compounds, latents, rng, whole_group=False)
        reported += reading.grade > 0
        highest += reading.grade.max(-1)
        group = redrawn_readings(compounds, latents, rng, whole_group=True)
        injured += group.related.any(-1).sum(-1) >= INJURED_RATS
    return reported / redraws, highest / redraws, injured / redraws


def visible(latents: Latents) -> dict[str, np.ndarray]:
    """What each view sees of every rat: slide [C, T, L, 5, P], expression [C, T, L, 5, A + 1], and both."""
    dose = np.broadcast_to(latents.dose_fraction[:, None, :, None, None], (*latents.activity.shape[:-1], 1))
    slide, expression = latents.slide_severity, np.concatenate([latents.activity, dose], -1)
    return {"both": np.concatenate([slide, expression], -1), "slide": slide, "expression": expression}


def _animal_rows(cohort: Cohort) -> Iterator[pd.DataFrame]:
    config = cohort.config
    compounds = draw_compounds(POPULATION_SEED, range(POPULATION_COMPOUNDS), config.setting)
    latents = draw_latents(POPULATION_SEED, compounds, config.times_h, config.setting)
    of_population = reading_probabilities(compounds, latents, np.random.default_rng(POPULATION_SEED))
    own = reading_probabilities(cohort.compounds, cohort.latents, np.random.default_rng(config.seed + 1))
    seen_population, seen_own = visible(latents), visible(cohort.latents)
    n = config.animals_per_group
    grade = cohort.of_samples(cohort.reading.grade)

    tasks = {
        LESION_PREFIX + term: (grade[:, k] > 0, own[0][..., k], of_population[0][..., k])
        for k, term in enumerate(TERMS)
    }
    tasks["severity"] = (grade.max(-1), own[1], of_population[1])
    for task, (label, given_all, population_target) in tasks.items():
        yield _rows(task, "sample", cohort.sample_ids, "all", label, cohort.of_samples(given_all))
        for view in VIEWS:
            known = seen_population[view][..., :2, :]
            score = marginalise(
                known.reshape(-1, known.shape[-1]),
                population_target[..., :2].ravel(),
                cohort.of_samples(seen_own[view]),
            )
            yield _rows(task, "sample", cohort.sample_ids, view, label, score)

    groups = pd.Series([cohort.group_id(rat) for rat in cohort.rats])
    first = groups.drop_duplicates().index.to_numpy()
    places = cohort.rats[first][:, :3]
    treated = places[:, 2] > 0
    places, names = places[treated], groups[first][treated].tolist()
    at = tuple(places.T)
    yield _rows("injury", "group", names, "all", cohort.injury[at], own[2][at])
    for view in VIEWS:
        known = seen_population[view][:, :, 1:, :n].mean(3)
        score = marginalise(
            known.reshape(-1, known.shape[-1]),
            of_population[2][:, :, 1:].ravel(),
            seen_own[view][:, :, :, :n].mean(3)[at],
        )
        yield _rows("injury", "group", names, view, cohort.injury[at], score)


def population_aurocs(setting: str, n_compounds: int, seed: int) -> pd.DataFrame:
    """AUROC of the DILI oracles over ``n_compounds`` virtual compounds: columns view, auroc."""
    compounds = draw_compounds(seed, range(n_compounds), setting)
    population = draw_compounds(POPULATION_SEED, range(DILI_POPULATION), setting)
    scores = dili_oracles(compounds, setting, population)
    label = dili(compounds, setting)
    return pd.DataFrame({"view": list(scores), "auroc": [roc_auc_score(label, s) for s in scores.values()]})


def oracle_aurocs(table: pd.DataFrame) -> pd.DataFrame:
    """AUROC per task (rows) and view (columns) of an oracle table; NaN where a task has one class, or is ordinal."""
    binary = table[table["task"] != "severity"]
    by_view = {}
    for (task, view), part in binary.groupby(["task", "view"], sort=False):
        by_view[task, view] = (
            roc_auc_score(part["label"], part["score"]) if part["label"].nunique() == 2 else np.nan
        )
    aurocs = pd.Series(by_view).unstack()
    aurocs["positives"] = binary[binary["view"] == "both"].groupby("task")["label"].sum()
    return aurocs[[c for c in (*VIEWS, "all", "positives") if c in aurocs]]
