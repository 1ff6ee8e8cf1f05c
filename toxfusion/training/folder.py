"""A run folder: whether it is finished, its resolved config, and the digest that tells one config from another."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import pandas as pd
import yaml

from toxfusion.evaluation import predictions
from toxfusion.study.files import replace_file
from toxfusion.training.checkpoint import read_checkpoint

INCIDENTAL = ("paths", "logger", "resume", "heatmaps")
"""Config keys that change nothing in the results."""

INCIDENTAL_TRAINER = ("progress", "checkpoint_every", "compile")


class RunError(ValueError):
    """A run folder that is not what it is taken for."""


def digest(content: Any) -> str:
    """Sixteen hex digits that depend on plain content and nothing else."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_digest(config: dict[str, Any]) -> str:
    """Digest of what decides the results of a run."""
    kept = {k: v for k, v in config.items() if k not in INCIDENTAL}
    kept["trainer"] = {k: v for k, v in config["trainer"].items() if k not in INCIDENTAL_TRAINER}
    return digest(kept)


def modality_in_use(config: dict[str, Any]) -> str:
    """ "both", "wsi", "omics" or "none": what the method of the config reads."""
    if config["method"] == "network":
        return str(config["modality"]["name"])
    reads = {"meanpool": "wsi", "pca": "omics", "genes": "omics", "concat": "both", "late": "both"}
    return reads.get(config["method"].rpartition("_")[0].removesuffix("_clinical"), "none")


@dataclass(frozen=True)
class RunFolder:
    """Files of one run; see docs/reference/run_folder.md."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def split(self) -> Path:
        return self.root / "split.json"

    @property
    def history(self) -> Path:
        return self.root / "history.csv"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions.parquet"

    @property
    def survival_curves(self) -> Path:
        return self.root / "survival_curves.parquet"

    @property
    def embeddings(self) -> Path:
        return self.root / "embeddings.h5ad"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.json"

    @property
    def audit(self) -> Path:
        return self.root / "audit.json"

    @property
    def done(self) -> Path:
        return self.root / "done.json"

    @property
    def figures(self) -> Path:
        """What ``toxfusion.train`` draws of a finished run."""
        return self.root / "figures"

    @property
    def tracking(self) -> Path:
        """The id of the run in Weights & Biases, and whether all of it is there."""
        return self.root / "wandb.json"

    @property
    def probes(self) -> Path:
        """What ``toxfusion.evaluate probes=[...]`` left, where paths.output was not changed."""
        return self.root / "evaluation" / "probes.parquet"

    def stage(self, name: str) -> Path:
        return self.root / "checkpoints" / name

    def read_config(self) -> dict[str, Any]:
        """The resolved config of the run.

        Raises:
            RunError: no run lies here.
        """
        if not self.config.is_file():
            raise RunError(f"{self.root}: no config.yaml, so no run of toxfusion.train; name a run folder")
        return yaml.safe_load(self.config.read_text())

    def finished(self) -> dict[str, Any] | None:
        """What done.json says, or None while the run is not finished."""
        return json.loads(self.done.read_text()) if self.done.is_file() else None

    def read_trained(self) -> dict[str, Any]:
        """What fine-tuning kept: "state_dict", with the predictor's weights, and "contract".

        Raises:
            RunError: the run was pretrained alone.
            CheckpointError: it is not there, or cannot be read.
        """
        best = self.stage("finetune") / "best.ckpt"
        if not best.is_file() and (self.stage("pretrain") / "best.ckpt").is_file() and self.finished():
            raise RunError(
                f"{self.root}: was pretrained alone (task=none), so that it predicts nothing; its retrieval is in "
                f"{self.metrics.name}, its vectors are in {self.embeddings.name}"
            )
        return read_checkpoint(best)

    def read_predictions(self) -> pd.DataFrame:
        """Predictions of validation and test units; raises PredictionsError where there are none."""
        return predictions.read(self.predictions)

    def read_embeddings(self) -> anndata.AnnData:
        """Fused vectors of the run's own samples.

        Raises:
            RunError: the run left none of training samples.
        """
        table = anndata.read_h5ad(self.embeddings) if self.embeddings.is_file() else None
        if table is None or not (table.obs["part"] == "train").any():
            raise RunError(
                f"{self.embeddings}: no vectors of training samples to measure distances from; train the run again"
            )
        return table

    def tile_encoder(self, name: str) -> Path:
        """Where the tile encoder of that name lies, which the run trained."""
        return Path(self.read_config()["data"]["root"]) / "encoders" / f"{name}.ckpt"

    def claim(self, config: dict[str, Any]) -> None:
        """Write the config, or check that the run begun here is the same.

        Raises:
            RunError: another run has begun here.
        """
        if self.config.is_file() and config["resume"]:
            theirs = config_digest(self.read_config())
            if theirs != config_digest(config):
                raise RunError(
                    f"{self.root}: holds a run of another config ({self.config}); give resume=false to start it "
                    "afresh, or another paths.outputs"
                )
        else:
            self.done.unlink(missing_ok=True)
            self.probes.unlink(missing_ok=True)
            shutil.rmtree(self.figures, ignore_errors=True)
        self.root.mkdir(parents=True, exist_ok=True)
        replace_file(self.config, yaml.safe_dump(config, sort_keys=False).encode())

    def close(self, config: dict[str, Any], objective: float) -> None:
        """Write done.json: the run is finished."""
        content = {"digest": config_digest(config), "objective": objective, "name": config["name"]}
        replace_file(self.done, json.dumps(content, indent=1).encode())
