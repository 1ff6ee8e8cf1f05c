"""Whole runs on the small study, of any experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toxfusion.config.entry import compose
from toxfusion.study.study import Study
from toxfusion.training.folder import RunFolder
from toxfusion.training.run import run

SMALL = [
    "size=demo",
    "size.width=16",
    "size.shared_dim=8",
    "size.private_dim=8",
    "size.gene_latents=4",
    "size.n_genes=20",
    "size.pretrain_steps=6",
    "size.pretrain_batch=8",
    "size.finetune_steps=6",
    "size.compounds_per_batch=2",
    "size.treated_per_compound=4",
    "trainer.checkpoint_every=4",
    "trainer.validate_every=3",
    "trainer.progress=false",
    "split.n_folds=3",
    "task.min_animals=3",
    "task.min_compounds=2",
]
STORED = ["tile_features=store", "tile_features.name=test"]


def overrides(study: Study, outputs: Path, *extra: str) -> list[str]:
    features = [] if any(e.startswith("tile_features") for e in extra) else STORED
    return [f"data.root={study.root}", f"paths.outputs={outputs}", *SMALL, *features, *extra]


def small(study: Study, outputs: Path, *extra: str) -> dict[str, Any]:
    config = compose("train", overrides(study, outputs, *extra))
    config["paths"]["output"] = str(outputs / config["name"])
    return config


def trained(study: Study, outputs: Path, *extra: str) -> RunFolder:
    """The folder of a finished run."""
    config = small(study, outputs, *extra)
    run(config)
    return RunFolder(Path(config["paths"]["output"]))
