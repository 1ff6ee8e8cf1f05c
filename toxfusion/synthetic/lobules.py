"""Architecture of a liver section: tissue outline, central veins, portal tracts and the distances between them.

Everything lives on one coarse grid over the slide and a rim around it, in micrometres; cells live in `parenchyma`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay, QhullError, cKDTree

from toxfusion.synthetic.noise import FloatArray, smooth_field
from toxfusion.synthetic.pixels import bilinear

GRID_UM = 4.0
RIM_UM = 520.0
CENTRAL_SPACING_UM = 560.0
"""Pitch of central veins; with their usual spacing of 1.1 times this, centre to portal is about 350 um."""

WHOLE_PIECE_UM = 3000.0
"""Smaller slides are windows on a piece of liver: tissue may run past some of their sides."""

DRAWS = 24

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Vessels:
    """Centres, half axes (um), angles (rad) of cut vessels; all arrays have the same length n."""

    centre: Points  # [n, 2] x, y
    half_axes: Points  # [n, 2]
    angle: Points  # [n]

    def __len__(self) -> int:
        return len(self.angle)


@dataclass(frozen=True)
class Lobules:
    """Coarse fields [rows, columns] float32 at `GRID_UM`; cell (0, 0) is centred on (`origin`, `origin`) um.

    Args:
        origin: um, negative: the grid starts outside the slide.
        tissue: signed distance to the tissue edge, positive inside.
        central: distance to the wall of the nearest central vein, negative in its lumen.
        portal: distance to the edge of the nearest portal tract, negative inside.
        lumen: signed distance to the nearest lumen (central or portal vein), positive inside.
        zone: 0 at the central vein, 1 at the portal tract.
        axis_x, axis_y: unit vector along hepatocyte cords.
        central_veins, tracts, portal_veins: their outlines.
    """

    origin: float
    tissue: FloatArray
    central: FloatArray
    portal: FloatArray
    lumen: FloatArray
    zone: FloatArray
    axis_x: FloatArray
    axis_y: FloatArray
    central_veins: Vessels
    tracts: Vessels
    portal_veins: Vessels

    def at(self, field: FloatArray, x: float, y: float) -> np.float32:
        """Bilinear value of a field at one place in um; many are sampled at once by `sample`."""
        return np.float32(bilinear(field, (x - self.origin) / GRID_UM, (y - self.origin) / GRID_UM))

    def sample(self, field: FloatArray, points: Points) -> FloatArray:
        """Bilinear values of a field at points [n, 2] in um; float32 [n]."""
        if len(points) == 0:
            return np.zeros(0, np.float32)
        grid = ((points - self.origin) / GRID_UM).astype(np.float32)
        columns = 8192
        padded = -(-len(grid) // columns) * columns if len(grid) > columns else len(grid)
        width = min(columns, padded)
        if padded > len(grid):
            grid = np.pad(grid, ((0, padded - len(grid)), (0, 0)), mode="edge")
        map_x, map_y = grid[:, 0].reshape(-1, width), grid[:, 1].reshape(-1, width)
        values = cv2.remap(field, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return values.reshape(-1)[: len(points)]


def build_lobules(seed: int, width_um: float, height_um: float) -> Lobules:
    """Lobules of a slide of the given size; the same seed and size give the same lobules."""
    rng = np.random.default_rng([seed, 11])
    shape = (int((height_um + 2 * RIM_UM) / GRID_UM) + 1, int((width_um + 2 * RIM_UM) / GRID_UM) + 1)
    central_centres, portal_centres = _centres(rng, width_um, height_um)
    central_veins = _central_veins(rng, central_centres)
    tracts, portal_veins = _portal_tracts(rng, portal_centres)
    central_mask = _raster(rng, shape, central_veins, roughness=0.12)
    tract_mask = _raster(rng, shape, tracts, roughness=0.2)
    vein_mask = _raster(rng, shape, portal_veins, roughness=0.1) & tract_mask
    central = -signed_distance(central_mask)
    portal = -signed_distance(tract_mask)
    lumen = signed_distance(central_mask | vein_mask)
    wander = smooth_field(rng, shape, 90 / GRID_UM)
    zone = np.maximum(central, 0) / np.maximum(np.maximum(central, 0) + np.maximum(portal, 0), 1.0)
    zone = np.clip(zone + 0.05 * wander, 0, 1).astype(np.float32)
    axis_x, axis_y = _cord_axis(rng, central, portal)
    return Lobules(
        origin=-RIM_UM,
        tissue=_tissue_edge(rng, shape, width_um, height_um),
        central=central,
        portal=portal,
        lumen=lumen,
        zone=zone,
        axis_x=axis_x,
        axis_y=axis_y,
        central_veins=central_veins,
        tracts=tracts,
        portal_veins=portal_veins,
    )


def signed_distance(mask: NDArray[np.bool_]) -> FloatArray:
    """Distance in um to the border of a mask on the coarse grid, positive inside, softly smoothed."""
    far = 4096.0
    inside = mask.astype(np.uint8)
    if not inside.any():
        return np.full(mask.shape, -far, np.float32)
    if inside.all():
        return np.full(mask.shape, far, np.float32)
    gap = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    gap = np.where(gap > 0, gap - 0.5, gap + 0.5).astype(np.float32)
    return cv2.GaussianBlur(gap, (0, 0), 0.9) * np.float32(GRID_UM)


def _centres(rng: np.random.Generator, width_um: float, height_um: float) -> tuple[Points, Points]:
    """Central veins and portal tracts; of a few draws the first with one of each well inside a small slide."""
    size = np.array([width_um, height_um])
    best: tuple[int, Points, Points] | None = None
    for _ in range(DRAWS):
        central = _spread_points(rng, width_um, height_um, CENTRAL_SPACING_UM)
        portal = _portal_points(rng, central)
        shown = sum(
            bool(((group > 0.15 * size) & (group < 0.85 * size)).all(1).any()) for group in (central, portal)
        )
        if best is None or shown > best[0]:
            best = (shown, central, portal)
        if shown == 2:
            break
    if best is None:
        raise ValueError("lobules: no draw of vessel centres was made")
    return best[1], best[2]


def _spread_points(rng: np.random.Generator, width_um: float, height_um: float, spacing: float) -> Points:
    """Jittered hexagonal points over the slide and its rim, randomly turned and shifted."""
    reach = 0.75 * np.hypot(width_um + 2 * RIM_UM, height_um + 2 * RIM_UM) + spacing
    pitch = spacing * 1.1
    n = int(reach / pitch) + 2
    i, j = np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1))
    x = (i + 0.5 * (j % 2)) * pitch
    y = j * pitch * np.sqrt(3) / 2
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points += rng.normal(0, 0.13 * pitch, points.shape)
    turn = rng.uniform(0, np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = points @ rotation.T + rng.uniform(-spacing, spacing, 2) + np.array([width_um, height_um]) / 2
    margin = RIM_UM + spacing
    inside = (points > -margin).all(1) & (points < np.array([width_um, height_um]) + margin).all(1)
    return points[inside]


def _portal_points(rng: np.random.Generator, central: Points) -> Points:
    """Portal tracts stand where three lobules meet: the circumcentres of the central veins' triangles."""
    try:
        corners = central[Delaunay(central).simplices]
    except QhullError as error:
        raise ValueError(f"central veins: {len(central)} points cannot be triangulated") from error
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    ab, ac = b - a, c - a
    cross = 2 * (ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0])
    ok = np.abs(cross) > 1e4
    a, ab, ac, cross = a[ok], ab[ok], ac[ok], cross[ok]
    ab2, ac2 = (ab**2).sum(1), (ac**2).sum(1)
    offset = (
        np.stack([ac[:, 1] * ab2 - ab[:, 1] * ac2, ab[:, 0] * ac2 - ac[:, 0] * ab2], axis=1) / cross[:, None]
    )
    points = a + offset
    points = points[(np.hypot(*offset.T) < 700)]
    points = points[rng.random(len(points)) > 0.15]
    points = points + rng.normal(0, 20, points.shape)
    keep = np.ones(len(points), bool)
    for i, j in cKDTree(points).query_pairs(150.0, output_type="ndarray"):
        if keep[i]:
            keep[j] = False
    points = points[keep]
    gap, _ = cKDTree(central).query(points)
    return points[gap > 170]


def _central_veins(rng: np.random.Generator, centres: Points) -> Vessels:
    n = len(centres)
    radius = rng.uniform(18, 48, n)
    large = rng.random(n) < 0.08
    radius[large] *= 1.7
    stretch = np.exp(np.abs(rng.normal(0, 0.45, n)))
    half = np.stack([radius * np.sqrt(stretch), radius / np.sqrt(stretch)], axis=1)
    return Vessels(centres, half, rng.uniform(0, np.pi, n))


def _portal_tracts(rng: np.random.Generator, centres: Points) -> tuple[Vessels, Vessels]:
    n = len(centres)
    radius = rng.uniform(26, 58, n)
    stretch = np.exp(np.abs(rng.normal(0, 0.4, n)))
    half = np.stack([radius * np.sqrt(stretch), radius / np.sqrt(stretch)], axis=1)
    angle = rng.uniform(0, np.pi, n)
    tracts = Vessels(centres, half, angle)
    along = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    vein_half = (
        half * rng.uniform(0.5, 0.66, (n, 1)) * np.stack([np.ones(n), rng.uniform(0.7, 1.1, n)], axis=1)
    )
    side = rng.choice([-1.0, 1.0], (n, 1))
    vein_centre = centres + along * side * (half[:, :1] - vein_half[:, :1]) * 0.8
    return tracts, Vessels(vein_centre, vein_half, angle + rng.normal(0, 0.2, n))


def _raster(
    rng: np.random.Generator, shape: tuple[int, int], vessels: Vessels, roughness: float
) -> NDArray[np.bool_]:
    """Fill irregular ellipses on the coarse grid."""
    canvas = np.zeros(shape, np.uint8)
    theta = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    harmonics = np.arange(2, 6)
    for centre, half, angle in zip(vessels.centre, vessels.half_axes, vessels.angle, strict=True):
        phase = rng.uniform(0, 2 * np.pi, len(harmonics))
        weight = rng.normal(0, roughness, len(harmonics)) / (harmonics - 1)
        ripple = 1 + (weight[:, None] * np.cos(harmonics[:, None] * theta + phase[:, None])).sum(0)
        x, y = half[0] * ripple * np.cos(theta), half[1] * ripple * np.sin(theta)
        outline = np.stack(
            [x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1
        )
        pixels = (outline + centre + RIM_UM) / GRID_UM
        cv2.fillPoly(canvas, [np.round(pixels * 16).astype(np.int32)], 1, shift=4)
    return canvas.astype(bool)


def _tissue_edge(
    rng: np.random.Generator, shape: tuple[int, int], width_um: float, height_um: float
) -> FloatArray:
    """Signed distance to an irregular, roundish outline inside the field of view."""
    y, x = np.meshgrid(
        np.arange(shape[0], dtype=np.float32) * GRID_UM - RIM_UM,
        np.arange(shape[1], dtype=np.float32) * GRID_UM - RIM_UM,
        indexing="ij",
    )
    side = min(width_um, height_um)
    inset = rng.uniform(0.015, 0.08, 4) * side
    if side < WHOLE_PIECE_UM:
        beyond = rng.random(4) < 0.55
        beyond[rng.integers(4)] = False
        inset[beyond] = -0.5 * side
    low, high = inset[:2], np.array([width_um, height_um]) - inset[2:]
    radius = rng.uniform(0.08, 0.3) * side
    centre, half = (low + high) / 2, (high - low) / 2 - radius
    qx, qy = np.abs(x - centre[0]) - half[0], np.abs(y - centre[1]) - half[1]
    outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - radius
    bend = smooth_field(rng, shape, 0.16 * side / GRID_UM) * 0.02 * side + smooth_field(rng, shape, 10) * 3.0
    return (-outside - bend).astype(np.float32)


def _cord_axis(
    rng: np.random.Generator, central: FloatArray, portal: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Cords run from portal tract to central vein: along the gradient of the difference of distances."""
    slope = cv2.GaussianBlur(np.clip(central, 0, 400) - 0.7 * np.clip(portal, 0, 400), (0, 0), 24 / GRID_UM)
    gx = cv2.Sobel(slope, cv2.CV_32F, 1, 0, ksize=3)
    gy = cv2.Sobel(slope, cv2.CV_32F, 0, 1, ksize=3)
    angle = np.arctan2(gy, gx) + 0.35 * smooth_field(rng, slope.shape, 60 / GRID_UM)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
