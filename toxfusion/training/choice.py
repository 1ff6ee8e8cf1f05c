"""Which weights of a stage are kept: the last, unless earlier ones are better beyond the error of the difference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from toxfusion.distributed.ranks import is_rank_zero
from toxfusion.study.files import replacing

LOSS = "valid/loss"
ERRORS = 2.0
"""A gain counts from so many standard errors on: the best of a dozen scores exceeds one by luck as often as not."""


class DivergedError(RuntimeError):
    """The validation loss is no number before there were any weights to keep."""


class Score(Protocol):
    """What the validation part says of some weights."""

    @property
    def value(self) -> float: ...

    @property
    def error(self) -> float: ...

    def gain_over(self, other: Any) -> tuple[float, float]:
        """How much better these weights are than others on the same samples, and the standard error of that."""

    def state(self) -> dict[str, Any]:
        """Plain types and tensors, for a checkpoint."""


@dataclass(frozen=True)
class PlainScore:
    """A score whose error is not known: any gain counts."""

    value: float
    error: float = 0.0

    def gain_over(self, other: PlainScore) -> tuple[float, float]:
        return self.value - other.value, 0.0

    def state(self) -> dict[str, Any]:
        return {"value": self.value}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> PlainScore:
        return cls(**state)


class WeightChoice(Callback):
    """Scores the weights at every validation, keeps those to be chosen in best.ckpt, and ends a stage that overfits.

    The best of many noisy scores is high by luck as well. So the last weights are kept unless the best ones gain more
    over them than twice the standard error of that gain; and a validation counts against the stage only if its weights
    fall as far behind the best. Where the stage began at a solution (`begin_at`), that is kept unless what training
    made of it gains as much over it.

    Args:
        path: of best.ckpt.
        patience: so many validations in a row that fall behind the best end the stage; None to train to the end.
    """

    def __init__(self, path: Path, patience: int | None) -> None:
        self.path, self.patience = path, patience
        self.best: Score | None = None
        self.last: Score | None = None
        self.best_step = self.behind = 0
        self.start: tuple[Score, dict[str, Tensor]] | None = None
        self.about: dict[str, Any] = {}

    def begin_at(
        self, score: Score, module: L.LightningModule, about: Mapping[str, Any] | None = None
    ) -> None:
        """Hold the weights that the module has before the first step, a solution in themselves, against all others.

        Args:
            about: plain types that the record of the choice says of them.
        """
        self.about = dict(about or {})
        self.start = (
            score,
            {name: value.detach().cpu().clone() for name, value in module.state_dict().items()},
        )

    def score(self, trainer: L.Trainer, module: L.LightningModule) -> Score:
        """The score of the weights that the module has: minus the validation loss."""
        return PlainScore(-float(trainer.callback_metrics[LOSS]))

    def restored(self, state: dict[str, Any]) -> Score:
        """A score from its state."""
        return PlainScore.from_state(state)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics[LOSS])
        if not math.isfinite(loss):
            if self.best is None:
                raise DivergedError(
                    f"{LOSS} is {loss} after {trainer.global_step} steps; lower the learning rate, or look for values "
                    "out of range in the study"
                )
            self.last, trainer.should_stop = None, True
            return
        self.last = self.score(trainer, pl_module)
        if self.best is None or self.last.gain_over(self.best)[0] > 0:
            self.best, self.best_step, self.behind = self.last, trainer.global_step, 0
            self.write(pl_module, trainer.global_step)
            return
        self.behind = self.behind + 1 if is_beyond(self.best, self.last) else 0
        if self.patience is not None and self.behind >= self.patience:
            trainer.should_stop = True

    def write(self, module: L.LightningModule, step: int, weights: dict[str, Tensor] | None = None) -> None:
        """Put weights, by default those that the module has, into best.ckpt, with what it adds to its checkpoints."""
        if is_rank_zero():
            state = module.state_dict() if weights is None else weights
            content: dict[str, Any] = {"global_step": step, "state_dict": state}
            module.on_save_checkpoint(content)
            with replacing(self.path) as draft:
                torch.save(content, draft)

    def settle(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
        """Choose between the start, the best weights, which are in best.ckpt, and the last, which the module has.

        Returns:
            What was chosen: "step" after which best.ckpt was taken, "gain" of the best weights over the last ones and
            its "error"; where there was a start, "start_gain" of trained weights over it, "start_error", and what
            `begin_at` was told about it.
        """
        assert self.best is not None, "every stage ends with a validation"
        chosen: dict[str, Any] = {"step": self.best_step, "gain": None, "error": None, **self.about}
        trained = self.best
        if self.last is not None:  # no weights were scored after the loss diverged
            chosen["gain"], chosen["error"] = self.best.gain_over(self.last)
            if not is_beyond(self.best, self.last):
                chosen["step"], trained = trainer.global_step, self.last
                self.write(module, trainer.global_step)
        if self.start is not None:
            score, weights = self.start
            chosen["start_gain"], chosen["start_error"] = trained.gain_over(score)
            if not is_beyond(trained, score):  # its error, where it has none, says nothing for training
                chosen["step"] = 0
                self.write(module, 0, weights)
        trainer.strategy.barrier()  # all ranks read what rank zero wrote
        return chosen

    def state_dict(self) -> dict[str, Any]:
        best = None if self.best is None else self.best.state()
        return {"best": best, "best_step": self.best_step, "behind": self.behind}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = state_dict["best"]
        self.best = None if best is None else self.restored(best)
        self.best_step, self.behind = state_dict["best_step"], state_dict["behind"]


def is_beyond(best: Score, other: Score) -> bool:
    """Whether the best weights gain more over others than `ERRORS` standard errors of the gain."""
    gain, error = best.gain_over(other)
    return gain > ERRORS * error
