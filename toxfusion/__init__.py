"""Self-supervised learning on paired histopathology and transcriptomics, to predict liver injury.

    import toxfusion as tf

    study = tf.Study.open("studies/mine")
    config = tf.compose("train", ["data.root=studies/mine", "experiment=full"])
    start = tf.begin(config)            # fold, tasks and network before the first step
    start.batch(start.train[:8])        # tensors of both modalities

    tf.run(config)                      # the same as toxfusion train
    run = tf.load("outputs/mine/full/fold0_seed0")
    run.predict("studies/new")          # a table of calibrated risks
    run.embed("studies/new")            # AnnData of fused vectors
    tf.tile_scores(run.on(), ["S12"], ["dili"])

Names are imported when they are first used, so that ``import toxfusion`` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Assembled": "toxfusion.training.assemble",
    "Batch": "toxfusion.data.batch",
    "CompoundKFold": "toxfusion.study.splits",
    "FoldData": "toxfusion.data.datamodule",
    "Fused": "toxfusion.models.fusion",
    "Fusion": "toxfusion.models.fusion",
    "InfoNCE": "toxfusion.objectives.contrastive",
    "Kin": "toxfusion.objectives.contrastive",
    "LoadedRun": "toxfusion.runs.loaded",
    "Network": "toxfusion.models.network",
    "Orthogonality": "toxfusion.objectives.orthogonality",
    "Predictor": "toxfusion.models.predictor",
    "RaggedTiles": "toxfusion.data.batch",
    "Run": "toxfusion.runs.door",
    "SigLIP": "toxfusion.objectives.contrastive",
    "Split": "toxfusion.study.split",
    "Study": "toxfusion.study.study",
    "Task": "toxfusion.tasks.task",
    "Term": "toxfusion.objectives.terms.term",
    "attribute_genes": "toxfusion.explanation.genes",
    "begin": "toxfusion.training.run",
    "compose": "toxfusion.config.entry",
    "load": "toxfusion.runs.door",
    "run": "toxfusion.training.run",
    "tile_scores": "toxfusion.explanation.regions",
    "write_study": "toxfusion.study.study",
}
"""Public name -> the module that defines it."""

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(
            f"module 'toxfusion' has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}"
        )
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
