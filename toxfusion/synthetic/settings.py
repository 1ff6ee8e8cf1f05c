"""The two settings of the virtual study: a positive control, and one as hard as real studies are found to be.

`control` asks whether a method finds what is there: lesions as plain as in an atlas, doses that reach them, little
nuisance, and DILI that needs both modalities. `realistic` says nothing easier than the reference does. What a setting
changes is here and nowhere else; the rest of the generator is common to both.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Liability:
    """What makes the DILI of a compound: shares of the variance of its liability; the rest is idiosyncrasy.

    Args:
        weights: of the standardised components (`liability.COMPONENTS`), relative to each other.
        rat: share of their sum, which rats can show; exposure: of human dose and exposure, which no rat shows.
        centre: of the weighted sum, so that half of the population has DILI; scale: its SD in the population.
        borne: mean of lesions and of stress within 0..1, about which the fifth component takes them.
        mean, sd: of the raw components in the population. Constants, those of 40,000 compounds
            (`liability.components`), so that a compound's label does not depend on the cohort it is in.
    """

    weights: tuple[float, ...]
    rat: float
    exposure: float
    centre: float
    scale: float
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    borne: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Setting:
    """How hard a virtual study is.

    Args:
        name: of the setting; it is part of the study's name, unless it is realistic.
        liability: see `Liability`.
        severity_median: of the lesion of an axis at a saturating dose.
        log_ed50: mean and SD of log(ED50 / high dose) over compounds: how many doses reach their lesions.
        hill: range of the slopes of dose and response.
        extra_axes: chances that a compound loads on 0, 1, 2 or 3 axes beside its main one.
        share: of compounds that load on an axis, in place of `axes.Axis.share`.
        silent: shares of the compounds in which the programme of an axis is silent, so that only slides show it.
        silent_size: what is left of a silent programme.
        background: factor on the physiological variation that control and treated slides share.
        contrast: exponent on how much a lesion changes the look of a cell.
        abundance: factor on numbers of foci and ducts, and more so of single dead or dividing cells.
        animals: factor on differences between animals that are no lesion: glycogen of the fed state, blood.
        stain: factor on differences of stain between batches and slides.
        artefacts: factor on the rates of artefacts.
    """

    name: str
    liability: Liability
    severity_median: float = 1.75
    log_ed50: tuple[float, float] = (0.50, 1.7)
    hill: tuple[float, float] = (1.0, 2.5)
    extra_axes: tuple[float, float, float, float] = (0.20, 0.33, 0.30, 0.17)
    share: dict[str, float] = field(default_factory=dict)
    silent: dict[str, float] = field(default_factory=lambda: {"A5": 0.30, "A7": 0.30})
    silent_size: float = 0.1
    background: float = 1.0
    contrast: float = 1.0
    abundance: float = 1.0
    animals: float = 1.0
    stain: float = 1.0
    artefacts: float = 1.0


REALISTIC = Setting(
    "realistic",
    Liability(
        weights=(0.9, 0.9, 0.8, 0.35, 0.0),
        rat=0.135,
        exposure=0.09,
        centre=-0.0635,
        scale=1.7444,
        mean=(0.4013, 0.3348, 0.1423, 0.0245, 0.0),
        sd=(0.6949, 0.5300, 0.5117, 0.2219, 1.0),
    ),
    # At 1 a frozen encoder's probe of slides stays at 0.55, far below the 0.80 to 0.90 of real sections.
    contrast=2.0,
)
CONTROL = Setting(
    "control",
    # Lesions of A5 and A7, silent in expression here, and the programme of A11, which no slide shows, are each borne
    # alone; together they injure.
    Liability(
        weights=(0.55, 0.55, 0.0, 0.0, 0.7),
        rat=0.80,
        exposure=0.0,
        centre=-0.3094,
        scale=1.0770,
        mean=(1.3092, 0.5533, 0.1011, 0.3008, 0.0176),
        sd=(1.3260, 0.6715, 0.5311, 0.8994, 0.1854),
        borne=(0.5392, 0.2780),
    ),
    severity_median=2.6,
    # Steep, between the low and the middle dose at 29 days: either a rat has the lesion, or it has not.
    log_ed50=(-0.8, 0.35),
    hill=(3.0, 5.0),
    extra_axes=(0.05, 0.35, 0.40, 0.20),
    # Every lesion in enough of a few dozen compounds.
    share={
        "A1": 0.3, "A2": 0.15, "A4": 0.25, "A5": 0.5, "A6": 0.25, "A7": 0.4, "A8": 0.15, "A10": 0.2, "A11": 0.9,
        "A12": 0.12,
    },
    silent={"A5": 1.0, "A7": 1.0},
    silent_size=0.0,
    background=0.15,
    contrast=4.0,
    abundance=4.0,
    animals=0.1,
    stain=0.15,
    artefacts=0.1,
)  # fmt: skip
SETTINGS: dict[str, Setting] = {setting.name: setting for setting in (REALISTIC, CONTROL)}
