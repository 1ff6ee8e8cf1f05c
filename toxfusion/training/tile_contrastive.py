"""Contrastive pretraining of the tile encoder: two augmented views of a tile, NT-Xent. The encoder is what is kept."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from toxfusion.data.sampling import seed_draws, torch_generator
from toxfusion.data.stain_augmentation import TileAugmentation
from toxfusion.data.tile_sampling import TileBatch
from toxfusion.distributed.ranks import rank
from toxfusion.models.tile import ContrastiveProjection, TileEncoder
from toxfusion.objectives.contrastive import NTXent
from toxfusion.training.optimization import Optimization


class TileContrastiveModule(L.LightningModule):
    """Trains a tile encoder by contrast of two views.

    Args:
        encoder: the encoder to train.
        projection_dim: width of the embedding that is contrasted; dropped afterwards.
        temperature: of NT-Xent.
        optimization: learning rate and schedule.
        seed: augmentations are a function of it and the step.
    """

    def __init__(
        self,
        encoder: TileEncoder,
        *,
        projection_dim: int,
        temperature: float,
        optimization: Optimization,
        seed: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = ContrastiveProjection(encoder.dim, out=projection_dim)
        self.augment = TileAugmentation()
        self.loss = NTXent(temperature=temperature)
        self.optimization, self.seed = optimization, seed

    def on_train_batch_start(self, batch: TileBatch, batch_idx: int) -> None:
        seed_draws(self.device, self.seed, "tile_encoder", batch.step, rank())

    def training_step(self, batch: TileBatch, batch_idx: int) -> Tensor:
        loss = self._contrast(batch)
        self.log("train/loss", loss, sync_dist=True)
        return loss

    def validation_step(self, batch: TileBatch, batch_idx: int) -> None:
        self.log("valid/loss", self._contrast(batch), sync_dist=True, batch_size=len(batch.tiles))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return self.optimization.configure(self)

    def _contrast(self, batch: TileBatch) -> Tensor:
        views = []
        for view in (0, 1):
            draws = torch_generator(self.seed, "augment", batch.step, view, rank())
            views.append(self.projection(self.encoder(self.augment(batch.tiles, draws))))
        return self.loss(views[0], views[1]).loss
