"""The fitted scale of tile features: against vehicle controls of the same experiment, and within groups of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from toxfusion.data.group_scaling import LEAST_SAMPLES, POOLED, GroupScaler, Within
from toxfusion.study.bag_store import BagStore
from toxfusion.study.study import Study

LEAST_SCALE = 1e-4


class TooFewSamples(ValueError):
    """There is nothing to fit on, to validate on, or to share out."""


class TileScalerError(ValueError):
    """A reference of tile features that does not exist."""


@dataclass(frozen=True)
class TileScaler:
    """Standardises tile features by training tiles, against vehicle controls of the same experiment if asked.

    Attributes:
        mean, scale: float32 [D]; scale is the standard deviation over training tiles, at least 1e-4.
        reference: "none", or "matched_controls": subtract the mean tile of the sample's matched vehicle controls first.
        fallback: float32 [D], the mean tile of training controls, subtracted where a sample has no matched control.
        groups: mean and scale of the training tiles of each group of samples, in place of those of all; None where
            all samples are one group.
    """

    mean: np.ndarray
    scale: np.ndarray
    reference: str
    fallback: np.ndarray
    groups: GroupScaler | None = None

    def of_samples(self, study: Study, sample_ids: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Mean and scale, float32 [D] each, by which the tiles of each sample are standardised.

        Raises:
            GroupError: a sample is of a group without training samples, and that is refused.
            KeyError: the study lacks a sample.
        """
        named = None if self.groups is None else self.groups.within.groups(study.obs.loc[list(sample_ids)])
        if self.groups is None or named is None:
            return [(self.mean, self.scale)] * len(sample_ids)
        return [(self.groups.mean[row], self.groups.scale[row]) for row in self.groups.rows(named)]

    def state(self) -> dict[str, Any]:
        return {
            "mean": torch.from_numpy(self.mean),
            "scale": torch.from_numpy(self.scale),
            "reference": self.reference,
            "fallback": torch.from_numpy(self.fallback),
            **({} if self.groups is None else {"groups": self.groups.state()}),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TileScaler:
        return cls(
            state["mean"].numpy(),
            state["scale"].numpy(),
            state["reference"],
            state["fallback"].numpy(),
            GroupScaler.from_state(state["groups"]) if "groups" in state else None,
        )


def bag_means(study: Study, store: BagStore, sample_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Mean tile of each sample that has tiles, float64 [D]."""
    means = {}
    for sample in sample_ids:
        rows = [np.asarray(store.rows(s), np.float32) for s in study.slides_of(sample) if s in store]
        if rows and sum(map(len, rows)):
            means[sample] = np.concatenate(rows).mean(0, dtype=np.float64)
    return means


def tile_references(study: Study, store: BagStore, fallback: np.ndarray) -> dict[str, np.ndarray]:
    """What is subtracted from the tiles of each sample: the mean tile of its matched vehicle controls.

    A control is compared with the other controls of its group, never with itself: otherwise its tiles would lie closer
    to their reference than those of treated animals, and a model could tell controls by that.

    Args:
        fallback: float [D], for samples without (another) control that has tiles.

    Returns:
        sample_id -> float64 [D], for every sample of the study.
    """
    controls = study.obs.index[study.obs["is_control"].astype(bool)]
    means = bag_means(study, store, list(controls))
    members: dict[str, list[str]] = {}
    for sample in means:
        members.setdefault(str(study.obs.at[sample, "control_group"]), []).append(sample)
    references = {}
    groups = study.obs["control_group"].astype(str)
    for sample, group in zip(study.sample_ids, groups, strict=True):
        others = [means[c] for c in members.get(group, []) if c != sample]
        references[sample] = np.mean(others, axis=0) if others else fallback.astype(np.float64)
    return references


class _Moments:
    """Sums over tiles, float64 [D]."""

    def __init__(self, dim: int) -> None:
        self.total, self.square, self.tiles, self.samples = np.zeros(dim), np.zeros(dim), 0, 0

    def add(self, tiles: np.ndarray) -> None:
        """Take in the tiles [n, D] of one sample."""
        self.total += tiles.sum(0)
        self.square += (tiles**2).sum(0)
        self.tiles += len(tiles)
        self.samples += len(tiles) > 0

    @property
    def mean(self) -> np.ndarray:
        return self.total / self.tiles

    @property
    def scale(self) -> np.ndarray:
        variance = np.maximum(self.square / self.tiles - self.mean**2, 0.0)
        return np.maximum(np.sqrt(variance), LEAST_SCALE)


def fit_tile_scaler(
    study: Study,
    store: BagStore,
    sample_ids: Sequence[str],
    reference: str,
    within: Mapping[str, Any] | None = None,
) -> TileScaler:
    """Mean and deviation over all tiles of training samples, and over those of each group of them.

    Args:
        within: ``column`` of obs with the groups (None: all samples are one) and ``unseen``; see `Within`.

    Raises:
        TooFewSamples: no training sample has a tile in the store.
        TileScalerError: the reference is unknown.
        GroupError: the column names no groups.
    """
    if reference not in ("none", "matched_controls"):
        raise TileScalerError(f"data.tile_reference: {reference!r} is neither 'none' nor 'matched_controls'")
    dim = int(store.spec.row_shape[0])
    fallback = np.zeros(dim)
    references: dict[str, np.ndarray] = {}
    if reference == "matched_controls":
        controls = [s for s in sample_ids if study.obs.at[s, "is_control"]]
        means = list(bag_means(study, store, controls).values())
        fallback = np.mean(means, axis=0) if means else fallback
        references = tile_references(study, store, fallback)
    setting = Within(**(within or {}))
    named = setting.groups(study.obs.loc[list(sample_ids)])
    everything, of_group = _Moments(dim), dict[str, _Moments]()
    for i, sample in enumerate(sample_ids):
        rows = [
            np.asarray(store.rows(slide), np.float64) for slide in study.slides_of(sample) if slide in store
        ]
        tiles = np.concatenate([np.empty((0, dim)), *rows]) - references.get(sample, 0.0)
        everything.add(tiles)
        if named is not None:
            of_group.setdefault(named[i], _Moments(dim)).add(tiles)
    if everything.tiles == 0:
        raise TooFewSamples(
            f"no training sample has tiles in the feature store {store.root}; run extract first"
        )
    mean, scale = everything.mean.astype(np.float32), everything.scale.astype(np.float32)
    groups = None if named is None else _of_groups(of_group, everything, setting)
    return TileScaler(mean, scale, reference, fallback.astype(np.float32), groups)


def _of_groups(of_group: dict[str, _Moments], everything: _Moments, within: Within) -> GroupScaler:
    known = {name: m for name, m in sorted(of_group.items()) if m.samples >= LEAST_SAMPLES}
    moments = [*known.values(), everything]
    return GroupScaler(
        within,
        (*known, POOLED),
        np.stack([m.mean for m in moments]).astype(np.float32),
        np.stack([m.scale for m in moments]).astype(np.float32),
    )
