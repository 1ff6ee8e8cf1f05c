"""Where a stage stands: last.ckpt, from which an interrupted stage continues as if it had not been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class PositionCheckpoint(Callback):
    """Writes last.ckpt every so many optimiser steps, and has the last step of the stage validated.

    It is written only where nothing of the steps so far is still to come. At a step that is validated, that is after
    the validation, which may choose weights or end the stage. At another, one step later where values of the step are
    logged: Lightning logs them after its callbacks.

    Args:
        path: of last.ckpt.
        every: optimiser steps between two writes, or a few more.
        validate_every: optimiser steps between two validations.
    """

    def __init__(self, path: Path, *, every: int, validate_every: int) -> None:
        self.path, self.every, self.validate_every = path, every, validate_every
        self.saved = self.seen = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved = self.seen = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        step = trainer.global_step
        stepped = step > self.seen  # between steps, gradients that are being accumulated would be lost
        self.seen = step
        if step == trainer.max_steps:
            trainer.val_check_batch = 1  # of itself Lightning validates at whole intervals only
        elif stepped and step % self.validate_every and step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps
        if not ends:  # a stage that has been told to stop must not go on from here
            self._save_if_due(trainer)

    def _save_if_due(self, trainer: L.Trainer) -> None:
        if trainer.global_step - self.saved >= self.every:
            trainer.save_checkpoint(self.path)
            self.saved = trainer.global_step
