"""A finished run back in memory: its network with the best weights, on its own study or on another one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from toxfusion.data.datamodule import FoldData, StudyDataModule
from toxfusion.data.expression import ExpressionTransform
from toxfusion.data.sampling import SampleStream
from toxfusion.data.tile_scaling import TileScaler
from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.splits import Split, read_manifest
from toxfusion.study.study import Study
from toxfusion.tasks.tasks import Tasks
from toxfusion.training.assemble import build_network, with_nulls, with_pairs_dealt
from toxfusion.training.finetuning import FinetuningModule
from toxfusion.training.folder import RunError, RunFolder
from toxfusion.training.optimization import Optimization
from toxfusion.training.settings import PublishedFeatures, RunSettings, TrainedFeatures
from toxfusion.training.stage import load_weights, read_checkpoint
from toxfusion.training.tile_features import encode_by_published, encode_study


@dataclass(frozen=True)
class LoadedRun:
    """A finished run.

    Attributes:
        folder, config, settings: of the run.
        contract: what its checkpoint carries beside weights.
        module: network and heads with the best weights, in evaluation mode.
        fold: the data it is used on.
    """

    folder: RunFolder
    config: dict[str, Any]
    settings: RunSettings
    contract: dict[str, Any]
    module: FinetuningModule
    fold: FoldData

    def data_module(self) -> StudyDataModule:
        """Loads samples with all their tiles."""
        return StudyDataModule(
            self.fold,
            stage="evaluate",
            sampler=SampleStream(tuple(self.fold.sample_ids), 1, 0),
            tiles_per_bag=None,
            eval_batch_size=self.settings.batches.eval_batch,
            valid=[],
        )


def load_own_study(folder: RunFolder) -> tuple[Study, Split]:
    """The study and split that a run was made on, with its nulls.

    Raises:
        RunError: no run lies there.
    """
    settings = RunSettings.read(folder.read_config())
    study, split = Study.open(settings.data.root), read_manifest(folder.split)
    return with_nulls(settings, study, split), split


def load_run(folder: RunFolder, study: Study, split: Split, audit: Audit | None = None) -> LoadedRun:
    """The network of a finished run, on a study.

    Args:
        audit: takes what the run's transform of expression does to single samples of the study.

    Raises:
        RunError: the run is not finished, or is of no network.
        CheckpointError: its checkpoint cannot be read.
        ExpressionError: the study lacks a gene that the network reads, or has it twice.
    """
    config = folder.read_config()
    if folder.finished() is None or config["method"] != "network":
        raise RunError(
            f"{folder.root}: not a finished run of a network; wait for done.json, or name another run"
        )
    settings = RunSettings.read(config)
    best = folder.stage("finetune") / "best.ckpt"
    contract = read_checkpoint(best)["contract"]
    tasks = Tasks.from_state(contract["tasks"])
    tiles, genes = contract["tiles"], contract["expression"]
    fold = FoldData(
        study,
        split,
        tasks,
        store=None if tiles is None else _features(settings, contract, study),
        expression=None if genes is None else ExpressionTransform.from_state(genes),
        scaler=None if tiles is None else TileScaler.from_state(tiles),
        audit=audit,
        seed=settings.seed,
    )
    if (
        settings.nulls.shuffle_pairs == "throughout"
    ):  # a new study has no training samples, and keeps its pairs
        fold = with_pairs_dealt(fold, settings.seed)
    module = FinetuningModule(
        build_network(
            settings.network,
            n_genes=fold.n_genes,
            tile_dim=fold.tile_dim,
            gene_sets=contract["gene_sets"],
        ),
        tasks,
        width=settings.network.width,
        labels=fold.labels,
        weights=settings.finetune.weights,
        compound_pooling=settings.finetune.compound_pooling,
        group_pooling=settings.finetune.group_pooling,
        network_lr_share=1.0,
        optimization=Optimization(1e-3, 0.0, 0.0, 1),
        seed=0,
        contract=contract,
    )
    load_weights(module, best)
    return LoadedRun(folder, config, settings, contract, module.eval(), fold)


def _features(settings: RunSettings, contract: dict[str, Any], study: Study) -> BagStore:
    """Features of a study by the run's own tile encoder, encoded now as far as they are missing.

    Raises:
        RunError: the study's features are of another encoder, weights, scale or tile size, or the encoder is gone.
    """
    wanted = contract["features"]["made_by"]
    store = _own_features(settings, contract["features"]["name"], study)
    other = [
        f"{k} {store.spec.made_by[k]!r}, not {v!r}" for k, v in wanted.items() if store.spec.made_by[k] != v
    ]
    if other:
        raise RunError(
            f"{store.root}: features that the network was not trained on ({'; '.join(other)}); extract the study's "
            "slides with the encoder, weights and grid of the run"
        )
    return store


def _own_features(settings: RunSettings, name: str, study: Study) -> BagStore:
    made, grid, trainer = settings.tile_features, settings.data.grid, settings.trainer
    if isinstance(made, PublishedFeatures):
        return encode_by_published(made, study, grid=grid, trainer=trainer)
    if not isinstance(made, TrainedFeatures):
        return study.features(name)
    encoder = study.root / "encoders" / f"{name}.ckpt"
    if not encoder.is_file():
        encoder.parent.mkdir(parents=True, exist_ok=True)
        part = encoder.with_suffix(".part")
        own = settings.data.root / "encoders" / encoder.name
        if not own.is_file():
            raise RunError(
                f"{own}: the run's tile encoder is not there (the study the run was trained on has moved?); copy it "
                f"to {encoder}"
            )
        shutil.copyfile(own, part)
        part.replace(encoder)
    return encode_study(study, encoder, grid=grid, batch_size=made.encode_batch, trainer=trainer)
