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

import errno
import hashlib
import json
import math
import mmap
import os
import secrets
import sys
import time
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from toxfusion.study.files import replace_file

FORMAT = 1
#: Indexes of fewer bags are read as fast from their lines.
COLUMNS_FROM = 512
#: Mapped pages are given back to the kernel (which keeps them cached) after so many bytes of bags were served.
MAPPED_BYTES = 512 * 2**20
#: ``coordinates`` of the provenance of a store whose tiles have no place on their slide.
UNPLACED = "none"
_COORDINATE_BYTES = 8
_COLUMNS = {"start": "q", "n": "q", "tile_size": "d", "mpp0": "d", "rows_crc": "I", "coordinates_crc": "I"}
_KINDS = {"tiles": ("uint8",), "features": ("float16", "float32")}


class StoreError(RuntimeError):
    """A bag store cannot be read or written; what was complete before stays readable."""


class BagRejected(StoreError):
    """A bag is not fit to be stored (NaN, wrong shape, stored before); the store itself is sound."""


class StoreMismatch(StoreError):
    """A store holds rows of another kind, shape, encoder, mpp or tile size than asked for."""


@dataclass(frozen=True)
class StoreSpec:
    """What every row of a store is.

    Args:
        kind: "tiles" (uint8) or "features" (float16 or float32).
        dtype: NumPy name of the element type.
        row_shape: shape of one row, for instance (112, 112, 3) or (512,).
        provenance: plain JSON values: encoder, weights digest, mpp (um/px), tile_px, stride_px, trained_on.

    Raises:
        StoreError: kind, dtype or shape is not one a store can hold, or the provenance is not plain JSON.
    """

    kind: str
    dtype: str
    row_shape: tuple[int, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise StoreError(f"store kind {self.kind!r}: use one of {', '.join(_KINDS)}")
        name = np.dtype(self.dtype).name
        if name not in _KINDS[self.kind]:
            raise StoreError(f"a store of {self.kind} holds {' or '.join(_KINDS[self.kind])}, not {name}")
        shape = tuple(int(side) for side in self.row_shape)
        if not shape or min(shape) < 1:
            raise StoreError(f"row shape {self.row_shape!r}: every side must be at least 1")
        try:
            provenance = json.loads(json.dumps(self.provenance, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise StoreError(f"provenance of a store must be plain JSON values: {error}") from error
        object.__setattr__(self, "dtype", name)
        object.__setattr__(self, "row_shape", shape)
        object.__setattr__(self, "provenance", provenance)

    @property
    def made_by(self) -> dict[str, Any]:
        """Encoder, digest of its weights, um per px, side and stain of a tile: what makes features comparable."""
        return {key: self.provenance.get(key) for key in ("encoder", "weights", "mpp", "tile_px", "stain")}

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.row_shape) * np.dtype(self.dtype).itemsize

    def differences(self, other: StoreSpec) -> list[str]:
        """Each field in which `other` differs, as "field: own value, not other value"."""
        own, theirs = _flat(self), _flat(other)
        return [
            f"{key}: {own.get(key, 'absent')!r}, not {theirs.get(key, 'absent')!r}"
            for key in sorted(own.keys() | theirs.keys())
            if own.get(key, _ABSENT) != theirs.get(key, _ABSENT)
        ]


_ABSENT = object()


def _flat(spec: StoreSpec) -> dict[str, Any]:
    return {"kind": spec.kind, "dtype": spec.dtype, "row_shape": list(spec.row_shape), **spec.provenance}


class _Entry(NamedTuple):
    """One bag as its index line has it; `start` counts rows from the start of the segment."""

    slide_id: str
    start: int
    n: int
    tile_size: float
    mpp0: float
    rows_crc: int
    coordinates_crc: int

    def line(self) -> bytes:
        payload = json.dumps(self._asdict(), separators=(",", ":")).encode("ascii")
        return b"%08x %s\n" % (zlib.crc32(payload), payload)

    @classmethod
    def parse(cls, line: bytes) -> _Entry | None:
        """The entry of a whole line (without its newline), None when its checksum does not hold."""
        checksum, _, payload = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(payload):
            return None
        return cls(**json.loads(payload))


class _Entries(Sequence[_Entry]):
    """The bags of a segment as columns: some 100 bytes a bag beside its id."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._columns: dict[str, array[Any]] = {name: array(kind) for name, kind in _COLUMNS.items()}

    def append(self, entry: _Entry) -> None:
        self.ids.append(entry.slide_id)
        for name, column in self._columns.items():
            column.append(getattr(entry, name))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: Any) -> Any:
        return _Entry(self.ids[position], *(column[position] for column in self._columns.values()))

    @property
    def end(self) -> int:
        """Rows up to the end of the last bag; writers put them one after the other."""
        starts, lengths = (np.asarray(self._columns[name]) for name in ("start", "n"))
        return int((starts + lengths).max(initial=0))

    def dump(self, log: bytes) -> bytes:
        """These entries and the index log they were read from, by length and checksum, with a checksum of all."""
        about = {"byteorder": sys.byteorder, "log": [len(log), zlib.crc32(log)], "ids": self.ids}
        columns = b"".join(column.tobytes() for column in self._columns.values())
        payload = json.dumps(about, separators=(",", ":")).encode("ascii") + b"\n" + columns
        return b"%08x " % zlib.crc32(payload) + payload

    @classmethod
    def load(cls, content: bytes, log: bytes) -> tuple[_Entries, int] | None:
        """What `dump` wrote and the bytes of `log` it stands for; None when damaged or not of the start of this log."""
        payload = memoryview(content)[9:]
        if content[:9] != b"%08x " % zlib.crc32(payload):
            return None
        end = content.index(b"\n")
        about = json.loads(content[9:end])
        n_bytes, checksum = about["log"]
        known = memoryview(log)[:n_bytes]
        if about["byteorder"] != sys.byteorder or len(known) < n_bytes or zlib.crc32(known) != checksum:
            return None
        entries, start = cls(), end + 1
        entries.ids = about["ids"]
        for column in entries._columns.values():
            size = len(entries.ids) * column.itemsize
            column.frombytes(content[start : start + size])
            start += size
        return entries, n_bytes


class _Segment:
    """The files of one writer as a reader sees them."""

    def __init__(self, index_path: Path, spec: StoreSpec) -> None:
        self.name = index_path.stem
        self.entries = _Entries()
        self._damaged: list[str] = []
        self._tail_damaged: list[str] = []
        self._spec = spec
        self._index_path = index_path
        self._consumed = 0
        self._maps: dict[str, mmap.mmap] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    @property
    def problems(self) -> list[str]:
        """Index lines that name no readable bag; an incomplete last line is none."""
        return self._damaged + self._tail_damaged

    def read_index(self) -> range:
        """Take in the bags added since the last call and return their positions in `entries`.

        Lines after the last good one are not consumed: they may still be on their way to this reader's disk.
        """
        known = len(self.entries)
        with open(self._index_path, "rb") as log:
            log.seek(self._consumed)
            tail = log.read()
        if self._consumed == 0:
            tail = tail[self._take_columns(tail) :]
        if tail:
            self._take_lines(tail)
        return range(known, len(self.entries))

    def _take_columns(self, log: bytes) -> int:
        """Take in the entries that lie as columns beside the log; returns the bytes of the log they stand for."""
        path = self._file("columns")
        if not path.exists():
            return 0
        found = _Entries.load(path.read_bytes(), log)
        if found is None or found[0].end > self._rows_on_disk():
            return 0
        self.entries, self._consumed = found
        return self._consumed

    def _take_lines(self, tail: bytes) -> None:
        available = self._rows_on_disk()
        doubtful: list[str] = []
        start = good_end = 0
        while (end := tail.find(b"\n", start)) >= 0:
            entry = _Entry.parse(tail[start:end])
            if entry is None:
                doubtful.append(f"segment {self.name}: damaged index line at byte {self._consumed + start}")
            elif entry.start + entry.n > available:
                doubtful.append(f"slide {entry.slide_id}: rows beyond the end of segment {self.name}")
            else:
                self.entries.append(entry)
                self._damaged += doubtful
                doubtful, good_end = [], end + 1
            start = end + 1
        self._consumed += good_end
        self._tail_damaged = doubtful

    def write_columns(self) -> None:
        """Put the entries beside a long, sound log as columns, for the next reader. Nothing depends on it.

        Raises:
            OSError: the file cannot be written.
        """
        if len(self.entries) < COLUMNS_FROM or self.problems:
            return
        with open(self._index_path, "rb") as file:
            log = file.read(self._consumed)
        replace_file(self._file("columns"), self.entries.dump(log))

    def rows(self, entry: _Entry) -> npt.NDArray[Any]:
        """Read-only view [n, *row_shape] of a bag's rows in the memory map."""
        return self._view("rows", entry, self._spec.dtype, self._spec.row_shape)

    def coordinates(self, entry: _Entry) -> npt.NDArray[np.int32]:
        """Read-only int32 view [n, 2] of a bag's coordinates in the memory map."""
        return self._view("coordinates", entry, "int32", (2,))

    def read_ahead(self, entry: _Entry) -> None:
        """Ask the system to read all rows of a bag into the page cache at once."""
        row_bytes = self._spec.row_bytes
        if entry.n and hasattr(mmap, "MADV_WILLNEED"):
            start, end = entry.start * row_bytes, (entry.start + entry.n) * row_bytes
            start -= start % mmap.PAGESIZE
            self.rows(entry)
            self._maps["rows"].madvise(mmap.MADV_WILLNEED, start, end - start)

    def release(self) -> None:
        """Unmap the pages that were read; views stay good, what they need again comes from the page cache."""
        for mapped in self._maps.values():
            mapped.madvise(mmap.MADV_DONTNEED)

    def _view(self, kind: str, entry: _Entry, dtype: str, row_shape: tuple[int, ...]) -> npt.NDArray[Any]:
        size = math.prod(row_shape)
        row_bytes = size * np.dtype(dtype).itemsize
        mapped = self._maps.get(kind)
        if mapped is None or len(mapped) < (entry.start + entry.n) * row_bytes:
            with open(self._file(kind), "rb") as file:
                mapped = self._maps[kind] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = np.frombuffer(mapped, dtype, entry.n * size, entry.start * row_bytes)
        return view.reshape(entry.n, *row_shape)

    def is_sound(self, entry: _Entry) -> bool:
        """Rows and coordinates match their checksums."""
        return (
            zlib.crc32(_bytes(self.rows(entry))) == entry.rows_crc
            and zlib.crc32(_bytes(self.coordinates(entry))) == entry.coordinates_crc
        )

    def rewrite_index(self, entries: Sequence[_Entry]) -> None:
        """Replace the index log by one of these entries only."""
        replace_file(self._index_path, b"".join(entry.line() for entry in entries))

    def _file(self, kind: str) -> Path:
        return self._index_path.with_suffix(f".{kind}")

    def _rows_on_disk(self) -> int:
        if not (self._file("rows").exists() and self._file("coordinates").exists()):
            return 0
        rows = self._file("rows").stat().st_size // self._spec.row_bytes
        return min(rows, self._file("coordinates").stat().st_size // _COORDINATE_BYTES)


class BagStore:
    """Bags of rows of one kind, by slide. Readers need no lock; open with `create` or `open`.

    Where two writers stored the same slide, the bag of the first writer in sorted order counts: `verify`.
    """

    def __init__(self, root: Path, spec: StoreSpec) -> None:
        self.root = root
        self.spec = spec
        self._segments: dict[str, _Segment] = {}
        self._bags: dict[str, tuple[_Segment, int]] = {}
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
                _create_once(root / "store.json", _spec_text(spec))
        return cls.open(root, spec)

    @classmethod
    def open(cls, root: Path | str, spec: StoreSpec | None = None) -> BagStore:
        """Open an existing store; with `spec`, only if it is of this specification.

        Raises:
            StoreMismatch: the store differs from `spec`; the message names each field.
            StoreError: there is no store, or its store.json cannot be read.
        """
        root = Path(root)
        found = _read_spec(root / "store.json")
        if spec is not None and (differences := found.differences(spec)):
            raise StoreMismatch(
                f"bag store {root} has {'; '.join(differences)}: use another name for the store, or remove it"
            )
        return cls(root, found)

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
        sha = hashlib.sha256(_spec_text(self.spec).encode())
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
            self._segments[name] = _Segment(self.root / "segments" / f"{name}.index", self.spec)
        segment = self._segments[name]
        for position in segment.read_index():
            slide_id = segment.entries.ids[position]
            current = self._bags.get(slide_id)
            if current is None or segment.name < current[0].name:
                self._bags[slide_id] = (segment, position)
                self._sorted_ids = None

    def _serve(self, entry: _Entry) -> None:
        """Keep the pages that are mapped at a time within bounds, however many bags are read."""
        self._mapped += entry.n * self.spec.row_bytes
        if self._mapped > MAPPED_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped = 0
            for segment in self._segments.values():
                segment.release()

    def _bag(self, slide_id: str) -> tuple[_Segment, _Entry]:
        found = self._bags.get(slide_id)
        if found is None:
            raise StoreError(
                f"bag store {self.root} has no slide {slide_id!r} among {len(self._bags)}: extract it first"
            )
        segment, position = found
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
            crc = zlib.crc32(_bytes(checked), crc)
            self._write("rows", _bytes(checked))
            n += len(checked)
        if n == 0:
            raise BagRejected(f"slide {slide_id!r}: a bag needs at least one row")
        if n != len(coordinates):
            raise BagRejected(f"slide {slide_id!r}: {n} rows but {len(coordinates)} coordinates")
        self._write("coordinates", _bytes(coordinates))
        self._sync("rows", "coordinates")
        entry = _Entry(slide_id, self._n_rows, n, tile_size, mpp0, crc, zlib.crc32(_bytes(coordinates)))
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
            _sync_folder(segments)

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
            "coordinates": self._n_rows * _COORDINATE_BYTES,
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
        row, column = np.argwhere(~finite)[0]
        value = block.reshape(len(block), -1)[row, column]
        raise BagRejected(
            f"slide {slide_id!r}: feature [{row}, {column}] of {np.sum(~finite)} bad ones is {value}, not a "
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


def _bytes(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _spec_text(spec: StoreSpec) -> str:
    return json.dumps({"format": FORMAT, **asdict(spec)}, indent=1, sort_keys=True) + "\n"


def _read_spec(path: Path) -> StoreSpec:
    if not path.exists():
        raise StoreError(f"{path.parent} is no bag store (it has no store.json): run extract first")
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise StoreError(f"{path}: format {content['format']}, this version reads format {FORMAT}")
        return StoreSpec(
            content["kind"], content["dtype"], tuple(content["row_shape"]), content["provenance"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read as the specification of a bag store: {error!r}") from error


def _create_once(path: Path, text: str) -> None:
    """Put a whole file at `path` unless one is there; no process ever sees a part of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(draft, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        _sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an error of the operating system into a StoreError that says what failed and what to do."""
    advice = {
        errno.ENOSPC: "the disk is full: free space and run again, complete bags are kept",
        errno.EDQUOT: "the quota is used up: free space and run again, complete bags are kept",
        errno.EFBIG: "the limit on the size of a file is reached: raise it (ulimit -f) and run again, complete bags "
        "are kept",
        errno.EROFS: "the file system is read-only: choose another folder",
        errno.EACCES: "no permission to write: choose another folder or change its mode",
    }
    try:
        yield
    except OSError as error:
        raise StoreError(f"{what}: {advice.get(error.errno or 0, str(error))} ({error})") from error
