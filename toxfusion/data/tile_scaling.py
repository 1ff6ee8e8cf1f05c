"""The fitted scale of tile features: against vehicle controls of the same experiment, and within groups of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from toxfusion.data.group_scaling import LEAST_SAMPLES, POOLED, GroupScaler, Within
from toxfusion.data.tile_moments import Moments, tile_moments
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
        return [
            (self.groups.mean[position], self.groups.scale[position])
            for position in self.groups.positions(named)
        ]

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


def bag_moments(study: Study, store: BagStore, sample_ids: Sequence[str]) -> dict[str, Moments]:
    """Sums over the tiles of each sample that has some."""
    slides = {sample: [s for s in study.slides_of(sample) if s in store] for sample in sample_ids}
    of_slide = tile_moments(store, [slide for own in slides.values() for slide in own])
    none = Moments.none(int(store.spec.row_shape[0]))
    of_sample = {sample: sum((of_slide[s] for s in own), none) for sample, own in slides.items()}
    return {sample: moments for sample, moments in of_sample.items() if moments.n}


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
    means = {sample: m.mean for sample, m in bag_moments(study, store, list(controls)).items()}
    members: dict[str, list[str]] = {}
    for sample in means:
        members.setdefault(str(study.obs.at[sample, "control_group"]), []).append(sample)
    references = {}
    groups = study.obs["control_group"].astype(str)
    for sample, group in zip(study.sample_ids, groups, strict=True):
        others = [means[c] for c in members.get(group, []) if c != sample]
        references[sample] = np.mean(others, axis=0) if others else fallback.astype(np.float64)
    return references


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
    moments = bag_moments(study, store, sample_ids)
    if not moments:
        raise TooFewSamples(
            f"no training sample has tiles in the feature store {store.root}; run extract first"
        )
    none = Moments.none(int(store.spec.row_shape[0]))
    fallback = none.total
    if reference == "matched_controls":
        controls = [m.mean for sample, m in moments.items() if study.obs.at[sample, "is_control"]]
        fallback = np.mean(controls, axis=0) if controls else fallback
        references = tile_references(study, store, fallback)
        moments = {sample: m.less(references[sample]) for sample, m in moments.items()}
    everything = sum(moments.values(), none)
    setting = Within(**(within or {}))
    named = setting.groups(study.obs.loc[list(moments)])
    groups = None
    if named is not None:
        members = {
            str(name): [m for m, of in zip(moments.values(), named, strict=True) if of == name]
            for name in sorted(set(named))
        }
        known = {name: sum(of, none) for name, of in members.items() if len(of) >= LEAST_SAMPLES}
        parts = [*known.values(), everything]
        mean, scale = (np.stack([f(m) for m in parts]) for f in (_mean, _scale))
        groups = GroupScaler(setting, (*known, POOLED), mean, scale)
    return TileScaler(_mean(everything), _scale(everything), reference, fallback.astype(np.float32), groups)


def _mean(moments: Moments) -> np.ndarray:
    return moments.mean.astype(np.float32)


def _scale(moments: Moments) -> np.ndarray:
    return np.maximum(np.sqrt(moments.variance), LEAST_SCALE).astype(np.float32)
