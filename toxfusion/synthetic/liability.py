"""Drug-induced liver injury in humans: a probit liability of the compound, partly seen in the rat, mostly not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from toxfusion.synthetic.axes import INDEX
from toxfusion.synthetic.cohort import Compounds

COMPONENTS: tuple[str, ...] = (
    "slide_severity",
    "expression_hazard",
    "hypertrophy_with_oxidative_stress",
    "cholestasis_with_er_stress",
)
"""A5 and A7 lesions; the A11 and half of the A9 programme; A1 lesions x A9 programme; A7 lesions x A11 programme."""


@dataclass(frozen=True)
class Setting:
    """Shares of the variance of the liability; what is left is unobserved idiosyncrasy.

    Args:
        weights: of the standardised `COMPONENTS`, relative to each other.
        rat: share of their sum, which rats can show; exposure: of human dose and exposure, which no rat shows.
        centre: of the weighted sum, so that half of the population has DILI; scale: its SD in the population.
    """

    weights: tuple[float, float, float, float]
    rat: float
    exposure: float
    centre: float
    scale: float


SETTINGS: dict[str, Setting] = {
    "realistic": Setting((0.9, 0.9, 0.8, 0.35), 0.135, 0.09, -0.0635, 1.7444),
    "easy": Setting((0.9, 0.9, 0.8, 0.35), 0.54, 0.0, -0.2330, 1.7444),
}

# Mean and SD of the raw components, and centre and scale above, over 40,000 compounds of seed 12345
# (`population_moments`); constants, so that a compound's label does not depend on the cohort it is in.
POPULATION_MEAN: tuple[float, ...] = (0.4013, 0.3348, 0.1423, 0.0245)
POPULATION_SD: tuple[float, ...] = (0.6949, 0.5300, 0.5117, 0.2219)


def components(compounds: Compounds) -> np.ndarray:
    """float [C, 4], raw `COMPONENTS` at the high dose: log(1 + 3 x severity or activity), and products of them."""
    potency = 1.0 / (1.0 + compounds.ed50**compounds.hill)
    lesion = np.log1p(3 * compounds.slide_max * potency)
    programme = np.log1p(3 * compounds.expression_max)
    a1, a5, a7, a9, a11 = (INDEX[name] for name in ("A1", "A5", "A7", "A9", "A11"))
    return np.stack(
        [
            lesion[:, a5] + lesion[:, a7],
            0.5 * programme[:, a9] + programme[:, a11],
            lesion[:, a1] * programme[:, a9],
            lesion[:, a7] * programme[:, a11],
        ],
        axis=1,
    )


def weighted_sum(compounds: Compounds, setting: str) -> np.ndarray:
    """float [C]: the weighted, standardised components."""
    return ((components(compounds) - POPULATION_MEAN) / POPULATION_SD) @ np.array(SETTINGS[setting].weights)


def rat_liability(compounds: Compounds, setting: str) -> np.ndarray:
    """float [C]: the part of the liability that rats can show, of variance `Setting.rat`."""
    shares = SETTINGS[setting]
    return np.sqrt(shares.rat) * (weighted_sum(compounds, setting) - shares.centre) / shares.scale


def dili(compounds: Compounds, setting: str) -> np.ndarray:
    """bool [C]: the DILI class, liability above 0."""
    shares = SETTINGS[setting]
    hidden = np.sqrt(shares.exposure) * compounds.exposure
    hidden = hidden + np.sqrt(1 - shares.rat - shares.exposure) * compounds.idiosyncrasy
    return rat_liability(compounds, setting) + hidden > 0


def dili_probability(compounds: Compounds, setting: str, *, exposure: bool) -> np.ndarray:
    """float [C]: P(DILI | the rat's part of the liability), and given human exposure if ``exposure``."""
    shares = SETTINGS[setting]
    known = rat_liability(compounds, setting)
    unknown = 1 - shares.rat
    if exposure:
        known = known + np.sqrt(shares.exposure) * compounds.exposure
        unknown -= shares.exposure
    return norm.cdf(known / np.sqrt(unknown))


def population_moments(compounds: Compounds) -> tuple[np.ndarray, np.ndarray]:
    """Mean and SD [4] of the raw components."""
    raw = components(compounds)
    return raw.mean(0), raw.std(0)
