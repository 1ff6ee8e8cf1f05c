"""A finished run back in memory: its predictor with the best weights, on its own study or on another one."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from toxfusion.data.batch import Batch
from toxfusion.data.clinical import ClinicalColumns
from toxfusion.data.datamodule import FoldData, StudyDataModule
from toxfusion.data.expression import ExpressionTransform
from toxfusion.data.sample_groups import SampleGroups
from toxfusion.data.sampling import SampleStream
from toxfusion.data.tile_scaling import TileScaler
from toxfusion.distributed.ranks import device_of
from toxfusion.models.modes import as_array, place_of, placed
from toxfusion.models.network import Network
from toxfusion.models.predictor import Predictor, read_width
from toxfusion.runs.bundle import BundledRun
from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.files import replacing
from toxfusion.study.split import Split, read_manifest
from toxfusion.study.study import Study
from toxfusion.tasks.budget import within_budget
from toxfusion.tasks.task_set import TaskSet
from toxfusion.training.assemble import build_network, with_nulls, with_pairs_dealt
from toxfusion.training.checkpoint import CheckpointError
from toxfusion.training.folder import RunError, RunFolder
from toxfusion.training.outputs import SampleOutputs, encode_samples, predictions_table, survival_curves
from toxfusion.training.settings import PublishedFeatures, RunSettings, StoredFeatures, TrainedFeatures
from toxfusion.training.tile_features import encode_by_published, encode_study


@dataclass(frozen=True)
class LoadedRun:
    """A finished run.

    Attributes:
        folder, config, settings: of the run.
        contract: what its checkpoint carries beside weights.
        tasks: what it predicts, as fitted on its training samples.
        predictor: network and heads with the best weights, in evaluation mode.
        fold: the data it is used on.
    """

    folder: RunFolder
    config: dict[str, Any]
    settings: RunSettings
    contract: dict[str, Any]
    tasks: TaskSet
    predictor: Predictor
    fold: FoldData

    @property
    def network(self) -> Network:
        """The network of the predictor."""
        return self.predictor.network

    def labels_learned(self, sample_ids: Sequence[str], families: Collection[str]) -> dict[str, np.ndarray]:
        """What the run was told of samples of its study: those training labels that its budget hid are not among it.

        Args:
            families: of the tasks, see `Task.family`; of those with one label for each task of the predictions table.

        Returns:
            Task of the predictions table -> float64 [n], NaN where there is no label.
        """
        labels = within_budget(
            self.tasks,
            {name: values.numpy() for name, values in self.fold.labels.items()},
            self.fold.study,
            self.fold.split.train,
            self.settings.finetune.budget,
            self.settings.seed,
            Audit(),
        )
        positions = self.fold.study.positions(sample_ids)
        of_names: dict[str, np.ndarray] = {}
        for task in self.tasks:
            if task.family in families:
                columns = labels[task.name][positions].astype(np.float64).reshape(len(positions), -1).T
                of_names |= dict(zip(task.names, columns, strict=True))
        return of_names

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

    def batch(self, sample_ids: Sequence[str]) -> Batch:
        """Samples with all their tiles, where the predictor lies."""
        return self.fold.batch(sample_ids, stage="evaluate").to(*place_of(self.predictor))

    def embed(self, sample_ids: Sequence[str], network: Network | None = None) -> SampleOutputs:
        """What the network says of samples: fused vectors, gates and shared vectors.

        Args:
            network: another one on the same data, its start for example; the run's own where None.
        """
        return encode_samples(self.network if network is None else network, self.data_module(), sample_ids)

    def predict(
        self, sample_ids: Sequence[str], *, part: str = "test", outputs: SampleOutputs | None = None
    ) -> pd.DataFrame:
        """The predictions table of samples, all of one part, so that compounds and groups are whole.

        Args:
            part: what the table calls them.
            outputs: of `embed`, of these samples and possibly others; computed where None.
        """
        outputs = self.embed(sample_ids) if outputs is None else outputs
        seed = self.settings.seed
        return predictions_table(
            self.predictor, self.tasks, self.fold, outputs, part=part, sample_ids=sample_ids, seed=seed
        )

    def survival_curves(self, outputs: SampleOutputs) -> pd.DataFrame | None:
        """Survival over time of embedded samples; None where no task has curves."""
        return survival_curves(self.predictor, self.tasks, outputs)

    @torch.no_grad()
    def clinical_change(self, outputs: SampleOutputs) -> pd.DataFrame:
        """What clinical columns change of each task's number, against a sample of the training mean.

        Returns:
            float64, samples x tasks; no column where the run reads no clinical columns.
        """
        if not outputs.clinical.shape[1]:
            return pd.DataFrame(index=outputs.sample_ids)
        mean = replace(outputs, clinical=np.zeros_like(outputs.clinical))
        whole, without = (self.targets(placed(of.read, self.predictor)) for of in (outputs, mean))
        change = {task: as_array(whole[task] - without[task]) for task in whole}
        return pd.DataFrame(change, index=outputs.sample_ids)

    def targets(self, vector: Tensor) -> dict[str, Tensor]:
        """The number that is explained of each task, [B] each, from what heads read, with gradient."""
        return self.tasks.targets(self.predictor, vector)


def load_own_study(folder: RunFolder) -> tuple[Study, Split]:
    """The study and split that a run was made on, with its nulls.

    Raises:
        RunError: no run lies there, it is of a bundle, it lacks its split, or its study is no longer where it was.
    """
    if isinstance(folder, BundledRun):
        raise RunError(f"{folder.root}: a bundle holds no study; name the one to use it on")
    settings = RunSettings.read(folder.read_config())
    if not Path(settings.data.root).is_dir():
        raise RunError(
            f"{folder.root}: its study is not at {settings.data.root} any more; move it back, or write its place into "
            f"{folder.root / 'config.yaml'}, data.root"
        )
    if not folder.split.is_file():
        raise RunError(
            f"{folder.split}: not there, so that its training and test samples are not known; copy it from where the "
            "run was made, or train the run again"
        )
    study, split = Study.open(settings.data.root), read_manifest(folder.split)
    return with_nulls(settings, study, split), split


def load_run(folder: RunFolder, study: Study, split: Split, audit: Audit | None = None) -> LoadedRun:
    """The predictor of a finished run, on a study; nothing is written into the study.

    It lies on the device that the run's config names, where there is one.

    Args:
        audit: takes what the run's transform of expression does to single samples of the study.

    Raises:
        RunError: the run is not finished, of no network, or of an earlier version; or slides of the study are not
            encoded (see `encode_slides`).
        CheckpointError: its checkpoint cannot be read.
        ExpressionError: the study lacks a gene that the network reads, or has it twice.
    """
    config, settings = check_network_run(folder)
    checkpoint = folder.read_trained()
    contract = checkpoint["contract"]
    tasks = settings.tasks.restored(contract["tasks"])
    tiles, genes = contract["tiles"], contract["expression"]
    clinical = contract["clinical"]
    heads, paths = (
        None if (groups := contract[name]) is None else SampleGroups.from_state(groups)
        for name in ("head_groups", "path_groups")
    )
    fold = FoldData(
        study,
        split,
        tasks.labels(study, study.sample_ids),
        store=None if tiles is None else _encoded(settings, contract, study),
        expression=None if genes is None else ExpressionTransform.from_state(genes),
        scaler=None if tiles is None else TileScaler.from_state(tiles),
        clinical=None if clinical is None else ClinicalColumns.from_state(clinical),
        head_groups=heads,
        path_groups=paths,
        audit=audit,
        seed=settings.seed,
    )
    # A new study has no training samples, and keeps its pairs.
    if settings.nulls.shuffle_pairs == "throughout":
        fold = with_pairs_dealt(fold, settings.seed)
    fold = fold.reading(settings.finetune.modality)
    network = build_network(
        settings.network,
        n_genes=fold.n_genes,
        tile_dim=fold.tile_dim,
        n_groups=fold.n_path_groups,
        gene_sets=contract["gene_sets"],
    )
    width = read_width(network.fused_width, fold.n_clinical, fold.n_head_groups)
    predictor = Predictor(network, tasks.heads(width))
    load_part(predictor, checkpoint["state_dict"], "predictor.", folder.root)
    predictor.eval().to(device_of(settings.trainer.accelerator))
    return LoadedRun(folder, config, settings, contract, tasks, predictor, fold)


def load_part(module: torch.nn.Module, state: dict[str, Tensor], prefix: str, path: Path) -> None:
    """Load those weights of a checkpoint whose names begin with a prefix, strictly.

    Raises:
        CheckpointError: they are of another module.
    """
    own = {name.removeprefix(prefix): values for name, values in state.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: weights of another network than the config's: {str(error).splitlines()[1].strip()}"
        ) from error


def encode_slides(folder: RunFolder, study: Study) -> int:
    """Encode the slides of a study with the tile encoder of a run, as far as they are not, and say so in a line.

    Features go into the study, beside a copy of the encoder, where `load_run` finds them. A run that reads no slides,
    or features that another tool made, has nothing to encode.

    Returns:
        The number of slides encoded.

    Raises:
        RunError: the run is not finished, of no network, or of an earlier version; or its tile encoder is gone.
        StudyError: the study has no tiles.
        TileFeaturesError: tiles of another scale or size than the encoder's.
    """
    _, settings = check_network_run(folder)
    contract = folder.read_trained()["contract"]
    made, grid, trainer = settings.tile_features, settings.data.grid, settings.trainer
    if contract["features"] is None or not isinstance(made, PublishedFeatures | TrainedFeatures):
        return 0
    name = contract["features"]["name"]
    before = len(study.features(name).slide_ids) if (study.root / "features" / name).is_dir() else 0
    if isinstance(made, PublishedFeatures):
        store = encode_by_published(made, study, grid=grid, trainer=trainer)
    else:
        encoder = _encoder_in(study, folder.tile_encoder(name))
        store = encode_study(study, encoder, grid=grid, batch_size=made.encode_batch, trainer=trainer)
    encoded = len(store.slide_ids) - before
    if encoded:
        print(f"encoded {encoded} slides of {study.root} with the tile encoder {name}")
    return encoded


def check_network_run(folder: RunFolder) -> tuple[dict[str, Any], RunSettings]:
    """The config of a finished run of a network, and the same as settings.

    Raises:
        RunError: the run is not finished, of no network, or of an earlier version.
    """
    config = folder.read_config()
    if folder.finished() is None or config["method"] != "network":
        raise RunError(
            f"{folder.root}: not a finished run of a network; wait for done.json, or name another run"
        )
    if "paths_by" not in config or "linear_lr_share" in config["pretrain"]:
        raise RunError(
            f"{folder.root}: a run of an earlier version of toxfusion, which this one does not load; train it again"
        )
    return config, RunSettings.read(config)


def _encoder_in(study: Study, own: Path) -> Path:
    """The run's own tile encoder in a study; copied there where it is not there yet."""
    encoder = study.root / "encoders" / own.name
    if not encoder.is_file():
        if not own.is_file():
            raise RunError(
                f"{own}: the run's tile encoder is not there (the study the run was trained on has moved?); copy it "
                f"to {encoder}"
            )
        with replacing(encoder) as draft:
            shutil.copyfile(own, draft)
    return encoder


def _encoded(settings: RunSettings, contract: dict[str, Any], study: Study) -> BagStore:
    """Features of a study by the run's own tile encoder.

    Raises:
        RunError: slides are not encoded, or the features are of another encoder, weights, scale or tile size.
    """
    name, made_by = contract["features"]["name"], contract["features"]["made_by"]
    own = not isinstance(settings.tile_features, StoredFeatures)
    if own and not (study.root / "features" / name).is_dir():
        raise RunError(
            f"{study.root}: its slides are not encoded with {name}, the run's tile encoder; toxfusion.predict does "
            "that, and toxfusion.runs.loaded.encode_slides"
        )
    store, grid = study.features(name), settings.data.grid
    if own and (study.root / "tiles" / grid).is_dir():
        left = [slide_id for slide_id in study.tiles(grid).slide_ids if slide_id not in store]
        if left:
            raise RunError(
                f"{store.root}: {len(left)} slides are not encoded ({', '.join(left[:3])} ...); toxfusion.predict does "
                "that, and toxfusion.runs.loaded.encode_slides"
            )
    other = [
        f"{k} {store.spec.made_by[k]!r}, not {v!r}" for k, v in made_by.items() if store.spec.made_by[k] != v
    ]
    if other:
        raise RunError(
            f"{store.root}: features that the network was not trained on ({'; '.join(other)}); extract the study's "
            "slides with the encoder, weights and grid of the run"
        )
    return store
