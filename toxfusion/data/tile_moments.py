"""Sums over the tiles of each slide of a feature store, kept beside it: whatever is fitted on tiles is made of them.

They depend on the store alone, on no split, reference or cohort: all folds and seeds of a study share one reading.
Who fits takes the slides of training samples and no others.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toxfusion.study.bag_store import BagStore
from toxfusion.study.files import replacing

NAME = "moments.npz"
BLOCK_ROWS = 1024
"""Tiles are widened to float64 so many at a time."""
THREADS = 4


@dataclass(frozen=True)
class Moments:
    """Sums over tiles.

    Attributes:
        n: number of tiles.
        total, square: float64 [D], the sum of the tiles and of their squares.
    """

    n: int
    total: np.ndarray
    square: np.ndarray

    @classmethod
    def none(cls, dim: int) -> Moments:
        """Of no tile."""
        return cls(0, np.zeros(dim), np.zeros(dim))

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """Of tiles float [n, D]."""
        total, square = np.zeros(features.shape[1]), np.zeros(features.shape[1])
        for start in range(0, len(features), BLOCK_ROWS):
            block = features[start : start + BLOCK_ROWS].astype(np.float64)
            total += block.sum(0)
            square += np.einsum("ij,ij->j", block, block)
        return cls(len(features), total, square)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.square + other.square)

    def less(self, reference: np.ndarray) -> Moments:
        """Of the same tiles with ``reference``, float [D], subtracted from each.

        sum (x - r)^2 = sum x^2 - r (2 sum x - n r).
        """
        return Moments(
            self.n,
            self.total - self.n * reference,
            self.square - reference * (2 * self.total - self.n * reference),
        )

    @property
    def mean(self) -> np.ndarray:
        """float64 [D]; NaN of no tile."""
        return self.total / self.n if self.n else np.full_like(self.total, np.nan)

    @property
    def variance(self) -> np.ndarray:
        """float64 [D], over n, at least 0."""
        return np.maximum(self.square / max(1, self.n) - self.mean**2, 0.0)


def tile_moments(store: BagStore, slide_ids: Iterable[str]) -> dict[str, Moments]:
    """Sums over the tiles of slides, those that the store holds.

    What was summed before is read from ``moments.npz`` in the store, where the checksum of a slide's tiles is still the
    same; what is new is added to that file, if the folder can be written.
    """
    wanted = [slide for slide in dict.fromkeys(slide_ids) if slide in store]
    known = _read(store)
    missing = [slide for slide in wanted if slide not in known]
    if missing:
        with ThreadPoolExecutor(THREADS, "moments") as threads:
            summed = threads.map(lambda slide: Moments.of(store.rows(slide)), missing)
            known |= dict(zip(missing, summed, strict=True))
        with suppress(OSError):  # a study on a disk that cannot be written is read anew each time
            _write(store, {**_read(store), **known})
    return {slide: known[slide] for slide in wanted}


def _read(store: BagStore) -> dict[str, Moments]:
    """The sums kept beside a store of the slides whose tiles are as they were; none where the file is damaged."""
    path = store.root / NAME
    try:
        with np.load(path, allow_pickle=False) as kept:
            arrays = [kept[name] for name in ("slide_ids", "n", "checksum", "total", "square")]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}
    return {
        str(slide): Moments(int(n), total, square)
        for slide, n, checksum, total, square in zip(*arrays, strict=True)
        if str(slide) in store and store.fingerprint(str(slide)) == (int(n), int(checksum))
    }


def _write(store: BagStore, moments: Mapping[str, Moments]) -> None:
    path: Path = store.root / NAME
    slides = sorted(moments)
    with replacing(path) as draft:
        np.savez(
            draft,
            slide_ids=np.array(slides),
            n=np.array([moments[s].n for s in slides], np.int64),
            checksum=np.array([store.fingerprint(s)[1] for s in slides], np.uint32),
            total=np.stack([moments[s].total for s in slides]),
            square=np.stack([moments[s].square for s in slides]),
        )
