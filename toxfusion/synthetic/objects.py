"""Everything that is stamped onto a slide: nuclei of all kinds, blood cells, lipid droplets, ducts and arteries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay, QhullError

from toxfusion.synthetic.lesions import DUCTS_PER_TRACT, Stroma, by_severity
from toxfusion.synthetic.lobules import Lobules, Points
from toxfusion.synthetic.parenchyma import Hepatocytes
from toxfusion.synthetic.slide_spec import SlideSpec
from toxfusion.synthetic.sprites import ARTERY_UM, DUCT_UM, NUCLEUS_UM, VACUOLE_UM, SpriteBank

NUCLEATED = 0.65
BINUCLEATE = 0.12
PLOIDY_UM = (7.4, 9.0, 11.0)
PLOIDY_SHARE = (0.18, 0.64, 0.18)
SINUSOIDAL_PER_HEPATOCYTE = 0.225


@dataclass(frozen=True)
class Objects:
    """Stamps in drawing order: centres um [n, 2], sprite index [n], mirror code 0-3 [n].

    `hepatocyte` and `other` count the nuclei inside the field of view.
    """

    centre: Points
    sprite: NDArray[np.int64]
    mirror: NDArray[np.int64]
    hepatocyte: int
    other: int


class _Collector:
    def __init__(self, spec: SlideSpec) -> None:
        self.size = np.array([spec.width, spec.height], float) * spec.mpp
        self.centre: list[Points] = []
        self.sprite: list[NDArray[np.int64]] = []
        self.mirrored: list[NDArray[np.bool_]] = []
        self.hepatocyte = 0
        self.other = 0

    def add(self, centre: Points, sprite: NDArray[np.int64], counts: str = "", mirrored: bool = True) -> None:
        self.centre.append(centre)
        self.sprite.append(sprite)
        self.mirrored.append(np.full(len(centre), mirrored))
        inside = int(((centre >= 0) & (centre < self.size)).all(1).sum())
        if counts == "hepatocyte":
            self.hepatocyte += inside
        elif counts == "other":
            self.other += inside


def build_objects(
    spec: SlideSpec, lobules: Lobules, stroma: Stroma, cells: Hepatocytes, bank: SpriteBank
) -> Objects:
    """Collect the stamps of a slide."""
    rng = np.random.default_rng([spec.seed, 71])
    out = _Collector(spec)
    _blood(rng, spec, lobules, bank, out)
    _stroma_nuclei(rng, spec, lobules, stroma, bank, out)
    _tract_contents(rng, spec, lobules, bank, out)
    _foci_nuclei(rng, stroma, lobules, bank, out)
    _hepatocyte_nuclei(rng, cells, bank, out)
    _droplets(rng, cells, bank, out)
    _sinusoidal_nuclei(rng, cells, bank, out)
    _necrosis_inflammation(rng, cells, bank, out)
    centre = np.concatenate(out.centre)
    sprite = np.concatenate(out.sprite)
    mirror = np.where(np.concatenate(out.mirrored), rng.integers(4, size=len(sprite)), 0)
    return Objects(centre, sprite, mirror, out.hepatocyte, out.other)


def _hepatocyte_nuclei(
    rng: np.random.Generator, cells: Hepatocytes, bank: SpriteBank, out: _Collector
) -> None:
    n = len(cells)
    shown = rng.random(n) < NUCLEATED
    special = cells.apoptotic | cells.mitotic
    alive = shown & ~cells.necrotic & ~special
    ploidy = rng.choice(PLOIDY_UM, size=n, p=PLOIDY_SHARE)
    diameter = ploidy * cells.nucleus * np.exp(rng.normal(0, 1, n) * (0.07 + cells.nucleus_spread))
    twin = alive & (rng.random(n) < BINUCLEATE)
    diameter = np.where(twin, np.minimum(diameter, 8.4 * cells.nucleus), diameter)
    turn = rng.uniform(0, 2 * np.pi, n)
    away = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    centre = cells.centre + np.where(
        twin[:, None], away * diameter[:, None] * 0.56, away * rng.uniform(0, 1.6, (n, 1))
    )
    for who, place in ((alive, centre), (twin, 2 * cells.centre - centre)):
        out.add(place[who], bank.pick_sized("hepatocyte", rng, diameter[who], NUCLEUS_UM), "hepatocyte")
    dead = shown & cells.necrotic & ~special
    fate = rng.random(n)
    shrunken, fading = dead & (fate < 0.5), dead & (fate >= 0.5) & (fate < 0.85)
    out.add(centre[shrunken], bank.pick("pyknotic", rng, int(shrunken.sum())), "hepatocyte")
    out.add(centre[fading], bank.pick("ghost", rng, int(fading.sum())), "hepatocyte")
    out.add(
        cells.centre[cells.apoptotic], bank.pick("apoptotic", rng, int(cells.apoptotic.sum())), "hepatocyte"
    )
    angle = rng.uniform(0, np.pi, int(cells.mitotic.sum()))
    out.add(
        cells.centre[cells.mitotic], bank.pick_turned("mitosis", rng, angle), "hepatocyte", mirrored=False
    )


def _droplets(rng: np.random.Generator, cells: Hepatocytes, bank: SpriteBank, out: _Collector) -> None:
    """Macrovesicular lipid: droplets inside their cell, few large or several small."""
    number = rng.poisson(cells.macro)
    owner = np.repeat(np.arange(len(cells)), number)
    diameter = cells.macro_um[owner] * np.exp(rng.normal(0, 0.3, len(owner)))
    reach = np.maximum(7.5 * cells.size[owner] - diameter / 2, 0.5)
    turn, far = rng.uniform(0, 2 * np.pi, len(owner)), np.sqrt(rng.random(len(owner))) * reach
    centre = cells.centre[owner] + np.stack([np.cos(turn), np.sin(turn)], axis=1) * far[:, None]
    out.add(centre, bank.pick_sized("vacuole", rng, diameter, VACUOLE_UM))


def _sinusoidal_nuclei(
    rng: np.random.Generator, cells: Hepatocytes, bank: SpriteBank, out: _Collector
) -> None:
    """Endothelial, stellate and Kupffer nuclei: on borders between cords, along the border."""
    if len(cells) < 4:
        return
    try:
        triangles = Delaunay(cells.centre).simplices
    except QhullError as error:
        raise ValueError(f"hepatocytes: {len(cells)} centres cannot be triangulated") from error
    ends = triangles[:, [0, 1, 0]].astype(np.int64), triangles[:, [1, 2, 2]]
    a, b = np.divmod(np.unique(np.minimum(*ends) * len(cells) + np.maximum(*ends)), len(cells))
    gap = cells.centre[b] - cells.centre[a]
    length = np.hypot(*gap.T)
    border = (cells.cord[a] != cells.cord[b]) & (length < 34) & ~cells.necrotic[a]
    a, b, gap, length = a[border], b[border], gap[border], length[border]
    wanted = int(SINUSOIDAL_PER_HEPATOCYTE * len(cells))
    chosen = np.argsort(rng.random(len(a)))[:wanted]
    a, b, gap, length = a[chosen], b[chosen], gap[chosen], length[chosen]
    along = np.stack([-gap[:, 1], gap[:, 0]], axis=1) / length[:, None]
    centre = (cells.centre[a] + cells.centre[b]) / 2 + along * rng.normal(0, 3.0, (len(a), 1))
    angle = np.arctan2(along[:, 1], along[:, 0]) + rng.normal(0, 0.15, len(a))
    kupffer = rng.random(len(a)) < 0.28 + 0.12 * cells.zone[a]
    out.add(centre[~kupffer], bank.pick_turned("sinusoidal", rng, angle[~kupffer]), "other", mirrored=False)
    out.add(centre[kupffer], bank.pick_turned("kupffer", rng, angle[kupffer]), "other", mirrored=False)


def _necrosis_inflammation(
    rng: np.random.Generator, cells: Hepatocytes, bank: SpriteBank, out: _Collector
) -> None:
    """Leucocytes among necrotic cells."""
    owner = np.flatnonzero(cells.necrotic)
    owner = np.repeat(owner, rng.poisson(0.45, len(owner)))
    centre = cells.centre[owner] + rng.normal(0, 7, (len(owner), 2))
    lobed = rng.random(len(owner)) < 0.5
    out.add(centre[lobed], bank.pick("neutrophil", rng, int(lobed.sum())), "other")
    out.add(centre[~lobed], bank.pick("macrophage", rng, int((~lobed).sum())), "other")


def _scatter(rng: np.random.Generator, spec: SlideSpec, per_mm2: float) -> Points:
    size = np.array([spec.width, spec.height], float) * spec.mpp
    return rng.uniform(-20, size + 20, (int(per_mm2 * np.prod(size + 40) * 1e-6), 2))


def _blood(
    rng: np.random.Generator, spec: SlideSpec, lobules: Lobules, bank: SpriteBank, out: _Collector
) -> None:
    """Erythrocytes in veins: some veins are full, some hold a few cells, some are empty."""
    vessels = (lobules.central_veins, lobules.portal_veins)
    size = np.array([spec.width, spec.height], float) * spec.mpp
    congestion = rng.uniform(0.15, 0.7)
    for group in vessels:
        for centre, half in zip(group.centre, group.half_axes, strict=True):
            fill = rng.random() < congestion
            share = rng.uniform(0.35, 2.2) if fill else rng.uniform(0, 0.06)
            n = int(4 * half[0] ** 2 * 1.2 / 14 * share)
            spot, spread = rng.normal(0, 0.35, 2) * half.min(), 0.42 + 0.2 * share
            points = centre + spot + rng.normal(0, 1, (n, 2)) * half.max() * spread
            if ((centre < -150) | (centre > size + 150)).any():
                continue
            inside = lobules.sample(lobules.lumen, points) > 3.0
            out.add(points[inside], bank.pick("erythrocyte", rng, int(inside.sum())))


def _stroma_nuclei(
    rng: np.random.Generator,
    spec: SlideSpec,
    lobules: Lobules,
    stroma: Stroma,
    bank: SpriteBank,
    out: _Collector,
) -> None:
    """Fibroblasts and a few lymphocytes of connective tissue; flat endothelium of veins; flat cells of the capsule."""
    points = _scatter(rng, spec, 9000)
    depth = lobules.sample(stroma.depth, points)
    lumen = lobules.sample(lobules.lumen, points)
    tissue = lobules.sample(lobules.tissue, points)
    crowd = np.clip(1 - 0.8 * lobules.sample(stroma.pallor, points), 0.2, 0.75)
    inside = (depth > 1) & (lumen < -3) & (tissue > 2) & (rng.random(len(points)) < crowd)
    inside &= lobules.sample(stroma.cellular, points) < 0.5
    points = points[inside]
    slope = _border_angle(lobules, stroma.depth, points) + rng.normal(0, 0.3, len(points))
    flat = rng.random(len(points)) < 0.8
    out.add(points[flat], bank.pick_turned("spindle", rng, slope[flat]), "other", mirrored=False)
    out.add(points[~flat], bank.pick("lymphocyte", rng, int((~flat).sum())), "other")
    candidates = _scatter(rng, spec, 14000)
    wall = np.abs(lobules.sample(lobules.lumen, candidates) + 1.5) < 1.6
    wall &= lobules.sample(lobules.tissue, candidates) > 2
    rim = np.abs(lobules.sample(lobules.tissue, candidates) - 2.5) < 1.5
    for shown, field, share in ((wall, lobules.lumen, 0.42), (rim, lobules.tissue, 0.3)):
        chosen = candidates[shown & (rng.random(len(candidates)) < share)]
        angle = _border_angle(lobules, field, chosen)
        out.add(chosen, bank.pick_turned("spindle", rng, angle), "other", mirrored=False)


def _border_angle(lobules: Lobules, field: NDArray[np.float32], points: Points) -> NDArray[np.float64]:
    """Direction (rad) of the level line of a coarse field at points."""
    right, down = np.array([5.0, 0.0]), np.array([0.0, 5.0])
    gx = lobules.sample(field, points + right) - lobules.sample(field, points - right)
    gy = lobules.sample(field, points + down) - lobules.sample(field, points - down)
    return np.arctan2(gx, -gy).astype(np.float64)


def _tract_contents(
    rng: np.random.Generator, spec: SlideSpec, lobules: Lobules, bank: SpriteBank, out: _Collector
) -> None:
    """Bile ducts and arteries of each tract; with ductular proliferation more ducts and files of oval cells."""
    severity = spec.severity("bile_duct_proliferation")
    mean_ducts = by_severity(severity, DUCTS_PER_TRACT) * (spec.abundance if severity > 0 else 1.0)
    tracts, veins = lobules.tracts, lobules.portal_veins
    margin = 7.0 * severity
    for k in range(len(tracts)):
        along = np.array([np.cos(tracts.angle[k]), np.sin(tracts.angle[k])])
        opposite = tracts.centre[k] - veins.centre[k]
        opposite = opposite / max(np.hypot(*opposite), 1e-6)
        half = tracts.half_axes[k]
        artery = tracts.centre[k] + opposite * half[1] * 0.45 + along * rng.normal(0, 4)
        seats = [artery]
        out.add(
            artery[None],
            bank.pick_sized("artery", rng, np.array([rng.uniform(10, 10 + half[1] * 0.3)]), ARTERY_UM),
        )
        number = max(1, rng.poisson(mean_ducts - 1) + 1)
        (centre_x, centre_y), spread = tracts.centre[k].tolist(), float(((half + margin) * 0.85).max())
        tries = 0
        while number > 0 and tries < 80:
            tries += 1
            diameter = rng.uniform(13, 24) if severity == 0 else rng.uniform(12, 26)
            x, y = centre_x + rng.uniform(-1, 1) * spread, centre_y + rng.uniform(-1, 1) * spread
            if lobules.at(lobules.portal, x, y) > margin - diameter * 0.35:
                continue
            if lobules.at(lobules.lumen, x, y) > -diameter * 0.5:
                continue
            seat = np.array([x, y])
            if any(np.hypot(*(seat - other)) < diameter * 0.85 for other in seats):
                continue
            seats.append(seat)
            number -= 1
            out.add(seat[None], bank.pick_sized("duct", rng, np.array([diameter]), DUCT_UM))
            out.other += (
                round(np.pi * (diameter - 6) / 6.2) if (seat > 0).all() and (seat < out.size).all() else 0
            )
        if severity > 0:
            _oval_files(rng, lobules, tracts.centre[k], half, severity, bank, out)


def _oval_files(
    rng: np.random.Generator,
    lobules: Lobules,
    centre: NDArray[np.float64],
    half: NDArray[np.float64],
    severity: float,
    bank: SpriteBank,
    out: _Collector,
) -> None:
    """Rows of oval cells leaving the tract into the parenchyma."""
    for _ in range(round(2 + 3.5 * severity)):
        turn = rng.uniform(0, 2 * np.pi)
        reach = half.mean() + rng.uniform(10, 14 + 16 * severity)
        steps = np.arange(half.mean() * 0.7, reach, 6.5)
        bend = turn + 0.35 * np.sin(steps / 22 + rng.uniform(0, 6))
        points = centre + np.stack([np.cos(bend), np.sin(bend)], axis=1) * steps[:, None]
        points = points[lobules.sample(lobules.lumen, points) < -5]
        angle = np.full(len(points), turn) + rng.normal(0, 0.35, len(points))
        out.add(points, bank.pick_turned("oval", rng, angle), "other", mirrored=False)


def _foci_nuclei(
    rng: np.random.Generator, stroma: Stroma, lobules: Lobules, bank: SpriteBank, out: _Collector
) -> None:
    """Packed leucocytes of infiltrates; epithelioid macrophages with a few lymphocytes in microgranulomas."""
    for phenotype, foci in stroma.foci.items():
        per_um2 = 0.0165 if phenotype == "infiltration" else 0.011
        for centre, radius in zip(foci.centre, foci.radius, strict=True):
            n = int(np.pi * (radius * 1.25) ** 2 * per_um2)
            points = _jittered_disc(rng, centre, radius * 1.25, n)
            points = points[lobules.sample(lobules.lumen, points) < -4]
            lymph = 0.78 if phenotype == "infiltration" else 0.3
            kind = rng.random(len(points))
            small, lobed = kind < lymph, kind > 0.93
            rest = ~small & ~lobed
            for who, name in ((small, "lymphocyte"), (lobed, "neutrophil"), (rest, "macrophage")):
                out.add(points[who], bank.pick(name, rng, int(who.sum())), "other")


def _jittered_disc(rng: np.random.Generator, centre: NDArray[np.float64], radius: float, n: int) -> Points:
    """About n points, evenly spread with jitter, thinning out over the rim of a disc."""
    pitch = np.sqrt(np.pi * radius**2 / max(n, 1))
    line = np.arange(-radius, radius + pitch, pitch)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    grid = grid + rng.uniform(-0.5, 0.5, grid.shape) * pitch
    far = np.hypot(*grid.T) / radius
    lobes = 1 + 0.18 * np.cos(2 * np.arctan2(grid[:, 1], grid[:, 0]) + rng.uniform(0, 6))
    return centre + grid[rng.random(len(grid)) < np.clip((lobes - far) / 0.3, 0, 1)]
