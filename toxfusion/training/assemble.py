"""From the settings of a run to its parts: study and split, nulls, tasks, fold, network, terms, and the contract.

What is fitted is fitted here, on training samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from toxfusion.data.batch import Batch
from toxfusion.data.clinical import ClinicalColumns
from toxfusion.data.datamodule import FoldData, StudyDataModule
from toxfusion.data.expression import ExpressionTransform
from toxfusion.data.gene_sets import GeneSet, place_gene_sets, read_gene_sets
from toxfusion.data.sample_groups import SampleGroups
from toxfusion.data.sampling import CompoundStream, Sampler, SampleStream, group_weights, torch_seed
from toxfusion.data.tile_scaling import fit_tile_scaler
from toxfusion.distributed.ranks import device_of
from toxfusion.models.compilation import compile_dense_parts
from toxfusion.models.modes import place_of
from toxfusion.models.network import Network
from toxfusion.objectives.terms.term import NetworkShape
from toxfusion.objectives.terms.term_set import TermSet, TermSettings
from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.nulls import deal_slides, permute_labels
from toxfusion.study.split import Split
from toxfusion.study.study import Study
from toxfusion.tasks.budget import within_budget
from toxfusion.tasks.clinical_leaks import refuse_leaks
from toxfusion.tasks.task_set import TaskSet
from toxfusion.training.optimization import Optimization
from toxfusion.training.settings import NetworkSettings, RunSettings

GeneSets = dict[str, list[int]]
"""Name -> positions among the genes of a fold's transform."""


class TrainingError(ValueError):
    """A config whose parts do not go together, or that does not go with what lies in the run folder."""


def open_study(settings: RunSettings) -> tuple[Study, Split]:
    """The study of a run as it lies on disk, and its checked split.

    Raises:
        StudyError: there is no study, or a file of it is not what it should be.
        SplitError: the split asks for what the study lacks, or a unit straddles parts.
    """
    study = Study.open(settings.data.root)
    split = settings.split(study)
    split.check(study)
    return study, split


def with_nulls(settings: RunSettings, study: Study, split: Split) -> Study:
    """The study with the labels of every task of the run permuted, where the run asks for it."""
    nulls, tasks = settings.nulls, settings.tasks
    if nulls.permute_labels:
        study = permute_labels(study, split, settings.seed, columns=tasks.columns, chemistry=tasks.chemistry)
    return study


def with_pairs_dealt(fold: FoldData, seed: int) -> FoldData:
    """The fold with slides dealt anew to profiles, within its training and within its validation part."""
    parts = [[s for s in part if fold.has_slide(s)] for part in (fold.split.train, fold.split.valid)]
    return fold.with_slides_dealt(deal_slides(parts, seed, fold.split.fold))


def make_tasks(settings: RunSettings, study: Study, split: Split, audit: Audit) -> TaskSet:
    """What is predicted, fitted on training samples; raises TaskError for a task that the study has no labels of."""
    return settings.tasks.fit(study, split.train, audit)


def study_gene_sets(settings: RunSettings, study: Study) -> list[GeneSet] | None:
    """The gene sets that the expression encoder of a run reads, on the genes of a study; None where it reads none.

    Raises:
        GeneSetError: the file is missing or malformed, or names no gene of the study.
    """
    sets = settings.network.gene_sets
    if sets is None or settings.method != "network" or settings.modality == "wsi":
        return None
    return read_gene_sets(sets.gmt, study.var)


def make_fold(
    settings: RunSettings, study: Study, split: Split, tasks: TaskSet, store: BagStore | None, audit: Audit
) -> FoldData:
    """Fit what is fitted, on training samples, for the modalities in use.

    Args:
        audit: takes samples whose expression has no matched control, or is of a batch that is not corrected.

    Raises:
        TrainingError: slides are in use, and there are no tile features.
    """
    scaler = None
    if settings.modality in ("both", "wsi"):
        if store is None:
            raise TrainingError(
                f"modality={settings.modality} needs tile features; tile_features=none goes with modality=omics"
            )
        data = settings.data
        scaler = fit_tile_scaler(study, store, split.train, data.tile_reference, data.within)
    expression = None
    if settings.modality in ("both", "omics"):
        present = study.has_expression[study.positions(split.train)]
        profiled = [s for s, there in zip(split.train, present, strict=True) if there]
        expression = ExpressionTransform.fit(study, profiled, **settings.data.expression, audit=audit)
    fold = FoldData(
        study,
        split,
        within_budget(
            tasks,
            tasks.labels(study, study.sample_ids),
            study,
            split.train,
            settings.finetune.budget,
            settings.seed,
            audit,
        ),
        store=store,
        expression=expression,
        scaler=scaler,
        seed=settings.seed,
        clinical=_clinical(settings, study, split, tasks, audit),
        head_groups=_groups(study, split, settings.heads_by, "heads_by"),
        path_groups=_several(_groups(study, split, settings.paths_by, "paths_by")),
        audit=audit,
    )
    return with_pairs_dealt(fold, settings.seed) if settings.nulls.shuffle_pairs == "throughout" else fold


def _groups(study: Study, split: Split, column: str | None, key: str) -> SampleGroups | None:
    """The groups of training samples by a column of obs, which a key names; None without a column."""
    return None if column is None else SampleGroups.fit(study, split.train, column, key)


def _several(groups: SampleGroups | None) -> SampleGroups | None:
    """Groups, unless there is one alone, which has nothing to deviate from."""
    return None if groups is None or len(groups.names) < 2 else groups


def _clinical(
    settings: RunSettings, study: Study, split: Split, tasks: TaskSet, audit: Audit
) -> ClinicalColumns | None:
    """The clinical columns of a run, fitted; None where it asks for none.

    Raises:
        ClinicalError: a column that the study lacks, or that would give a label away.
    """
    if not settings.clinical:
        return None
    refuse_leaks(settings.clinical, study, tasks)
    return ClinicalColumns.fit(
        study, split.train, settings.clinical, within=settings.data.within, audit=audit
    )


def build_network(
    settings: NetworkSettings,
    *,
    n_genes: int,
    tile_dim: int,
    n_groups: int = 0,
    gene_sets: GeneSets | None = None,
) -> Network:
    """The network of a run.

    Args:
        n_genes, tile_dim: how many genes, and the width of tile features.
        n_groups: groups in which linear paths may deviate.
        gene_sets: name -> positions in 0..n_genes - 1, for an expression encoder that reads sets; they stand in
            the place of the file that its config names.
    """
    modality = settings.modality
    sets = {} if gene_sets is None else {"gene_sets": list(gene_sets.values())}
    return Network(
        bag=None if modality == "omics" else settings.bag(in_dim=tile_dim),
        expression=None if modality == "wsi" else settings.expression(n_genes=n_genes, **sets),
        fusion=settings.fusion() if modality == "both" else None,
        width=settings.width,
        shared_dim=settings.shared_dim,
        private_dim=settings.private_dim,
        modality=modality,
        modality_dropout=settings.modality_dropout,
        projections=settings.projections,
        n_groups=n_groups,
    )


def build_terms(
    terms: TermSettings, settings: NetworkSettings, network: Network, *, n_genes: int, tile_dim: int
) -> TermSet:
    """The terms of pretraining that apply to a network, for so many genes and such tile features."""
    shape = NetworkShape.of(
        network,
        width=settings.width,
        shared_dim=settings.shared_dim,
        private_dim=settings.private_dim,
        n_genes=n_genes,
        tile_dim=tile_dim,
    )
    return TermSet(network, terms, shape)


@dataclass(frozen=True)
class Assembled:
    """A network on a fold, ready to be trained.

    Attributes:
        tasks: what is predicted, fitted.
        network: where the run computes.
        train, valid: samples of these parts with at least one modality that is in use.
        gene_sets: of the expression encoder; None where it reads none.
    """

    settings: RunSettings
    fold: FoldData
    tasks: TaskSet
    network: Network
    train: list[str]
    valid: list[str]
    gene_sets: GeneSets | None

    def batch(self, sample_ids: Sequence[str]) -> Batch:
        """Samples with all their tiles, where the network lies."""
        return self.fold.batch(sample_ids, stage="evaluate").to(*place_of(self.network))

    def data_module(self, sampler: Sampler, stage: str, fold: FoldData | None = None) -> StudyDataModule:
        """Loaders of one stage, on the fold where no view of it is given."""
        batches, trainer = self.settings.batches, self.settings.trainer
        return StudyDataModule(
            fold or self.fold,
            stage=stage,
            sampler=sampler,
            tiles_per_bag=batches.tiles_per_bag,
            eval_batch_size=batches.eval_batch,
            valid=self.valid,
            accumulate=trainer.accumulate_grad_batches,
        )

    def pretraining_fold(self) -> FoldData:
        """The fold, with slides dealt anew where the run shuffles pairs for pretraining."""
        if self.settings.nulls.shuffle_pairs == "pretraining":
            return with_pairs_dealt(self.fold, self.settings.seed)
        return self.fold

    def draw_weights(self) -> tuple[float, ...] | None:
        """How often each training sample is drawn in pretraining; None where all are equal."""
        return group_weights(self.fold.study.obs.loc[self.train], **self.settings.data.draw)

    def pretraining_data(self) -> StudyDataModule:
        """Batches of single samples."""
        settings = self.settings
        sampler = SampleStream(
            tuple(self.train), settings.pretrain.batch_size, settings.seed, weights=self.draw_weights()
        )
        return self.data_module(sampler, "pretrain", self.pretraining_fold())

    def for_finetuning(self) -> Assembled:
        """The same network on what fine-tuning and test read of the fold."""
        fold = self.fold.reading(self.settings.finetune.modality)
        return replace(self, fold=fold, train=fold.usable(self.train), valid=fold.usable(self.valid))

    def finetuning_data(self) -> StudyDataModule:
        """Batches of whole compounds, of those with a label."""
        batches, obs = self.settings.batches, self.fold.study.obs.loc[self.train]
        known = self.fold.labelled(self.train)
        sampler = CompoundStream(
            obs[obs["compound"].isin(set(obs.loc[known, "compound"]))],
            compounds_per_batch=batches.compounds_per_batch,
            treated_per_compound=batches.treated_per_compound,
            controls_per_compound=batches.controls_per_compound,
            seed=self.settings.seed,
        )
        return self.data_module(sampler, "finetune")

    def optimization(self, lr: float, steps: int) -> Optimization:
        """Learning rate and schedule of one stage."""
        optimizer = self.settings.optimizer
        return Optimization(lr, optimizer.weight_decay, optimizer.warmup, steps)


def assemble(
    settings: RunSettings, fold: FoldData, tasks: TaskSet, gene_sets: list[GeneSet] | None, audit: Audit
) -> Assembled:
    """The network of a run at its random start, on a fold.

    Args:
        gene_sets: of the study, for an expression encoder that reads sets.
        audit: takes the samples that training passes over, and the gene sets that are left out or shrunk.
    """
    train, valid = fold.usable(fold.split.train, audit), fold.usable(fold.split.valid, audit)
    sets, limits = None, settings.network.gene_sets
    if gene_sets is not None and limits is not None and fold.expression is not None:
        sets = place_gene_sets(
            gene_sets,
            fold.expression.gene_ids,
            min_genes=limits.min_genes,
            max_genes=limits.max_genes,
            audit=audit,
        )
    torch.manual_seed(torch_seed(settings.seed, "network"))
    network = build_network(
        settings.network,
        n_genes=fold.n_genes,
        tile_dim=fold.tile_dim,
        n_groups=fold.n_path_groups,
        gene_sets=sets,
    )
    if settings.trainer.compile is not None:
        compile_dense_parts(network, settings.trainer.compile)
    network.to(device_of(settings.trainer.accelerator))
    return Assembled(settings, fold, tasks, network, train, valid, sets)


def contract(fold: FoldData, tasks: TaskSet, gene_sets: GeneSets | None) -> dict[str, Any]:
    """What a checkpoint must carry to be used on another study: plain types and tensors only."""
    return {
        "tasks": tasks.state(),
        "expression": None if fold.expression is None else fold.expression.state(),
        "gene_sets": gene_sets,
        "tiles": None if fold.scaler is None else fold.scaler.state(),
        "clinical": None if fold.clinical is None else fold.clinical.state(),
        "head_groups": None if fold.head_groups is None else fold.head_groups.state(),
        "path_groups": None if fold.path_groups is None else fold.path_groups.state(),
        "compounds": sorted(
            set(fold.study.obs.loc[[*fold.split.train, *fold.split.valid], "compound"].astype(str))
        ),
        "features": None
        if fold.store is None
        else {"name": fold.store.root.name, "dim": fold.tile_dim, "made_by": fold.store.spec.made_by},
    }
