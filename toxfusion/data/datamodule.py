"""One fold of a study as batches: what is fitted on its training samples, and the loaders of each stage.

``FoldData`` joins slides and expression of a study into batches; ``StudyDataModule`` serves one stage of training with
loaders that know their position. Nothing here is fitted on validation or test samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, Self, TypeVar

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from toxfusion.data.batch import Batch, RaggedTiles, StoredBatch
from toxfusion.data.clinical import ClinicalColumns
from toxfusion.data.expression import ExpressionTransform
from toxfusion.data.sample_groups import SampleGroups
from toxfusion.data.sampling import Sampler
from toxfusion.data.tile_reading import TileReader
from toxfusion.data.tile_scaling import TileScaler, TooFewSamples
from toxfusion.distributed.ranks import rank, world_size
from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.names import plain_name
from toxfusion.study.split import Split
from toxfusion.study.study import Study


class LeakError(ValueError):
    """Something that was fitted has seen what it is now tested on."""


class FoldData:
    """A study, a split and what was fitted on its training part; makes batches of any of its samples.

    Args:
        study: the study.
        split: its training, validation and test samples.
        labels: name of the task -> float32 [n] or [n, L] for all samples of the study in order, NaN = no label.
        store: tile features, or None when slides are not used.
        expression: the fitted transform, or None when expression is not used.
        scaler: the fitted tile scaler; needed with a store.
        seed: of the run; tiles of a bag depend on it.
        clinical: fitted clinical columns, or None when none are used.
        head_groups: groups in which heads may deviate, or None.
        path_groups: groups in which the linear paths of a network may deviate, or None.
        audit: takes what the transform did to single samples.

    Raises:
        LeakError: the tile encoder was trained on test compounds and the split is not declared transductive.
    """

    def __init__(
        self,
        study: Study,
        split: Split,
        labels: Mapping[str, np.ndarray],
        *,
        store: BagStore | None,
        expression: ExpressionTransform | None,
        scaler: TileScaler | None,
        seed: int,
        clinical: ClinicalColumns | None = None,
        head_groups: SampleGroups | None = None,
        path_groups: SampleGroups | None = None,
        audit: Audit | None = None,
    ) -> None:
        if (store is None) != (scaler is None):
            raise ValueError("a feature store and its fitted scaler go together")
        self.study, self.split = study, split
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
        self._labels = {name: torch.from_numpy(values) for name, values in labels.items()}
        self._expression = self._read_expression(audit)
        self.clinical = clinical
        self._clinical = None if clinical is None else torch.from_numpy(clinical.encode(study, audit))
        self.head_groups, self.path_groups = head_groups, path_groups
        self._head_membership, self._path_membership = (
            None if groups is None else torch.from_numpy(groups.membership(study))
            for groups in (head_groups, path_groups)
        )
        self._tiles: TileReader | None = None
        if store is not None and scaler is not None:
            self._tiles = TileReader(study, store, scaler, seed)
        self._bag_owner: Mapping[str, str] = {}
        self._without_slides = False
        self._check_encoder()

    @property
    def n_genes(self) -> int:
        return 0 if self._expression is None else self._expression.shape[1]

    @property
    def tile_dim(self) -> int:
        return 0 if self._tiles is None else self._tiles.dim

    @property
    def n_clinical(self) -> int:
        """Entries of the clinical columns that heads read beside the fused vector."""
        return 0 if self._clinical is None else self._clinical.shape[1]

    @property
    def n_head_groups(self) -> int:
        """Groups in which heads may deviate."""
        return 0 if self._head_membership is None else self._head_membership.shape[1]

    @property
    def n_path_groups(self) -> int:
        """Groups in which the linear paths of a network may deviate."""
        return 0 if self._path_membership is None else self._path_membership.shape[1]

    @property
    def labels(self) -> dict[str, torch.Tensor]:
        """Labels of all samples of the study, in the order of ``sample_ids``."""
        return self._labels

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

    def reading(self, modality: str) -> FoldData:
        """This fold as if no sample had the other modality; "both" leaves it as it is.

        Nothing is fitted or read anew: genes and tile width stay, so that a network of both reads its batches.
        """
        view = copy.copy(self)
        if modality == "wsi" and self._expression is not None:
            view._expression = torch.full_like(self._expression, torch.nan)
        if modality == "omics":
            view._without_slides = True
        return view

    def _owner(self, sample_id: str) -> str:
        """Whose bag the sample has."""
        return self._bag_owner.get(sample_id, sample_id)

    def has_slide(self, sample_id: str) -> bool:
        return bool(self.bag_slides(sample_id))

    def has_expression(self, sample_id: str) -> bool:
        return self._expression is not None and not bool(
            torch.isnan(self._expression[self._row[sample_id], 0])
        )

    def bag_slides(self, sample_id: str) -> list[str]:
        """Slides whose tiles make the sample's bag, all of each, in the order of its rows."""
        if self._tiles is None or self._without_slides:
            return []
        return list(self._tiles.slides[self._owner(sample_id)])

    def control_tiles(self, sample_ids: Sequence[str]) -> np.ndarray:
        """The mean tile of each sample's matched vehicle controls, standardised as the sample's own tiles are.

        As of `ExpressionTransform.control_profiles`: no change at all where tiles are referenced to matched
        controls, and the mean training tile where a sample has no matched control with tiles.

        Returns:
            float32 [n, D].

        Raises:
            ValueError: the fold reads no slides.
        """
        return self._reader().controls([self._owner(sample) for sample in sample_ids])

    def _reader(self) -> TileReader:
        if self._tiles is None:
            raise ValueError(
                f"fold {self.split.fold} reads no slides, so that there are no tiles, of controls or others"
            )
        return self._tiles

    def labelled(self, sample_ids: Sequence[str]) -> np.ndarray:
        """bool [n]: whether each sample has a label of any task; all are where there is no task."""
        positions = [self._row[sample] for sample in sample_ids]
        if not self._labels:
            return np.ones(len(positions), dtype=bool)
        known = [
            ~values[positions].reshape(len(positions), -1).isnan().all(1) for values in self._labels.values()
        ]
        return torch.stack(known).any(0).numpy()

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
        tiles = RaggedTiles(torch.zeros(0, 0), torch.zeros(0, 2), torch.zeros(len(sample_ids) + 1).long())
        if self._tiles is not None:
            owners = [self._owner(sample) for sample in sample_ids]
            tiles = self._tiles.read(owners, stage, step, tiles_per_bag)
        return self._batch(sample_ids, tiles, step)

    def stored_batch(
        self, sample_ids: Sequence[str], *, stage: str, step: int = 0, tiles_per_bag: int | None = None
    ) -> StoredBatch:
        """The same batch with its tiles as they are stored, to be standardised on the device that takes them.

        Raises:
            ValueError: the fold reads no slides.
        """
        reader, owners = self._reader(), [self._owner(sample) for sample in sample_ids]
        tiles = reader.read_stored(owners, stage, step, tiles_per_bag)
        standard = [reader.standard(owner) for owner in owners]
        mean, scale = (torch.from_numpy(np.stack(part)) for part in zip(*standard, strict=True))
        return StoredBatch(self._batch(sample_ids, tiles, step), mean, scale)

    def _batch(self, sample_ids: Sequence[str], tiles: RaggedTiles, step: int) -> Batch:
        """Samples with their tiles."""
        positions = torch.tensor([self._row[s] for s in sample_ids], dtype=torch.int64)
        if self._expression is None:
            expression = torch.zeros(len(positions), 0)
            has_expression = torch.zeros(len(positions), dtype=torch.bool)
        else:
            raw = self._expression[positions]
            has_expression = ~torch.isnan(raw[:, 0])
            expression = torch.where(has_expression[:, None], raw, torch.zeros(()))
        batch = Batch(
            sample_ids=list(sample_ids),
            tiles=tiles,
            expression=expression,
            has_slide=tiles.lengths > 0,
            has_expression=has_expression,
            compound=self._codes["compound"][positions],
            group=self._codes["group_id"][positions],
            animal=self._codes["animal_id"][positions],
            is_control=self._control[positions],
            labels={k: v[positions] for k, v in self._labels.items()},
            step=step,
            clinical=None if self._clinical is None else self._clinical[positions],
            head_membership=None if self._head_membership is None else self._head_membership[positions],
            path_membership=None if self._path_membership is None else self._path_membership[positions],
        )
        return batch.without("slide") if self._without_slides else batch

    def _read_expression(self, audit: Audit | None) -> torch.Tensor | None:
        if self.expression is None:
            return None
        values = np.full((len(self.sample_ids), len(self.expression.gene_ids)), np.nan, np.float32)
        present = np.flatnonzero(self.study.has_expression)
        values[present] = self.expression.transform(self.study, [self.sample_ids[i] for i in present], audit)
        return torch.from_numpy(values)

    def _check_encoder(self) -> None:
        if self.store is None or self.split.manifest.get("transductive", False):
            return
        seen = set(map(plain_name, self.store.spec.provenance.get("trained_on", [])))
        compound = self.study.obs["compound"].astype(str)
        units = self.split.units(self.study.obs)
        tested = set(units[list(self.split.test)])
        leaked = sorted(set(compound[compound.map(plain_name).isin(seen) & units.isin(tested)]))
        if leaked:
            raise LeakError(
                f"{self.store.root}: the tile encoder of these features was trained on {len(leaked)} compound(s) that "
                f"are tested in fold {self.split.fold}, or share vehicle controls or the like with one that is: "
                f"{leaked[:5]}; train it on this fold's training compounds (tile_features=contrastive does so) or use "
                "a published encoder"
            )


class Pinnable(Protocol):
    """A batch that can be put into page-locked memory."""

    def pinned(self) -> Self: ...


Held = TypeVar("Held", bound=Pinnable)


class PositionedDataModule(L.LightningDataModule):
    """A data module whose training loader starts at the trainer's step: what makes a resume exact in mid-epoch.

    Args:
        accumulate: batches of an optimiser step.
    """

    def __init__(self, *, accumulate: int = 1) -> None:
        super().__init__()
        self.accumulate = accumulate

    def training_batch(self, position: int) -> Any:
        """The batch of this rank at a position counted in batches since the start of the stage."""
        raise NotImplementedError

    def position(self) -> int:
        """Where training stands, in batches."""
        if self.trainer is None:
            raise RuntimeError("the data module is not attached to a trainer")
        return int(self.trainer.global_step) * self.accumulate

    def end(self) -> int:
        """Where the stage ends, in batches."""
        if self.trainer is None:
            raise RuntimeError("the data module is not attached to a trainer")
        return int(self.trainer.max_steps) * self.accumulate

    @property
    def device(self) -> torch.device:
        """Where batches of the trainer go; the CPU without a trainer."""
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def held_for_device(self, batch: Held) -> Held:
        """The batch in page-locked memory where it goes to CUDA: only from there does a copy run beside the program."""
        return batch.pinned() if self.device.type == "cuda" else batch

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_FromPosition(self), batch_size=None)


class _FromPosition(IterableDataset[Any]):
    """Batches from the current position to the end of the stage, the next one made while the last is trained on.

    No length, so that Lightning counts nothing twice.
    """

    def __init__(self, module: PositionedDataModule) -> None:
        self.module = module

    def __iter__(self) -> Iterator[Any]:
        start, end = self.module.position(), self.module.end()
        with ThreadPoolExecutor(1, "batches") as ahead:
            coming = ahead.submit(self.module.training_batch, start)
            for position in range(start + 1, end):
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


class _Chunks(Dataset[Batch | StoredBatch]):
    """Fixed batches of samples, all tiles, for validation and prediction."""

    def __init__(self, make: Callable[..., Batch | StoredBatch], chunks: list[list[str]]) -> None:
        self.make, self.chunks = make, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> Batch | StoredBatch:
        return self.make(self.chunks[index], stage="evaluate")


class StudyDataModule(PositionedDataModule):
    """Loaders of one stage on one fold.

    Args:
        fold: the data.
        stage: names the stage; draws depend on it.
        sampler: chooses the samples of a training step.
        tiles_per_bag: tiles drawn from a bag in training; None for all.
        eval_batch_size: samples of a validation batch.
        valid: validation samples.
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
        accumulate: int = 1,
    ) -> None:
        super().__init__(accumulate=accumulate)
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

    def training_batch(self, position: int) -> Batch | StoredBatch:
        chosen = self.sampler.batch(position, rank(), world_size())
        return self._make(chosen, stage=self.stage, step=position, tiles_per_bag=self.tiles_per_bag)

    def val_dataloader(self) -> DataLoader[Batch | StoredBatch]:
        chunks = even_chunks_of_rank(self.valid, self.eval_batch_size, rank(), world_size())
        return DataLoader(_Chunks(self._make, chunks), batch_size=None)

    def loader(self, sample_ids: Sequence[str]) -> DataLoader[Batch]:
        """All tiles of the given samples, standardised, in order, once."""
        chunks = chunks_of_rank(sample_ids, self.eval_batch_size, rank(), world_size())
        return DataLoader(_Chunks(self.fold.batch, chunks), batch_size=None)  # type: ignore[arg-type]

    def _make(self, sample_ids: Sequence[str], **which: Any) -> Batch | StoredBatch:
        """A batch for the trainer's device: its tiles standardised here for the CPU, as stored for any other."""
        if self.device.type == "cpu" or self.fold.store is None:
            return self.held_for_device(self.fold.batch(sample_ids, **which))
        return self.held_for_device(self.fold.stored_batch(sample_ids, **which))

    def transfer_batch_to_device(
        self, batch: Batch | StoredBatch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        return batch.to(device)
