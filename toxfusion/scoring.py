"""Scoring a study without labels with finished runs: what ``toxfusion.predict`` calls."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from toxfusion.data.audit import Audit
from toxfusion.data.bag_store import BagStore
from toxfusion.data.datamodule import FoldData, StudyDataModule, TileScaler
from toxfusion.data.expression import ExpressionTransform
from toxfusion.data.sampling import SampleStream
from toxfusion.data.splits import Split
from toxfusion.data.study import Study
from toxfusion.data.tasks import Tasks
from toxfusion.distributed import device_of
from toxfusion.evaluation import predictions
from toxfusion.evaluation.calibration import fit_temperature, scale
from toxfusion.modules.finetuning import FinetuningModule
from toxfusion.modules.optimization import Optimization
from toxfusion.prediction import encode_samples, predictions_table
from toxfusion.runs import RunError, RunFolder
from toxfusion.stages import TrainerSettings, load_weights, read_checkpoint
from toxfusion.tile_features import encode_study
from toxfusion.training import build_network


@dataclass(frozen=True)
class Scores:
    """Scores of a new study.

    Attributes:
        units: one row a task and unit: unit_id, compound, risk (mean over runs, calibrated on the validation part of
            each run), spread (standard deviation over runs), low, high (over runs), n_runs, seen_in_training (a run
            trained on a compound of that name).
        samples: one row a sample: gate_slide, gate_expression (means over runs), modalities there.
    """

    units: pd.DataFrame
    samples: pd.DataFrame


def score_study(run_folders: Sequence[Path], study: Study, audit: Audit) -> Scores:
    """Score every sample of a study with every run.

    Raises:
        RunError: a run is not finished, or is not of a network.
    """
    tables, gates = [], []
    for folder in run_folders:
        table, gate = _score_with(RunFolder(folder), study, audit)
        tables.append(table)
        gates.append(gate)
    joined = pd.concat(tables, ignore_index=True)
    keys = ["task", "level", "unit_id", "compound", "dose_level", "time_h", "study"]
    grouped = joined.groupby(keys, sort=False, dropna=False)
    units = grouped["score"].agg(
        risk="mean", spread=lambda s: float(np.std(s)), low="min", high="max", n_runs="size"
    )
    units["seen_in_training"] = grouped["seen"].any()
    samples = pd.concat(gates).groupby(level=0, sort=False).mean()
    samples["has_slide"] = [bool(study.slides_of(s)) for s in samples.index]
    samples["has_expression"] = study.has_expression[study.positions(list(samples.index))]
    return Scores(units.reset_index(), samples.rename_axis("sample_id").reset_index())


def _score_with(folder: RunFolder, study: Study, audit: Audit) -> tuple[pd.DataFrame, pd.DataFrame]:
    config = folder.read_config()
    if folder.finished() is None or config["method"] != "network":
        raise RunError(f"{folder.root}: not a finished run of a network; predict needs one")
    best = folder.stage("finetune") / "best.ckpt"
    contract = read_checkpoint(best)["contract"]
    tasks = Tasks(**{**contract["tasks"], "lesions": tuple(contract["tasks"]["lesions"])})
    sample_ids = list(study.sample_ids)
    # Transductive: a compound that the run has seen may be scored again; the table says which ones were seen.
    manifest = {"transductive": True}
    split = Split(train=[], valid=[], test=sample_ids, fold=int(config["split"]["fold"]), manifest=manifest)
    tiles = contract["tiles"]
    fold = FoldData(
        study,
        split,
        tasks,
        store=None if tiles is None else _features(config, contract, study),
        expression=None
        if contract["expression"] is None
        else ExpressionTransform.from_state(contract["expression"]),
        scaler=None if tiles is None else TileScaler.from_state(tiles),
        seed=int(config["seed"]),
    )
    usable = fold.usable(sample_ids, audit)
    if not usable:
        raise RunError(f"{study.root}: no sample has what {folder.root} reads; see the audit")
    module = _module(config, fold, tasks)
    load_weights(module, best)
    data = StudyDataModule(
        fold,
        stage="evaluate",
        sampler=SampleStream(tuple(usable), 1, 0),
        tiles_per_bag=None,
        eval_batch_size=config["size"]["eval_batch"],
        valid=[],
    )
    outputs = encode_samples(module.network, data, usable, device_of(config["trainer"]["accelerator"]))
    table = predictions_table(module, fold, outputs, part="test", sample_ids=usable, seed=int(config["seed"]))
    gate = pd.DataFrame(outputs.gate, index=usable, columns=["gate_slide", "gate_expression"])
    table = _calibrated(table, predictions.read(folder.predictions))
    return table.assign(seen=table["compound"].isin(contract["compounds"])), gate


def _module(config: dict[str, Any], fold: FoldData, tasks: Tasks) -> FinetuningModule:
    network = build_network(config, n_genes=fold.n_genes, tile_dim=fold.tile_dim)
    return FinetuningModule(
        network,
        tasks,
        width=config["size"]["width"],
        labels=fold.labels,
        weights=config["task"]["weights"],
        compound_pooling=config["task"]["compound_pooling"],
        group_pooling=config["task"]["group_pooling"],
        network_lr_share=1.0,
        optimization=Optimization(1e-3, 0.0, 0.0, 1),
        seed=0,
        contract={},
    )


def _features(config: dict[str, Any], contract: dict[str, Any], study: Study) -> BagStore:
    """Features of the new study by the run's own encoder."""
    name = contract["features"]["name"]
    if config["tile_features"]["kind"] == "store":
        return study.features(name)
    encoder = study.root / "encoders" / f"{name}.ckpt"
    theirs = Path(config["data"]["root"]) / "encoders" / f"{name}.ckpt"
    if not encoder.is_file():
        encoder.parent.mkdir(parents=True, exist_ok=True)
        part = encoder.with_suffix(".part")
        shutil.copyfile(theirs, part)
        part.replace(encoder)
    settings = TrainerSettings(**config["trainer"])
    batch_size = config["tile_features"]["encode_batch"]
    return encode_study(study, encoder, grid=config["data"]["grid"], batch_size=batch_size, trainer=settings)


def _calibrated(table: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Scores of binary tasks divided, as logits, by the temperature of the run's validation part."""
    table = table.copy()
    for task in table["task"].unique():
        valid = known[(known["task"] == task) & (known["part"] == "valid") & known["label"].notna()]
        if task == "severity" or valid["label"].nunique() < 2:
            continue
        temperature = fit_temperature(valid["label"].to_numpy(), valid["score"].to_numpy())
        if temperature.defined:
            mine = table["task"] == task
            table.loc[mine, "score"] = scale(table.loc[mine, "score"].to_numpy(), temperature.value)
    return table
