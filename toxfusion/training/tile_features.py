"""Where the tile features of a fold come from: a published encoder, a store, or an encoder trained for the fold."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning.pytorch.loggers.logger import Logger
from torch import nn

from toxfusion.console.progress import Progress
from toxfusion.data.encoding import encode_tile_store
from toxfusion.data.sampling import torch_seed
from toxfusion.data.tile_sampling import TileDataModule
from toxfusion.distributed.ranks import barrier, device_of, is_rank_zero, of_rank_zero
from toxfusion.models.published import load_encoder
from toxfusion.models.tile import TileEncoder, load_tile_encoder, save_tile_encoder
from toxfusion.study.bag_store import BagStore
from toxfusion.study.split import Split
from toxfusion.study.store_spec import StoreSpec
from toxfusion.study.study import Study
from toxfusion.training.folder import digest
from toxfusion.training.optimization import Optimization
from toxfusion.training.settings import (
    PublishedFeatures,
    RunSettings,
    StoredFeatures,
    TrainedFeatures,
    TrainerSettings,
)
from toxfusion.training.stage import fit_stage
from toxfusion.training.tile_contrastive import TileContrastiveModule

log = logging.getLogger(__name__)

#: Ranks hear from rank zero so often while it waits: a process group gives a rank up after minutes of silence.
WAIT_S = 20.0


class TileFeaturesError(ValueError):
    """Tile features that cannot be made from what there is."""


@contextmanager
def sole_maker(encoder_path: Path) -> Iterator[None]:
    """Wait until no other process makes this encoder or features by it; then be the one that does, with all ranks."""
    encoder_path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(encoder_path.with_suffix(".lock"), timeout=WAIT_S)
    while True:
        if is_rank_zero():
            try:
                lock.acquire()
            except Timeout:
                log.info("waiting for another process that is at work on %s", encoder_path.stem)
        if of_rank_zero(lock.is_locked):
            break
    try:
        yield
    finally:
        lock.release()


def tile_features(
    settings: RunSettings, study: Study, split: Split, loggers: list[Logger]
) -> BagStore | None:
    """The feature store of a fold; None with tile_features=none."""
    made, grid, trainer = settings.tile_features, settings.data.grid, settings.trainer
    if made is None:
        return None
    if isinstance(made, StoredFeatures):
        return study.features(made.name)
    if isinstance(made, PublishedFeatures):
        return encode_by_published(made, study, grid=grid, trainer=trainer)
    encoder = fold_encoder(settings, study, split, loggers)
    return encode_study(study, encoder, grid=grid, batch_size=made.encode_batch, trainer=trainer)


def fold_encoder(settings: RunSettings, study: Study, split: Split, loggers: list[Logger]) -> Path:
    """The tile encoder of a fold: trained on its training compounds alone.

    The file lies in the study, under a digest of the settings and the training samples, so that all seeds and
    experiments of the fold share it. Where they run side by side, one trains it and the others wait.

    Returns:
        The path of the encoder's checkpoint.

    Raises:
        TileFeaturesError: the kind of tile features has no encoder of this fold.
    """
    encoder, trainer, tiles = _trained(settings), settings.trainer, study.tiles(settings.data.grid)
    learns = encoder.kind == "contrastive"
    seen = sorted(split.train) if learns else []
    made_by = (trainer.processes, trainer.accumulate_grad_batches, trainer.precision)
    key = digest(
        {
            "settings": asdict(encoder),
            "grid": tiles.spec.provenance,
            "px": tiles.spec.row_shape,
            "samples": seen,
            "trainer": made_by if learns else None,
        }
    )
    path = study.root / "encoders" / f"{encoder.kind}-{key}.ckpt"
    if of_rank_zero(path.is_file()):
        return path
    with sole_maker(path):
        if not of_rank_zero(path.is_file()):
            _make_encoder(path, settings, seen, study, split.fold, loggers)
    return path


def _trained(settings: RunSettings) -> TrainedFeatures:
    made = settings.tile_features
    if not isinstance(made, TrainedFeatures):
        raise TileFeaturesError(
            f"method={settings.method}: this tile_features trains no encoder; take tile_features=contrastive or random"
        )
    return made


def _make_encoder(
    path: Path,
    settings: RunSettings,
    seen: list[str],
    study: Study,
    fold: int,
    loggers: list[Logger],
) -> None:
    """Train the encoder on the slides of the samples ``seen``, or leave it as it begins, and write it to ``path``."""
    made, tiles = _trained(settings), study.tiles(settings.data.grid)
    torch.manual_seed(torch_seed(made.seed, "tile_encoder"))
    encoder = TileEncoder(
        made.backbone,
        pretrained=made.pretrained,
        mpp=float(tiles.spec.provenance["mpp"]),
        tile_px=int(tiles.spec.row_shape[0]),
    )
    if made.kind == "contrastive" and made.steps > 0:
        slides = [slide for sample in seen for slide in study.slides_of(sample)]
        _train_encoder(encoder, made, tiles, slides, path.with_suffix(""), settings.trainer, loggers)
    if is_rank_zero():
        about = {
            "encoder": path.stem,
            "settings": asdict(made),
            "study": study.name,
            "grid": settings.data.grid,
            "fold": fold,
        }
        trained_on = sorted(set(study.obs.loc[seen, "compound"].astype(str)))
        save_tile_encoder(path, encoder, trained_on=trained_on, provenance=about)
    barrier()


def _train_encoder(
    encoder: TileEncoder,
    made: TrainedFeatures,
    tiles: BagStore,
    slide_ids: list[str],
    folder: Path,
    trainer: TrainerSettings,
    loggers: list[Logger],
) -> None:
    """Contrastive training on the tiles of some slides, in place."""
    data = TileDataModule(
        tiles,
        slide_ids,
        batch_size=made.batch_size,
        seed=made.seed,
        accumulate=trainer.accumulate_grad_batches,
    )
    module = TileContrastiveModule(
        encoder,
        projection_dim=made.projection_dim,
        temperature=made.temperature,
        optimization=Optimization(made.lr, made.weight_decay, made.warmup, made.steps),
        seed=made.seed,
    )
    fit_stage(
        module,
        data,
        stage="tile_encoder",
        folder=folder,
        history=folder / "history.csv",
        steps=made.steps,
        settings=trainer,
        loggers=loggers,
        resume=True,
    )


def encode_study(
    study: Study, encoder_path: Path, *, grid: str, batch_size: int, trainer: TrainerSettings
) -> BagStore:
    """Features of a study's tiles by an encoder of ours, in a store named after the encoder; only what is missing.

    Raises:
        TileFeaturesError: the tiles have another scale or size than those the encoder was made for.
    """
    tiles = study.tiles(grid)
    loaded = load_tile_encoder(encoder_path)
    encoder = loaded.encoder.to(device_of(trainer.accelerator))
    there = (float(tiles.spec.provenance["mpp"]), int(tiles.spec.row_shape[0]))
    if there != (encoder.mpp, encoder.tile_px):
        raise TileFeaturesError(
            f"{tiles.root}: tiles of {there[1]} px at {there[0]:g} um/px, but {encoder_path.name} takes "
            f"{encoder.tile_px} px at {encoder.mpp:g} um/px; extract the slides with grid.mpp={encoder.mpp:g} "
            f"grid.tile_px={encoder.tile_px}"
        )
    about = {"encoder": encoder_path.stem, "weights": loaded.weights, "trained_on": loaded.trained_on}
    return _encoded(study, encoder_path.stem, encoder, encoder.dim, about, grid, batch_size, trainer)


def encode_by_published(
    made: PublishedFeatures, study: Study, *, grid: str, trainer: TrainerSettings
) -> BagStore:
    """Features of a study's tiles by a published encoder, once for all folds, seeds and experiments.

    The store is named after the encoder and the grid: ``extract`` may have made one of the encoder from slides, whose
    tiles are others.

    Raises:
        EncoderError: an unknown encoder, or weights that are not there.
    """
    tiles = study.tiles(grid)
    loaded, remarks = load_encoder(
        made.encoder,
        weights=made.weights,
        mpp=float(tiles.spec.provenance["mpp"]),
        tile_px=int(tiles.spec.row_shape[0]),
        device=device_of(trainer.accelerator),
    )
    for remark in remarks:
        log.info(remark)
    name = f"{loaded.name}-{grid}"
    return _encoded(
        study, name, loaded.module, loaded.dim, loaded.provenance(), grid, made.encode_batch, trainer
    )


def _encoded(
    study: Study,
    name: str,
    encoder: nn.Module,
    dim: int,
    about: dict[str, Any],
    grid: str,
    batch_size: int,
    trainer: TrainerSettings,
) -> BagStore:
    """The feature store of a study by that name, with what it lacks encoded now; of several processes one does it.

    Args:
        encoder: in eval mode; gives [N, dim]. about: encoder, weights and trained_on, which a store must not mix.
    """
    tiles = study.tiles(grid)
    spec = StoreSpec(
        kind="features",
        dtype="float16",
        row_shape=(dim,),
        provenance={**tiles.spec.provenance, "grid": grid, **about},
    )
    store = BagStore.create(study.root / "features" / name, spec)
    if not of_rank_zero(_is_whole(store, tiles)):
        with sole_maker(study.root / "encoders" / f"{name}.ckpt"):
            store.refresh()
            if is_rank_zero():
                left = [slide_id for slide_id in tiles.slide_ids if slide_id not in store]
                with Progress("encode", len(left), unit="slides", hidden=not trainer.progress) as shown:
                    encode_tile_store(
                        tiles,
                        store,
                        encoder,
                        batch_size=batch_size,
                        device=device_of(trainer.accelerator),
                        slide_ids=left,
                        progress=shown.advance,
                    )
            barrier()
    store.refresh()
    return store


def _is_whole(store: BagStore, tiles: BagStore) -> bool:
    return all(slide_id in store for slide_id in tiles.slide_ids)
