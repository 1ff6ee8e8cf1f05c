"""What readers and the clinical laboratory report: graded findings, injury of dose groups, serum chemistry.

The latents behind them live in `cohort`; the compound's DILI label, in `liability`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toxfusion.synthetic.axes import INDEX
from toxfusion.synthetic.cohort import (
    ANIMAL_SD,
    DIFFUSE_PIECE_SD,
    FOCAL_PHENOTYPES,
    FOCAL_PIECE_SD,
    PHENOTYPE_INDEX,
    RATS_PER_GROUP,
    Compounds,
    Latents,
)
from toxfusion.synthetic.randomness import stream
from toxfusion.synthetic.slide_spec import PHENOTYPES

TERMS: dict[str, tuple[str, ...]] = {
    "Hypertrophy": ("hypertrophy",),
    "Necrosis": ("necrosis",),
    "Cellular infiltration": ("infiltration",),
    "Microgranuloma": ("microgranuloma",),
    "Single cell necrosis": ("single_cell_necrosis",),
    "Increased mitosis": ("mitosis",),
    "Change, eosinophilic": ("eosinophilic_change",),
    "Degeneration, granular, eosinophilic": ("eosinophilic_change",),
    "Vacuolization, cytoplasmic": ("vacuolization", "phospholipidosis"),
    "Proliferation, bile duct": ("bile_duct_proliferation",),
    "Edema": ("edema",),
    "Fibrosis": ("fibrosis",),
    "Deposit, glycogen": ("glycogen_gain",),
    "Alteration, nuclear": ("anisonucleosis",),
    "Hemorrhage": ("hemorrhage",),
}
"""Finding terms of TG-GATEs and the phenotypes a reader reports under them; glycogen loss has no term."""

DETECTION = 0.40
MINIMAL_REPORTED = 0.85
READING_SD = 0.20
INJURED_RATS = 2

ANALYTES: tuple[str, ...] = ("ALT", "AST", "ALP", "TBIL", "TG", "liver_weight_pct")
MEDIAN = {"ALT": 37.0, "AST": 68.0, "ALP": 1210.0, "TBIL": 0.07, "TG": 87.0, "liver_weight_pct": 4.48}
TOTAL_SD = {"ALT": 0.28, "AST": 0.19, "ALP": 0.51, "TBIL": 1.63, "TG": 0.83, "liver_weight_pct": 0.125}
WITHIN_SD = {"ALT": 0.21, "AST": 0.15, "ALP": 0.26, "TBIL": 0.35, "TG": 0.56, "liver_weight_pct": 0.08}
EFFECTS: dict[str, dict[str, tuple[float, ...]]] = {
    "ALT": {"necrosis": (0, 0.58, 1.96, 2.96, 3.6), "single_cell_necrosis": (0, 0.32, 0.68, 1.32, 2.4)},
    "AST": {"necrosis": (0, 0.58, 2.26, 3.66, 4.2), "single_cell_necrosis": (0, 0.3, 0.6, 1.2, 2.2)},
    "ALP": {"necrosis": (0, 0.21, 0.18, 0.09, 0.1), "bile_duct_proliferation": (0, 0.14, 0.49, 0.77, 1.0)},
    "TBIL": {"necrosis": (0, 0.58, 2.0, 2.0, 2.2), "bile_duct_proliferation": (0, 0.26, 2.46, 4.46, 5.5)},
    "TG": {"eosinophilic_change": (0, -0.4, -0.8, -1.0, -1.2), "glycogen_loss": (0, -0.2, -0.4, -0.6, -0.8)},
    "liver_weight_pct": {
        "hypertrophy": (0, 0.14, 0.22, 0.34, 0.40),
        "eosinophilic_change": (0, 0.15, 0.25, 0.40, 0.60),
    },
}
"""Median log2 change against concurrent controls without lesion and at grades 1 to 4, after the measured folds."""
GRADE_SEVERITY = (0.0, 0.35, 1.1, 2.0, 3.0)
"""Severity in the whole liver that stands for no lesion and grades 1 to 4; the worst piece that is read shows more."""
EFFECT_LOG_SD = 0.6


@dataclass(frozen=True)
class Reading:
    """A pathologist's record, arrays [..., n_terms] in the order of `TERMS`.

    Attributes:
        grade: int8 0 to 4; related: bool, a finding that is treatment-related.
    """

    grade: np.ndarray
    related: np.ndarray

    @property
    def spontaneous(self) -> np.ndarray:
        """bool: reported and not treatment-related."""
        return (self.grade > 0) & ~self.related


def read_findings(
    piece: np.ndarray,
    spontaneous: np.ndarray,
    compounds: Compounds,
    granular: np.ndarray,
    rng_normal: np.ndarray,
    rng_uniform: np.ndarray,
) -> Reading:
    """Grades a reader gives.

    Severity times the reader's gain (0.8 to 1.25, one per experiment) plus noise; severities in (k - 1, k] are
    grade k; below `DETECTION` nothing is seen, and of minimal lesions `MINIMAL_REPORTED` are reported.

    Args:
        piece: [C, T, L, 5, P] unclipped treatment-related severity in the sections read.
        spontaneous: [C, T, L, 5, P] severity of unrelated foci, 0 = none.
        compounds: for the reader of each experiment.
        granular: bool [C], eosinophilic change is reported as granular degeneration.
        rng_normal, rng_uniform: [C, T, L, 5, P] draws of the reader.
    """
    gain = compounds.reader_gain[:, None, None, None, None]
    perceived = piece * gain + READING_SD * rng_normal
    related = (perceived > DETECTION) & ((perceived > 1) | (rng_uniform < MINIMAL_REPORTED))
    reporting = compounds.reporting[:, None, None, None, None]
    foci = (spontaneous > 0) & (rng_uniform < reporting)
    severity = np.where(related, perceived, np.where(foci, spontaneous, 0.0))
    grade = np.clip(np.ceil(severity), 0, 4).astype(np.int8)
    return _by_term(grade, related, granular)


def _by_term(grade: np.ndarray, related: np.ndarray, granular: np.ndarray) -> Reading:
    grades, flags = [], []
    for term, phenotypes in TERMS.items():
        columns = [PHENOTYPE_INDEX[p] for p in phenotypes]
        named = np.ones(len(granular), bool)
        if phenotypes == ("eosinophilic_change",):
            named = granular if term.startswith("Degeneration") else ~granular
        on = named.reshape(-1, *(1,) * (grade.ndim - 2))
        grades.append(grade[..., columns].max(-1) * on)
        flags.append(related[..., columns].any(-1) & on)
    return Reading(np.stack(grades, -1), np.stack(flags, -1))


def is_granular(compounds: Compounds) -> np.ndarray:
    """bool [C]: compounds whose eosinophilic change is the granular one of PPARalpha activation."""
    return compounds.loaded[:, INDEX["A2"]]


def read_study(seed: int, compounds: Compounds, latents: Latents, times_h: Sequence[float]) -> Reading:
    """The record of the study's own reader; a rat's record depends on seed, compound, time, group and rat only."""
    shape = latents.reading.shape
    normal, uniform = np.empty(shape), np.empty(shape)
    for c, t in np.ndindex(*shape[:2]):
        rng = stream(seed, "reader", int(compounds.index[c]), round(times_h[t] * 60))
        normal[c, t], uniform[c, t] = rng.standard_normal(shape[2:]), rng.random(shape[2:])
    return read_findings(
        latents.reading, latents.spontaneous, compounds, is_granular(compounds), normal, uniform
    )


def group_injury(reading: Reading) -> np.ndarray:
    """bool [C, T, L]: at least two of the five rats of the group carry a treatment-related finding."""
    return reading.related.any(-1).sum(-1) >= INJURED_RATS


def redrawn_readings(
    compounds: Compounds, latents: Latents, rng: np.random.Generator, *, whole_group: bool
) -> Reading:
    """Another reading of the same latents: the sections and the reader are drawn anew.

    Args:
        whole_group: draw other rats of the same group severity as well.
    """
    shape = latents.reading.shape
    spread = latents.spread[..., None, :]
    animal = latents.animal
    if whole_group:
        animal = latents.group[..., None, :] + ANIMAL_SD * spread * rng.standard_normal(shape)
    piece_sd = np.where([p in FOCAL_PHENOTYPES for p in PHENOTYPES], FOCAL_PIECE_SD, DIFFUSE_PIECE_SD)
    piece = animal + piece_sd * spread * rng.standard_normal(shape)
    return read_findings(
        piece,
        latents.spontaneous,
        compounds,
        is_granular(compounds),
        rng.standard_normal(shape),
        rng.random(shape),
    )


def measure_chemistry(
    seed: int, compounds: Compounds, latents: Latents, times_h: Sequence[float]
) -> np.ndarray:
    """[C, T, L, 5, n_analytes] in the units of `MEDIAN`: an experiment's level, the rat's, and the lesions' effect."""
    shape = (*latents.animal.shape[:3], RATS_PER_GROUP, len(ANALYTES))
    total = np.array([TOTAL_SD[a] for a in ANALYTES])
    within = np.array([WITHIN_SD[a] for a in ANALYTES])
    between = np.sqrt(total**2 - within**2)
    out = np.empty(shape)
    severity = np.clip(latents.animal, 0, 4)
    for c in range(shape[0]):
        level = between * stream(seed, "laboratory", int(compounds.index[c])).standard_normal(len(ANALYTES))
        for t in range(shape[1]):
            rng = stream(seed, "chemistry", int(compounds.index[c]), round(times_h[t] * 60))
            noise = within * rng.standard_normal(shape[2:])
            scatter = np.exp(EFFECT_LOG_SD * rng.standard_normal(shape[2:]) - 0.15)
            out[c, t] = level + noise + scatter * _effect(severity[c, t])
    return np.array([MEDIAN[a] for a in ANALYTES]) * 2.0**out


def _effect(severity: np.ndarray) -> np.ndarray:
    """[..., n_analytes] median log2 change for severities [..., P]."""
    columns = []
    for analyte in ANALYTES:
        change = np.zeros(severity.shape[:-1])
        for phenotype, steps in EFFECTS[analyte].items():
            shown = np.interp(severity[..., PHENOTYPE_INDEX[phenotype]], GRADE_SEVERITY, steps)
            change = np.where(np.abs(shown) > np.abs(change), shown, change)
        columns.append(change)
    return np.stack(columns, -1)
