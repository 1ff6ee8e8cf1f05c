"""One stage of training with Lightning: checkpoints, early stopping, exact resume; not what is trained."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers.logger import Logger

from toxfusion.console.progress import Progress
from toxfusion.data.datamodule import PositionedDataModule
from toxfusion.distributed.ranks import is_rank_zero
from toxfusion.study.files import replace_file
from toxfusion.training.checkpoint import CheckpointError, read_checkpoint
from toxfusion.training.choice import WeightChoice
from toxfusion.training.history import History
from toxfusion.training.position import PositionCheckpoint
from toxfusion.training.settings import TrainerSettings

TRAIN_LOSS = "train/loss"
SHOWN = ("valid/score", "valid/loss")
"""The first of these that a stage logs is shown beside the loss of training."""


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
    choice: WeightChoice | None = None,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train to ``steps`` optimiser steps, and leave the weights in the module that are chosen.

    Interrupted at any moment and begun again, it ends with the same weights, history and files.

    Args:
        folder: receives best.ckpt (what is chosen), last.ckpt (position) and finished.json (written last).
        resume: continue from last.ckpt; a finished stage is only loaded.
        choice: scores the weights at each validation; by the validation loss where None.
        callbacks: run after the weights are scored.

    Returns:
        The path of best.ckpt.

    Raises:
        CheckpointError: a checkpoint here cannot be read, or is of another network.
        DivergedError: the validation loss is no number from the start.
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
    lines.rewind(int(read_checkpoint(start)["global_step"]) if start else 0)
    choice = choice if choice is not None else WeightChoice(best, settings.patience)
    _quiet()
    trainer = _trainer(
        stage, folder, steps, settings, data.accumulate, [lines, *loggers], [choice, *callbacks]
    )
    module.train()  # Lightning leaves the mode as it is: an evaluation between two stages had turned dropout off
    trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True if start else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    chosen = choice.settle(trainer, module)
    load_weights(module, best)
    if is_rank_zero():
        done = trainer.global_step
        record = {"steps": done, "stopped_early": done < steps, "chosen": chosen}
        replace_file(finished, json.dumps(record).encode())
    trainer.strategy.barrier()
    return best


class StageProgress(Callback):
    """The steps of a stage with the loss of training and the validation score, of rank zero."""

    def __init__(self, stage: str, total: int) -> None:
        self.stage, self.total = stage, total
        self.shown: Progress | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        hidden, done = not trainer.is_global_zero, trainer.global_step
        self.shown = Progress(self.stage, self.total, unit="steps", done=done, hidden=hidden)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if self.shown is None:
            return
        # A loss is read where the loggers read it: each reading makes a GPU wait.
        if trainer.global_step % trainer.log_every_n_steps == 0 and TRAIN_LOSS in trainer.callback_metrics:  # type: ignore[attr-defined]
            self.shown.show(loss=float(trainer.callback_metrics[TRAIN_LOSS]))
        self.shown.reach(trainer.global_step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        name = next((name for name in SHOWN if name in trainer.callback_metrics), None)
        if self.shown is not None and name is not None:
            self.shown.show(valid=float(trainer.callback_metrics[name]))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.shown is not None:
            self.shown.close()


def _trainer(
    stage: str,
    folder: Path,
    steps: int,
    settings: TrainerSettings,
    accumulate: int,
    loggers: list[Logger],
    callbacks: list[Callback],
) -> L.Trainer:
    """One "epoch" as long as the stage: what happens when is a matter of steps alone."""
    every = min(settings.validate_every, steps)
    position = PositionCheckpoint(folder / "last.ckpt", every=settings.checkpoint_every, validate_every=every)
    shown = [StageProgress(stage, steps)] if settings.progress else []
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=settings.strategy,
        precision=settings.precision,  # type: ignore[arg-type]
        gradient_clip_val=settings.gradient_clip_val,
        accumulate_grad_batches=accumulate,
        max_steps=steps,
        val_check_interval=every * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        logger=loggers,
        callbacks=[*callbacks, LearningRateMonitor("step"), *shown, position],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        deterministic="warn",
    )


def _quiet() -> None:
    """Lightning's hints about devices and workers are noise here: loaders gather whole batches in-process."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
