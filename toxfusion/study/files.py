"""The one atomic write: a file is written beside its place, flushed and renamed, so that no reader sees a part; and
the digest of a file."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft beside ``path`` that takes its place when the block ends, and is removed when the block fails.

    The draft keeps the ending of the name, by which some writers choose a format. Folders above it are made.

    Raises:
        OSError: the draft cannot be written or renamed; what was at ``path`` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.{path.name}")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``, whole or not at all."""
    with replacing(path) as draft:
        draft.write_bytes(content)


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Put a table without its index at ``path`` as parquet, whole or not at all."""
    with replacing(path) as draft:
        table.to_parquet(draft, index=False)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hex digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
