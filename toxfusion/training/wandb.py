"""Weights & Biases: one run a run folder, found again by its id. Imported only where the logger asks for it.

Lightning logs what changes with the steps; what a finished run leaves in its folder is logged from there, so that
nothing is shown that is not on disk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import pandas as pd
import wandb
from lightning.pytorch.loggers import WandbLogger

from toxfusion.evaluation import predictions
from toxfusion.evaluation.figures import HEATMAP
from toxfusion.study.files import replace_file
from toxfusion.training.folder import RunFolder, config_digest, digest
from toxfusion.training.task_nodes import build_tasks

STEP = "trainer/global_step"
STAGES = ("tile_encoder", "pretrain", "finetune")
PREDICTIONS, METRICS, GATES = "predictions", "metrics", "gates"
FIGURES = "figures"
LONGEST_NAME, LONGEST_TAG = 128, 64
METRIC_COLUMNS = ("task", "metric", "value", "low", "high", "n", "n_compounds", "prevalence", "reason")
GATE_COLUMNS = ("sample_id", "part", "compound", "dose_level", "time_h", "gate_slide", "gate_expression")


class TrackingError(RuntimeError):
    """Weights & Biases cannot be reached, or does not take the run."""


def make_logger(config: dict[str, Any], folder: RunFolder) -> WandbLogger:
    """Lightning's logger on the W&B run of a run folder.

    Raises:
        TrackingError: as ``open_run``.
    """
    if not config["resume"]:
        _write_state(folder, {"attempt": _read_state(folder)["attempt"] + 1, "complete": False})
    return WandbLogger(experiment=open_run(config, folder), project=config["logger"]["project"])


def open_run(config: dict[str, Any], folder: RunFolder) -> wandb.Run:
    """The W&B run of a run folder: begun, continued, or the one that this process has open already.

    Raises:
        TrackingError: no account, no connection to begin with, or no such project.
    """
    settings, name = config["logger"], f"fold{config['split']['fold']}-seed{config['seed']}"
    state = _read_state(folder)
    run_id = state.get("id") or _new_id(config, folder, state["attempt"])
    if wandb.run is not None:
        if wandb.run.id == run_id:
            return wandb.run
        wandb.run.finish(exit_code=1)  # a run of this process that failed, in a sweep
    tags = (f"fold{config['split']['fold']}", f"seed{config['seed']}", _study(config), config["name"])
    try:
        run = wandb.init(
            project=settings["project"],
            entity=settings["entity"],
            id=run_id,
            resume=None if settings["offline"] else "allow",
            mode="offline" if settings["offline"] else None,
            name=_within(f"{config['name']}{config['paths']['variant']}-{name}", LONGEST_NAME),
            group=group_of(config),
            job_type=job_type(config),
            tags=[_within(tag, LONGEST_TAG) for tag in tags],
            config=config,
            dir=folder.root,
        )
    except wandb.Error as error:
        raise TrackingError(
            f"logger={settings['kind']}: {error}; `wandb login` first, or take logger=wandb_offline and "
            "`wandb sync` later"
        ) from error
    _write_state(folder, {**state, "id": run_id})
    run.define_metric(STEP, hidden=True)
    for stage in STAGES:
        run.define_metric(f"{stage}-*", step_metric=STEP, step_sync=True)
    return run


def group_of(config: dict[str, Any]) -> str:
    """What the runs that differ in fold and seed only, or the trials of a sweep, have in common."""
    settings = config["logger"]
    ending = config["paths"]["variant"] if settings["sweep"] is None else f"/{settings['sweep']}"
    return _within(settings["group"] or f"{_study(config)}/{config['name']}{ending}", LONGEST_NAME)


def _study(config: dict[str, Any]) -> str:
    return Path(config["data"]["root"]).resolve().name


def job_type(config: dict[str, Any]) -> str:
    """tile_encoder, baseline, pretrain (a network without a task) or train."""
    if config["method"] != "network":
        return "tile_encoder" if config["method"] == "tile_encoder" else "baseline"
    return "train" if build_tasks(config) else "pretrain"


def is_complete(folder: RunFolder) -> bool:
    """Whether W&B has all of a finished run."""
    return bool(_read_state(folder)["complete"])


def log_results(config: dict[str, Any], folder: RunFolder, figures: Sequence[Path]) -> None:
    """Log what a finished run left in its folder, and end its W&B run.

    Metrics with their intervals go to the summary (``test/<task>/<metric>``, ``_low``, ``_high``) and to a table;
    predictions and gates to tables; pictures below ``figures/``, heatmaps together; the best checkpoint and the
    result files to artifacts.

    Args:
        figures: PNG files; those whose name begins with ``figures.HEATMAP`` are heatmaps.
    """
    run = open_run(config, folder)
    metrics = json.loads(folder.metrics.read_text()) if folder.metrics.is_file() else {"scores": {}}
    run.summary.update(_summary(metrics))
    logged: dict[str, Any] = {}
    if metrics["scores"]:
        logged[METRICS] = wandb.Table(dataframe=_metrics_table(metrics["scores"]))
    if folder.predictions.is_file():
        logged[PREDICTIONS] = _table(predictions.read(folder.predictions), folder.predictions)
    if folder.embeddings.is_file():
        gates = _gates(folder.embeddings)
        logged[GATES] = _table(gates, folder.embeddings)
        test = gates[gates["part"] == "test"]
        run.summary.update({f"test/{c}": float(test[c].mean()) for c in ("gate_slide", "gate_expression")})
    heatmaps = [f for f in figures if f.stem.startswith(HEATMAP)]
    logged |= {f"{FIGURES}/{f.stem}": wandb.Image(str(f)) for f in figures if f not in heatmaps}
    if heatmaps:
        captions = [f.stem.removeprefix(HEATMAP) for f in heatmaps]
        pictures = [wandb.Image(str(f), caption=c) for f, c in zip(heatmaps, captions, strict=True)]
        logged[f"{FIGURES}/heatmaps"] = pictures
    if logged:
        run.log(logged)
    if config["logger"]["artifacts"]:
        _log_artifacts(run, folder, figures, metrics.get("objective"))
    run.finish()
    _write_state(folder, {**_read_state(folder), "complete": True})


def _log_artifacts(
    run: wandb.Run, folder: RunFolder, figures: Sequence[Path], objective: float | None
) -> None:
    stages = [s for s in reversed(STAGES) if (folder.stage(s) / "best.ckpt").is_file()]
    if stages:
        model = wandb.Artifact(
            f"model-{run.id}", "model", metadata={"stage": stages[0], "objective": objective}
        )
        _add(model, folder.stage(stages[0]) / "best.ckpt", "best.ckpt")
        run.log_artifact(model)
    files = (folder.config, folder.split, folder.history, folder.predictions, folder.metrics, folder.audit,
             folder.embeddings, folder.survival_curves)  # fmt: skip
    results = wandb.Artifact(f"results-{run.id}", "results")
    for file in files:
        if file.is_file():
            _add(results, file, file.name)
    for figure in figures:
        _add(results, figure, f"{FIGURES}/{figure.name}")
    run.log_artifact(results)


def _add(artifact: wandb.Artifact, file: Path, name: str) -> None:
    """Without a copy: files of a finished run stay as they are."""
    artifact.add_file(str(file.resolve()), name=name, policy="immutable", skip_cache=True)


def _summary(results: dict[str, Any]) -> dict[str, float]:
    values: dict[str, Any] = {"objective": results.get("objective")}
    for task, metrics in results["scores"].items():
        for name, entry in metrics.items():
            values[f"test/{task}/{name}"] = entry["value"]
            values |= {f"test/{task}/{name}_{end}": entry[end] for end in ("low", "high")}
    return {k: float(v) for k, v in values.items() if v is not None and not pd.isna(v)}


def _metrics_table(scores: dict[str, dict[str, dict[str, Any]]]) -> pd.DataFrame:
    records = [
        {"task": task, "metric": metric, **entry}
        for task, metrics in scores.items()
        for metric, entry in metrics.items()
    ]
    return pd.DataFrame(records, columns=list(METRIC_COLUMNS))


def _gates(path: Path) -> pd.DataFrame:
    """The gate of each validation and test sample."""
    obs = anndata.read_h5ad(path, backed="r").obs.rename_axis("sample_id").reset_index()
    table = obs[list(GATE_COLUMNS)]
    return table.astype({c: str for c in table.columns if isinstance(table[c].dtype, pd.CategoricalDtype)})


def _table(table: pd.DataFrame, source: Path) -> wandb.Table:
    """A table of W&B, of the test part first; W&B shows no more than 10,000 rows."""
    most = wandb.Table.MAX_ROWS
    ordered = table.sort_values("part", kind="stable", ignore_index=True)  # test before valid
    if len(table) > most:
        print(f"W&B shows the first {most} of {len(table)} rows of {source}")
    return wandb.Table(dataframe=ordered.head(most))


def _new_id(config: dict[str, Any], folder: RunFolder, attempt: int) -> str:
    return digest([config_digest(config), str(folder.root.resolve()), attempt])


def _read_state(folder: RunFolder) -> dict[str, Any]:
    if not folder.tracking.is_file():
        return {"attempt": 0, "complete": False}
    return dict(json.loads(folder.tracking.read_text()))


def _write_state(folder: RunFolder, state: dict[str, Any]) -> None:
    replace_file(folder.tracking, json.dumps(state, indent=1).encode())


def _within(text: str, length: int) -> str:
    """The text, or its beginning and a digest of the whole where W&B takes no text of that length."""
    return text if len(text) <= length else f"{text[: length - 17]}_{digest(text)}"
