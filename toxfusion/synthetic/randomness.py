"""Random streams of the virtual study: one per entity, so that a larger cohort keeps the smaller one's animals."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, *key: int | str) -> np.random.Generator:
    """A PCG64 generator that depends on the seed and the key (entity kind, numbers) and nothing else."""
    parts = [zlib.crc32(p.encode()) if isinstance(p, str) else int(p) for p in key]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([int(seed), *parts])))
