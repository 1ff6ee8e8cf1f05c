"""Bags of tiles out of a feature store: which tiles a step draws, and their features as stored or standardised."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from toxfusion.data.batch import RaggedTiles
from toxfusion.data.sampling import choose_tiles
from toxfusion.data.tile_scaling import TileScaler, tile_references
from toxfusion.study.bag_store import BagStore
from toxfusion.study.study import Study

SLIDE_GAP_UM = 1e6
"""Coordinates of a sample's second, third ... slide are shifted by this: tiles of two slides are never neighbours."""

READ_AHEAD_SHARE = 8
"""A bag of which at least one in so many tiles is drawn is read whole: cold, that is faster than page by page."""

BLOCK_VALUES = 2**15 - 1
"""Tiles are gathered, widened and standardised so many values at a time: they stay in a core's cache, and are too few
for torch to share an operation among threads of its own."""
READ_THREADS = 4
"""At most so many threads gather the bags of a batch."""


class _Drawn(NamedTuple):
    """Tiles of one slide that go into a batch; `place` counts the slides of the sample."""

    sample_id: str
    slide_id: str
    place: int
    tiles: np.ndarray


class TileReader:
    """Reads the bags of a study's samples from a feature store.

    Args:
        scaler: fitted on training samples.
        seed: of the run; which tiles of a bag are drawn depends on it.

    Attributes:
        slides: sample -> its slides that have tiles in the store, in the order of the rows of its bag.
    """

    def __init__(self, study: Study, store: BagStore, scaler: TileScaler, seed: int) -> None:
        self.study, self.store, self.scaler, self.seed = study, store, scaler, seed
        self.slides = {
            sample: [s for s in study.slides_of(sample) if s in store and store.n_rows(s) > 0]
            for sample in study.sample_ids
        }
        self._threads = ThreadPoolExecutor(min(READ_THREADS, os.cpu_count() or 1), "tiles")
        having = [sample for sample in study.sample_ids if self.slides[sample]]
        self._scale = dict(zip(having, scaler.of_samples(study, having), strict=True))
        self._reference: dict[str, np.ndarray] = {}
        if scaler.reference == "matched_controls":
            self._reference = tile_references(study, store, scaler.fallback)

    @property
    def dim(self) -> int:
        """D of the tile features."""
        return int(self.store.spec.row_shape[0])

    def standard(self, sample_id: str) -> tuple[np.ndarray, np.ndarray]:
        """What is subtracted from the tiles of a sample, and what they are then divided by, float32 [D] each."""
        if sample_id not in self._scale:  # no tile
            return np.zeros(self.dim, np.float32), np.ones(self.dim, np.float32)
        mean, scale = self._scale[sample_id]
        if sample_id in self._reference:
            mean = mean + self._reference[sample_id].astype(np.float32)
        return mean, scale

    def controls(self, sample_ids: Sequence[str]) -> np.ndarray:
        """The mean tile of each sample's matched vehicle controls, standardised as the sample's own tiles are.

        No change at all where tiles are referenced to matched controls; the mean training tile where a sample has no
        matched control with tiles.

        Returns:
            float32 [n, D].
        """
        scales = self.scaler.of_samples(self.study, sample_ids)
        mean, scale = (np.stack(arrays) for arrays in zip(*scales, strict=True))
        if self.scaler.reference == "matched_controls":
            return (-mean / scale).astype(np.float32)
        controls = tile_references(self.study, self.store, np.full(self.dim, np.nan))
        difference = np.stack([controls[s] for s in sample_ids]) - mean
        return np.nan_to_num(difference / scale).astype(np.float32)

    def read(self, sample_ids: Sequence[str], stage: str, step: int, at_most: int | None) -> RaggedTiles:
        """The bags of samples, or ``at_most`` tiles of each, float32 and standardised."""
        return self._gathered(sample_ids, stage, step, at_most, self._standardised, np.dtype(np.float32))

    def read_stored(
        self, sample_ids: Sequence[str], stage: str, step: int, at_most: int | None
    ) -> RaggedTiles:
        """The same tiles as the store has them, of its type."""
        stored = np.dtype(self.store.spec.dtype)
        return self._gathered(sample_ids, stage, step, at_most, self._copied, stored)

    def _gathered(
        self,
        sample_ids: Sequence[str],
        stage: str,
        step: int,
        at_most: int | None,
        fill: Callable[[_Drawn, np.ndarray], None],
        dtype: np.dtype,
    ) -> RaggedTiles:
        """Draws, then fills one block of memory bag by bag, each value moved once; bags side by side."""
        drawn = [self._draw(sample, stage, step, at_most) for sample in sample_ids]
        parts = [part for parts in drawn for part in parts]
        ends = np.cumsum([len(part.tiles) for part in parts], dtype=np.int64).tolist()
        total = ends[-1] if ends else 0
        # NumPy's large arrays lie in huge pages: fresh memory of torch costs more than what is written into it.
        features = np.empty((total, self.dim), dtype)
        coordinates = np.empty((total, 2), np.float32)

        def read(part: _Drawn, end: int) -> None:
            start = end - len(part.tiles)
            fill(part, features[start:end])
            coordinates[start:end] = self._places(part)

        list(self._threads.map(read, parts, ends))
        lengths = [sum(len(part.tiles) for part in parts) for parts in drawn]
        offsets = torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int64)
        return RaggedTiles(torch.from_numpy(features), torch.from_numpy(coordinates), offsets)

    def _draw(self, sample: str, stage: str, step: int, at_most: int | None) -> list[_Drawn]:
        slides = self.slides[sample]
        if not slides:
            return []
        counts = [self.store.n_rows(s) for s in slides]
        chosen = choose_tiles(sum(counts), at_most, self.seed, stage, step, sample)
        starts = np.concatenate([[0], np.cumsum(counts)])
        cuts = np.searchsorted(chosen, starts)
        return [
            _Drawn(sample, slide, k, chosen[cuts[k] : cuts[k + 1]] - starts[k])
            for k, slide in enumerate(slides)
        ]

    def _stored(self, part: _Drawn) -> np.ndarray:
        """All rows of the slide, soon to be read."""
        stored = self.store.rows(part.slide_id)
        if len(part.tiles) * READ_AHEAD_SHARE >= len(stored):
            self.store.read_ahead(part.slide_id)
        return stored

    def _copied(self, part: _Drawn, features: np.ndarray) -> None:
        """Features [n, D] of drawn tiles as they are stored, written in place."""
        self._stored(part).take(part.tiles, axis=0, out=features, mode="clip")

    def _standardised(self, part: _Drawn, features: np.ndarray) -> None:
        """Standardised features [n, D] of drawn tiles, written in place."""
        # Tensors of this thread: it is not in the inference mode that the caller may be in.
        mean, scale, wanted = (torch.from_numpy(a) for a in (*self.standard(part.sample_id), features))
        stored = self._stored(part)
        size = max(1, BLOCK_VALUES // self.dim)
        for start in range(0, len(part.tiles), size):
            block = torch.from_numpy(stored.take(part.tiles[start : start + size], axis=0))
            wanted[start : start + size].copy_(block).sub_(mean).div_(scale)

    def _places(self, part: _Drawn) -> np.ndarray:
        """Coordinates [n, 2] in um of drawn tiles; NaN where the store says that tiles have no place."""
        if not self.store.placed:
            return np.full((len(part.tiles), 2), np.nan)
        um = self.store.coordinates(part.slide_id)[part.tiles] * self.store.mpp0(part.slide_id)
        return um + np.array([part.place * SLIDE_GAP_UM, 0.0])
