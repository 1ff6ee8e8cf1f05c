"""Names in the folder of an explanation: fixed ones, and names from data as names of files, safe on any system."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

INDEX, REPORT = Path("index.html"), Path("report")
VIEWER = REPORT / "tiles"
FINDING = "finding: "
"""How columns of grades begin in samples.csv."""
RANDOM, SEED = "random weights", "another seed"
"""What scores are compared with in agreement.csv, beside the kinds of nulls."""
_PLAIN = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
MOST = 60
"""Longer names are cut, and told apart by their digest."""


def file_name(task: str) -> str:
    """A task as part of a file's name: letters, digits and _ alone."""
    return "".join(c if c.isalnum() else "_" for c in task)


def file_stem(name: str) -> str:
    """A name as a file's: itself where it is plain ASCII, else what is plain of it and a digest."""
    if _PLAIN.fullmatch(name) and len(name) <= MOST:
        return name
    kept = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[: MOST - 20]
    return f"{kept or 'x'}-{_digest(name)}"


def file_stems(names: Iterable[str]) -> dict[str, str]:
    """Name -> `file_stem`; with a digest where two would be one file on a system that ignores case."""
    stems = {name: file_stem(name) for name in names}
    seen = Counter(stem.casefold() for stem in stems.values())
    return {n: f"{s}-{_digest(n)}" if seen[s.casefold()] > 1 else s for n, s in stems.items()}


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]
