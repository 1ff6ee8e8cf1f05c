"""What a bag store is, said once in store.json, and the errors of bag stores."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
#: ``coordinates`` of the provenance of a store whose tiles have no place on their slide.
UNPLACED = "none"
_ABSENT = object()
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
        try:
            name = np.dtype(self.dtype).name
        except TypeError:
            name = str(self.dtype)
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


def _flat(spec: StoreSpec) -> dict[str, Any]:
    return {"kind": spec.kind, "dtype": spec.dtype, "row_shape": list(spec.row_shape), **spec.provenance}


def spec_text(spec: StoreSpec) -> str:
    return json.dumps({"format": FORMAT, **asdict(spec)}, indent=1, sort_keys=True) + "\n"


def read_spec(path: Path) -> StoreSpec:
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


def create_once(path: Path, text: str) -> None:
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
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
