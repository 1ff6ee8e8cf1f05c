"""Which samples, and which tiles of a bag, make the batch of a step: every draw a function of (seed, stage, step, id).

A sampler has no state. ``batch(step)`` gives the same samples whenever it is asked, on any number of ranks: rank r of R
takes every R-th entry of the global batch, so that R ranks of B see what one process of R * B sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def seed_draws(device: torch.device, *key: int | str) -> None:
    """Seed what draws without a generator, such as dropout, on the CPU and on one device.

    `torch.manual_seed` does so on every device there may be; where there is no CUDA it formats a stack trace each time
    for an error to come, which costs a small network a twentieth of its step.
    """
    seed = torch_seed(*key)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


class SamplingError(ValueError):
    """There is no sample to draw."""


class Sampler(Protocol):
    """Chooses the samples of a step."""

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> list[str]: ...


def _stream(n: int, start: int, count: int, seed: int, stage: str) -> list[int]:
    """Entries start .. start + count of an endless stream of permutations of n."""
    return _of_epochs(lambda epoch: generator(seed, stage, "order", epoch).permutation(n), n, start, count)


def _of_epochs(order: Callable[[int], np.ndarray], n: int, start: int, count: int) -> list[int]:
    """Entries start .. start + count of the orders int64 [n] of epoch 0, 1 ... put end to end."""
    out: list[int] = []
    epoch, position = divmod(start, n)
    while len(out) < count:
        out.extend(order(epoch)[position : position + count - len(out)].tolist())
        epoch, position = epoch + 1, 0
    return out


@dataclass(frozen=True)
class SampleStream:
    """Batches of single samples, each once an epoch, in an order that changes every epoch.

    A sample of weight w comes w times an epoch, spread evenly over it so that it hardly meets itself in a batch; of
    samples whose weight is no whole number, as many come once more as the fractions add up to, others every epoch.

    Args:
        sample_ids: the samples to draw from.
        batch_size: of one rank.
        seed: of the run.
        weights: of the samples, 0 or more; None = 1 each.
    """

    sample_ids: tuple[str, ...]
    batch_size: int
    seed: int
    stage: str = "pretrain"
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.sample_ids:
            raise SamplingError(f"{self.stage}: no training sample to draw from")
        if self.weights is not None and self._length == 0:
            raise SamplingError(
                f"{self.stage}: every training sample has the weight 0; weigh one of them more"
            )

    @property
    def _length(self) -> int:
        """Draws of an epoch."""
        if self.weights is None:
            return len(self.sample_ids)
        weights = np.asarray(self.weights)
        return int(np.floor(weights).sum() + round(float((weights % 1).sum())))

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> list[str]:
        size = self.batch_size * world_size
        if self.weights is None:
            chosen = _stream(len(self.sample_ids), step * size, size, self.seed, self.stage)
        else:
            chosen = _of_epochs(self._weighted, self._length, step * size, size)
        return [self.sample_ids[i] for i in chosen[rank::world_size]]

    def _weighted(self, epoch: int) -> np.ndarray:
        """The order of one epoch, int64: copy c of a sample that comes w times lies in the c-th w-th of it."""
        rng = generator(self.seed, self.stage, "order", epoch)
        weights = np.asarray(self.weights, np.float64)
        times, rest = np.floor(weights).astype(np.int64), weights % 1
        extra = self._length - int(times.sum())
        if extra:
            times[rng.choice(len(weights), extra, replace=False, p=rest / rest.sum())] += 1
        sample = np.repeat(np.arange(len(weights)), times)
        copy = np.arange(len(sample)) - np.repeat(np.cumsum(times) - times, times)
        place = (copy + rng.random(len(sample))) / times[sample]
        return sample[np.argsort(place, kind="stable")]


def group_weights(obs: pd.DataFrame, column: str, weights: Mapping[str, float]) -> tuple[float, ...] | None:
    """The weight of each sample in the draw, by its group; 1 for a group that is not named.

    Args:
        obs: of the samples. column: of obs, with the groups. weights: group -> weight, 0 or more.

    Returns:
        One weight a sample; None where no group is named.

    Raises:
        SamplingError: the column is missing, a group is unknown, or a weight is negative.
    """
    if not weights:
        return None
    if column not in obs.columns:
        raise SamplingError(
            f"data.draw.column: {column!r} is no column of obs; there are {list(obs.columns)}"
        )
    groups = obs[column].astype(str)
    unknown = sorted(set(map(str, weights)) - set(groups))
    if unknown:
        raise SamplingError(
            f"data.draw.weights: no training sample has {column!r} {unknown[0]!r}; there are {sorted(set(groups))[:12]}"
        )
    low = {name: weight for name, weight in weights.items() if not weight >= 0}
    if low:
        raise SamplingError(f"data.draw.weights: {low}; a weight is 0 or more")
    return tuple(groups.map({str(k): float(v) for k, v in weights.items()}).fillna(1.0))


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
        for compound, animals in self.obs[~control].groupby("compound", sort=True, observed=True):
            # Patients have no time: a group of NaN is a stratum too.
            strata = animals.groupby(["dose_level", "time_h"], sort=True, observed=True, dropna=False)
            self._strata[str(compound)] = [sorted(map(str, g.index)) for _, g in strata]
        for compound, animals in self.obs[control].groupby("compound", sort=True, observed=True):
            self._controls[str(compound)] = sorted(map(str, animals.index))
        if not self._strata:
            raise SamplingError(f"{self.stage}: no treated training sample to draw from")

    @property
    def compounds(self) -> list[str]:
        return list(self._strata)

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
