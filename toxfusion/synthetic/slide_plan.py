"""From latents to slide specifications: lesions, zones, stain and scanner of the batch, artefacts, size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toxfusion.synthetic.axes import AXES
from toxfusion.synthetic.cohort import Compounds, Latents
from toxfusion.synthetic.randomness import stream
from toxfusion.synthetic.settings import REALISTIC, Setting
from toxfusion.synthetic.slide_spec import MAX_SEVERITY, PHENOTYPES, Lesion, SlideSpec, Stain

LEAST_DRAWN = 0.10
SECTION_SD = 0.10
SIZE_RANGE = (0.78, 1.0)
SIZE_STEP = 64
ARTEFACT_RATES: dict[str, float] = {
    "fold": 0.10, "tear": 0.07, "knife_line": 0.05, "blur": 0.15, "pen": 0.03, "bubble": 0.02, "dust": 0.20,
    "autolysis": 0.02,
}  # fmt: skip
"""Share of slides with each artefact, alike in control and treated rats."""
SCANNERS: tuple[dict[str, float], ...] = (
    {"gamma": 1.0, "white": 246.0, "jpeg_quality": 82, "blur_um": 0.35},
    {"gamma": 0.94, "white": 241.0, "jpeg_quality": 75, "blur_um": 0.45},
    {"gamma": 1.06, "white": 249.0, "jpeg_quality": 88, "blur_um": 0.30},
)
BACKGROUND_ZONE: dict[str, str] = {
    "hypertrophy": "centrilobular",
    "mitosis": "random",
    "single_cell_necrosis": "random",
}
POINT_LIKE = frozenset(("single_cell_necrosis", "mitosis", "infiltration", "microgranuloma"))


def batch_stain(seed: int, batch: int, spread: float = 1.0) -> Stain:
    """Stain and scanner that the slides of a batch share: log-SD 0.15 of haematoxylin and 0.10 of eosin, x spread."""
    rng = stream(seed, "stain", batch)
    hematoxylin = np.array(Stain.hematoxylin) + spread * rng.normal(0, 0.02, 3)
    eosin = np.array(Stain.eosin) + spread * rng.normal(0, 0.015, 3)
    h, e, thickness = np.exp(spread * rng.normal(0, (0.15, 0.10, 0.05)))
    scanner = SCANNERS[int(rng.integers(len(SCANNERS)))]
    return Stain(
        hematoxylin=_rgb(hematoxylin),
        eosin=_rgb(eosin),
        h_strength=round(float(h), 4),
        e_strength=round(float(e), 4),
        thickness=round(float(thickness), 4),
        gamma=scanner["gamma"],
        white=scanner["white"],
        jpeg_quality=int(scanner["jpeg_quality"]),
        blur_um=scanner["blur_um"],
    )


def _rgb(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (round(float(v), 4) for v in values)
    return red, green, blue


def zones_of(compounds: Compounds, c: int) -> dict[str, str]:
    """The zone of each phenotype that the compound's axes show; the axis with the greatest severity decides."""
    zones: dict[str, tuple[float, str]] = {}
    for a, axis in enumerate(AXES):
        zone = axis.zones[int(compounds.zone[c, a])][0]
        for effect in axis.effects:
            strength = float(compounds.slide_max[c, a]) * effect.weight
            if strength > zones.get(effect.phenotype, (0.0, ""))[0]:
                zones[effect.phenotype] = (strength, _drawable_zone(effect.phenotype, zone))
    return {phenotype: zone for phenotype, (_, zone) in zones.items()}


def _drawable_zone(phenotype: str, zone: str) -> str:
    if phenotype in ("bile_duct_proliferation", "edema"):
        return "portal"
    if phenotype in POINT_LIKE and zone == "diffuse":
        return "random"
    return zone


def slide_lesions(
    compounds: Compounds, latents: Latents, rat: Sequence[int], jitter: np.ndarray
) -> tuple[Lesion, ...]:
    """Lesions on the slide of one rat.

    Args:
        rat: position in compounds, times, levels and rats.
        jitter: [P] normal draws; further sections of the piece differ by `SECTION_SD`.
    """
    place = tuple(int(v) for v in rat)
    related = latents.slide[place] + SECTION_SD * jitter * latents.spread[place[:3]]
    other = np.maximum(latents.background[place], latents.spontaneous_slide[place])
    spontaneous = latents.spontaneous_slide[place] >= latents.background[place]
    zones = zones_of(compounds, place[0])
    lesions = []
    for p, phenotype in enumerate(PHENOTYPES):
        severity = float(np.clip(max(related[p], other[p]), 0, MAX_SEVERITY))
        if severity < LEAST_DRAWN:
            continue
        if related[p] >= other[p]:
            zone = zones.get(phenotype, "diffuse")
        else:
            zone = "random" if spontaneous[p] else BACKGROUND_ZONE.get(phenotype, "diffuse")
        lesions.append(Lesion(phenotype, round(severity, 4), zone))
    return tuple(lesions)


def plan_slide(
    seed: int,
    compounds: Compounds,
    latents: Latents,
    rat: Sequence[int],
    *,
    slide_id: str,
    number: int,
    batch: int,
    time_h: float,
    size_px: int,
    mpp: float,
    setting: Setting = REALISTIC,
) -> SlideSpec:
    """The specification of one slide; size, stain and artefacts know nothing of dose or lesions.

    Args:
        number: 0 for the first slide of a rat, 1 for the second.
        size_px: largest side; each side is 78 to 100 % of it.
    """
    c, _, level, k = (int(v) for v in rat)
    rng = stream(seed, "slide", int(compounds.index[c]), round(time_h * 60), level, k, number)
    stain = batch_stain(seed, batch, setting.stain)
    sides = (rng.uniform(*SIZE_RANGE, 2) * size_px / SIZE_STEP).round().astype(int) * SIZE_STEP
    thickness = stain.thickness * float(np.exp(setting.stain * rng.normal(0, 0.06)))
    slide_seed = int(rng.integers(2**31))
    artefacts = tuple(
        name for name, rate in ARTEFACT_RATES.items() if rng.random() < setting.artefacts * rate
    )
    jitter = rng.standard_normal(len(PHENOTYPES))
    return SlideSpec(
        slide_id=slide_id,
        seed=slide_seed,
        width=max(int(sides[0]), SIZE_STEP),
        height=max(int(sides[1]), SIZE_STEP),
        mpp=mpp,
        lesions=slide_lesions(compounds, latents, rat, jitter),
        stain=Stain(**{**stain.__dict__, "thickness": round(thickness, 4)}),
        artefacts=artefacts,
        contrast=setting.contrast,
        abundance=setting.abundance,
        animals=setting.animals,
    )
