"""What a virtual slide is asked to show and what is known about it afterwards.

Only plain dataclasses live here; tissue is built in `lobules`, `parenchyma` and `lesions`, painted in `painting`.
"""

from __future__ import annotations

from dataclasses import dataclass

PHENOTYPES: tuple[str, ...] = (
    "hypertrophy",
    "eosinophilic_change",
    "vacuolization",
    "necrosis",
    "single_cell_necrosis",
    "infiltration",
    "microgranuloma",
    "bile_duct_proliferation",
    "fibrosis",
    "anisonucleosis",
    "phospholipidosis",
    "glycogen_gain",
    "glycogen_loss",
    "mitosis",
    "edema",
    "hemorrhage",
)
"""Lesions that can be rendered; bit k of a lesion mask stands for `PHENOTYPES[k]`."""

ZONES: tuple[str, ...] = ("centrilobular", "periportal", "midzonal", "diffuse", "random", "portal")
ARTEFACTS: tuple[str, ...] = ("pen", "fold", "blur", "tear", "knife_line", "bubble", "dust", "autolysis")
MAX_SEVERITY = 4.5
MASK_MPP = 2.0
"""Resolution of lesion masks, micrometres per pixel."""


class SlideSpecError(ValueError):
    """A slide specification asks for something that does not exist; the message names the field and the value."""


@dataclass(frozen=True)
class Lesion:
    """One lesion of a slide.

    Args:
        phenotype: one of `PHENOTYPES`.
        severity: continuous, 0 (absent) to 4.5. The affected share of the target zone is 10, 30, 60 and 90 % at
            severities 1, 2, 3 and 4, so that severities in (k - 1, k] are what a reader grades k.
        zone: one of `ZONES`. "portal" means tied to portal tracts, "random" means foci anywhere.

    Raises:
        SlideSpecError: unknown phenotype or zone, or a severity outside 0 to 4.5.
    """

    phenotype: str
    severity: float
    zone: str = "diffuse"

    def __post_init__(self) -> None:
        if self.phenotype not in PHENOTYPES:
            raise SlideSpecError(
                f"Lesion.phenotype: unknown value {self.phenotype!r}; use one of {', '.join(PHENOTYPES)}"
            )
        if self.zone not in ZONES:
            raise SlideSpecError(f"Lesion.zone: unknown value {self.zone!r}; use one of {', '.join(ZONES)}")
        if not 0.0 <= self.severity <= MAX_SEVERITY:
            raise SlideSpecError(f"Lesion.severity: {self.severity!r} is outside 0 to {MAX_SEVERITY}")


@dataclass(frozen=True)
class Stain:
    """How a laboratory and its scanner turn tissue into colour.

    Args:
        hematoxylin: optical density (base 10) per unit of haematoxylin in R, G, B; scaled to unit length on use.
            The default is fitted to nuclei of photographs of rat liver; it lies within 1.3 standard deviations of
            their mean Macenko vector (.49, .74, .45; SD .07, .05, .09).
        eosin: the same for eosin. The default is fitted to cytoplasm of the least affected photographs (densities
            .06, .20, .09); their Macenko vector (.34, .87, .34) still holds haematoxylin.
        h_strength: factor on haematoxylin, log-SD between laboratories about 0.15.
        e_strength: factor on eosin, log-SD about 0.10.
        thickness: section thickness relative to 4 um; a factor on every optical density.
        gamma: exponent of the scanner's transfer curve, about 0.9 to 1.1.
        white: grey value of empty glass, about 238 to 250.
        jpeg_quality: 1 to 100.
        blur_um: standard deviation of the point spread function in um.
    """

    hematoxylin: tuple[float, float, float] = (0.51, 0.79, 0.34)
    eosin: tuple[float, float, float] = (0.22, 0.89, 0.39)
    h_strength: float = 1.0
    e_strength: float = 1.0
    thickness: float = 1.0
    gamma: float = 1.0
    white: float = 248.0
    jpeg_quality: int = 82
    blur_um: float = 0.28

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 100:
            raise SlideSpecError(f"Stain.jpeg_quality: {self.jpeg_quality!r} is outside 1 to 100")
        for name in ("h_strength", "e_strength", "thickness", "gamma"):
            if getattr(self, name) <= 0:
                raise SlideSpecError(f"Stain.{name}: {getattr(self, name)!r} must be above 0")


@dataclass(frozen=True)
class SlideSpec:
    """A slide as a pure function of its fields: equal specs give equal pixels.

    Args:
        slide_id: name, not used for drawing.
        seed: decides tissue outline, lobules, cells and foci.
        width, height: level-0 size in pixels, at least 64.
        mpp: um per level-0 pixel.
        lesions: at most one per phenotype.
        stain: colour and optics.
        artefacts: names out of `ARTEFACTS`.
        contrast: exponent on how much lesions change the look of a cell.
        abundance: factor on numbers of foci and ducts, its third power on single cells, its root on widths of bands.
        animals: factor on what differs between animals without a lesion: glycogen of the fed state, blood.

    Raises:
        SlideSpecError: bad size or mpp, a phenotype given twice, an unknown artefact.
    """

    slide_id: str
    seed: int
    width: int
    height: int
    mpp: float = 0.5
    lesions: tuple[Lesion, ...] = ()
    stain: Stain = Stain()
    artefacts: tuple[str, ...] = ()
    contrast: float = 1.0
    abundance: float = 1.0
    animals: float = 1.0

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 64:
            raise SlideSpecError(f"SlideSpec.width, height: {self.width} x {self.height} px is under 64 px")
        if not 0.1 <= self.mpp <= 2.0:
            raise SlideSpecError(f"SlideSpec.mpp: {self.mpp!r} um per px is outside 0.1 to 2.0")
        for name in ("contrast", "abundance", "animals"):
            if getattr(self, name) < 0:
                raise SlideSpecError(f"SlideSpec.{name}: {getattr(self, name)!r} is under 0")
        names = [lesion.phenotype for lesion in self.lesions]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise SlideSpecError(
                f"SlideSpec.lesions: {doubled[0]!r} is given twice; merge it into one lesion"
            )
        for artefact in self.artefacts:
            if artefact not in ARTEFACTS:
                raise SlideSpecError(
                    f"SlideSpec.artefacts: unknown value {artefact!r}; use one of {', '.join(ARTEFACTS)}"
                )

    def severity(self, phenotype: str) -> float:
        """Severity of a phenotype on this slide, 0 when it is absent."""
        return next((lesion.severity for lesion in self.lesions if lesion.phenotype == phenotype), 0.0)


@dataclass(frozen=True)
class SlideTruth:
    """What is known of a rendered slide.

    Args:
        slide_id: of the spec.
        area_fraction: per phenotype of `PHENOTYPES`, share of the tissue area that the mask marks.
        tissue_fraction: share of the field of view that is tissue (vessel lumens included).
        n_hepatocyte_nuclei: nuclei of hepatocytes drawn inside the field of view.
        n_other_nuclei: all other nuclei drawn inside the field of view.
        mask_mpp: um per mask pixel.
    """

    slide_id: str
    area_fraction: dict[str, float]
    tissue_fraction: float
    n_hepatocyte_nuclei: int
    n_other_nuclei: int
    mask_mpp: float = MASK_MPP
