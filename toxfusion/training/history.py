"""The training history on disk: one line per value, always written, whatever other logger is on."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from toxfusion.study.files import replacing

COLUMNS = ("stage", "step", "name", "value")


class History(Logger):
    """A CSV of (stage, step, name, value).

    A resumed stage first drops the lines past the step it resumes from, so that the file of an interrupted run equals
    that of an uninterrupted one.

    Args:
        path: the CSV file; made with its folder at the first value.
        stage: pretrain, finetune ...
    """

    def __init__(self, path: Path, stage: str) -> None:
        super().__init__()
        self.path, self.stage = path, stage

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> str:
        return self.stage

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The resolved config of a run is its config.yaml; nothing is repeated here."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            for name, value in sorted(metrics.items()):
                if name != "epoch":
                    writer.writerow((self.stage, step, name, repr(float(value))))

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop this stage's lines from ``step`` on."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            lines = list(csv.DictReader(file))
        kept = [r for r in lines if r["stage"] != self.stage or int(r["step"]) < step]
        with replacing(self.path) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)
