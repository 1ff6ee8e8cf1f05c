"""Where the wall clock of a run goes: the share that is forward, backward and optimiser, and what the rest is.

    python benchmarks/overhead.py data.root=study [group=option ...] [key=value ...]

Takes the arguments of `toxfusion.train`, size=study where none is named, and runs afresh in a temporary folder.
The clock starts when the study is opened: start-up (imports, composing the config) is left out. Each moment counts for
the innermost part that is running. Forward passes of validation and of the final encoding count as forward. Tile
features are made before the clock starts, so that a first run measures as a second one does.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import lightning as L
import torch

from toxfusion.config.entry import compose
from toxfusion.data.batch import Batch
from toxfusion.data.datamodule import FoldData
from toxfusion.models.network import Network
from toxfusion.training import assemble, network, run
from toxfusion.training.assemble import open_study
from toxfusion.training.choice import WeightChoice
from toxfusion.training.pretraining import PretrainingModule
from toxfusion.training.settings import RunSettings
from toxfusion.training.tile_features import tile_features

COMPUTED = "forward, backward, optimiser"
WANTED = 0.85


class Clock:
    """Time of the main thread by part; of nested parts, the inner one's time is not the outer one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def start(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> None:
        now = time.perf_counter()
        self.seconds[self._running[-1] if self._running else "the rest"] += now - self._since
        self._since = now

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Clock every call of ``owner.name`` as a part; of other threads, none."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def clocked(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*args, **kwargs)
            self.lap()
            self._running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.lap()
                self._running.pop()

        setattr(owner, name, clocked)


def parts_of_a_run() -> tuple[tuple[Any, str, str], ...]:
    """Owner and name of every function that is clocked by itself, and the part of a run that its time counts for."""
    return (
        # the closure of optimizer_step is the training step and the backward pass
        (L.LightningModule, "optimizer_step", COMPUTED),
        (Network, "forward", COMPUTED),
        (PretrainingModule, "losses", COMPUTED),
        (L.LightningModule, "log_dict", "logging"),
        (L.LightningModule, "log", "logging"),
        (Future, "result", "waiting for a batch"),
        (FoldData, "batch", "batches of evaluation"),
        (Batch, "to", "batch to the device"),
        (torch, "manual_seed", "seeding of all devices"),
        (L.Trainer, "save_checkpoint", "checkpoints"),
        (WeightChoice, "on_validation_epoch_end", "score of validation"),
        (run, "open_study", "opening the study, split"),
        (run, "tile_features", "opening tile features"),
        (assemble, "fit_tile_scaler", "fitting the tile scaler"),
        (assemble.ExpressionTransform, "fit", "fitting expression"),
        (run, "make_fold", "making the fold"),
        (run, "_report", "report"),
        (run, "score_strata", "report: strata"),
        (network, "write_embeddings", "writing embeddings"),
    )


def main() -> None:
    overrides = sys.argv[1:]
    if not overrides or "--help" in overrides:
        print(__doc__)
        return
    size = [] if any(a.startswith("size=") for a in overrides) else ["size=study"]
    with tempfile.TemporaryDirectory() as outputs:
        config = compose("train", [*size, "trainer.progress=false", *overrides, f"paths.outputs={outputs}"])
        settings = RunSettings.read(config)
        study, split = open_study(settings)
        if settings.modality in ("both", "wsi"):
            tile_features(settings, study, split, [])
        clock = Clock()
        for owner, name, part in parts_of_a_run():
            clock.watch(owner, name, part)
        clock.start()
        run.run(config)
        clock.lap()
    total = sum(clock.seconds.values())
    for part, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        print(f"{part:<34}{seconds:>9.2f} s{seconds / total:>8.1%}")
    share = clock.seconds[COMPUTED] / total
    print(f"{total:.1f} s; {COMPUTED}: {share:.1%}, wanted at least {WANTED:.0%}")


if __name__ == "__main__":
    main()
