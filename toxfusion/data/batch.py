"""Ragged bags of tiles and the batch that every model, objective and module takes. No I/O here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class RaggedTiles:
    """Bags of tiles of several samples, end to end, without padding.

    Attributes:
        features: float [T, D], tile features of all bags of the batch.
        coordinates: float32 [T, 2], (x, y) of each tile's top-left corner in micrometres; NaN without a place.
        offsets: int64 [B + 1]; bag b is rows offsets[b]:offsets[b + 1]; a bag may be empty.
    """

    features: Tensor
    coordinates: Tensor
    offsets: Tensor

    @property
    def lengths(self) -> Tensor:
        """int64 [B], tiles in each bag."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def n_bags(self) -> int:
        return len(self.offsets) - 1

    @property
    def bag_index(self) -> Tensor:
        """int64 [T], the bag each tile belongs to."""
        return torch.repeat_interleave(
            torch.arange(self.n_bags, device=self.offsets.device),
            self.lengths,
            output_size=len(self.features),
        )

    def split(self, per_tile: Tensor) -> tuple[Tensor, ...]:
        """Cut a [T, ...] tensor into B tensors, one for each bag."""
        return torch.split(per_tile, self.lengths.tolist())

    def with_features(self, features: Tensor) -> RaggedTiles:
        return replace(self, features=features)

    def select(self, keep: Tensor) -> RaggedTiles:
        """Keep the tiles where ``keep`` (bool [T]) is true; bags may become empty."""
        kept = torch.zeros(self.n_bags, dtype=torch.int64, device=keep.device)
        kept.index_add_(0, self.bag_index, keep.to(torch.int64))
        offsets = torch.cat([kept.new_zeros(1), kept.cumsum(0)])
        return RaggedTiles(self.features[keep], self.coordinates[keep], offsets)

    def followed_by(self, more: RaggedTiles) -> RaggedTiles:
        """These bags, then those of ``more``."""
        return RaggedTiles(
            torch.cat([self.features, more.features]),
            torch.cat([self.coordinates, more.coordinates]),
            torch.cat([self.offsets, self.offsets[-1] + more.offsets[1:]]),
        )

    def take(self, bags: Tensor) -> RaggedTiles:
        """The bags int64 [n] in the order asked; one may be taken several times."""
        lengths = self.lengths[bags]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        within = torch.arange(int(offsets[-1]), device=bags.device) - torch.repeat_interleave(
            offsets[:-1], lengths
        )
        tiles = within + torch.repeat_interleave(self.offsets[:-1][bags], lengths)
        return RaggedTiles(self.features[tiles], self.coordinates[tiles], offsets)


@dataclass(frozen=True)
class Batch:
    """Samples of one step, both modalities.

    Attributes:
        sample_ids: B names.
        tiles: bags of the B samples (empty where has_slide is false).
        expression: float32 [B, G], standardised; zeros where has_expression is false.
        has_slide, has_expression: bool [B].
        compound, group, animal: int64 [B], codes that are the same in every batch of a study.
        is_control: bool [B], vehicle controls.
        labels: name -> float32 [B] or [B, L]; NaN where there is no label.
        step: the position in training that made this batch (0 in evaluation).
        clinical: float32 [B, C], clinical columns, 0 = the training mean; None where the run reads none.
        head_membership: float32 [B, K], 1 in the column of the sample's group, in which heads may deviate
            (`SampleGroups`); None where they may not.
        path_membership: the same of the groups in which the linear paths of a network may deviate.
    """

    sample_ids: list[str]
    tiles: RaggedTiles
    expression: Tensor
    has_slide: Tensor
    has_expression: Tensor
    compound: Tensor
    group: Tensor
    animal: Tensor
    is_control: Tensor
    labels: dict[str, Tensor]
    step: int = 0
    clinical: Tensor | None = None
    head_membership: Tensor | None = None
    path_membership: Tensor | None = None

    def __len__(self) -> int:
        return len(self.sample_ids)

    def without(self, modality: Literal["slide", "expression"]) -> Batch:
        """The same samples as if none had this modality."""
        if modality == "slide":
            tiles = self.tiles.select(torch.zeros_like(self.tiles.bag_index, dtype=torch.bool))
            return replace(self, tiles=tiles, has_slide=torch.zeros_like(self.has_slide))
        nothing = torch.zeros_like(self.expression)
        return replace(self, expression=nothing, has_expression=torch.zeros_like(self.has_expression))

    def take(self, positions: Tensor) -> Batch:
        """The samples int64 [n] in the order asked; one may be taken several times."""
        per_sample = (
            "expression",
            "has_slide",
            "has_expression",
            "compound",
            "group",
            "animal",
            "is_control",
        )
        if_any = "clinical", "head_membership", "path_membership"
        taken: dict[str, Any] = {name: getattr(self, name)[positions] for name in per_sample}
        taken |= {name: of[positions] for name in if_any if (of := getattr(self, name)) is not None}
        return replace(
            self,
            sample_ids=[self.sample_ids[i] for i in positions.tolist()],
            tiles=self.tiles.take(positions),
            labels={k: v[positions] for k, v in self.labels.items()},
            **taken,
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """The same batch on another device.

        Args:
            dtype: of tile features and expression; as they are where None. Coordinates and labels stay float32.
        """
        moved = self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))
        if dtype is None or dtype == moved.expression.dtype:
            return moved
        tiles = moved.tiles.with_features(moved.tiles.features.to(dtype))
        return replace(moved, tiles=tiles, expression=moved.expression.to(dtype))

    def pinned(self) -> Batch:
        """The same batch in page-locked memory, from which a copy to a CUDA device does not hold the program up."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed."""

        def changed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, dict):
                return {k: changed(v) for k, v in value.items()}
            if isinstance(value, RaggedTiles):
                return RaggedTiles(change(value.features), change(value.coordinates), change(value.offsets))
            return value

        return Batch(**{f.name: changed(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class StoredBatch:
    """A batch as the store has it: half the bytes to move, and standardised where it is used.

    Attributes:
        batch: its tile features are of the type of the store (float16), and not standardised.
        mean, scale: float32 [B, D], by which the tiles of each sample are standardised.
    """

    batch: Batch
    mean: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def step(self) -> int:
        return self.batch.step

    def pinned(self) -> StoredBatch:
        """The same in page-locked memory."""
        return StoredBatch(self.batch.pinned(), self.mean.pin_memory(), self.scale.pin_memory())

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """The batch on a device, its tiles widened and standardised there; ``dtype`` as of `Batch.to`."""
        batch = self.batch.to(device)
        mean, scale = (tensor.to(device, non_blocking=True) for tensor in (self.mean, self.scale))
        bag = batch.tiles.bag_index
        features = batch.tiles.features.float().sub_(mean[bag]).div_(scale[bag])
        standardised = replace(batch, tiles=batch.tiles.with_features(features))
        return standardised if dtype is None else standardised.to(device, dtype)
