"""Which samples, and which tiles of a bag, make the batch of a step: every draw a function of (seed, stage, step, id).

A sampler has no state. ``batch(step)`` gives the same samples whenever it is asked, on any number of ranks: rank r of R
takes every R-th entry of the global batch, so that R ranks of B see what one process of R * B sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pandas as pd
import torch

from toxfusion.study.draws import entropy, generator


def torch_seed(*key: int | str) -> int:
    """A 63-bit seed for torch that depends on the key and nothing else."""
    return int(np.random.SeedSequence(entropy(key)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def torch_generator(*key: int | str, device: str = "cpu") -> torch.Generator:
    """A torch generator that depends on the key and nothing else."""
    return torch.Generator(device=device).manual_seed(torch_seed(*key))


class SamplingError(ValueError):
    """There is no sample to draw."""


class Sampler(Protocol):
    """Chooses the samples of a step."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> list[str]: ...


def _stream(n: int, start: int, count: int, seed: int, stage: str) -> list[int]:
    """Entries start .. start + count of an endless stream of permutations of n."""
    out: list[int] = []
    epoch, position = divmod(start, n)
    while len(out) < count:
        order = generator(seed, stage, "order", epoch).permutation(n)
        out.extend(order[position : position + count - len(out)].tolist())
        epoch, position = epoch + 1, 0
    return out


@dataclass(frozen=True)
class SampleStream:
    """Batches of single samples, each once an epoch, in an order that changes every epoch.

    Args:
        sample_ids: the samples to draw from.
        batch_size: of one rank.
        seed: of the run.
    """

    sample_ids: tuple[str, ...]
    batch_size: int
    seed: int
    stage: str = "pretrain"

    def __post_init__(self) -> None:
        if not self.sample_ids:
            raise SamplingError(f"{self.stage}: no training sample to draw from")

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.sample_ids) // self.batch_size)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> list[str]:
        size = self.batch_size * world_size
        chosen = _stream(len(self.sample_ids), step * size, size, self.seed, self.stage)
        return [self.sample_ids[i] for i in chosen[rank::world_size]]


@dataclass(frozen=True)
class CompoundStream:
    """Batches of whole compounds: treated samples capped and stratified by dose and time, and a few vehicle controls.

    Args:
        obs: training samples (index sample_id; columns compound, dose_level, time_h, is_control).
        compounds_per_batch: of one rank.
        treated_per_compound: at most so many treated samples of a compound; strata of dose and time in turn.
        controls_per_compound: at most so many vehicle controls of its experiment.
    """

    obs: pd.DataFrame
    compounds_per_batch: int
    treated_per_compound: int
    controls_per_compound: int
    seed: int
    stage: str = "finetune"
    _strata: dict[str, list[list[str]]] = field(init=False, repr=False, default_factory=dict)
    _controls: dict[str, list[str]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        control = self.obs["is_control"].astype(bool)
        for compound, rows in self.obs[~control].groupby("compound", sort=True, observed=True):
            # Patients have no time: a group of NaN is a stratum too.
            strata = rows.groupby(["dose_level", "time_h"], sort=True, observed=True, dropna=False)
            self._strata[str(compound)] = [sorted(map(str, g.index)) for _, g in strata]
        for compound, rows in self.obs[control].groupby("compound", sort=True, observed=True):
            self._controls[str(compound)] = sorted(map(str, rows.index))
        if not self._strata:
            raise SamplingError(f"{self.stage}: no treated training sample to draw from")

    @property
    def compounds(self) -> list[str]:
        return list(self._strata)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self._strata) // self.compounds_per_batch)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> list[str]:
        size = self.compounds_per_batch * world_size
        names = self.compounds
        chosen = _stream(len(names), step * size, size, self.seed, self.stage)
        out: list[str] = []
        for i in chosen[rank::world_size]:
            out.extend(self._draw(names[i], step))
        return out

    def _draw(self, compound: str, step: int) -> list[str]:
        rng = generator(self.seed, self.stage, step, compound)
        strata = [list(rng.permutation(s)) for s in self._strata[compound]]
        order = rng.permutation(len(strata))
        treated: list[str] = []
        depth = 0
        while len(treated) < self.treated_per_compound and any(len(s) > depth for s in strata):
            treated.extend(str(strata[k][depth]) for k in order if len(strata[k]) > depth)
            depth += 1
        controls = self._controls.get(compound, [])
        n = min(self.controls_per_compound, len(controls))
        picked = [str(c) for c in rng.permutation(controls)[:n]]
        return treated[: self.treated_per_compound] + picked


def choose_tiles(n: int, at_most: int | None, *key: int | str) -> np.ndarray:
    """Rows of a bag for one step: all of them, or ``at_most`` drawn without replacement, in rising order (int64)."""
    if at_most is None or n <= at_most:
        return np.arange(n)
    return np.sort(generator(*key).choice(n, size=at_most, replace=False))
