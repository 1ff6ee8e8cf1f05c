"""How long a comparison of many experiments takes, on made-up predictions.

    python -m benchmarks.comparing --experiments 50 --compounds 120 --lesions 8

Every experiment has the same units: four dose groups of five animals a compound, DILI, injury, lesions and severity.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd

from toxfusion.evaluation import predictions
from toxfusion.evaluation.comparison import Cohort, Run, compare

FOLDS = 5


def cohort(n_compounds: int, n_lesions: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Animals of the study and their latent damage, float [n, lesions]."""
    rng = np.random.default_rng(0)
    levels = ["control", "low", "middle", "high"]
    obs = pd.DataFrame([
        {"compound": f"c{c:03d}", "group_id": f"c{c:03d}-{d}", "dose_level": d, "time_h": 24.0, "study": "s",
         "batch": "b", "is_control": d == "control", "fold": c % FOLDS}
        for c in range(n_compounds) for d in levels for _ in range(5)
    ])  # fmt: skip
    obs.index = pd.Index([f"a{i}" for i in range(len(obs))], name="sample_id")
    dose = obs["dose_level"].map({name: i for i, name in enumerate(levels)}).to_numpy()
    toxic = np.repeat(rng.normal(size=(n_compounds, n_lesions)), 20, axis=0)
    return obs, toxic + 0.7 * dose[:, None] + rng.normal(size=toxic.shape)


def tables(obs: pd.DataFrame, damage: np.ndarray, noise: float, seed: int) -> list[pd.DataFrame]:
    """One table a fold: test and validation rows of every task."""
    rng = np.random.default_rng([1, seed])
    seen = damage + noise * rng.normal(size=damage.shape)
    frames = []
    for fold in range(FOLDS):
        parts = []
        for part, of in (("test", fold), ("valid", (fold + 1) % FOLDS)):
            chosen = (obs["fold"] == of).to_numpy()
            where: dict[str, Any] = {"part": part, "fold": fold, "seed": 0}
            units = predictions.describe_units(obs[chosen], "sample").loc[obs.index[chosen]]
            for k in range(damage.shape[1]):
                label, score = damage[chosen, k] > 3.5, 1 / (1 + np.exp(-seen[chosen, k]))
                parts.append(predictions.of_units(units, task=f"lesion:{k}", family="binary", headline="lesions",
                                              level="sample", label=label, score=score, **where))  # fmt: skip
            worst, seen_worst = damage[chosen].max(axis=1), seen[chosen].max(axis=1)
            grade = np.digitize(worst, [2.5, 3.0, 3.5, 4.0]).astype(float)
            expected = np.clip(seen_worst - 1.5, 0, 4)
            parts.append(predictions.of_units(units, task="severity", family="ordinal", level="sample", label=grade,
                                          score=expected, **where))  # fmt: skip
            treated = chosen & ~obs["is_control"].to_numpy()
            for task, level, key in (("injury", "group", "group_id"), ("dili", "compound", "compound")):
                mean = pd.DataFrame({"label": damage[treated].max(1), "score": seen[treated].max(1)})
                mean = mean.groupby(obs[key].to_numpy()[treated]).mean()
                parts.append(predictions.of_units(predictions.describe_units(obs[treated], level), task=task,
                                              family="binary", level=level, label=(mean["label"] > 2.8).astype(float),
                                              score=1 / (1 + np.exp(2.8 - mean["score"])), **where))  # fmt: skip
        frames.append(pd.concat(parts, ignore_index=True))
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=50)
    parser.add_argument("--compounds", type=int, default=120)
    parser.add_argument("--lesions", type=int, default=8)
    settings = parser.parse_args()
    obs, damage = cohort(settings.compounds, settings.lesions)
    runs = []
    for i in range(settings.experiments + 1):
        name = "full" if i == 0 else f"other{i:02d}"
        made = tables(obs, damage, 1.0 if i == 0 else 1.0 + 2.0 * i / settings.experiments, i)
        runs += [Run(name, "s", fold, 0, FOLDS, table, f"{name}/{fold}") for fold, table in enumerate(made)]
    start = time.process_time()
    comparison = compare(runs, {"s": Cohort("s", virtual=True)}, reference="full")
    seconds = time.process_time() - start
    print(
        f"{settings.experiments} experiments beside the reference, {len(obs)} animals: {seconds:.1f} s of CPU"
    )
    for headline in comparison.headlines:
        compared = comparison.table[
            (comparison.table["headline"] == headline) & comparison.table["p"].notna()
        ]
        print(
            f"{headline}: {(compared['p_holm'] < 0.05).sum()} of {len(compared)} below 0.05 after Holm's correction, "
            f"least p {compared['p'].min():.2g}, corrected {compared['p_holm'].min():.2g}"
        )


if __name__ == "__main__":
    main()
