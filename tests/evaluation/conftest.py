"""Made-up predictions tables of known signal."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest

from toxfusion.evaluation import predictions
from toxfusion.evaluation.comparison import Run

MakeTable = Callable[..., pd.DataFrame]


def _probability(signal: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-signal))


@pytest.fixture(scope="session")
def make_table() -> MakeTable:
    """A maker of one fold's predictions: 4 treated samples (2 doses x 2 times) and one control of each
    compound.
    """

    @cache
    def make(
        *,
        fold: int = 0,
        n_folds: int = 1,
        seed: int = 0,
        n_compounds: int = 24,
        strength: float = 2.0,
        noise: int = 0,
    ) -> pd.DataFrame:
        truth = np.random.default_rng(11)
        names = np.array([f"compound{i:02d}" for i in range(n_compounds)])
        dili = np.arange(n_compounds) % 2
        lesion = truth.integers(0, 2, (n_compounds, 5))
        rng = np.random.default_rng([noise, seed])
        samples = pd.DataFrame(
            [
                {
                    "sample_id": f"{name}_{k}",
                    "group_id": f"{name}_{k}",
                    "compound": name,
                    "dose_level": ["low", "low", "high", "high", "control"][k],
                    "time_h": [24.0, 168.0, 24.0, 168.0, 24.0][k],
                    "study": "made_up",
                    "batch": "b0",
                    "is_control": k == 4,
                    "injury": float(lesion[i, k] * (k < 4)),
                    "fold": i * n_folds // n_compounds,
                }
                for i, name in enumerate(names)
                for k in range(5)
            ]
        ).set_index("sample_id")
        scores = _probability(strength * (samples["injury"] - 0.5) + rng.normal(size=len(samples)))
        dili_scores = pd.Series(_probability(strength * (dili - 0.5) + rng.normal(size=n_compounds)), names)
        tables = []
        for part in ("test", "valid"):
            chosen = samples[samples["fold"] == (fold if part == "test" else (fold + 1) % n_folds)]
            if part == "valid" and n_folds == 1:
                continue
            common = {"part": part, "fold": fold, "seed": seed}
            units = predictions.describe_units(chosen, "sample")
            for task in ("lesion:necrosis", "lesion:hypertrophy"):
                tables.append(
                    predictions.of_units(
                        units,
                        task=task,
                        family="binary",
                        headline="lesions",
                        level="sample",
                        label=chosen["injury"],
                        score=scores,
                        **common,
                    )
                )
            groups = predictions.describe_units(chosen, "group")
            tables.append(
                predictions.of_units(
                    groups,
                    task="injury",
                    family="binary",
                    level="group",
                    label=chosen["injury"],
                    score=scores,
                    **common,
                )
            )
            tables.append(
                predictions.of_units(
                    units,
                    task="severity",
                    family="ordinal",
                    level="sample",
                    label=3 * chosen["injury"],
                    score=3 * scores,
                    **common,
                )
            )
            compounds = predictions.describe_units(chosen[~chosen["is_control"]], "compound")
            label = pd.Series(dili, names)
            tables.append(
                predictions.of_units(
                    compounds,
                    task="dili",
                    family="binary",
                    level="compound",
                    label=label,
                    score=dili_scores,
                    **common,
                )
            )
        return pd.concat(tables, ignore_index=True)

    return lambda **settings: make(**settings).copy()


def runs_of(
    make_table: MakeTable, experiment: str, folds: range = range(3), cohort: str = "study", **settings: object
) -> list[Run]:
    """Runs of an experiment on folds of three, with made-up predictions."""
    tables = {fold: make_table(fold=fold, n_folds=3, **settings) for fold in folds}
    return [
        Run(experiment, cohort, fold, 0, 3, table, f"{experiment}/{fold}") for fold, table in tables.items()
    ]
