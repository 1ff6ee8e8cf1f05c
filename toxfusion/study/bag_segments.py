"""The files of one writer of a bag store: their index, the rows and coordinates behind it, and their checks."""

from __future__ import annotations

import json
import math
import mmap
import sys
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from toxfusion.study.files import replace_file
from toxfusion.study.store_spec import StoreSpec

#: Indexes of fewer bags are read as fast from their lines.
COLUMNS_FROM = 512
COORDINATE_BYTES = 8
_COLUMNS = {"start": "q", "n": "q", "tile_size": "d", "mpp0": "d", "rows_crc": "I", "coordinates_crc": "I"}


class Entry(NamedTuple):
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
    def parse(cls, line: bytes) -> Entry | None:
        """The entry of a whole line (without its newline), None when its checksum does not hold."""
        checksum, _, payload = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(payload):
            return None
        return cls(**json.loads(payload))


class Entries(Sequence[Entry]):
    """The bags of a segment as columns: some 100 bytes a bag beside its id."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._columns: dict[str, array[Any]] = {name: array(kind) for name, kind in _COLUMNS.items()}

    def append(self, entry: Entry) -> None:
        self.ids.append(entry.slide_id)
        for name, column in self._columns.items():
            column.append(getattr(entry, name))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: Any) -> Any:
        return Entry(self.ids[position], *(column[position] for column in self._columns.values()))

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
    def load(cls, content: bytes, log: bytes) -> tuple[Entries, int] | None:
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


class Segment:
    """The files of one writer as a reader sees them."""

    def __init__(self, index_path: Path, spec: StoreSpec) -> None:
        self.name = index_path.stem
        self.entries = Entries()
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
        entries = Entries.load(path.read_bytes(), log)
        if entries is None or entries[0].end > self._rows_on_disk():
            return 0
        self.entries, self._consumed = entries
        return self._consumed

    def _take_lines(self, tail: bytes) -> None:
        available = self._rows_on_disk()
        doubtful: list[str] = []
        start = good_end = 0
        while (end := tail.find(b"\n", start)) >= 0:
            entry = Entry.parse(tail[start:end])
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

    def rows(self, entry: Entry) -> npt.NDArray[Any]:
        """Read-only view [n, *row_shape] of a bag's rows in the memory map."""
        return self._view("rows", entry, self._spec.dtype, self._spec.row_shape)

    def coordinates(self, entry: Entry) -> npt.NDArray[np.int32]:
        """Read-only int32 view [n, 2] of a bag's coordinates in the memory map."""
        return self._view("coordinates", entry, "int32", (2,))

    def read_ahead(self, entry: Entry) -> None:
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

    def _view(self, kind: str, entry: Entry, dtype: str, row_shape: tuple[int, ...]) -> npt.NDArray[Any]:
        size = math.prod(row_shape)
        row_bytes = size * np.dtype(dtype).itemsize
        mapped = self._maps.get(kind)
        if mapped is None or len(mapped) < (entry.start + entry.n) * row_bytes:
            with open(self._file(kind), "rb") as file:
                mapped = self._maps[kind] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = np.frombuffer(mapped, dtype, entry.n * size, entry.start * row_bytes)
        return view.reshape(entry.n, *row_shape)

    def is_sound(self, entry: Entry) -> bool:
        """Rows and coordinates match their checksums."""
        return (
            zlib.crc32(bytes_of(self.rows(entry))) == entry.rows_crc
            and zlib.crc32(bytes_of(self.coordinates(entry))) == entry.coordinates_crc
        )

    def rewrite_index(self, entries: Sequence[Entry]) -> None:
        """Replace the index log by one of these entries only."""
        replace_file(self._index_path, b"".join(entry.line() for entry in entries))

    def _file(self, kind: str) -> Path:
        return self._index_path.with_suffix(f".{kind}")

    def _rows_on_disk(self) -> int:
        if not (self._file("rows").exists() and self._file("coordinates").exists()):
            return 0
        stored = self._file("rows").stat().st_size // self._spec.row_bytes
        return min(stored, self._file("coordinates").stat().st_size // COORDINATE_BYTES)


def bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data
