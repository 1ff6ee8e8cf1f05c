"""One run from a resolved config, in the order of its steps: split, tile features, pretraining, fine-tuning, test."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
from lightning.pytorch.loggers.logger import Logger

from toxfusion.baselines.plain import fit_baseline
from toxfusion.data.datamodule import FoldData
from toxfusion.data.gene_sets import GeneSet
from toxfusion.distributed.launch import adopt_ranks, check_ranks, launch
from toxfusion.distributed.ranks import barrier, check_devices, is_rank_zero, join_ranks
from toxfusion.evaluation.predictions import write as write_predictions
from toxfusion.evaluation.records import as_dict, plain_records
from toxfusion.evaluation.scoring import score_run
from toxfusion.evaluation.selection import validation_score
from toxfusion.evaluation.strata import score_strata
from toxfusion.study.audit import Audit
from toxfusion.study.files import replace_file
from toxfusion.study.split import Split, read_manifest, write_manifest
from toxfusion.study.study import Study
from toxfusion.tasks.task_set import TaskSet
from toxfusion.training.assemble import (
    Assembled,
    TrainingError,
    assemble,
    make_fold,
    make_tasks,
    open_study,
    study_gene_sets,
    with_nulls,
)
from toxfusion.training.folder import RunFolder
from toxfusion.training.lock import only_run
from toxfusion.training.loggers import log_test_metrics, make_loggers
from toxfusion.training.network import Stages, cross_modal_retrieval, finetune, held_out_predictions, pretrain
from toxfusion.training.settings import RunSettings
from toxfusion.training.tile_features import fold_encoder, tile_features

Config = dict[str, Any]


def run(config: Config) -> float:
    """Run one experiment on one fold, or return what a finished run of the same config gave.

    With several devices and no launcher around it, starts one process a device and waits for them.

    Returns:
        The validation score that a sweep maximises; see `validation_score`.
    """
    folder, settings = RunFolder(Path(config["paths"]["output"])), RunSettings.read(config)
    trainer = settings.trainer
    adopted = adopt_ranks(os.environ)
    if adopted:
        check_devices(trainer.accelerator, int(os.environ.get("LOCAL_RANK", "0")) + 1)
        join_ranks(trainer.accelerator)
        check_ranks(trainer.devices, trainer.num_nodes)
    with only_run(folder.root) if is_rank_zero() else nullcontext():
        return _run_here(config, settings, folder, adopted)


def _run_here(config: Config, settings: RunSettings, folder: RunFolder, adopted: bool) -> float:
    """The run, in a folder that no other run is at work in."""
    trainer = settings.trainer
    done = folder.finished()
    barrier()  # all ranks have looked before rank zero may start the run afresh
    if is_rank_zero():
        folder.claim(config)
    barrier()
    if done is not None and settings.resume:
        return float(done["objective"])
    if not adopted:
        check_devices(trainer.accelerator, trainer.devices)
        if trainer.devices > 1:
            return launch(config, trainer.devices)
        check_ranks(trainer.devices, trainer.num_nodes)
    objective = _run(settings, folder, partial(make_loggers, config, folder))
    if is_rank_zero():
        folder.close(config, objective)
    barrier()
    return objective


def _run(settings: RunSettings, folder: RunFolder, open_loggers: Callable[[], list[Logger]]) -> float:
    """All steps of a run; returns the validation score, NaN where the run predicts nothing."""
    L.seed_everything(settings.seed, verbose=False)
    study, split = open_study(settings)
    _keep_split(settings, folder, split)
    if settings.method == "tile_encoder":
        path = fold_encoder(settings, study, split, open_loggers())
        if is_rank_zero():
            print(f"tile encoder: {path}")
        return math.nan
    audit = Audit()
    _tell_unknown_analogues(split, audit)
    study = with_nulls(settings, study, split)
    tasks = make_tasks(settings, study, split, audit)
    if settings.method != "network" and not tasks:
        raise TrainingError(
            f"method={settings.method}: a baseline learns labels, and task=none has none; give a task"
        )
    loggers = open_loggers()
    fold, gene_sets = _open_fold(settings, study, split, tasks, loggers, audit)
    table: pd.DataFrame | None
    beside: dict[str, Any] = {}
    if settings.method == "network":
        table, beside = _train_network(settings, folder, loggers, fold, tasks, gene_sets, audit)
    else:
        table = fit_baseline(settings.method, fold, tasks, seed=settings.seed)
    if not is_rank_zero():
        return math.nan
    audit.write(folder.audit)
    return _report(folder, None if settings.nulls.permute_labels else study, table, beside, loggers)


def _open_fold(
    settings: RunSettings, study: Study, split: Split, tasks: TaskSet, loggers: list[Logger], audit: Audit
) -> tuple[FoldData, list[GeneSet] | None]:
    """The fold with its tile features, and the gene sets of the study; slides that are not encoded are, first."""
    gene_sets = study_gene_sets(settings, study)  # before any work that a wrong file would waste
    reads_slides = settings.modality in ("both", "wsi")
    store = tile_features(settings, study, split, loggers) if reads_slides else None
    return make_fold(settings, study, split, tasks, store, audit), gene_sets


def begin(config: Config) -> Assembled:
    """The network of a configuration before its first step, on its fold: what `run` trains.

    Slides of the study are encoded first, as far as they are not. No run folder is made.

    Args:
        config: of ``compose("train", [...])``, with ``method=network``.

    Raises:
        TrainingError: the method is a baseline, or its parts do not go together.
        StudyError, SplitError, TaskError: the study, the split or the labels are not what the configuration asks for.
    """
    settings, audit = RunSettings.read(config), Audit()
    if settings.method != "network":
        raise TrainingError(
            f"method={settings.method}: there is no network to begin with; give method=network"
        )
    study, split = open_study(settings)
    study = with_nulls(settings, study, split)
    tasks = make_tasks(settings, study, split, audit)
    fold, gene_sets = _open_fold(settings, study, split, tasks, [], audit)
    return assemble(settings, fold, tasks, gene_sets, audit)


def _keep_split(settings: RunSettings, folder: RunFolder, split: Split) -> None:
    """Write the manifest of the split, or check that the run begun here has the same parts."""
    if not is_rank_zero():
        return
    if settings.resume and folder.split.is_file() and read_manifest(folder.split) != split:
        raise TrainingError(
            f"{folder.split}: the run here began on other parts than the study and the split give now (a table of "
            "folds or the study has changed); give resume=false to start it afresh"
        )
    write_manifest(split, folder.split)


def _tell_unknown_analogues(split: Split, audit: Audit) -> None:
    """What of the table of analogues joins nothing, on the screen and in the audit."""
    for unknown in split.manifest.get("unknown_analogues", []):
        audit.drop("split", "analogue", unknown, "a name of the table of analogues that joins nothing")
        if is_rank_zero():
            print(f"split.analogues: {unknown}", file=sys.stderr)


def _train_network(
    settings: RunSettings,
    folder: RunFolder,
    loggers: list[Logger],
    fold: FoldData,
    tasks: TaskSet,
    gene_sets: list[GeneSet] | None,
    audit: Audit,
) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """The predictions table (None without a task), and what metrics.json holds beside the scores."""
    network = assemble(settings, fold, tasks, gene_sets, audit)
    stages = Stages(folder, settings.trainer, loggers, settings.resume)
    beside: dict[str, Any] = {"parameters": sum(p.numel() for p in network.network.parameters())}
    if settings.pretrain.steps > 0:
        pretrain(network, stages)
    if settings.modality == "both":
        beside["retrieval"] = cross_modal_retrieval(network)
    network = network.for_finetuning()
    predictor = finetune(network, stages) if tasks else None
    return held_out_predictions(network, predictor, folder), beside


def _report(
    folder: RunFolder,
    study: Study | None,
    table: pd.DataFrame | None,
    beside: dict[str, Any],
    loggers: list[Logger],
) -> float:
    """Write predictions and metrics; returns the validation objective.

    Args:
        study: for the planted truth of a virtual one; None where the labels are permuted.
    """
    objective, scores, strata = math.nan, {}, []
    if table is not None:
        write_predictions(table, folder.predictions)
        truth = study.root / "truth" if study is not None and study.virtual else None
        scores, strata = as_dict(score_run(table, truth)), plain_records(score_strata(table))
        objective = validation_score(table).value
    metrics = {"objective": objective, "scores": scores, "strata": strata, **beside}
    replace_file(folder.metrics, json.dumps(metrics, indent=1).encode())
    log_test_metrics(loggers, scores)
    return objective
