"""One fold of a study as batches: what is fitted on its training samples, and the loaders of each stage.

``FoldData`` joins slides and expression of a study into batches; ``StudyDataModule`` serves one stage of training with
loaders that know their position. Nothing here is fitted on validation or test samples.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from toxfusion.data.batch import Batch, RaggedTiles
from toxfusion.data.expression import ExpressionTransform
from toxfusion.data.sampling import Sampler, choose_tiles
from toxfusion.data.tile_scaling import TileScaler, TooFewSamples, tile_references
from toxfusion.distributed.ranks import rank, world_size
from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.splits import Split
from toxfusion.study.study import Study
from toxfusion.tasks.tasks import Tasks

SLIDE_GAP_UM = 1e6
"""Coordinates of a sample's second, third ... slide are shifted by this: tiles of two slides are never neighbours."""

READ_AHEAD_SHARE = 8
"""A bag of which at least one in so many tiles is drawn is read whole: cold, that is faster than page by page."""

BLOCK_VALUES = 2**15 - 1
"""Tiles are gathered, widened and standardised so many values at a time: they stay in a core's cache, and are too few
for torch to share an operation among threads of its own."""
READ_THREADS = 4
"""At most so many threads gather the bags of a batch."""


class LeakError(ValueError):
    """Something that was fitted has seen what it is now tested on."""


class _Drawn(NamedTuple):
    """Tiles of one slide that go into a batch; `place` counts the slides of the sample."""

    sample_id: str
    slide_id: str
    place: int
    rows: np.ndarray


class FoldData:
    """A study, a split and what was fitted on its training part; makes batches of any of its samples.

    Args:
        study: the study.
        split: its training, validation and test samples.
        tasks: labels to serve.
        store: tile features, or None when slides are not used.
        expression: the fitted transform, or None when expression is not used.
        scaler: the fitted tile scaler; needed with a store.
        seed: of the run; tiles of a bag depend on it.
        audit: takes what the transform did to single samples.

    Raises:
        LeakError: the tile encoder was trained on test compounds and the split is not declared transductive.
    """

    def __init__(
        self,
        study: Study,
        split: Split,
        tasks: Tasks,
        *,
        store: BagStore | None,
        expression: ExpressionTransform | None,
        scaler: TileScaler | None,
        seed: int,
        audit: Audit | None = None,
    ) -> None:
        if (store is None) != (scaler is None):
            raise ValueError("a feature store and its fitted scaler go together")
        self.study, self.split, self.tasks = study, split, tasks
        self.store, self.expression, self.scaler, self.seed = store, expression, scaler, seed
        obs = study.obs
        self.sample_ids = [str(s) for s in obs.index]
        self._row = {s: i for i, s in enumerate(self.sample_ids)}
        self._codes = {
            name: torch.from_numpy(pd.factorize(obs[name].astype(str))[0].astype(np.int64))
            for name in ("compound", "group_id", "animal_id")
        }
        self.compound_names = list(pd.factorize(obs["compound"].astype(str))[1])
        self._control = torch.from_numpy(obs["is_control"].to_numpy(dtype=bool).copy())
        self._labels = {k: torch.from_numpy(v) for k, v in tasks.labels(study, self.sample_ids).items()}
        self._expression = self._read_expression(audit)
        self._readers = ThreadPoolExecutor(min(READ_THREADS, os.cpu_count() or 1), "tiles")
        self._slides = {s: self._slides_with_tiles(s) for s in self.sample_ids}
        self._bag_owner: Mapping[str, str] = {}
        self._tile_reference: dict[str, np.ndarray] = {}
        self._tile_scale: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        if scaler is not None:
            having = [s for s in self.sample_ids if self._slides[s]]
            self._tile_scale = dict(zip(having, scaler.of_samples(study, having), strict=True))
        if store is not None and scaler is not None and scaler.reference == "matched_controls":
            self._tile_reference = tile_references(study, store, scaler.fallback)
        self._check_encoder()

    @property
    def n_genes(self) -> int:
        return 0 if self._expression is None else self._expression.shape[1]

    @property
    def tile_dim(self) -> int:
        return 0 if self.store is None else int(self.store.spec.row_shape[0])

    @property
    def labels(self) -> dict[str, torch.Tensor]:
        """Labels of all samples of the study, in the order of ``sample_ids``."""
        return self._labels

    def row(self, sample_id: str) -> int:
        return self._row[sample_id]

    def with_slides_dealt(self, bag_owner: Mapping[str, str]) -> FoldData:
        """This fold with the bags of other samples in place of some samples' own.

        A bag stays as its animal has it: it is referred to the vehicle controls of that animal, and standardised as its
        own. Nothing is fitted or read anew, and this fold stays as it is.

        Args:
            bag_owner: sample -> the sample whose bag it gets; others keep theirs. See `deal_slides`.
        """
        view = copy.copy(self)
        view._bag_owner = dict(bag_owner)
        return view

    def _owner(self, sample_id: str) -> str:
        """Whose bag the sample has."""
        return self._bag_owner.get(sample_id, sample_id)

    def has_slide(self, sample_id: str) -> bool:
        return bool(self._slides[self._owner(sample_id)])

    def has_expression(self, sample_id: str) -> bool:
        return self._expression is not None and not bool(
            torch.isnan(self._expression[self._row[sample_id], 0])
        )

    def bag_slides(self, sample_id: str) -> list[str]:
        """Slides whose tiles make the sample's bag, all of each, in the order of its rows."""
        return list(self._slides[self._owner(sample_id)])

    def control_tiles(self, sample_ids: Sequence[str]) -> np.ndarray:
        """The mean tile of each sample's matched vehicle controls, standardised as the sample's own tiles are.

        As of `ExpressionTransform.control_profiles`: no change at all where tiles are referenced to matched
        controls, and the mean training tile where a sample has no matched control with tiles.

        Returns:
            float32 [n, D].

        Raises:
            ValueError: the fold reads no slides.
        """
        if self.store is None or self.scaler is None:
            raise ValueError(
                f"fold {self.split.fold} reads no slides, so that there are no tiles of controls"
            )
        owners = [self._owner(s) for s in sample_ids]
        scales = self.scaler.of_samples(self.study, owners)
        mean, scale = (np.stack(arrays) for arrays in zip(*scales, strict=True))
        if self.scaler.reference == "matched_controls":
            return (-mean / scale).astype(np.float32)
        controls = tile_references(self.study, self.store, np.full(self.tile_dim, np.nan))
        difference = np.stack([controls[s] for s in owners]) - mean
        return np.nan_to_num(difference / scale).astype(np.float32)

    def usable(self, sample_ids: Sequence[str], audit: Audit | None = None) -> list[str]:
        """Samples with at least one modality that is in use; the others go to the audit."""
        kept = []
        for sample in sample_ids:
            if self.has_slide(sample) or self.has_expression(sample):
                kept.append(sample)
            elif audit is not None:
                audit.drop(
                    "train", "sample", sample, "neither slide tiles nor expression for the modality in use"
                )
        return kept

    def batch(
        self, sample_ids: Sequence[str], *, stage: str, step: int = 0, tiles_per_bag: int | None = None
    ) -> Batch:
        """Both modalities of some samples.

        Args:
            stage: "pretrain", "finetune" ...; with ``step`` and the seed it decides which tiles are drawn.
            tiles_per_bag: at most so many tiles of a sample; None for all of them.
        """
        rows = torch.tensor([self._row[s] for s in sample_ids], dtype=torch.int64)
        tiles = self._tiles(sample_ids, stage, step, tiles_per_bag)
        if self._expression is None:
            expression = torch.zeros(len(rows), 0)
            has_expression = torch.zeros(len(rows), dtype=torch.bool)
        else:
            raw = self._expression[rows]
            has_expression = ~torch.isnan(raw[:, 0])
            expression = torch.where(has_expression[:, None], raw, torch.zeros(()))
        return Batch(
            sample_ids=list(sample_ids),
            tiles=tiles,
            expression=expression,
            has_slide=tiles.lengths > 0,
            has_expression=has_expression,
            compound=self._codes["compound"][rows],
            group=self._codes["group_id"][rows],
            animal=self._codes["animal_id"][rows],
            is_control=self._control[rows],
            labels={k: v[rows] for k, v in self._labels.items()},
            step=step,
        )

    def _read_expression(self, audit: Audit | None) -> torch.Tensor | None:
        if self.expression is None:
            return None
        values = np.full((len(self.sample_ids), len(self.expression.gene_ids)), np.nan, np.float32)
        present = np.flatnonzero(self.study.has_expression)
        values[present] = self.expression.transform(self.study, [self.sample_ids[i] for i in present], audit)
        return torch.from_numpy(values)

    def _slides_with_tiles(self, sample_id: str) -> list[str]:
        store = self.store
        if store is None:
            return []
        return [s for s in self.study.slides_of(sample_id) if s in store and store.n_rows(s) > 0]

    def _tiles(self, sample_ids: Sequence[str], stage: str, step: int, at_most: int | None) -> RaggedTiles:
        """Draws, then fills one block of memory bag by bag, each value moved once; bags side by side."""
        drawn = [self._draw(self._owner(sample), stage, step, at_most) for sample in sample_ids]
        parts = [part for parts in drawn for part in parts]
        ends = np.cumsum([len(part.rows) for part in parts], dtype=np.int64).tolist()
        total = ends[-1] if ends else 0
        # NumPy's large arrays lie in huge pages: fresh memory of torch costs more than what is written into it.
        features = np.empty((total, self.tile_dim), np.float32)
        coordinates = np.empty((total, 2), np.float32)

        def fill(part: _Drawn, end: int) -> None:
            start = end - len(part.rows)
            self._fill(part, features[start:end], coordinates[start:end])

        list(self._readers.map(fill, parts, ends))
        lengths = [sum(len(part.rows) for part in parts) for parts in drawn]
        offsets = torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int64)
        return RaggedTiles(torch.from_numpy(features), torch.from_numpy(coordinates), offsets)

    def _draw(self, sample: str, stage: str, step: int, at_most: int | None) -> list[_Drawn]:
        slides = self._slides[sample]
        if not slides or self.store is None:
            return []
        counts = [self.store.n_rows(s) for s in slides]
        chosen = choose_tiles(sum(counts), at_most, self.seed, stage, step, sample)
        starts = np.concatenate([[0], np.cumsum(counts)])
        cuts = np.searchsorted(chosen, starts)
        return [
            _Drawn(sample, slide, k, chosen[cuts[k] : cuts[k + 1]] - starts[k])
            for k, slide in enumerate(slides)
        ]

    def _fill(self, part: _Drawn, features: np.ndarray, coordinates: np.ndarray) -> None:
        """Standardised features [n, D] and coordinates [n, 2] in um of drawn tiles, written in place."""
        assert self.store is not None
        assert self.scaler is not None
        offset, scales = self._tile_scale[part.sample_id]
        if part.sample_id in self._tile_reference:
            offset = offset + self._tile_reference[part.sample_id].astype(np.float32)
        # Tensors of this thread: it is not in the inference mode that the caller may be in.
        mean, scale, wanted = (torch.from_numpy(a) for a in (offset, scales, features))
        stored = self.store.rows(part.slide_id)
        if len(part.rows) * READ_AHEAD_SHARE >= len(stored):
            self.store.read_ahead(part.slide_id)
        size = max(1, BLOCK_VALUES // self.tile_dim)
        for start in range(0, len(part.rows), size):
            rows = torch.from_numpy(stored.take(part.rows[start : start + size], axis=0))
            wanted[start : start + size].copy_(rows).sub_(mean).div_(scale)
        if not self.store.placed:
            coordinates[...] = np.nan
            return
        um = self.store.coordinates(part.slide_id)[part.rows] * self.store.mpp0(part.slide_id)
        coordinates[...] = um + np.array([part.place * SLIDE_GAP_UM, 0.0])

    def _check_encoder(self) -> None:
        if self.store is None or self.split.manifest.get("transductive", False):
            return
        seen = set(map(str, self.store.spec.provenance.get("trained_on", [])))
        compound = self.study.obs["compound"].astype(str)
        units = self.split.units(self.study.obs)
        tested = set(units[list(self.split.test)])
        leaked = sorted(set(compound[compound.isin(seen) & units.isin(tested)]))
        if leaked:
            raise LeakError(
                f"{self.store.root}: the tile encoder of these features was trained on {len(leaked)} compound(s) that "
                f"are tested in fold {self.split.fold}, or share vehicle controls or the like with one that is: "
                f"{leaked[:5]}; train it on this fold's training compounds (tile_features=contrastive does so) or use "
                "a published encoder"
            )


class PositionedDataModule(L.LightningDataModule):
    """A data module whose training loader starts at the trainer's step: what makes a resume exact in mid-epoch.

    Args:
        batches_per_epoch: of one process, a multiple of the accumulated batches of an optimiser step.
        accumulate: batches of an optimiser step.
    """

    def __init__(self, *, batches_per_epoch: int, accumulate: int = 1) -> None:
        super().__init__()
        self.accumulate = accumulate
        self.batches_per_epoch = max(1, batches_per_epoch // accumulate) * accumulate

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return self.batches_per_epoch // self.accumulate

    def training_batch(self, position: int) -> Any:
        """The batch of this rank at a position counted in batches since the start of the stage."""
        raise NotImplementedError

    def position(self) -> int:
        """Where training stands, in batches."""
        if self.trainer is None:
            raise RuntimeError("the data module is not attached to a trainer")
        return int(self.trainer.global_step) * self.accumulate

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_FromPosition(self), batch_size=None)


class _FromPosition(IterableDataset[Any]):
    """Batches from the current position to the end of the epoch, the next one made while the last is trained on.

    No length, so that Lightning counts nothing twice.
    """

    def __init__(self, module: PositionedDataModule) -> None:
        self.module = module

    def __iter__(self) -> Iterator[Any]:
        start, epoch = self.module.position(), self.module.batches_per_epoch
        with ThreadPoolExecutor(1, "batches") as ahead:
            coming = ahead.submit(self.module.training_batch, start)
            for position in range(start + 1, (start // epoch + 1) * epoch):
                batch = coming.result()
                coming = ahead.submit(self.module.training_batch, position)
                yield batch
            yield coming.result()


def chunks_of_rank(sample_ids: Sequence[str], batch_size: int, rank: int, world_size: int) -> list[list[str]]:
    """Batches of every R-th sample, none twice."""
    mine = list(sample_ids)[rank::world_size]
    return [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]


def even_chunks_of_rank(
    sample_ids: Sequence[str], batch_size: int, rank: int, world_size: int
) -> list[list[str]]:
    """As ``chunks_of_rank``, but as many on every rank: losses of validation gather over ranks.

    Raises:
        TooFewSamples: a rank would have a batch without a sample.
    """
    chunks = chunks_of_rank(sample_ids, batch_size, rank, world_size)
    if len(chunks) < len(chunks_of_rank(sample_ids, batch_size, 0, world_size)):
        if not chunks or batch_size == 1:
            raise TooFewSamples(
                f"{len(sample_ids)} samples in batches of {batch_size} do not go round {world_size} processes; take "
                "fewer processes (trainer.devices) or another size.eval_batch"
            )
        last = chunks.pop()
        chunks += [last[: len(last) // 2], last[len(last) // 2 :]]
    return chunks


class _Chunks(Dataset[Batch]):
    """Fixed batches of samples, all tiles, for validation and prediction."""

    def __init__(self, fold: FoldData, chunks: list[list[str]]) -> None:
        self.fold, self.chunks = fold, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> Batch:
        return self.fold.batch(self.chunks[index], stage="evaluate")


class StudyDataModule(PositionedDataModule):
    """Loaders of one stage on one fold.

    Args:
        fold: the data.
        stage: names the stage; draws depend on it.
        sampler: chooses the samples of a training step.
        tiles_per_bag: tiles drawn from a bag in training; None for all.
        eval_batch_size: samples of a validation batch.
        valid: validation samples.
        processes: ranks that share the batches of an epoch.
        accumulate: batches of an optimiser step.
    """

    def __init__(
        self,
        fold: FoldData,
        *,
        stage: str,
        sampler: Sampler,
        tiles_per_bag: int | None,
        eval_batch_size: int,
        valid: Sequence[str],
        processes: int = 1,
        accumulate: int = 1,
    ) -> None:
        super().__init__(batches_per_epoch=sampler.steps_per_epoch // processes, accumulate=accumulate)
        self.fold, self.stage, self.sampler = fold, stage, sampler
        self.tiles_per_bag, self.eval_batch_size, self.valid = tiles_per_bag, eval_batch_size, list(valid)

    def setup(self, stage: str) -> None:
        """Assert that no unit straddles the parts of the split, and that there is something to validate on.

        Raises:
            SplitError: a unit straddles parts.
            TooFewSamples: the validation part has no usable sample.
        """
        self.fold.split.check(self.fold.study)
        if not self.valid:
            raise TooFewSamples(
                f"fold {self.fold.split.fold}: no validation sample with the modality in use; the best checkpoint is "
                "chosen on that part, so give split.valid_fraction a value above 0, or another split"
            )

    def training_batch(self, position: int) -> Batch:
        chosen = self.sampler.batch(position, rank(), world_size())
        return self.fold.batch(chosen, stage=self.stage, step=position, tiles_per_bag=self.tiles_per_bag)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(even_chunks_of_rank(self.valid, self.eval_batch_size, rank(), world_size()))

    def loader(self, sample_ids: Sequence[str]) -> DataLoader[Batch]:
        """All tiles of the given samples, in order, once."""
        return self._loader(chunks_of_rank(sample_ids, self.eval_batch_size, rank(), world_size()))

    def _loader(self, chunks: list[list[str]]) -> DataLoader[Batch]:
        return DataLoader(_Chunks(self.fold, chunks), batch_size=None)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)
