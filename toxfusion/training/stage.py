"""One stage of training with Lightning: checkpoints, early stopping, exact resume; not what is trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from tqdm import tqdm

from toxfusion.data.datamodule import PositionedDataModule
from toxfusion.distributed.ranks import is_rank_zero
from toxfusion.study.files import replace_file
from toxfusion.training.history import History
from toxfusion.training.settings import TrainerSettings


@dataclass(frozen=True)
class Monitor:
    """The logged value that chooses the best weights and stops a stage early; mode: "min" or "max"."""

    name: str
    mode: Literal["min", "max"]


LEAST_LOSS = Monitor("valid/loss", "min")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that was made for other data or another network."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of tensors and plain types.

    Raises:
        CheckpointError: the file is missing, broken, or holds anything else, code for instance.
    """
    import pickle

    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of tensors and plain types, so it is not loaded "
            f"({str(error).splitlines()[0]}); make it again with toxfusion.train"
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise CheckpointError(f"{path}: holds no state_dict; make it again with toxfusion.train")
    return content


def load_weights(module: torch.nn.Module, path: Path) -> None:
    """Load a checkpoint's weights strictly.

    Raises:
        CheckpointError: the checkpoint cannot be read, or its weights are of another network.
    """
    state = read_checkpoint(path)["state_dict"]
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: weights of another network: {str(error).splitlines()[1].strip()}"
        ) from error


def whole_epochs(steps: int, steps_per_epoch: int, validate_every: int) -> tuple[int, int]:
    """Epochs between validations, and total steps rounded up to end on a validation."""
    epochs = -(-steps // steps_per_epoch)
    between = min(epochs, max(1, round(validate_every / steps_per_epoch)))
    return between, -(-epochs // between) * between * steps_per_epoch


def fit_stage(
    module: L.LightningModule,
    data: PositionedDataModule,
    *,
    stage: str,
    folder: Path,
    history: Path,
    steps: int,
    settings: TrainerSettings,
    loggers: list[Logger],
    resume: bool,
    monitor: Monitor = LEAST_LOSS,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train to ``steps`` optimiser steps (rounded up to a validation), and leave the best weights in the module.

    Args:
        folder: receives best.ckpt (by the monitor), last.ckpt (position) and finished.json (written last).
        resume: continue from last.ckpt; a finished stage is only loaded.
        callbacks: run before the best weights are chosen.

    Returns:
        The path of best.ckpt.
    """
    finished, best, last = folder / "finished.json", folder / "best.ckpt", folder / "last.ckpt"
    if resume and finished.is_file():
        load_weights(module, best)
        return best
    if not resume and is_rank_zero() and folder.is_dir():
        for old in (finished, best, last):
            old.unlink(missing_ok=True)
    start = last if resume and last.is_file() else None
    for logger in loggers:
        vars(logger)["_prefix"] = stage  # both stages log train/loss
    lines = History(history, stage)
    position = int(read_checkpoint(start)["global_step"]) if start else 0
    lines.rewind(position)
    _quiet()
    trainer = _trainer(stage, data, folder, steps, settings, [lines, *loggers], monitor, callbacks)
    module.train()  # Lightning leaves the mode as it is: an evaluation between two stages had turned dropout off
    trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True if start else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    load_weights(module, best)
    if is_rank_zero():
        record = {"steps": trainer.global_step, "stopped_early": trainer.should_stop}
        replace_file(finished, json.dumps(record).encode())
    trainer.strategy.barrier()
    return best


class PositionCheckpoint(Callback):
    """Writes last.ckpt every so many optimiser steps; training continues from there.

    A checkpoint that falls just before a validation is put off by one step: the validation may choose the best weights
    or count for early stopping, and a run that continued from before it would never learn its outcome.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.saved = self.seen = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved = self.seen = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        step = trainer.global_step
        stepped = step > self.seen  # between steps, gradients that are being accumulated would be lost
        self.seen = step
        between = trainer.check_val_every_n_epoch or 1
        validates = trainer.is_last_batch and (trainer.current_epoch + 1) % between == 0
        if stepped and step - self.saved >= self.every and not validates:
            trainer.save_checkpoint(self.path)
            self.saved = step


class StageProgress(Callback):
    """One bar over the steps of a stage, on a terminal only."""

    def __init__(self, stage: str, total: int, monitor: Monitor) -> None:
        self.stage, self.total, self.monitor = stage, total, monitor.name
        self.bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        hidden = None if trainer.is_global_zero else True
        start = trainer.global_step
        self.bar = tqdm(total=self.total, initial=start, desc=self.stage, unit="step", disable=hidden)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.bar.n)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.bar is not None and self.monitor in trainer.callback_metrics:
            self.bar.set_postfix(valid=f"{float(trainer.callback_metrics[self.monitor]):.3f}")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.close()


def _trainer(
    stage: str,
    data: PositionedDataModule,
    folder: Path,
    steps: int,
    settings: TrainerSettings,
    loggers: list[Logger],
    monitor: Monitor,
    extra: Sequence[Callback],
) -> L.Trainer:
    between, total = whole_epochs(steps, data.steps_per_epoch, settings.validate_every)
    callbacks: list[Callback] = [
        *extra,
        ModelCheckpoint(
            folder, filename="best", monitor=monitor.name, mode=monitor.mode, enable_version_counter=False
        ),
        PositionCheckpoint(folder / "last.ckpt", settings.checkpoint_every),
        LearningRateMonitor("step"),
    ]
    if settings.patience is not None:
        callbacks.append(
            EarlyStopping(monitor.name, mode=monitor.mode, patience=settings.patience, check_finite=True)
        )
    if settings.progress:
        callbacks.append(StageProgress(stage, total, monitor))
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=settings.strategy,
        precision=settings.precision,  # type: ignore[arg-type]
        gradient_clip_val=settings.gradient_clip_val,
        accumulate_grad_batches=settings.accumulate_grad_batches,
        max_steps=total,
        check_val_every_n_epoch=between,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        logger=loggers,
        callbacks=callbacks,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        deterministic="warn",
    )


def _quiet() -> None:
    """Lightning's hints about devices and workers are noise here: loaders gather whole batches in-process."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    import warnings

    warnings.filterwarnings("ignore", module=r"lightning\..*")
