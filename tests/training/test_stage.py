"""One stage on a small regression: exact resume from any interruption, validation by steps, choice of weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from toxfusion.data.datamodule import PositionedDataModule
from toxfusion.data.sampling import torch_generator, torch_seed
from toxfusion.training.averaging import AveragedWeights
from toxfusion.training.checkpoint import read_checkpoint
from toxfusion.training.choice import DivergedError, PlainScore, Score, WeightChoice
from toxfusion.training.optimization import Optimization, is_logged
from toxfusion.training.settings import TrainerSettings
from toxfusion.training.stage import fit_stage

SETTINGS = TrainerSettings(
    accelerator="cpu",
    devices=1,
    num_nodes=1,
    strategy="auto",
    precision="32-true",
    gradient_clip_val=1.0,
    accumulate_grad_batches=1,
    checkpoint_every=7,
    validate_every=5,
    patience=None,
    progress=False,
    compile=None,
)


class Numbers(PositionedDataModule):
    """Batches of eight points, a function of the position."""

    def training_batch(self, position: int) -> tuple[Tensor, int]:
        return torch.randn(8, 3, generator=torch_generator("numbers", position)), position

    def val_dataloader(self) -> DataLoader[Any]:
        batches = [(torch.randn(8, 3, generator=torch_generator("valid", i)), i) for i in range(2)]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


class Regression(L.LightningModule):
    """Learns the sum of three numbers, with dropout and a batch norm."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.plan = Optimization(0.05, 0.01, 0.1, steps)

    def on_train_batch_start(self, batch: tuple[Tensor, int], batch_idx: int) -> None:
        torch.manual_seed(torch_seed("regression", batch[1]))

    def loss(self, points: Tensor) -> Tensor:
        return (self.layers(points)[:, 0] - points.sum(1)).square().mean()

    def training_step(self, batch: tuple[Tensor, int], batch_idx: int) -> Tensor:
        loss = self.loss(batch[0])
        if is_logged(self.trainer):
            self.log("train/loss", loss.detach())
        return loss

    def validation_step(self, batch: tuple[Tensor, int], batch_idx: int) -> None:
        self.log("valid/loss", self.loss(batch[0]))

    def configure_optimizers(self) -> Any:
        return self.plan.configure(self)


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the package does catches it or writes anything after it."""


class KillAt(Callback):
    """Ends training just before a step, or just after a checkpoint."""

    def __init__(self, step: int | None = None, after_checkpoint: bool = False) -> None:
        self.step, self.after_checkpoint = step, after_checkpoint

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed

    def on_validation_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed

    def on_save_checkpoint(self, trainer: L.Trainer, *args: Any) -> None:
        if self.after_checkpoint:
            self.step = trainer.global_step


def fit(
    folder: Path,
    settings: TrainerSettings = SETTINGS,
    *,
    steps: int = 23,
    average: float = 0.0,
    choice: WeightChoice | None = None,
    kill: KillAt | None = None,
    resume: bool = True,
) -> Regression:
    module = Regression(steps)
    callbacks: list[Callback] = []
    if average:
        callbacks.append(AveragedWeights(average, steps, torch.device("cpu")))
    if kill is not None:
        callbacks.append(kill)
    fit_stage(
        module,
        Numbers(accumulate=settings.accumulate_grad_batches),
        stage="test",
        folder=folder,
        history=folder / "history.csv",
        steps=steps,
        settings=settings,
        loggers=[],
        resume=resume,
        choice=choice,
        callbacks=callbacks,
    )
    return module


def left(folder: Path) -> dict[str, Any]:
    """What a stage leaves: history, record, and the weights that are kept."""
    best = read_checkpoint(folder / "best.ckpt")
    return {
        "history": (folder / "history.csv").read_text(),
        "finished": json.loads((folder / "finished.json").read_text()),
        "step": best["global_step"],
        "weights": {name: value.tolist() for name, value in best["state_dict"].items()},
    }


def cases() -> list[tuple[TrainerSettings, float, list[KillAt]]]:
    """Random settings and kill points, several kills a run."""
    rng = np.random.default_rng(16)
    out = []
    for _ in range(14):
        settings = replace(
            SETTINGS,
            checkpoint_every=int(rng.integers(1, 9)),
            validate_every=int(rng.integers(1, 9)),
            accumulate_grad_batches=int(rng.integers(1, 3)),
            patience=None if rng.random() < 0.6 else 3,
        )
        kills = [KillAt(int(step)) for step in rng.integers(1, 23, size=3)]
        kills += [KillAt(after_checkpoint=True) for _ in range(2)]
        order = rng.permutation(len(kills))
        out.append((settings, float(rng.choice([0.0, 0.3])), [kills[i] for i in order]))
    return out


@pytest.mark.parametrize(("settings", "average", "kills"), cases(), ids=range(14))
def test_a_stage_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    tmp_path: Path, settings: TrainerSettings, average: float, kills: list[KillAt]
) -> None:
    fit(tmp_path / "whole", settings, average=average)
    whole = left(tmp_path / "whole")
    killed = 0
    for kill in kills:
        try:
            fit(tmp_path / "killed", settings, average=average, kill=kill)
        except Killed:
            killed += 1
    fit(tmp_path / "killed", settings, average=average)
    assert killed >= (1 if settings.patience is None else 0)  # a stage may stop before any of the points
    assert left(tmp_path / "killed") == whole


@pytest.mark.parametrize(("steps", "expected"), [(23, [4, 9, 14, 19, 22]), (20, [4, 9, 14, 19]), (3, [2])])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_stage_has_the_steps_asked_for_and_is_validated_by_step_and_at_its_end(
    tmp_path: Path, steps: int, expected: list[int], accumulate: int
) -> None:
    fit(tmp_path, replace(SETTINGS, accumulate_grad_batches=accumulate), steps=steps)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history.loc[history["name"] == "valid/loss", "step"].tolist() == expected  # counted from 0
    record = json.loads((tmp_path / "finished.json").read_text())
    assert (record["steps"], record["stopped_early"]) == (steps, False)


class Planned(WeightChoice):
    """Scores that were written down beforehand, one a validation."""

    def __init__(self, path: Path, values: list[float], error: float, patience: int | None = None) -> None:
        super().__init__(path, patience)
        self.values, self.error = iter(values), error

    def score(self, trainer: L.Trainer, module: L.LightningModule) -> Score:
        return Noisy(next(self.values), self.error)


class Noisy(PlainScore):
    def gain_over(self, other: PlainScore) -> tuple[float, float]:
        return self.value - other.value, self.error


@pytest.mark.parametrize(
    ("values", "error", "kept"),
    [
        ([0.6, 0.7, 0.5, 0.65], 0.2, 20),  # the best gains less over the last than its error: the last
        ([0.6, 0.9, 0.5, 0.65], 0.2, 20),  # nor more than twice
        ([0.6, 0.9, 0.5, 0.65], 0.1, 10),
        ([0.6, 0.7, 0.5, 0.65], 0.0, 10),  # no error is known: any gain counts
        ([0.6, 0.7, 0.8, 0.9], 0.2, 20),
        ([0.9, 0.9, 0.9, 0.9], 0.0, 20),  # no gain at all
    ],
)
def test_early_weights_are_kept_only_where_their_gain_is_beyond_its_error(
    tmp_path: Path, values: list[float], error: float, kept: int
) -> None:
    choice = Planned(tmp_path / "best.ckpt", values, error)
    module = fit(tmp_path, steps=20, choice=choice)
    best = read_checkpoint(tmp_path / "best.ckpt")
    assert best["global_step"] == kept
    assert json.loads((tmp_path / "finished.json").read_text())["chosen"]["step"] == kept
    for name, value in module.state_dict().items():
        assert torch.equal(value, best["state_dict"][name])


@pytest.mark.parametrize(("error", "steps"), [(0.0, 15), (0.04, 15), (0.08, 25), (0.25, 30)])
def test_a_stage_stops_only_after_validations_that_fall_behind_beyond_the_error(
    tmp_path: Path, error: float, steps: int
) -> None:
    """Behind the best by 0.1, 0.1, 0.2, 0.2 and 0.2; two in a row that are beyond twice the error stop it."""
    choice = Planned(tmp_path / "best.ckpt", [0.9, 0.8, 0.8, 0.7, 0.7, 0.7], error, patience=2)
    fit(tmp_path, steps=30, choice=choice)
    record = json.loads((tmp_path / "finished.json").read_text())
    assert record["steps"] == steps
    assert record["stopped_early"] == (steps < 30)


def test_averaged_weights_are_validated_and_kept_and_the_plain_ones_trained_on(tmp_path: Path) -> None:
    """The average by hand from the weights after each step; the trajectory is that of a stage without one."""
    steps, share = 8, 0.5
    seen: dict[bool, list[Tensor]] = {True: [], False: []}

    class Watch(KillAt):
        def __init__(self, averaged: bool) -> None:
            super().__init__()
            self.averaged = averaged

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
            seen[self.averaged].append(pl_module.layers[0].weight.detach().clone())

    settings = replace(SETTINGS, validate_every=3)
    fit(tmp_path / "plain", settings, steps=steps, kill=Watch(False))
    module = fit(
        tmp_path / "averaged",
        settings,
        steps=steps,
        average=share,
        kill=Watch(True),
        choice=Planned(tmp_path / "averaged" / "best.ckpt", [0.1, 0.2, 0.3], 0.0),
    )
    for plain, averaged in zip(seen[False], seen[True], strict=True):
        assert torch.equal(plain, averaged)
    decay = 1 - 1 / (share * steps)
    mean = seen[True][0]
    for weight in seen[True][1:]:
        mean = decay * mean + (1 - decay) * weight
    torch.testing.assert_close(module.layers[0].weight, mean)
    assert not torch.equal(module.layers[0].weight, seen[True][-1])


def test_a_loss_that_is_no_number_ends_the_stage_with_a_reason(tmp_path: Path) -> None:
    class Broken(Regression):
        def loss(self, points: Tensor) -> Tensor:
            return super().loss(points) * float("nan")

    with pytest.raises(DivergedError, match=r"valid/loss is nan after 5 steps; lower the learning rate"):
        fit_stage(
            Broken(10),
            Numbers(),
            stage="test",
            folder=tmp_path,
            history=tmp_path / "history.csv",
            steps=10,
            settings=SETTINGS,
            loggers=[],
            resume=True,
        )


def test_a_stage_tells_its_steps_loss_and_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, replace(SETTINGS, progress=True))
    written = pd.read_csv(tmp_path / "history.csv")
    loss, valid = (
        written.loc[written["name"] == name, "value"].iloc[-1] for name in ("train/loss", "valid/loss")
    )
    said = capsys.readouterr().err
    assert said.startswith(f"test: 23/23 steps, valid {valid:.4g}, loss {loss:.4g}, took ")
    assert said.count("\n") == 1
    assert "\r" not in said
