"""Where lesions lie: target zones, affected extent, foci, and connective tissue that displaces hepatocytes.

How a lesion changes a hepatocyte is in `parenchyma`; which nuclei and vacuoles it adds is in `objects`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from toxfusion.synthetic.lobules import GRID_UM, RIM_UM, Lobules, Points, Vessels, signed_distance
from toxfusion.synthetic.noise import FloatArray, smooth_field
from toxfusion.synthetic.slide_spec import PHENOTYPES, Lesion, SlideSpec

SEVERITY_KNOTS = (0.0, 1.0, 2.0, 3.0, 4.0, 4.5)
EXTENT_KNOTS = (0.0, 0.10, 0.30, 0.60, 0.90, 1.0)
FOCI_PER_MM2 = (0.0, 1.0, 3.0, 8.0, 14.0, 18.0)
DUCTS_PER_TRACT = (1.3, 2.5, 4.5, 9.0, 15.0, 18.0)
FIBROSIS_WIDTH_UM = (0.0, 12.0, 26.0, 50.0, 85.0, 100.0)
EDEMA_WIDTH_UM = (0.0, 18.0, 32.0, 48.0, 62.0, 70.0)
CENTRILOBULAR_BELOW = 0.42
PERIPORTAL_ABOVE = 0.58
MIDZONAL = (0.33, 0.67)
PORTAL_REACH_UM = 110.0

Mask = NDArray[np.bool_]


def by_severity(severity: float, values: tuple[float, ...]) -> float:
    """Linear interpolation of a quantity given at severities 0, 1, 2, 3, 4 and 4.5."""
    return float(np.interp(severity, SEVERITY_KNOTS, values))


def bit_of(phenotype: str) -> int:
    """Value of a phenotype's bit in lesion masks."""
    return 1 << PHENOTYPES.index(phenotype)


def in_target_zone(zone: str, coordinate: FloatArray, portal: FloatArray) -> Mask:
    """Whether places belong to a target zone.

    Args:
        zone: one of `slide_spec.ZONES`.
        coordinate: zone coordinate, 0 central to 1 portal, any shape.
        portal: distance to the nearest portal tract in um, same shape.
    """
    if zone == "centrilobular":
        return coordinate < CENTRILOBULAR_BELOW
    if zone == "periportal":
        return coordinate > PERIPORTAL_ABOVE
    if zone == "midzonal":
        return (coordinate >= MIDZONAL[0]) & (coordinate <= MIDZONAL[1])
    if zone == "portal":
        return portal < PORTAL_REACH_UM
    return np.ones(coordinate.shape, bool)


@dataclass(frozen=True)
class CellLesion:
    """A lesion of hepatocytes: cells whose score reaches a threshold are affected.

    Args:
        lesion: its specification.
        score: coarse field in um-like units, higher is affected first.
        target: coarse mask of the target zone.
        jitter: standard deviation of the score between neighbouring cells.
        extent: share of the target zone to affect.
    """

    lesion: Lesion
    score: FloatArray
    target: Mask
    jitter: float
    extent: float


def plan_cell_lesion(spec: SlideSpec, lobules: Lobules, lesion: Lesion) -> CellLesion:
    """Score field of one lesion; depends on seed, phenotype and zone but not on severity, so that extents nest."""
    rng = np.random.default_rng([spec.seed, 23, PHENOTYPES.index(lesion.phenotype)])
    shape = lobules.zone.shape
    patches = smooth_field(rng, shape, 45 / GRID_UM)
    per_lobule = smooth_field(rng, shape, 220 / GRID_UM)
    reader = float(rng.uniform(0.75, 1.25))
    if lesion.zone == "centrilobular":
        score = -lobules.zone * 300 + 18 * patches + 22 * per_lobule
    elif lesion.zone in ("periportal", "portal"):
        score = lobules.zone * 300 + 18 * patches + 22 * per_lobule
    elif lesion.zone == "midzonal":
        score = -np.abs(lobules.zone - 0.5) * 300 + 18 * patches + 22 * per_lobule
    elif lesion.zone == "random":
        score = 60 * patches
    else:
        score = 25 * patches + 35 * per_lobule - 20 * lobules.zone
    jitter = 8.0 if lesion.phenotype == "necrosis" else 26.0
    return CellLesion(
        lesion,
        score.astype(np.float32),
        in_target_zone(lesion.zone, lobules.zone, lobules.portal),
        jitter,
        float(np.clip(by_severity(lesion.severity, EXTENT_KNOTS) * reader, 0, 1)),
    )


@dataclass(frozen=True)
class Foci:
    """Round clusters of cells: centres (um) [n, 2], radii (um) [n]."""

    centre: Points
    radius: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.radius)


def place_foci(spec: SlideSpec, lobules: Lobules, lesion: Lesion) -> Foci:
    """Foci of an inflammatory lesion: a seeded list whose first part is used, so that higher severities add foci.

    Their number per mm2 of tissue follows 0.2-1, 1-3, 3-8, >8 for grades 1 to 4, with at least one.
    """
    rng = np.random.default_rng([spec.seed, 29, PHENOTYPES.index(lesion.phenotype)])
    width_um, height_um = spec.width * spec.mpp, spec.height * spec.mpp
    area_mm2 = float((lobules.tissue > 0).sum()) * (GRID_UM / 1000) ** 2
    wanted = max(
        1,
        int(
            np.ceil(
                by_severity(lesion.severity, FOCI_PER_MM2) * spec.abundance * area_mm2 * rng.uniform(0.7, 1.2)
            )
        ),
    )
    pool = int(40 * 18 * max(area_mm2, 0.05)) + 400
    points = rng.uniform([0, 0], [width_um, height_um], (pool, 2))
    if lesion.zone == "portal":
        tracts = lobules.tracts
        pick = rng.integers(len(tracts), size=pool)
        points = tracts.centre[pick] + rng.normal(0, 1, (pool, 2)) * tracts.half_axes[pick] * 0.6
    sizes = rng.gamma(6.0, 1 / 6.0, pool)
    tissue, portal = lobules.sample(lobules.tissue, points), lobules.sample(lobules.portal, points)
    coordinate = lobules.sample(lobules.zone, points)
    shown = ((points > 15) & (points < np.array([width_um, height_um]) - 15)).all(1)
    shown &= (tissue > 20) & (lobules.sample(lobules.lumen, points) < -10)
    ok = shown & (tissue > 35) & in_target_zone(lesion.zone, coordinate, portal)
    ok &= lobules.sample(lobules.lumen, points) < -14
    if lesion.zone == "periportal":
        ok &= portal < 70
    if lesion.zone == "centrilobular":
        ok &= lobules.sample(lobules.central, points) < 70
    if not ok.any():  # a small slide may show no place of this zone; the lesion is drawn all the same
        ok = shown
    points, sizes = points[ok][:wanted], sizes[ok][:wanted]
    base = 13.0 if lesion.phenotype == "microgranuloma" else 29.0
    growth = 1 + 0.16 * lesion.severity
    return Foci(points, np.clip(base * sizes * growth * spec.abundance**0.5, 12, 110))


@dataclass(frozen=True)
class Stroma:
    """Connective tissue and infiltrates on the coarse grid of `Lobules`.

    Args:
        depth: signed distance in um, positive where hepatocytes are displaced.
        pallor: 0 for fibrous tissue, 1 for clear oedema.
        cellular: share of the matrix hidden by inflammatory cells, 0 to 1.
        bits: uint16, lesion bits of these places.
        foci: per phenotype, the foci drawn.
    """

    depth: FloatArray
    pallor: FloatArray
    cellular: FloatArray
    bits: NDArray[np.uint16]
    foci: dict[str, Foci]


def build_stroma(spec: SlideSpec, lobules: Lobules) -> Stroma:
    """Portal tracts, widened by oedema, ducts, fibrosis and infiltrates of this slide."""
    rng = np.random.default_rng([spec.seed, 31])
    shape = lobules.zone.shape
    ragged = smooth_field(rng, shape, 10 / GRID_UM) * 4.0
    depth = -lobules.portal
    pallor = np.full(shape, 0.12, np.float32)
    cellular = np.zeros(shape, np.float32)
    bits = np.zeros(shape, np.uint16)
    foci: dict[str, Foci] = {}
    for lesion in spec.lesions:
        if lesion.severity <= 0:
            continue
        added: FloatArray | None = None
        if lesion.phenotype == "edema":
            added = (
                by_severity(lesion.severity, EDEMA_WIDTH_UM) * 0.75 * spec.abundance**0.5
                - lobules.portal
                + 2.0 * ragged
            )
            pallor = np.where(added > 0, np.float32(min(0.95, 0.62 + 0.1 * lesion.severity)), pallor)
        elif lesion.phenotype == "bile_duct_proliferation":
            added = 7.0 * lesion.severity - lobules.portal + 1.5 * ragged
        elif lesion.phenotype == "fibrosis":
            added = _fibrosis_depth(spec, lobules, lesion) + ragged
        elif lesion.phenotype in ("infiltration", "microgranuloma"):
            foci[lesion.phenotype] = place_foci(spec, lobules, lesion)
            added = _foci_depth(shape, foci[lesion.phenotype]) + 0.8 * ragged
            dense = 1.0 if lesion.phenotype == "infiltration" else 0.6
            cellular = np.maximum(cellular, np.where(added > 0, dense, 0).astype(np.float32))
        if added is not None:
            marked = (added > 0) & (lobules.tissue > 0)
            bits |= np.where(marked, bit_of(lesion.phenotype), 0).astype(np.uint16)
            depth = np.maximum(depth, added)
    return Stroma(
        depth=depth.astype(np.float32),
        pallor=cv2.GaussianBlur(pallor, (0, 0), 1.2),
        cellular=cv2.GaussianBlur(cellular, (0, 0), 1.0),
        bits=bits,
        foci=foci,
    )


def _foci_depth(shape: tuple[int, int], foci: Foci) -> FloatArray:
    canvas = np.zeros(shape, np.uint8)
    for centre, radius in zip(foci.centre, foci.radius, strict=True):
        pixel = np.round((centre + RIM_UM) / GRID_UM * 16).astype(int)
        cv2.circle(canvas, (int(pixel[0]), int(pixel[1])), max(8, int(radius / GRID_UM * 16)), 1, -1, shift=4)
    return signed_distance(canvas.astype(bool))


def _fibrosis_depth(spec: SlideSpec, lobules: Lobules, lesion: Lesion) -> FloatArray:
    """Sheath around vessels of the zone, and from severity 2 on bridges between neighbours."""
    rng = np.random.default_rng([spec.seed, 37])
    central = lesion.zone == "centrilobular"
    around = lobules.central if central else lobules.portal
    hubs: Vessels = lobules.central_veins if central else lobules.tracts
    width = by_severity(lesion.severity, FIBROSIS_WIDTH_UM) * spec.abundance**0.5
    depth = width * 0.75 - around
    if central:
        depth = np.minimum(depth, 12 + lobules.central)  # the lumen itself stays open
    share = float(np.clip((lesion.severity - 1.6) / 2.2, 0, 0.85))
    canvas = np.zeros(lobules.zone.shape, np.uint8)
    reach = CENTRAL_REACH_UM if central else PORTAL_PAIR_REACH_UM
    gaps = np.hypot(*(hubs.centre[:, None] - hubs.centre[None]).transpose(2, 0, 1))
    first, second = np.nonzero(np.triu((gaps > 0) & (gaps < reach)))
    drawn = rng.random(len(first)) < share
    bend = rng.normal(0, 0.12, (len(first), 2))
    for i, j, used, bow in zip(first, second, drawn, bend, strict=True):
        if not used:
            continue
        a, b = hubs.centre[i], hubs.centre[j]
        t = np.linspace(0, 1, 24)[:, None]
        sideways = np.array([-(b - a)[1], (b - a)[0]])
        path = (
            a + t * (b - a) + sideways * (bow[0] * np.sin(np.pi * t) + 0.4 * bow[1] * np.sin(3 * np.pi * t))
        )
        cv2.polylines(
            canvas, [np.round((path + RIM_UM) / GRID_UM * 16).astype(np.int32)], False, 1, 1, shift=4
        )
    if canvas.any():
        depth = np.maximum(depth, signed_distance(canvas.astype(bool)) + 0.32 * width)
    return depth.astype(np.float32)


CENTRAL_REACH_UM = 760.0
PORTAL_PAIR_REACH_UM = 520.0
