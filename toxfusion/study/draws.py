"""Random draws that are functions of a key (seed, stage, step, sample_id ...) and of nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


def entropy(parts: Sequence[int | str]) -> list[int]:
    """The words of a seed sequence: numbers as they are, texts by their CRC-32."""
    return [zlib.crc32(p.encode()) if isinstance(p, str) else p & 0xFFFFFFFFFFFFFFFF for p in parts]


def generator(*key: int | str) -> np.random.Generator:
    """A NumPy generator that depends on the key (seed, stage, step, sample_id ...) and nothing else."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy(key))))
