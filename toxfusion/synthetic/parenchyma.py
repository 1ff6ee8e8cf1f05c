"""Hepatocytes: where they stand, which cord they belong to, and what the slide's lesions make of each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from toxfusion.synthetic.lesions import Stroma, bit_of, by_severity, in_target_zone, plan_cell_lesion
from toxfusion.synthetic.lobules import Lobules, Points
from toxfusion.synthetic.noise import FloatArray
from toxfusion.synthetic.slide_spec import Lesion, SlideSpec, SlideSpecError

PACKING = 0.70
"""Cells of a saturated random packing with exclusion radius r: about PACKING / r^2 per unit area."""
AREA_UM2 = (358.0, 294.0)
"""Section area of a hepatocyte territory at the central vein and at the portal tract (sinusoid share included)."""
CANDIDATES_PER_MM2 = 14_000
REACH_UM = 40.0
FED, BLOOD = (1.6, 3.0), (1.3, 4.0)
"""Beta distributions over animals: share of the fed state's glycogen, and of blood in the sinusoids."""
CORD_PER_MM2 = 430
CORD_STRETCH = 8.0
CORD_REACH_UM = 110.0


@dataclass
class Hepatocytes:
    """One row per hepatocyte; every array has length n.

    Args:
        centre: um [n, 2].
        cord: index of the cord.
        zone: 0 central to 1 portal.
        size: linear scale against a normal cell.
        eosin, basophil: factors on cytoplasmic eosin and on haematophil clumps.
        granule: 0 to 1, red granularity.
        glycogen: 0 to 1, share of clear lace.
        foam: 0 to 1, fine grey vacuoles of phospholipidosis.
        micro: 0 to 1, microvesicular lipid.
        macro: expected macrovesicular lipid droplets in the section.
        macro_um: their median diameter.
        nucleus: linear scale of the nucleus.
        nucleus_spread: log-SD of nuclear size.
        open_sinusoid: factor on sinusoid width.
        blood: 0 to 1, erythrocytes around the cell.
        necrotic, apoptotic, mitotic: bool.
        bits: uint16 lesion bits.
    """

    centre: Points
    cord: NDArray[np.int64]
    zone: FloatArray
    size: FloatArray
    eosin: FloatArray
    basophil: FloatArray
    granule: FloatArray
    glycogen: FloatArray
    foam: FloatArray
    micro: FloatArray
    macro: FloatArray
    macro_um: FloatArray
    nucleus: FloatArray
    nucleus_spread: FloatArray
    open_sinusoid: FloatArray
    blood: FloatArray
    necrotic: NDArray[np.bool_]
    apoptotic: NDArray[np.bool_]
    mitotic: NDArray[np.bool_]
    bits: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.centre)


CELL_PHENOTYPES = (
    "hypertrophy",
    "eosinophilic_change",
    "vacuolization",
    "necrosis",
    "anisonucleosis",
    "phospholipidosis",
    "glycogen_gain",
    "glycogen_loss",
    "hemorrhage",
)
APOPTOTIC_PER_MM2 = (0.0, 3.0, 10.0, 30.0, 70.0, 100.0)
MITOSES_PER_MM2 = (0.05, 2.0, 5.0, 15.0, 28.0, 36.0)
AREA_FACTOR = (1.0, 1.15, 1.3, 1.5, 1.8, 1.9)


def build_hepatocytes(spec: SlideSpec, lobules: Lobules, stroma: Stroma) -> Hepatocytes:
    """Place the hepatocytes of a slide and apply its lesions to them.

    Raises:
        SlideSpecError: the slide is so small that none has room.
    """
    rng = np.random.default_rng([spec.seed, 41])
    width_um, height_um = spec.width * spec.mpp, spec.height * spec.mpp
    count = int((width_um + 2 * REACH_UM) * (height_um + 2 * REACH_UM) * 1e-6 * CANDIDATES_PER_MM2)
    points = rng.uniform([-REACH_UM, -REACH_UM], [width_um + REACH_UM, height_um + REACH_UM], (count, 2))
    free = (lobules.sample(stroma.depth, points) < -4) & (lobules.sample(lobules.central, points) > 5)
    free &= lobules.sample(lobules.tissue, points) > 2
    points = points[free]
    if not len(points):
        raise SlideSpecError(
            f"a slide of {spec.width} x {spec.height} px at {spec.mpp:g} um/px has no room for a hepatocyte; "
            "give a larger slide_px"
        )
    zone = lobules.sample(lobules.zone, points)
    affected = {
        lesion.phenotype: _affected(spec, lobules, lesion, points)
        for lesion in spec.lesions
        if lesion.phenotype in CELL_PHENOTYPES and lesion.severity > 0
    }
    area = AREA_UM2[0] + (AREA_UM2[1] - AREA_UM2[0]) * zone
    for phenotype, hit in affected.items():
        factor = _area_factor(phenotype, spec.severity(phenotype)) ** spec.contrast
        area = area * np.where(hit, factor, 1.0)
    chosen = _random_packing(points, np.sqrt(PACKING * area))
    cells = _normal_cells(spec, points[chosen], zone[chosen])
    cells.size[:] = np.sqrt(area[chosen] / np.mean(AREA_UM2))
    cells.cord[:] = _cords(rng, spec, lobules, cells.centre)
    for phenotype, hit in affected.items():
        _apply(cells, hit[chosen], phenotype, spec.severity(phenotype), spec.contrast, rng)
    _single_cells(spec, lobules, cells)
    return cells


def _affected(spec: SlideSpec, lobules: Lobules, lesion: Lesion, points: Points) -> NDArray[np.bool_]:
    """Which places a lesion affects: the best-scoring share of its target zone."""
    plan = plan_cell_lesion(spec, lobules, lesion)
    rng = np.random.default_rng([spec.seed, 43, bit_of(lesion.phenotype)])
    score = lobules.sample(plan.score, points) + plan.jitter * rng.standard_normal(len(points)).astype(
        np.float32
    )
    target = lobules.sample(plan.target.astype(np.float32), points) > 0.5
    if not target.any() or plan.extent <= 0:
        return np.zeros(len(points), bool)
    threshold = np.quantile(score[target], 1 - plan.extent)
    return target & (score >= threshold)


def _area_factor(phenotype: str, severity: float) -> float:
    if phenotype == "hypertrophy":
        return by_severity(severity, AREA_FACTOR)
    if phenotype == "eosinophilic_change":
        return by_severity(severity, (1.0, 1.03, 1.08, 1.15, 1.25, 1.3))
    if phenotype == "glycogen_gain":
        return by_severity(severity, (1.0, 1.06, 1.12, 1.2, 1.3, 1.3))
    if phenotype == "glycogen_loss":
        return by_severity(severity, (1.0, 0.96, 0.92, 0.88, 0.84, 0.83))
    if phenotype == "vacuolization":
        return by_severity(severity, (1.0, 1.03, 1.07, 1.15, 1.25, 1.3))
    return 1.0


def _random_packing(points: Points, radius: FloatArray) -> NDArray[np.int64]:
    """Greedy packing: a point stays if no earlier point within the mean of their radii stays; indices kept."""
    pairs = cKDTree(points).query_pairs(float(radius.max()), output_type="ndarray")
    first, second = np.ascontiguousarray(pairs.T)  # the first of a pair is the earlier point
    x, y = np.ascontiguousarray(points.T)
    gap2 = (x[first] - x[second]) ** 2 + (y[first] - y[second]) ** 2
    near = gap2 < (0.5 * (radius[first] + radius[second])) ** 2
    first, second = first[near], second[near]
    undecided = np.ones(len(points), bool)
    kept = np.zeros(len(points), bool)
    while undecided.any():
        blocked = np.zeros(len(points), bool)
        blocked[second] = True
        winners = undecided & ~blocked
        kept |= winners
        undecided &= ~winners
        losers = second[winners[first]]
        undecided[losers] = False
        live = undecided[first] & undecided[second]
        first, second = first[live], second[live]
    return np.flatnonzero(kept)


def _cords(rng: np.random.Generator, spec: SlideSpec, lobules: Lobules, centre: Points) -> NDArray[np.int64]:
    """Group cells into cords: nearest of scattered seeds, in a metric stretched along the lobule's radius."""
    width_um, height_um = spec.width * spec.mpp, spec.height * spec.mpp
    low, high = -CORD_REACH_UM, np.array([width_um, height_um]) + CORD_REACH_UM
    count = int(np.prod(high - low) * 1e-6 * CORD_PER_MM2)
    seeds = rng.uniform(low, high, (count, 2))
    axis = np.stack([lobules.sample(lobules.axis_x, seeds), lobules.sample(lobules.axis_y, seeds)], axis=1)
    _, near = cKDTree(seeds).query(centre, k=min(24, count))
    offset = centre[:, None, :] - seeds[near]
    along = (offset * axis[near]).sum(-1)
    across2 = (offset**2).sum(-1) - along**2
    best = np.argmin((along / CORD_STRETCH) ** 2 + across2, axis=1)
    return near[np.arange(len(centre)), best]


def _normal_cells(spec: SlideSpec, centre: Points, zone: FloatArray) -> Hepatocytes:
    """Hepatocytes of a healthy rat: portal cells a little bluer, central ones pinker; fed state differs by animal."""
    rng = np.random.default_rng([spec.seed, 47])
    n = len(centre)
    fed = FED[0] / sum(FED) + spec.animals * (rng.beta(*FED) - FED[0] / sum(FED))
    blood = BLOOD[0] / sum(BLOOD) + spec.animals * (rng.beta(*BLOOD) - BLOOD[0] / sum(BLOOD))
    one = np.ones(n, np.float32)
    return Hepatocytes(
        centre=centre,
        cord=np.zeros(n, np.int64),
        zone=zone,
        size=one.copy(),
        eosin=((1.05 - 0.09 * zone) * np.exp(rng.normal(0, 0.10, n))).astype(np.float32),
        basophil=((0.85 + 0.3 * zone) * np.exp(rng.normal(0, 0.25, n))).astype(np.float32),
        granule=0.12 * one,
        glycogen=np.clip(fed * (0.55 + 0.25 * zone) + rng.normal(0, 0.06, n), 0, 1).astype(np.float32),
        foam=0 * one,
        micro=0 * one,
        macro=0.004 * one,
        macro_um=4.0 * one,
        nucleus=one.copy(),
        nucleus_spread=0.05 * one,
        open_sinusoid=(1.1 - 0.25 * zone) * np.float32(rng.uniform(0.8, 1.15)),
        blood=np.full(n, blood, np.float32),
        necrotic=np.zeros(n, bool),
        apoptotic=np.zeros(n, bool),
        mitotic=np.zeros(n, bool),
        bits=np.zeros(n, np.uint16),
    )


def _apply(
    cells: Hepatocytes,
    hit: NDArray[np.bool_],
    phenotype: str,
    severity: float,
    contrast: float,
    rng: np.random.Generator,
) -> None:
    """Change the affected cells in place: by factors to the power of the contrast, up to levels times the contrast."""
    n = int(hit.sum())
    cells.bits[hit] |= np.uint16(bit_of(phenotype))

    def scale(values: FloatArray, factors: tuple[float, ...] | float) -> None:
        factor = by_severity(severity, factors) if isinstance(factors, tuple) else factors
        values[hit] *= factor**contrast

    def level(levels: tuple[float, ...], most: float = 1.0) -> float:
        return min(by_severity(severity, levels) * contrast, most)

    if phenotype == "hypertrophy":
        scale(cells.eosin, (1.0, 0.95, 0.91, 0.87, 0.84, 0.82))
        scale(cells.basophil, (1.0, 0.7, 0.5, 0.35, 0.25, 0.2))
        scale(cells.glycogen, 0.5)
        scale(cells.open_sinusoid, (1.0, 0.8, 0.7, 0.6, 0.5, 0.45))
        scale(cells.nucleus, 1.06)
    elif phenotype == "eosinophilic_change":
        scale(cells.eosin, (1.0, 1.14, 1.2, 1.27, 1.34, 1.36))
        cells.granule[hit] = np.maximum(cells.granule[hit], level((0.1, 0.55, 0.7, 0.85, 1, 1), 1.5))
        scale(cells.basophil, 0.6)
        scale(cells.glycogen, 0.15)
    elif phenotype == "vacuolization":
        foamy = rng.random(n) < 0.25
        cells.micro[hit] = np.where(foamy, level((0, 0.45, 0.6, 0.75, 0.85, 0.9)), 0.1)
        cells.macro[hit] = level((0, 0.65, 0.75, 0.85, 1.0, 1.1), 3.0)
        cells.macro_um[hit] = by_severity(severity, (4, 5.6, 6.2, 7.2, 11.0, 12.0))
        scale(cells.basophil, 0.85)
    elif phenotype == "necrosis":
        cells.necrotic[hit] = True
        scale(cells.eosin, 1.3)
        cells.eosin[hit] *= np.exp(rng.normal(0, 0.1, n))
        scale(cells.basophil, 0.15)
        scale(cells.glycogen, 0.2)
        scale(cells.open_sinusoid, 2.0)
        cells.blood[hit] = np.maximum(cells.blood[hit], 0.55)
    elif phenotype == "anisonucleosis":
        scale(cells.nucleus, (1.0, 1.1, 1.2, 1.35, 1.5, 1.55))
        cells.nucleus_spread[hit] = level((0.05, 0.14, 0.2, 0.26, 0.3, 0.32), 0.45)
    elif phenotype == "phospholipidosis":
        cells.foam[hit] = level((0, 0.5, 0.65, 0.8, 0.95, 1.0), 1.2)
        scale(cells.basophil, 1.2)
        scale(cells.glycogen, 0.4)
    elif phenotype == "glycogen_gain":
        cells.glycogen[hit] = np.maximum(cells.glycogen[hit], level((0, 0.62, 0.74, 0.86, 0.95, 1.0), 1.1))
    elif phenotype == "glycogen_loss":
        cells.glycogen[hit] = 0.0
        scale(cells.eosin, (1.0, 1.03, 1.06, 1.1, 1.14, 1.15))
        scale(cells.basophil, 1.15)
    elif phenotype == "hemorrhage":
        cells.blood[hit] = 1.0
        scale(cells.open_sinusoid, (1.0, 1.4, 1.7, 2.1, 2.5, 2.6))


def _single_cells(spec: SlideSpec, lobules: Lobules, cells: Hepatocytes) -> None:
    """Apoptotic and mitotic cells: scattered, by number per mm2 of the target zone."""
    portal = lobules.sample(lobules.portal, cells.centre)
    area_mm2 = np.mean(AREA_UM2) * 1e-6
    inside = (cells.centre > 0).all(1) & (
        cells.centre < np.array([spec.width, spec.height], float) * spec.mpp
    ).all(1)
    for phenotype, curve, flag in (
        ("single_cell_necrosis", APOPTOTIC_PER_MM2, cells.apoptotic),
        ("mitosis", MITOSES_PER_MM2, cells.mitotic),
    ):
        rng = np.random.default_rng([spec.seed, 53, bit_of(phenotype)])
        severity = spec.severity(phenotype)
        zone = next((item.zone for item in spec.lesions if item.phenotype == phenotype), "diffuse")
        target = np.flatnonzero(inside & ~cells.necrotic & in_target_zone(zone, cells.zone, portal))
        more = spec.abundance**3 if severity > 0 else 1.0
        expected = by_severity(severity, curve) * more * len(target) * area_mm2
        number = max(1, round(expected)) if severity > 0 else int(expected + rng.random())
        picked = target[np.argsort(rng.random(len(target)))][:number]
        flag[picked] = True
        if severity > 0:
            cells.bits[picked] |= np.uint16(bit_of(phenotype))
