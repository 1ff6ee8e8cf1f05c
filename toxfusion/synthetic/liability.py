"""Drug-induced liver injury in humans: a probit liability of the compound, partly seen in the rat, mostly not."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from toxfusion.synthetic.axes import INDEX
from toxfusion.synthetic.cohort import Compounds
from toxfusion.synthetic.settings import REALISTIC, SETTINGS

COMPONENTS: tuple[str, ...] = (
    "slide_severity",
    "expression_hazard",
    "hypertrophy_with_oxidative_stress",
    "cholestasis_with_er_stress",
    "lesion_meets_stress",
)
"""A5 and A7 lesions; the A11 and half of the A9 programme; A1 lesions x A9 programme; A7 lesions x A11 programme; and
A5 or A7 lesions x A11 programme, each within 0..1 and about its mean: alone either is borne, together they are not."""


def components(compounds: Compounds, setting: str = REALISTIC.name) -> np.ndarray:
    """float [C, 5], raw `COMPONENTS` at the high dose: log(1 + 3 x severity or activity), and products of them."""
    potency = 1.0 / (1.0 + compounds.ed50**compounds.hill)
    lesion = np.log1p(3 * compounds.slide_max * potency)
    programme = np.log1p(3 * compounds.expression_max)
    severity = (compounds.slide_max * potency)[:, [INDEX["A5"], INDEX["A7"]]].sum(1)
    borne = 1 - np.exp(-2 * np.stack([severity, compounds.expression_max[:, INDEX["A11"]]], axis=1))
    a1, a5, a7, a9, a11 = (INDEX[name] for name in ("A1", "A5", "A7", "A9", "A11"))
    return np.stack(
        [
            lesion[:, a5] + lesion[:, a7],
            0.5 * programme[:, a9] + programme[:, a11],
            lesion[:, a1] * programme[:, a9],
            lesion[:, a7] * programme[:, a11],
            (borne - SETTINGS[setting].liability.borne).prod(1),
        ],
        axis=1,
    )


def weighted_sum(compounds: Compounds, setting: str) -> np.ndarray:
    """float [C]: the weighted, standardised components."""
    of = SETTINGS[setting].liability
    return ((components(compounds, setting) - of.mean) / of.sd) @ np.array(of.weights)


def rat_liability(compounds: Compounds, setting: str) -> np.ndarray:
    """float [C]: the part of the liability that rats can show, of variance `Liability.rat`."""
    shares = SETTINGS[setting].liability
    return np.sqrt(shares.rat) * (weighted_sum(compounds, setting) - shares.centre) / shares.scale


def dili(compounds: Compounds, setting: str) -> np.ndarray:
    """bool [C]: the DILI class, liability above 0."""
    shares = SETTINGS[setting].liability
    hidden = np.sqrt(shares.exposure) * compounds.exposure
    hidden = hidden + np.sqrt(1 - shares.rat - shares.exposure) * compounds.idiosyncrasy
    return rat_liability(compounds, setting) + hidden > 0


def dili_probability(compounds: Compounds, setting: str, *, exposure: bool) -> np.ndarray:
    """float [C]: P(DILI | the rat's part of the liability), and given human exposure if ``exposure``."""
    shares = SETTINGS[setting].liability
    known = rat_liability(compounds, setting)
    unknown = 1 - shares.rat
    if exposure:
        known = known + np.sqrt(shares.exposure) * compounds.exposure
        unknown -= shares.exposure
    return norm.cdf(known / np.sqrt(unknown))
