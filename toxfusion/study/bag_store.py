"""A memory-mapped store of bags (tiles or features of a slide), written by many processes without a lock.

Here: the file layout, its crash safety and its checks. Not here: what the rows mean, or how they are made.

    store.json                     the specification, written once
    segments/<writer>.rows         raw rows of every bag of this writer, one after the other
    segments/<writer>.coordinates  int32 [n, 2] for the same rows
    segments/<writer>.index        one line a bag: checksum of the line, a blank, the entry as JSON
    segments/<writer>.columns      a long index as columns, quick to read; used while it fits the index, never needed

A writer owns its files. It puts rows and coordinates on disk before the index line that names them, so
that a reader sees whole bags or none; what an interrupted writer leaves after its last whole line is ignored.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import secrets
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from toxfusion.study.bag_segments import COORDINATE_BYTES, Entry, Segment, bytes_of
from toxfusion.study.store_spec import (
    UNPLACED,
    BagRejected,
    StoreError,
    StoreMismatch,
    StoreSpec,
    create_once,
    explained,
    read_spec,
    spec_text,
    sync_folder,
)

#: Mapped pages are given back to the kernel (which keeps them cached) after so many bytes of bags were served.
MAPPED_BYTES = 512 * 2**20


class BagStore:
    """Bags of rows of one kind, by slide. Readers need no lock; open with `create` or `open`.

    Where two writers stored the same slide, the bag of the first writer in sorted order counts: `verify`.
    """

    def __init__(self, root: Path, spec: StoreSpec) -> None:
        self.root = root
        self.spec = spec
        self._segments: dict[str, Segment] = {}
        self._bags: dict[str, tuple[Segment, int]] = {}
        self._sorted_ids: list[str] | None = None
        self._mapped = 0
        self.refresh()

    @classmethod
    def create(cls, root: Path | str, spec: StoreSpec) -> BagStore:
        """Open the store at `root`, first made if it is not there yet; any number of processes may race.

        Raises:
            StoreMismatch: a store of another specification is there.
            StoreError: the folder cannot be written.
        """
        root = Path(root)
        if not (root / "store.json").exists():
            with explained(f"bag store {root} cannot be created"):
                (root / "segments").mkdir(parents=True, exist_ok=True)
                create_once(root / "store.json", spec_text(spec))
        return cls.open(root, spec)

    @classmethod
    def open(cls, root: Path | str, spec: StoreSpec | None = None) -> BagStore:
        """Open an existing store; with `spec`, only if it is of this specification.

        Raises:
            StoreMismatch: the store differs from `spec`; the message names each field.
            StoreError: there is no store, or its store.json cannot be read.
        """
        root = Path(root)
        stored = read_spec(root / "store.json")
        if spec is not None and (differences := stored.differences(spec)):
            raise StoreMismatch(
                f"bag store {root} has {'; '.join(differences)}: use another name for the store, or remove it"
            )
        return cls(root, stored)

    @property
    def placed(self) -> bool:
        """Whether tiles have a place on their slide; without, corner, side and um per px of a tile mean nothing."""
        return self.spec.provenance.get("coordinates") != UNPLACED

    @property
    def slide_ids(self) -> list[str]:
        """Ids of all complete bags, sorted (so in no way dependent on who wrote first)."""
        if self._sorted_ids is None:
            self._sorted_ids = sorted(self._bags)
        return list(self._sorted_ids)

    def __contains__(self, slide_id: object) -> bool:
        return slide_id in self._bags

    def __len__(self) -> int:
        return len(self._bags)

    def n_rows(self, slide_id: str) -> int:
        """Rows (tiles) of a bag."""
        return self._bag(slide_id)[1].n

    def fingerprint(self, slide_id: str) -> tuple[int, int]:
        """Number of rows of a bag and their checksum: another pair where the bag has been stored anew."""
        entry = self._bag(slide_id)[1]
        return entry.n, entry.rows_crc

    def rows(
        self, slide_id: str, indices: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None
    ) -> npt.NDArray[Any]:
        """Rows of a bag: a read-only view [n, *row_shape] of the memory map, or a copy of those at `indices`.

        Raises:
            StoreError: no such slide.
            IndexError: an index outside the bag.
        """
        segment, entry = self._bag(slide_id)
        self._serve(entry)
        view = segment.rows(entry)
        return view if indices is None else view.take(np.asarray(indices, dtype=np.int64), axis=0)

    def read_ahead(self, slide_id: str) -> None:
        """Ask the system to read all rows of a bag in one go; those not in memory yet would come page by page.

        Raises:
            StoreError: no such slide.
        """
        segment, entry = self._bag(slide_id)
        segment.read_ahead(entry)

    def coordinates(self, slide_id: str) -> npt.NDArray[np.int32]:
        """Read-only int32 [n, 2]: (x, y) of each tile's top-left corner, in level-0 pixels."""
        segment, entry = self._bag(slide_id)
        return segment.coordinates(entry)

    def tile_size(self, slide_id: str) -> float:
        """Side of a tile in level-0 pixels."""
        return self._bag(slide_id)[1].tile_size

    def mpp0(self, slide_id: str) -> float:
        """Micrometres per level-0 pixel."""
        return self._bag(slide_id)[1].mpp0

    def reaches_out(self, slide_id: str, x: float, y: float, width: float, height: float) -> bool:
        """Whether a tile of the slide lies outside of a region, in level-0 pixels, by more than one pixel."""
        corners, side = self.coordinates(slide_id), self.tile_size(slide_id)
        low, high = corners.min(axis=0), corners.max(axis=0) + side
        return bool((low < (x - 1, y - 1)).any() or (high > (x + width + 1, y + height + 1)).any())

    def whole(self) -> BagStore:
        """This store, where its index names no bag that cannot be read.

        Raises:
            StoreError: names the first such bag, and what makes it again.
        """
        damaged = [line for name in sorted(self._segments) for line in self._segments[name].problems]
        if damaged:
            more = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            raise StoreError(
                f"{self.root}: damaged: {damaged[0]}{more}; run `toxfusion doctor study={self.root.parents[1]} "
                "repair=true`, then extract these slides again"
            )
        return self

    def writer(self) -> BagWriter:
        """A writer with files of its own; use it as a context manager."""
        return BagWriter(self)

    def refresh(self) -> None:
        """Take in what other writers completed since the store was opened."""
        for path in sorted((self.root / "segments").glob("*.index")):
            self._take_in(path.stem)

    def verify(self, *, checksums: bool = True) -> list[str]:
        """Read everything and check it; returns one line a problem, none when the store is sound.

        Problems: damaged index lines, slides stored twice and, with `checksums`, which reads every row, rows or
        coordinates unlike their checksum.
        """
        self.refresh()
        problems: list[str] = []
        first: dict[str, str] = {}
        for name in sorted(self._segments):
            segment = self._segments[name]
            problems += segment.problems
            for entry in segment.entries:
                if entry.slide_id in first:
                    problems.append(
                        f"slide {entry.slide_id}: stored twice; segment {first[entry.slide_id]} counts, "
                        f"segment {name} is ignored"
                    )
                first.setdefault(entry.slide_id, name)
                if not checksums:
                    continue
                self._serve(entry)
                if not segment.is_sound(entry):
                    problems.append(
                        f"slide {entry.slide_id}: rows or coordinates in segment {name} unlike their checksum"
                    )
        return problems

    def repair(self) -> list[str]:
        """Drop from the index whatever `verify` complains of, so that it can be written again.

        Each index log is replaced at once; rows stay where they are. No writer may be at work.

        Returns:
            The slides whose bag was dropped, sorted; they can be extracted again.

        Raises:
            StoreError: an index cannot be replaced.
        """
        self.refresh()
        kept: set[str] = set()
        for name in sorted(self._segments):
            segment = self._segments[name]
            sound = [e for e in segment.entries if e.slide_id not in kept and segment.is_sound(e)]
            kept.update(entry.slide_id for entry in sound)
            if segment.problems or len(sound) < len(segment.entries):
                with explained(f"bag store {self.root} cannot be repaired"):
                    segment.rewrite_index(sound)
        dropped = sorted(set(self._bags) - kept)
        self._segments, self._bags, self._sorted_ids = {}, {}, None
        self.refresh()
        with explained(f"bag store {self.root} cannot be repaired"):
            for name in self._segments:
                self.write_columns(name)
        return dropped

    def digest(self) -> str:
        """SHA-256 of specification and content, the same for equal content whoever wrote it in what order."""
        sha = hashlib.sha256(spec_text(self.spec).encode())
        for slide_id in self.slide_ids:
            entry = self._bag(slide_id)[1]
            content = [slide_id, entry.n, entry.tile_size, entry.mpp0, entry.rows_crc, entry.coordinates_crc]
            sha.update(json.dumps(content).encode())
        return sha.hexdigest()

    def write_columns(self, name: str) -> None:
        """Make a writer's index quick to open, when it is long.

        Raises:
            OSError: the file cannot be written.
        """
        if name in self._segments:
            self._segments[name].write_columns()

    def _take_in(self, name: str) -> None:
        """Read the new index lines of one segment; of two bags of a slide, the first segment's counts."""
        if name not in self._segments:
            self._segments[name] = Segment(self.root / "segments" / f"{name}.index", self.spec)
        segment = self._segments[name]
        for position in segment.read_index():
            slide_id = segment.entries.ids[position]
            current = self._bags.get(slide_id)
            if current is None or segment.name < current[0].name:
                self._bags[slide_id] = (segment, position)
                self._sorted_ids = None

    def _serve(self, entry: Entry) -> None:
        """Keep the pages that are mapped at a time within bounds, however many bags are read."""
        self._mapped += entry.n * self.spec.row_bytes
        if self._mapped > MAPPED_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped = 0
            for segment in self._segments.values():
                segment.release()

    def _bag(self, slide_id: str) -> tuple[Segment, Entry]:
        bag = self._bags.get(slide_id)
        if bag is None:
            raise StoreError(
                f"bag store {self.root} has no slide {slide_id!r} among {len(self._bags)}: extract it first"
            )
        segment, position = bag
        return segment, segment.entries[position]


class BagWriter:
    """Appends bags to files that belong to this writer alone. Files are made at the first bag."""

    def __init__(self, store: BagStore) -> None:
        self.store = store
        self._name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"
        self._files: dict[str, int] = {}
        self._n_rows = 0
        self._index_bytes = 0

    def __enter__(self) -> Self:
        self.store.refresh()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        with suppress(OSError):  # readers do without
            self.store.write_columns(self._name)

    def append(
        self,
        slide_id: str,
        rows: npt.NDArray[Any] | Iterable[npt.NDArray[Any]],
        coordinates: npt.NDArray[Any],
        *,
        tile_size: float,
        mpp0: float,
    ) -> None:
        """Write one bag; when this returns it is on disk and visible to every reader of the store.

        Args:
            slide_id: id of the slide.
            rows: [n, *row_shape], n >= 1, or an iterable of such blocks (for a slide larger than memory).
                uint8 for tiles; any floating type for features, cast to the type of the store.
            coordinates: integer [n, 2], (x, y) of each tile's top-left corner in level-0 pixels.
            tile_size: side of a tile in level-0 pixels.
            mpp0: micrometres per level-0 pixel.

        Raises:
            BagRejected: the slide is in the store already, a shape or type is wrong, or a feature is NaN, Inf
                or beyond the range of the store's type; nothing of the bag is stored.
            StoreError: the disk is full or cannot be written; nothing of the bag is stored.
        """
        if slide_id in self.store:
            raise BagRejected(f"slide {slide_id!r} is in bag store {self.store.root} already")
        for name, value in (("tile_size", tile_size), ("mpp0", mpp0)):
            if not (math.isfinite(value) and value > 0):
                raise BagRejected(f"slide {slide_id!r}: {name} is {value}, and must be above 0")
        blocks = [rows] if isinstance(rows, np.ndarray) else rows
        checked = _checked_coordinates(slide_id, coordinates)
        self._open_files()
        try:
            self._write_bag(slide_id, blocks, checked, float(tile_size), float(mpp0))
        finally:
            self._cut_incomplete()
        self.store._take_in(self._name)

    def _write_bag(
        self,
        slide_id: str,
        blocks: Iterable[npt.NDArray[Any]],
        coordinates: npt.NDArray[np.int32],
        tile_size: float,
        mpp0: float,
    ) -> None:
        """Data first, then the index line: the order that makes a bag visible only when it is whole."""
        n = crc = 0
        for block in blocks:
            checked = _checked_rows(slide_id, block, self.store.spec)
            crc = zlib.crc32(bytes_of(checked), crc)
            self._write("rows", bytes_of(checked))
            n += len(checked)
        if n == 0:
            raise BagRejected(f"slide {slide_id!r}: a bag needs at least one row")
        if n != len(coordinates):
            raise BagRejected(f"slide {slide_id!r}: {n} rows but {len(coordinates)} coordinates")
        self._write("coordinates", bytes_of(coordinates))
        self._sync("rows", "coordinates")
        entry = Entry(slide_id, self._n_rows, n, tile_size, mpp0, crc, zlib.crc32(bytes_of(coordinates)))
        line = entry.line()
        self._write("index", memoryview(line))
        self._n_rows += n  # a reader may have seen the line: from here on the bag is never cut off again
        self._index_bytes += len(line)
        self._sync("index")

    def _open_files(self) -> None:
        if len(self._files) == 3:
            return
        segments = self.store.root / "segments"
        with explained(f"bag store {self.store.root} cannot be written"):
            for kind in ("rows", "coordinates", "index"):
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
                self._files[kind] = os.open(segments / f"{self._name}.{kind}", flags, 0o666)
            sync_folder(segments)

    def _write(self, kind: str, content: memoryview) -> None:
        with explained(f"bag store {self.store.root} cannot be written"):
            while content:
                content = content[os.write(self._files[kind], content) :]

    def _sync(self, *kinds: str) -> None:
        with explained(f"bag store {self.store.root} cannot be written"):
            for kind in kinds:
                os.fsync(self._files[kind])

    def _cut_incomplete(self) -> None:
        """Cut what a failed bag left behind; after a complete one there is nothing to cut."""
        ends = {
            "index": self._index_bytes,
            "coordinates": self._n_rows * COORDINATE_BYTES,
            "rows": self._n_rows * self.store.spec.row_bytes,
        }
        for kind, end in ends.items():
            os.ftruncate(self._files[kind], end)
            os.lseek(self._files[kind], end, os.SEEK_SET)


def _checked_rows(slide_id: str, block: npt.NDArray[Any], spec: StoreSpec) -> npt.NDArray[Any]:
    """A block as contiguous rows of the store's type, or a StoreError that says what is wrong with it."""
    if block.shape[1:] != spec.row_shape:
        raise BagRejected(
            f"slide {slide_id!r}: rows of shape {block.shape[1:]}, the store has {spec.row_shape}"
        )
    if spec.kind == "tiles":
        if block.dtype != np.uint8:
            raise BagRejected(f"slide {slide_id!r}: tiles are {block.dtype}, the store takes uint8 only")
        return np.ascontiguousarray(block)
    if not np.issubdtype(block.dtype, np.floating):
        raise BagRejected(
            f"slide {slide_id!r}: features are {block.dtype}, the store takes floating types only"
        )
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(block, dtype=spec.dtype)
    finite = np.isfinite(cast)
    if not finite.all():
        finite = finite.reshape(len(cast), -1)
        tile, dimension = np.argwhere(~finite)[0]
        value = block.reshape(len(block), -1)[tile, dimension]
        raise BagRejected(
            f"slide {slide_id!r}: feature [{tile}, {dimension}] of {np.sum(~finite)} bad ones is {value}, not a "
            f"finite {spec.dtype}: check the encoder and its precision"
        )
    return cast


def _checked_coordinates(slide_id: str, coordinates: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    if coordinates.ndim != 2 or coordinates.shape[1] != 2 or not np.issubdtype(coordinates.dtype, np.integer):
        raise BagRejected(
            f"slide {slide_id!r}: coordinates are {coordinates.dtype} {coordinates.shape}, not integer (n, 2)"
        )
    limits = np.iinfo(np.int32)
    if coordinates.size and (coordinates.min() < limits.min or coordinates.max() > limits.max):
        raise BagRejected(f"slide {slide_id!r}: a coordinate is outside the range of int32")
    return np.ascontiguousarray(coordinates, dtype=np.int32)
