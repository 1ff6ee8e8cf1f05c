"""Batches of tiles for the contrastive pretraining of a tile encoder, read from the uint8 tile store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from toxfusion.data.datamodule import PositionedDataModule
from toxfusion.data.sampling import SamplingError
from toxfusion.distributed.ranks import rank, world_size
from toxfusion.study.bag_store import BagStore
from toxfusion.study.draws import generator


@dataclass(frozen=True)
class TileBatch:
    """Tiles of one step.

    Attributes:
        tiles: uint8 [N, P, P, 3].
        step: the position in training; augmentations depend on it. -1 for the fixed validation batch.
    """

    tiles: Tensor
    step: int

    def pinned(self) -> TileBatch:
        """The same batch in page-locked memory."""
        return TileBatch(self.tiles.pin_memory(), self.step)

    def to(self, device: torch.device | str) -> TileBatch:
        return TileBatch(self.tiles.to(device, non_blocking=True), self.step)


class TileDataModule(PositionedDataModule):
    """Tiles drawn evenly over slides, so that large slides do not rule.

    Args:
        store: uint8 tiles.
        slide_ids: slides of training samples.
        batch_size: tiles of a step of one rank.
        seed: of the encoder.
    """

    def __init__(
        self,
        store: BagStore,
        slide_ids: Sequence[str],
        *,
        batch_size: int,
        seed: int,
        accumulate: int = 1,
    ) -> None:
        super().__init__(accumulate=accumulate)
        self.store, self.batch_size, self.seed = store, batch_size, seed
        self.slide_ids = sorted(s for s in slide_ids if s in store and store.n_rows(s) > 0)
        if not self.slide_ids:
            raise SamplingError(
                f"{store.root}: no tile of a training slide; run `extract output=tiles` on this study"
            )

    def draw(self, position: int, size: int) -> list[tuple[str, int]]:
        """Slides and rows of the tiles at a position: a function of seed and position."""
        rng = generator(self.seed, "tile_encoder", position)
        slides = rng.choice(len(self.slide_ids), size=size, replace=size > len(self.slide_ids))
        return [(s, int(rng.integers(self.store.n_rows(s)))) for s in (self.slide_ids[i] for i in slides)]

    def read(self, chosen: Sequence[tuple[str, int]], step: int) -> TileBatch:
        tiles = [self.store.rows(slide, np.array([tile])) for slide, tile in chosen]
        return TileBatch(torch.from_numpy(np.concatenate(tiles)), step)

    def training_batch(self, position: int) -> TileBatch:
        drawn = self.draw(position, self.batch_size * world_size())
        return self.held_for_device(self.read(drawn[rank() :: world_size()], position))

    def val_dataloader(self) -> DataLoader[TileBatch]:
        return DataLoader([self.read(self.draw(-1, self.batch_size), -1)], batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(
        self, batch: TileBatch, device: torch.device, dataloader_idx: int
    ) -> TileBatch:
        return batch.to(device)
