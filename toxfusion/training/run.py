"""One run from a resolved config: split, tile features, pretraining, fine-tuning, test."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger

from toxfusion.baselines.plain import fit_baseline
from toxfusion.config.nodes import build
from toxfusion.data.datamodule import FoldData, StudyDataModule, fit_tile_scaler
from toxfusion.data.expression import ExpressionTransform
from toxfusion.data.gene_sets import GeneSet, place_gene_sets, read_gene_sets
from toxfusion.data.sampling import CompoundStream, SampleStream, torch_seed
from toxfusion.distributed.launch import adopt_ranks, check_ranks, launch
from toxfusion.distributed.ranks import barrier, check_devices, device_of, is_rank_zero, join_ranks
from toxfusion.evaluation.predictions import is_binary, is_biochemistry
from toxfusion.evaluation.predictions import write as write_predictions
from toxfusion.evaluation.retrieval import retrieval_table
from toxfusion.evaluation.scoring import as_dict, plain_records, score_run
from toxfusion.evaluation.strata import score_strata
from toxfusion.evaluation.survival import harrell_c
from toxfusion.models.compilation import compile_dense_parts
from toxfusion.models.network import Network
from toxfusion.objectives.terms.pretraining_terms import PretrainingTerms, TermSettings
from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.files import replace_file
from toxfusion.study.nulls import permute_labels, shuffle_pairs
from toxfusion.study.splits import Split, read_manifest, write_manifest
from toxfusion.study.study import Study
from toxfusion.tasks.outcomes import SurvivalSettings
from toxfusion.tasks.tasks import Tasks, resolve_tasks
from toxfusion.training.finetuning import FinetuningModule
from toxfusion.training.folder import RunFolder, modality_in_use
from toxfusion.training.optimization import Optimization
from toxfusion.training.outputs import (
    SampleOutputs,
    encode_samples,
    predictions_table,
    write_embeddings,
    write_survival_curves,
)
from toxfusion.training.pretraining import PretrainingModule
from toxfusion.training.stage import LEAST_LOSS, Monitor, TrainerSettings, fit_stage
from toxfusion.training.tile_features import fold_encoder, tile_features

Config = dict[str, Any]
LEARNING_KEYS = ("weights", "compound_pooling", "group_pooling")
"""Keys of ``task`` that say how labels are learned; the others say which there are."""


class TrainingError(ValueError):
    """A config whose parts do not go together, or that does not go with what lies in the run folder."""


def run(config: Config) -> float:
    """Run one experiment on one fold, or return what a finished run of the same config gave.

    With several devices and no launcher around it, starts one process a device and waits for them.

    Returns:
        The validation score that a sweep maximises; see `validation_objective`.
    """
    folder, trainer = RunFolder(Path(config["paths"]["output"])), config["trainer"]
    adopted = adopt_ranks(os.environ)
    if adopted:
        check_devices(trainer["accelerator"], int(os.environ.get("LOCAL_RANK", "0")) + 1)
        join_ranks(trainer["accelerator"])
        check_ranks(trainer["devices"], trainer["num_nodes"])
    done = folder.finished()
    barrier()  # all ranks have looked before rank zero may start the run afresh
    if is_rank_zero():
        folder.claim(config)
    barrier()
    if done is not None and config["resume"]:
        return float(done["objective"])
    if not adopted:
        check_devices(trainer["accelerator"], trainer["devices"])
        if trainer["devices"] > 1:
            return launch(config, trainer["devices"])
        check_ranks(trainer["devices"], trainer["num_nodes"])
    objective = _run(config, folder)
    barrier()
    return objective


def _run(config: Config, folder: RunFolder) -> float:
    L.seed_everything(config["seed"], verbose=False)
    study = Study.open(config["data"]["root"])
    split: Split = build(config["split"])(study)
    split.check(study)
    if is_rank_zero():
        if config["resume"] and folder.split.is_file() and read_manifest(folder.split) != split:
            raise TrainingError(
                f"{folder.split}: the run here began on other parts than the study and the split give now (a table of "
                "folds or the study has changed); give resume=false to start it afresh"
            )
        write_manifest(split, folder.split)
    study = with_nulls(config, study, split)
    audit = Audit()
    task = {k: v for k, v in config["task"].items() if k not in LEARNING_KEYS}
    survival = SurvivalSettings(**task.pop("survival"))
    tasks = resolve_tasks(study, **task, survival=survival, train=split.train, audit=audit)
    method, modality = config["method"], modality_in_use(config)
    trainer = TrainerSettings(**config["trainer"])
    loggers = make_loggers(config, folder)
    tiles = {"grid": config["data"]["grid"], "trainer": trainer, "loggers": loggers}
    if method == "tile_encoder":
        path = fold_encoder(config["tile_features"], study, split, **tiles)
        if is_rank_zero():
            print(f"tile encoder: {path}")
            folder.close(config, math.nan)
        return math.nan
    gene_sets = study_gene_sets(config, study)  # before any work that a wrong file would waste
    store = None
    if modality in ("both", "wsi"):
        store = tile_features(config["tile_features"], study, split, **tiles)
    fold = make_fold(config, study, split, tasks, store, modality, audit)
    table: pd.DataFrame | None
    extra: dict[str, Any] = {}
    if method == "network":
        table, extra = NetworkRun(config, folder, fold, trainer, loggers, audit, gene_sets).execute()
    else:
        table = fit_baseline(method, fold, seed=config["seed"])
    objective = math.nan
    if is_rank_zero():
        audit.write(folder.audit)
        objective = _report(config, folder, study, table, extra, loggers)
        folder.close(config, objective)
    return objective


def with_nulls(config: Config, study: Study, split: Split) -> Study:
    """The study with what the config permutes or shuffles; the labels of every task of the config are permuted."""
    task = config["task"]
    if config["permute_labels"]:
        columns = [] if task.get("subtype") is None else [task["subtype"]]
        survival = SurvivalSettings(**task.get("survival", {}))
        columns += [] if survival.method is None else [survival.time, survival.event]
        chemistry = task.get("biochemistry") is not None
        study = permute_labels(study, split, config["seed"], columns=columns, chemistry=chemistry)
    return shuffle_pairs(study, split, config["seed"]) if config["shuffle_pairs"] else study


def _report(
    config: Config,
    folder: RunFolder,
    study: Study,
    table: pd.DataFrame | None,
    extra: dict[str, Any],
    loggers: list[Logger],
) -> float:
    """Write predictions and metrics; returns the validation objective."""
    objective, scores, strata = math.nan, {}, []
    if table is not None:
        write_predictions(table, folder.predictions)
        truth = study.root / "truth" if study.virtual and not config["permute_labels"] else None
        scores, strata = as_dict(score_run(table, truth)), plain_records(score_strata(table))
        objective = validation_objective(table)
    metrics = {"objective": objective, "scores": scores, "strata": strata, **extra}
    replace_file(folder.metrics, json.dumps(metrics, indent=1).encode())
    # W&B gets a finished run from its folder (toxfusion.training.wandb).
    if config["logger"]["kind"] == "tensorboard":
        found = {
            f"test/{task}/{name}": entry["value"]
            for task, of in scores.items()
            for name, entry in of.items()
            if entry["value"] is not None
        }
        for logger in loggers:
            logger.log_metrics(found)
            logger.finalize("success")
    return objective


def validation_objective(table: pd.DataFrame) -> float:
    """Mean over tasks of the validation part, 0.5 = chance; NaN when none is defined.

    AUROC of binary tasks with both classes, Harrell's C of survival, and (1 + Spearman's rho) / 2 of serum chemistry.
    """
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    values = []
    for task, rows in table[(table["part"] == "valid") & table["label"].notna()].groupby("task"):
        label, score = rows["label"], rows["score"]
        if is_binary(str(task)) and label.nunique() == 2:
            values.append(roc_auc_score(label, score))
        elif task == "survival":
            found = harrell_c(label.to_numpy(), rows["event"].to_numpy(), score.to_numpy())
            values += [found.value] if found.defined else []
        elif is_biochemistry(str(task)) and min(label.nunique(), score.nunique()) > 1:
            values.append((1 + spearmanr(label, score).statistic) / 2)
    return float(sum(values) / len(values)) if values else math.nan


def make_loggers(config: Config, folder: RunFolder) -> list[Logger]:
    """The loggers beside history.csv; none on other ranks than zero.

    Raises:
        TrainingError: an unknown kind.
    """
    settings = config["logger"]
    if settings["kind"] == "csv" or not is_rank_zero():
        return []
    if settings["kind"] == "wandb":
        from toxfusion.training.wandb import make_logger

        return [make_logger(config, folder)]
    if settings["kind"] == "tensorboard":
        from lightning.pytorch.loggers import TensorBoardLogger

        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise TrainingError(
                "logger=tensorboard: the package tensorboard is not installed; pip install 'toxfusion[tensorboard]', "
                "or take logger=csv, which is always written"
            ) from error
        return [TensorBoardLogger(folder.root, name="tensorboard", version="")]
    raise TrainingError(f"logger.kind: {settings['kind']!r} is none of csv, wandb, tensorboard")


class ValidationScore(Callback):
    """Logs valid/score, by which the best weights of fine-tuning are chosen.

    Not the loss: labels are few, and the loss of the validation part rises with the confidence of a network whose
    ranking of samples still gets better. Probabilities are calibrated afterwards.

    Args:
        score: of the validation part; where it is NaN, minus the validation loss stands in.
    """

    MONITOR = Monitor("valid/score", "max")

    def __init__(self, score: Callable[[], float]) -> None:
        self.score = score

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        score = self.score()
        if math.isnan(score):
            score = -float(trainer.callback_metrics[LEAST_LOSS.name])
        pl_module.log(self.MONITOR.name, score, sync_dist=True)


class NetworkRun:
    """Pretraining, fine-tuning and test of a network on one fold.

    Args:
        gene_sets: of the study, for an expression encoder that reads sets.
        audit: takes the samples that training passes over, and the gene sets that are left out or shrunk.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        fold: FoldData,
        trainer: TrainerSettings,
        loggers: list[Logger],
        audit: Audit,
        gene_sets: list[GeneSet] | None = None,
    ) -> None:
        self.config, self.folder, self.fold = config, folder, fold
        self.study, self.split = fold.study, fold.split
        self.trainer, self.loggers, self.seed = trainer, loggers, int(config["seed"])
        self.size = config["size"]
        self.train = fold.usable(fold.split.train, audit)
        self.valid = fold.usable(fold.split.valid, audit)
        self.gene_sets: dict[str, list[int]] | None = None
        if gene_sets is not None and fold.expression is not None:
            limits = {key: config["expression"]["gene_sets"][key] for key in ("min_genes", "max_genes")}
            self.gene_sets = place_gene_sets(gene_sets, fold.expression.gene_ids, **limits, audit=audit)
        torch.manual_seed(torch_seed(self.seed, "network"))
        self.network = build_network(
            config, n_genes=fold.n_genes, tile_dim=fold.tile_dim, gene_sets=self.gene_sets
        )
        if trainer.compile is not None:
            compile_dense_parts(self.network, trainer.compile)

    def execute(self) -> tuple[pd.DataFrame | None, dict[str, Any]]:
        """The predictions table (None without a task), and what metrics.json holds beside the scores."""
        extra: dict[str, Any] = {"parameters": sum(p.numel() for p in self.network.parameters())}
        if self.config["pretrain"]["steps"] > 0:
            self.pretrain()
        if self.config["modality"]["name"] == "both":
            extra["retrieval"] = self.retrieval()
        module = self.finetune() if self.fold.tasks else None
        scored = [*self.split.valid, *self.split.test]
        outputs = self.encode([*self.train, *scored])
        if is_rank_zero():
            write_embeddings(self.fold, outputs, self.folder.embeddings)
        if module is None:
            return None, extra
        if is_rank_zero():
            write_survival_curves(module, self.fold, outputs.of(scored), self.folder.survival_curves)
        tables = [
            self.predictions(module, part, ids, outputs)
            for part, ids in (("valid", self.split.valid), ("test", self.split.test))
        ]
        return pd.concat(tables, ignore_index=True), extra

    def encode(self, sample_ids: list[str]) -> SampleOutputs:
        """What the network says of samples, on all their tiles."""
        data = self.data_module("pretrain")
        return encode_samples(self.network, data, sample_ids, device_of(self.trainer.accelerator))

    def pretrain(self) -> None:
        """Self-supervised pretraining on training samples."""
        settings = self.config["pretrain"]
        optimizer = self.config["optimizer"]
        torch.manual_seed(torch_seed(self.seed, "pretraining"))
        terms = build_terms(self.config, self.network, n_genes=self.fold.n_genes, tile_dim=self.fold.tile_dim)
        module = PretrainingModule(
            self.network,
            terms,
            optimization=self.plan(optimizer["pretrain_lr"], settings["steps"]),
            seed=self.seed,
        )
        self.fit(module, "pretrain", settings["steps"])

    def finetune(self) -> FinetuningModule:
        """Supervised fine-tuning; returns the module with the best weights by validation."""
        steps = self.size["finetune_steps"] + self.config["pretrain"]["finetune_extra_steps"]
        optimizer, task = self.config["optimizer"], self.config["task"]
        frozen = optimizer["network_lr_share"] == 0
        from_scratch = self.config["pretrain"]["steps"] == 0 and not frozen
        torch.manual_seed(torch_seed(self.seed, "finetuning"))
        module = FinetuningModule(
            self.network,
            self.fold.tasks,
            width=self.size["width"],
            labels={k: v[[self.fold.row(s) for s in self.train]] for k, v in self.fold.labels.items()},
            weights=task["weights"],
            compound_pooling=task["compound_pooling"],
            group_pooling=task["group_pooling"],
            network_lr_share=1.0 if from_scratch else optimizer["network_lr_share"],
            optimization=self.plan(optimizer["finetune_lr"], steps),
            seed=self.seed,
            contract=contract(self.fold, self.gene_sets),
        )
        score = ValidationScore(lambda: validation_objective(self.predictions(module, "valid", self.valid)))
        self.fit(module, "finetune", steps, monitor=score.MONITOR, callbacks=[score])
        return module

    def predictions(
        self,
        module: FinetuningModule,
        part: str,
        sample_ids: list[str],
        outputs: SampleOutputs | None = None,
    ) -> pd.DataFrame:
        """The predictions table of some samples, encoded anew where their outputs are not given."""
        encoded = self.encode(sample_ids) if outputs is None else outputs
        return predictions_table(module, self.fold, encoded, part=part, sample_ids=sample_ids, seed=self.seed)

    def retrieval(self) -> list[dict[str, Any]]:
        """Cross-modal retrieval among test samples with both modalities, before fine-tuning."""
        paired = [s for s in self.split.test if self.fold.has_slide(s) and self.fold.has_expression(s)]
        if len(paired) < 2:
            return []
        outputs = self.encode(paired)
        groups = self.study.obs.loc[paired, "group_id"].astype(str).to_numpy()
        table = retrieval_table(
            outputs.slide_shared, outputs.expression_shared, groups=groups, shuffles=20, seed=self.seed
        )
        return [{str(k): v for k, v in record.items()} for record in table.to_dict("records")]

    def data_module(self, stage: str) -> StudyDataModule:
        """Batches of single samples for pretraining, of whole compounds for fine-tuning."""
        size = self.size
        sampler: SampleStream | CompoundStream
        if stage == "pretrain":
            sampler = SampleStream(tuple(self.train), self.config["pretrain"]["batch_size"], self.seed)
        else:
            sampler = CompoundStream(
                self.study.obs.loc[self.train],
                compounds_per_batch=size["compounds_per_batch"],
                treated_per_compound=size["treated_per_compound"],
                controls_per_compound=size["controls_per_compound"],
                seed=self.seed,
            )
        return StudyDataModule(
            self.fold,
            stage=stage,
            sampler=sampler,
            tiles_per_bag=size["tiles_per_bag"],
            eval_batch_size=size["eval_batch"],
            valid=self.valid,
            processes=self.trainer.devices * self.trainer.num_nodes,
            accumulate=self.trainer.accumulate_grad_batches,
        )

    def plan(self, lr: float, steps: int) -> Optimization:
        optimizer = self.config["optimizer"]
        return Optimization(lr, optimizer["weight_decay"], optimizer["warmup"], steps)

    def fit(
        self,
        module: L.LightningModule,
        stage: str,
        steps: int,
        monitor: Monitor = LEAST_LOSS,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        fit_stage(
            module,
            self.data_module(stage),
            stage=stage,
            folder=self.folder.stage(stage),
            history=self.folder.history,
            steps=steps,
            settings=self.trainer,
            loggers=self.loggers,
            resume=self.config["resume"],
            monitor=monitor,
            callbacks=callbacks,
        )


def make_fold(
    config: Config,
    study: Study,
    split: Split,
    tasks: Tasks,
    store: BagStore | None,
    modality: str,
    audit: Audit,
) -> FoldData:
    """Fit what is fitted, on training samples, for the modalities in use.

    Args:
        audit: takes samples whose expression has no matched control, or is of a batch that is not corrected.

    Raises:
        TrainingError: slides are in use, and there are no tile features.
    """
    data = config["data"]
    scaler = None
    if modality in ("both", "wsi"):
        if store is None:
            raise TrainingError(
                f"modality={modality} needs tile features; tile_features=none goes with modality=omics"
            )
        scaler = fit_tile_scaler(study, store, split.train, data["tile_reference"])
    expression = None
    if modality in ("both", "omics"):
        present = study.has_expression[study.positions(split.train)]
        profiled = [s for s, there in zip(split.train, present, strict=True) if there]
        expression = ExpressionTransform.fit(study, profiled, **data["expression"], audit=audit)
    return FoldData(
        study,
        split,
        tasks,
        store=store,
        expression=expression,
        scaler=scaler,
        seed=int(config["seed"]),
        audit=audit,
    )


def study_gene_sets(config: Config, study: Study) -> list[GeneSet] | None:
    """The gene sets that the expression encoder of a config reads, on the genes of a study; None where it reads none.

    Raises:
        GeneSetError: the file is missing or malformed, or names no gene of the study.
    """
    settings = config["expression"].get("gene_sets")
    if settings is None or config["method"] != "network" or config["modality"]["name"] == "wsi":
        return None
    return read_gene_sets(Path(settings["gmt"]), study.var)


def build_network(
    config: Config, *, n_genes: int, tile_dim: int, gene_sets: dict[str, list[int]] | None = None
) -> Network:
    """The network of a config.

    Args:
        n_genes, tile_dim: how many genes, and the width of tile features.
        gene_sets: name -> positions in 0..n_genes - 1, for an expression encoder that reads sets; they stand in
            the place of the file that its config names.
    """
    size, modality = config["size"], config["modality"]["name"]
    make: dict[str, partial[Any]] = {name: build(config[name]) for name in ("bag", "expression", "fusion")}
    sets = {} if gene_sets is None else {"gene_sets": list(gene_sets.values())}
    return Network(
        bag=None if modality == "omics" else make["bag"](in_dim=tile_dim),
        expression=None if modality == "wsi" else make["expression"](n_genes=n_genes, **sets),
        fusion=make["fusion"]() if modality == "both" else None,
        width=size["width"],
        shared_dim=size["shared_dim"],
        private_dim=size["private_dim"],
        modality=modality,
        modality_dropout=config["modality"]["dropout"],
    )


def build_terms(config: Config, network: Network, *, n_genes: int, tile_dim: int) -> PretrainingTerms:
    """The terms of pretraining of a config that apply to a network, for so many genes and such tile features."""
    size, settings = config["size"], config["pretrain"]
    return PretrainingTerms(
        network,
        TermSettings(**{field.name: settings[field.name] for field in fields(TermSettings)}),
        width=size["width"],
        shared_dim=size["shared_dim"],
        private_dim=size["private_dim"],
        n_genes=n_genes,
        tile_dim=tile_dim,
    )


def contract(fold: FoldData, gene_sets: dict[str, list[int]] | None) -> dict[str, Any]:
    """What a checkpoint must carry to be used on another study: plain types and tensors only.

    Args:
        gene_sets: of the expression encoder, name -> positions among the genes of the fold's transform.
    """
    return {
        "tasks": fold.tasks.state(),
        "expression": None if fold.expression is None else fold.expression.state(),
        "gene_sets": gene_sets,
        "tiles": None if fold.scaler is None else fold.scaler.state(),
        "compounds": sorted(
            set(fold.study.obs.loc[[*fold.split.train, *fold.split.valid], "compound"].astype(str))
        ),
        "features": None
        if fold.store is None
        else {"name": fold.store.root.name, "dim": fold.tile_dim, "made_by": fold.store.spec.made_by},
    }
