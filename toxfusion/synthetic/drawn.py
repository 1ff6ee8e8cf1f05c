"""A cohort drawn: its compounds, latents and labels, and which rats become samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from toxfusion.study.vocabulary import DOSE_LEVELS
from toxfusion.synthetic.cohort import (
    RATS_PER_GROUP,
    CohortConfig,
    Compounds,
    Latents,
    batch_numbers,
    compound_numbers,
    draw_compounds,
    draw_latents,
)
from toxfusion.synthetic.labels import Reading, group_injury, read_study
from toxfusion.synthetic.liability import dili


@dataclass(frozen=True)
class Cohort:
    """A cohort drawn: compounds, latents, labels, and the rats that become samples.

    Attributes:
        batches: int [C, T]; reading: [C, T, L, 5, n_terms]; injury: bool [C, T, L]; dili: bool [C].
        rats: int [n, 4], position of each sample in compounds, times, levels and rats.
        died: int [m, 4], rats that would have been sampled but died.
    """

    config: CohortConfig
    compounds: Compounds
    latents: Latents
    batches: np.ndarray
    reading: Reading
    injury: np.ndarray
    dili: np.ndarray
    rats: np.ndarray
    died: np.ndarray

    @cached_property
    def sample_ids(self) -> list[str]:
        return [f"{self.group_id(rat)}-{int(rat[3]) + 1}" for rat in self.rats]

    def group_id(self, rat: Sequence[int]) -> str:
        """Name of the compound-time-level group of a rat."""
        c, t, level = (int(v) for v in rat[:3])
        return f"{self.control_group(c, t)}-{DOSE_LEVELS[level]}"

    def control_group(self, c: int, t: int) -> str:
        return f"{self.compounds.names[c]}-{self.config.times_h[t]:g}h"

    def of_samples(self, values: np.ndarray) -> np.ndarray:
        """Rows of an array [C, T, L, 5, ...] that belong to the samples: [n, ...]."""
        return values[tuple(self.rats.T)]


def draw_cohort(config: CohortConfig, first_compound: int = 0) -> Cohort:
    """Draw a cohort: compounds ``first_compound`` and following of the seed; a pure function of its arguments."""
    indices = compound_numbers(config, first_compound)
    compounds = draw_compounds(config.seed, indices, config.setting)
    latents = draw_latents(config.seed, compounds, config.times_h, config.setting)
    reading = read_study(config.seed, compounds, latents, config.times_h)
    rats, died = _sampled(latents.died, config.animals_per_group)
    return Cohort(
        config=config,
        compounds=compounds,
        latents=latents,
        batches=batch_numbers(config.seed, indices, config.times_h),
        reading=reading,
        injury=group_injury(reading),
        dili=dili(compounds, config.setting),
        rats=rats,
        died=died,
    )


def _sampled(died: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``n`` surviving rats of every group, and the dead ones before the last of them."""
    rats, dead = [], []
    for c, t, level in np.ndindex(*died.shape[:3]):
        alive = np.flatnonzero(~died[c, t, level])[:n]
        last = alive[-1] if len(alive) == n else RATS_PER_GROUP - 1
        rats += [(c, t, level, int(k)) for k in alive]
        dead += [(c, t, level, int(k)) for k in np.flatnonzero(died[c, t, level]) if k <= last]
    return np.array(rats, int).reshape(-1, 4), np.array(dead, int).reshape(-1, 4)
