"""Tiles to features: batches for an encoder out of bags, whole bags into a feature store. No slides here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from toxfusion.study.bag_store import BagStore, BagWriter
from toxfusion.study.store_spec import BagRejected

#: Takes uint8 [N, P, P, 3] on its device, gives float [N, D].
Encoder = Callable[[Tensor], Tensor]
#: Told the slide and, when it was refused, why.
Ended = Callable[[str, BagRejected | None], None]


@dataclass
class _OpenBag:
    slide_id: str
    coordinates: npt.NDArray[Any]
    tile_size: float
    mpp0: float
    # One block for the whole bag: a small one a batch, kept until the bag ends, would lie between the large blocks that
    # each batch frees, and none of those could be used again.
    features: npt.NDArray[np.float32] | None = None
    n_encoded: int = 0


class BagEncoder:
    """Encodes bags in batches and appends each to a store when its last tile is through.

    Args:
        encoder: takes uint8 [N, P, P, 3] on `device`, gives finite float [N, D].
        writer: of the feature store.
        batch_size: tiles in a batch.
        device: where the encoder lives.
        across_bags: fill a batch with the tiles of the next bags. That keeps a GPU busy with small bags;
            without it the batches of a bag are the same whichever bags went before, so that a run that was
            interrupted ends with equal bits.
        ended: called with each stored slide, and with each that the store refused (NaN, for instance);
            without it a refusal is raised.

    Raises:
        ValueError: the encoder is in training mode, or gives something else than one vector a tile.
    """

    def __init__(
        self,
        encoder: Encoder,
        writer: BagWriter,
        *,
        batch_size: int,
        device: torch.device | str,
        across_bags: bool = False,
        ended: Ended | None = None,
    ) -> None:
        if isinstance(encoder, nn.Module) and encoder.training:
            raise ValueError(
                "the encoder is in training mode, features would depend on the batch: call eval()"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        self._encoder = encoder
        self._writer = writer
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._across_bags = across_bags
        self._ended = ended
        self._queue: deque[tuple[_OpenBag, npt.NDArray[np.uint8]]] = deque()
        self._n_queued = 0

    def add(
        self,
        slide_id: str,
        blocks: Iterable[npt.NDArray[np.uint8]],
        coordinates: npt.NDArray[Any],
        *,
        tile_size: float,
        mpp0: float,
    ) -> None:
        """Take the tiles of a bag, uint8 [n, P, P, 3] a block; when `blocks` raises, the bag is dropped."""
        bag = _OpenBag(slide_id, coordinates, tile_size, mpp0)
        try:
            for block in blocks:
                self._queue.append((bag, block))
                self._n_queued += len(block)
                while self._n_queued >= self._batch_size:
                    self._encode_batch()
        except BaseException:
            self._forget(bag)
            raise
        if not self._across_bags:
            self.flush()

    def flush(self) -> None:
        """Encode what still waits for a full batch."""
        while self._n_queued:
            self._encode_batch()

    def _forget(self, bag: _OpenBag) -> None:
        self._queue = deque((owner, block) for owner, block in self._queue if owner is not bag)
        self._n_queued = sum(len(block) for _, block in self._queue)

    def _next_batch(self) -> list[tuple[_OpenBag, npt.NDArray[np.uint8]]]:
        parts, room = [], self._batch_size
        while room and self._queue:
            bag, block = self._queue.popleft()
            parts.append((bag, block[:room]))
            if len(block) > room:
                self._queue.appendleft((bag, block[room:]))
            room -= len(parts[-1][1])
        self._n_queued -= self._batch_size - room
        return parts

    def _encode_batch(self) -> None:
        parts = self._next_batch()
        tiles = np.concatenate([block for _, block in parts])
        features = encode(self._encoder, tiles, self._device)
        start = 0
        for bag, block in parts:
            if bag.features is None:
                bag.features = np.empty((len(bag.coordinates), features.shape[1]), np.float32)
            bag.features[bag.n_encoded : bag.n_encoded + len(block)] = features[start : start + len(block)]
            bag.n_encoded += len(block)
            start += len(block)
            if bag.n_encoded == len(bag.coordinates):
                self._store(bag, bag.features)

    def _store(self, bag: _OpenBag, features: npt.NDArray[np.float32]) -> None:
        refusal: BagRejected | None = None
        try:
            self._writer.append(
                bag.slide_id, features, bag.coordinates, tile_size=bag.tile_size, mpp0=bag.mpp0
            )
        except BagRejected as error:
            if self._ended is None:
                raise
            refusal = error
        if self._ended is not None:
            self._ended(bag.slide_id, refusal)


def encode(
    encoder: Encoder, tiles: npt.NDArray[np.uint8], device: torch.device | str
) -> npt.NDArray[np.float32]:
    """Features float32 [N, D] of uint8 tiles [N, P, P, 3].

    Raises:
        ValueError: the encoder does not give one vector a tile.
    """
    with torch.no_grad():
        features = encoder(torch.from_numpy(np.ascontiguousarray(tiles)).to(device, non_blocking=True))
    if features.ndim != 2 or len(features) != len(tiles):
        raise ValueError(
            f"the encoder gave {tuple(features.shape)} for {len(tiles)} tiles, not one vector a tile: "
            "choose a pooling that leaves [N, D]"
        )
    return features.float().cpu().numpy()


def encode_tile_store(
    tiles: BagStore,
    features: BagStore,
    encoder: Encoder,
    *,
    batch_size: int,
    device: torch.device | str,
    across_bags: bool = False,
    slide_ids: Iterable[str] | None = None,
    progress: Callable[[], object] | None = None,
) -> list[str]:
    """Encode the bags of a tile store that the feature store does not hold yet.

    Args:
        tiles: store of uint8 tiles [n, P, P, 3].
        features: store of features, made with the encoder's dimension and provenance.
        encoder: takes uint8 [N, P, P, 3] on `device`, gives finite float [N, D].
        batch_size: tiles in a batch.
        device: where the encoder lives.
        across_bags: see BagEncoder.
        slide_ids: only these; None = all of `tiles`.
        progress: called after each slide.

    Returns:
        The slides encoded by this call, sorted.

    Raises:
        StoreError: a feature is not finite, or the store cannot be written; whole bags are kept.
        ValueError: the encoder is in training mode, or gives something else than [N, D].
    """
    wanted = tiles.slide_ids if slide_ids is None else sorted(slide_ids)
    missing = [slide_id for slide_id in wanted if slide_id not in features]
    with features.writer() as writer:
        bags = BagEncoder(encoder, writer, batch_size=batch_size, device=device, across_bags=across_bags)
        for slide_id in missing:
            bags.add(
                slide_id,
                _blocks(tiles.rows(slide_id), 4 * batch_size),
                tiles.coordinates(slide_id),
                tile_size=tiles.tile_size(slide_id),
                mpp0=tiles.mpp0(slide_id),
            )
            if progress is not None:
                progress()
        bags.flush()
    return [slide_id for slide_id in missing if slide_id in features]


def _blocks(tiles: npt.NDArray[np.uint8], size: int) -> Iterator[npt.NDArray[np.uint8]]:
    for start in range(0, len(tiles), size):
        yield tiles[start : start + size]
