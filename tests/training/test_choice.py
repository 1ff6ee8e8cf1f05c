"""Which weights are kept, on planted trajectories of validation scores whose true worth is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch

from toxfusion.evaluation.selection import SelectionScore, validation_score
from toxfusion.training.choice import Score, WeightChoice

#: How well the weights separate the classes, at each of twelve validations.
TRAJECTORIES = {
    "rises": np.linspace(0.2, 1.2, 12),
    "levels off": np.minimum(np.linspace(0.3, 2.5, 12), 1.0),
    "overfits": np.concatenate([np.linspace(0.3, 1.3, 4), np.linspace(1.2, 0.1, 8)]),
}
COMPOUNDS, ANIMALS, POSITIVE = 24, 4, 0.25


def part(rng: np.random.Generator, strengths: np.ndarray) -> list[SelectionScore]:
    """Scores of one lesion over the validations: noise of a compound, of an animal, and of the step."""
    compound = np.repeat(np.arange(COMPOUNDS), ANIMALS)
    label = (rng.random(len(compound)) < POSITIVE).astype(float)
    lasting = rng.normal(size=COMPOUNDS)[compound] * 0.5 + rng.normal(size=len(compound)) * 0.8
    table = pd.DataFrame(
        {"task": "lesion:a", "family": "binary", "part": "valid", "fold": 0, "seed": 0, "label": label}
        | {"compound": [f"c{i}" for i in compound]}
    )
    return [
        validation_score(table.assign(score=s * label + lasting + rng.normal(size=len(label)) * 0.4))
        for s in strengths
    ]


def kept(scores: list[Score], folder: Path, start: Score | None = None) -> int:
    """Position of the weights that `WeightChoice` keeps when it sees these scores; -1 for the start."""
    waiting = iter(scores)

    class Planted(WeightChoice):
        def score(self, trainer: L.Trainer, module: L.LightningModule) -> Score:
            return next(waiting)

    choice = Planted(folder / "best.ckpt", None)
    weight = {"w": torch.full((1,), -1.0)}
    module = cast(Any, SimpleNamespace(state_dict=lambda: weight, on_save_checkpoint=lambda content: None))
    if start is not None:
        choice.begin_at(start, module)
    for step in range(len(scores)):
        weight["w"] += 1
        trainer = cast(Any, SimpleNamespace(callback_metrics={"valid/loss": 1.0}, global_step=step))
        choice.on_validation_epoch_end(trainer, module)
    trainer.strategy = SimpleNamespace(barrier=lambda: None)
    chosen = choice.settle(trainer, module)
    written = torch.load(folder / "best.ckpt", weights_only=True)
    assert written["global_step"] == chosen["step"]
    return int(written["state_dict"]["w"])


@pytest.fixture(scope="module")
def gains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Trajectory -> rule -> mean gain in true AUROC over the last weights, over 60 validation parts."""
    folder = tmp_path_factory.mktemp("choice")
    gains: dict[str, dict[str, float]] = {}
    for name, strengths in TRAJECTORIES.items():
        rng = np.random.default_rng(7)
        # Of two normal scores with equal spread, AUROC = Phi(difference / (sqrt(2) spread)).
        spread = np.sqrt(0.5**2 + 0.8**2 + 0.4**2)
        worth = torch.special.ndtr(torch.from_numpy(strengths / spread / np.sqrt(2))).numpy()
        ours, highest = [], []
        for _ in range(60):
            scores = part(rng, strengths)
            ours.append(worth[kept(list(scores), folder)])
            highest.append(worth[int(np.argmax([s.value for s in scores]))])
        gains[name] = {
            "ours": float(np.mean(ours) - worth[-1]),
            "highest": float(np.mean(highest) - worth[-1]),
        }
    return gains


@pytest.mark.parametrize("name", ["rises", "levels off"])
def test_where_training_does_not_overfit_at_most_a_hundredth_is_lost(
    gains: dict[str, dict[str, float]], name: str
) -> None:
    assert gains[name]["ours"] >= -0.01
    assert gains[name]["ours"] >= gains[name]["highest"]


def test_where_training_overfits_nearly_all_is_gained(gains: dict[str, dict[str, float]]) -> None:
    assert gains["overfits"]["highest"] > 0.15
    assert gains["overfits"]["ours"] > 0.9 * gains["overfits"]["highest"]


def test_a_start_is_kept_unless_training_gains_beyond_the_error(tmp_path: Path) -> None:
    kept_of = {
        gain: [
            kept(list(scores[1:]), tmp_path, scores[0])
            for rng in map(np.random.default_rng, range(20))
            for scores in [part(rng, np.array([0.6, *np.linspace(0.6, 0.6 + gain, 4)]))]
        ]
        for gain in (-0.3, 0.0, 2.0)
    }
    assert kept_of[-0.3].count(-1) == 20
    assert kept_of[0.0].count(-1) >= 18
    assert kept_of[2.0].count(-1) == 0
