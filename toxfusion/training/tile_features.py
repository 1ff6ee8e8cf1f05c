"""Where the tile features of a fold come from: a published encoder, a store, or an encoder trained for the fold."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning.pytorch.loggers.logger import Logger
from torch import nn
from tqdm import tqdm

from toxfusion.data.encoding import encode_tile_store
from toxfusion.data.sampling import torch_seed
from toxfusion.data.tile_sampling import TileDataModule
from toxfusion.distributed.ranks import barrier, device_of, is_rank_zero, of_rank_zero
from toxfusion.models.published import load_encoder
from toxfusion.models.tile import TileEncoder, load_tile_encoder, save_tile_encoder
from toxfusion.study.bag_store import BagStore
from toxfusion.study.splits import Split
from toxfusion.study.store_spec import StoreSpec
from toxfusion.study.study import Study
from toxfusion.training.folder import digest
from toxfusion.training.optimization import Optimization
from toxfusion.training.stage import TrainerSettings, fit_stage
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
    settings: dict[str, Any],
    study: Study,
    split: Split,
    *,
    grid: str,
    trainer: TrainerSettings,
    loggers: list[Logger],
) -> BagStore | None:
    """The feature store of a fold.

    Args:
        settings: the tile_features group of the config; ``kind`` is published, contrastive, random, store or none.
        grid: name of the tile store that encoders read.

    Raises:
        TileFeaturesError: an unknown kind.
    """
    kind = settings["kind"]
    if kind == "none":
        return None
    if kind == "store":
        return study.features(settings["name"])
    if kind == "published":
        return encode_by_published(settings, study, grid=grid, trainer=trainer)
    if kind in ("contrastive", "random"):
        encoder = fold_encoder(settings, study, split, grid=grid, trainer=trainer, loggers=loggers)
        return encode_study(study, encoder, grid=grid, batch_size=settings["encode_batch"], trainer=trainer)
    raise TileFeaturesError(
        f"tile_features.kind: {kind!r} is none of published, contrastive, random, store, none"
    )


def fold_encoder(
    settings: dict[str, Any],
    study: Study,
    split: Split,
    *,
    grid: str,
    trainer: TrainerSettings,
    loggers: list[Logger],
) -> Path:
    """The tile encoder of a fold: trained on its training and validation compounds, never on a test compound.

    The file lies in the study, under a digest of the settings and the training samples, so that all seeds and
    experiments of the fold share it. Where they run side by side, one trains it and the others wait.

    Returns:
        The path of the encoder's checkpoint.

    Raises:
        TileFeaturesError: the kind of tile features has no encoder of this fold.
    """
    if settings["kind"] not in ("contrastive", "random"):
        raise TileFeaturesError(
            f"tile_features.kind: {settings['kind']!r} trains no encoder; take tile_features=contrastive or random"
        )
    tiles = study.tiles(grid)
    seen = sorted([*split.train, *split.valid]) if settings["kind"] == "contrastive" else []
    made_by = (trainer.devices * trainer.num_nodes, trainer.accumulate_grad_batches, trainer.precision)
    key = digest(
        {
            "settings": settings,
            "grid": tiles.spec.provenance,
            "px": tiles.spec.row_shape,
            "samples": seen,
            "trainer": made_by if settings["kind"] == "contrastive" else None,
        }
    )
    path = study.root / "encoders" / f"{settings['kind']}-{key}.ckpt"
    if of_rank_zero(path.is_file()):
        return path
    with sole_maker(path):
        if not of_rank_zero(path.is_file()):
            _train_encoder(path, settings, seen, study, split, grid=grid, trainer=trainer, loggers=loggers)
    return path


def _train_encoder(
    path: Path,
    settings: dict[str, Any],
    seen: list[str],
    study: Study,
    split: Split,
    *,
    grid: str,
    trainer: TrainerSettings,
    loggers: list[Logger],
) -> None:
    """Train the encoder on the slides of the samples ``seen``, or leave it as it begins, and write it to ``path``."""
    tiles = study.tiles(grid)
    torch.manual_seed(torch_seed(settings["seed"], "tile_encoder"))
    encoder = TileEncoder(
        settings["backbone"],
        pretrained=settings["pretrained"],
        mpp=float(tiles.spec.provenance["mpp"]),
        tile_px=int(tiles.spec.row_shape[0]),
    )
    if settings["kind"] == "contrastive" and settings["steps"] > 0:
        data = TileDataModule(
            tiles,
            [slide for sample in seen for slide in study.slides_of(sample)],
            batch_size=settings["batch_size"],
            seed=settings["seed"],
            steps=settings["steps"],
            accumulate=trainer.accumulate_grad_batches,
        )
        plan = Optimization(settings["lr"], settings["weight_decay"], settings["warmup"], settings["steps"])
        module = TileContrastiveModule(
            encoder,
            projection_dim=settings["projection_dim"],
            temperature=settings["temperature"],
            optimization=plan,
            seed=settings["seed"],
        )
        working = path.with_suffix("")
        fit_stage(
            module,
            data,
            stage="tile_encoder",
            folder=working,
            history=working / "history.csv",
            steps=settings["steps"],
            settings=trainer,
            loggers=loggers,
            resume=True,
        )
    trained_on = sorted(set(study.obs.loc[seen, "compound"].astype(str)))
    if is_rank_zero():
        about = {
            "encoder": path.stem,
            "settings": settings,
            "study": study.name,
            "grid": grid,
            "fold": split.fold,
        }
        save_tile_encoder(path, encoder, trained_on=trained_on, provenance=about)
    barrier()


def encode_study(
    study: Study, encoder_path: Path, *, grid: str, batch_size: int, trainer: TrainerSettings
) -> BagStore:
    """Features of a study's tiles by an encoder of ours, in a store named after the encoder; only what is missing.

    Raises:
        TileFeaturesError: the tiles have another scale or size than those the encoder was made for.
    """
    tiles = study.tiles(grid)
    loaded = load_tile_encoder(encoder_path)
    encoder = loaded.encoder
    there = (float(tiles.spec.provenance["mpp"]), int(tiles.spec.row_shape[0]))
    if there != (encoder.mpp, encoder.tile_px):
        raise TileFeaturesError(
            f"{tiles.root}: tiles of {there[1]} px at {there[0]:g} um/px, but {encoder_path.name} takes "
            f"{encoder.tile_px} px at {encoder.mpp:g} um/px; extract the slides with grid.mpp={encoder.mpp:g} "
            f"grid.tile_px={encoder.tile_px}"
        )
    weights = hashlib.sha256(encoder_path.read_bytes()).hexdigest()
    about = {"encoder": encoder_path.stem, "weights": weights, "trained_on": loaded.trained_on}
    return _encoded(study, encoder_path.stem, encoder, encoder.dim, about, grid, batch_size, trainer)


def encode_by_published(
    settings: dict[str, Any], study: Study, *, grid: str, trainer: TrainerSettings
) -> BagStore:
    """Features of a study's tiles by a published encoder, once for all folds, seeds and experiments.

    The store is named after the encoder and the grid: ``extract`` may have made one of the encoder from slides, whose
    tiles are others.

    Raises:
        EncoderError: an unknown encoder, or weights that are not there.
    """
    tiles = study.tiles(grid)
    loaded, remarks = load_encoder(
        settings["encoder"],
        weights=settings["weights"],
        mpp=float(tiles.spec.provenance["mpp"]),
        tile_px=int(tiles.spec.row_shape[0]),
        device=device_of(trainer.accelerator),
    )
    for remark in remarks:
        log.info(remark)
    name = f"{loaded.name}-{grid}"
    return _encoded(
        study, name, loaded.module, loaded.dim, loaded.provenance(), grid, settings["encode_batch"], trainer
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
                with tqdm(
                    total=len(left), desc="encoding", unit="slide", disable=not trainer.progress
                ) as bar:
                    encode_tile_store(
                        tiles,
                        store,
                        encoder,
                        batch_size=batch_size,
                        device=device_of(trainer.accelerator),
                        slide_ids=left,
                        progress=bar.update,
                    )
            barrier()
    store.refresh()
    return store


def _is_whole(store: BagStore, tiles: BagStore) -> bool:
    return all(slide_id in store for slide_id in tiles.slide_ids)
