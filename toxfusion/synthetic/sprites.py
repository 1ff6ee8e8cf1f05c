"""Small pictures of nuclei, blood cells, vacuoles, ducts and bodies, which `painting` stamps.

A sprite replaces what lies under it: result = below * keep + add, in units of stain (haematoxylin, eosin, erythrocyte).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from toxfusion.synthetic.noise import FloatArray

ANGLES = 16
NUCLEUS_UM = tuple(float(d) for d in np.geomspace(5.0, 20.0, 14))
VACUOLE_UM = tuple(float(d) for d in np.geomspace(1.6, 20.0, 14))
DUCT_UM = (13.0, 16.0, 19.0, 23.0, 28.0)
ARTERY_UM = (11.0, 14.0, 18.0, 22.0)


@dataclass(frozen=True)
class SpriteBank:
    """Sprites of a slide.

    Args:
        keep: float32 [pixels], share of what lies below that stays; the pixels of all sprites, row by row.
        add: float32 [pixels, 3], stain added.
        side, start: int64 per sprite, its side in pixels and where its pixels begin.
        first, count: index of the first sprite of a kind and how many there are.
    """

    keep: FloatArray
    add: FloatArray
    side: NDArray[np.int64]
    start: NDArray[np.int64]
    first: dict[str, int]
    count: dict[str, int]

    def pick(self, kind: str, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """n random sprites of a kind."""
        return self.first[kind] + rng.integers(self.count[kind], size=n)

    def pick_turned(
        self, kind: str, rng: np.random.Generator, angle: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """One sprite of an elongated kind per angle (rad, modulo pi)."""
        variants = self.count[kind] // ANGLES
        turn = np.round(np.mod(angle, np.pi) / np.pi * ANGLES).astype(np.int64) % ANGLES
        return self.first[kind] + turn * variants + rng.integers(variants, size=len(angle))

    def pick_sized(
        self, kind: str, rng: np.random.Generator, diameter: FloatArray, sizes: tuple[float, ...]
    ) -> NDArray[np.int64]:
        """One sprite per diameter (um), of the nearest size of the bank."""
        variants = self.count[kind] // len(sizes)
        edges = np.sqrt(np.array(sizes[1:]) * np.array(sizes[:-1]))
        return (
            self.first[kind]
            + np.digitize(diameter, edges) * variants
            + rng.integers(variants, size=len(diameter))
        )


class _Canvas:
    """Coordinates in um of n square patches."""

    def __init__(self, rng: np.random.Generator, n: int, reach_um: float, mpp: float) -> None:
        self.rng, self.n, self.mpp = rng, n, mpp
        self.half = int(np.ceil(reach_um / mpp)) + 2
        axis = (np.arange(2 * self.half, dtype=np.float32) - self.half + 0.5) * np.float32(mpp)
        self.x, self.y = np.meshgrid(axis, axis)
        self.side = 2 * self.half

    def ellipse(
        self,
        major: float | FloatArray,
        minor: float | FloatArray,
        angle: FloatArray | float = 0.0,
        centre: tuple[FloatArray | float, FloatArray | float] = (0.0, 0.0),
        rough: float = 0.05,
    ) -> FloatArray:
        """Signed depth in um below the outline of irregular ellipses, float32 [n, p, p], positive inside."""
        major, minor, angle, cx, cy = (
            np.broadcast_to(np.asarray(v, np.float32), (self.n,))[:, None, None]
            for v in (major, minor, angle, centre[0], centre[1])
        )
        dx, dy = self.x[None] - cx, self.y[None] - cy
        u = (dx * np.cos(angle) + dy * np.sin(angle)) / major
        v = (-dx * np.sin(angle) + dy * np.cos(angle)) / minor
        theta = np.arctan2(v, u)
        phase = self.rng.uniform(0, 2 * np.pi, (2, self.n, 1, 1)).astype(np.float32)
        ripple = 1 + np.float32(rough) * (np.cos(2 * theta + phase[0]) + 0.7 * np.cos(3 * theta + phase[1]))
        radius = np.hypot(u, v)
        return ((ripple - radius) * np.sqrt(major * minor)).astype(np.float32)

    def cover(self, depth: FloatArray, softness: float = 0.35) -> FloatArray:
        """Soft-edged mask of a depth field."""
        width = np.float32(max(softness, 0.5 * self.mpp))
        return np.clip(0.5 + depth / (2 * width), 0, 1)

    def grain(self, sigma_um: float) -> FloatArray:
        """Noise of unit variance, [n, p, p]."""
        field: FloatArray = self.rng.standard_normal((self.n * self.side, self.side), dtype=np.float32)
        sigma = max(sigma_um / self.mpp, 0.3)
        field = cv2.GaussianBlur(field, (0, 0), sigma)
        field = field / field.std()
        return field.reshape(self.n, self.side, self.side)


Layer = tuple[FloatArray, FloatArray]


def _stack(
    canvas: _Canvas, cover: FloatArray, h: FloatArray, e: FloatArray, r: FloatArray | float = 0.0
) -> Layer:
    full = np.broadcast_to(np.asarray(r, np.float32), cover.shape)
    add = np.stack([cover * h, cover * e, cover * full], axis=-1)
    return 1 - cover[..., None], np.ascontiguousarray(add, np.float32)


def _hepatocyte_nuclei(rng: np.random.Generator, mpp: float, diameter: float, n: int) -> Layer:
    """Round vesicular nuclei: dark rim, clear karyoplasm with clumps, one to three nucleoli."""
    c = _Canvas(rng, n, diameter * 0.62, mpp)
    stretch = np.exp(rng.normal(0, 0.05, n)).astype(np.float32)
    depth = c.ellipse(
        diameter / 2 * stretch,
        diameter / 2 / stretch,
        rng.uniform(0, np.pi, n).astype(np.float32),
        rough=0.025,
    )
    cover = c.cover(depth)
    rim = np.exp(-(((depth - 0.55) / 0.55) ** 2))
    clumps = np.clip(c.grain(0.055 * diameter), -0.3, 2)
    tone = rng.normal(1, 0.12, (n, 1, 1)).astype(np.float32)
    h = tone * (0.15 + 0.45 * rim + 0.27 * clumps)
    for k in range(3):
        shown = (rng.random(n) < (0.95, 0.6, 0.25)[k])[:, None, None]
        far, turn = rng.uniform(0, 0.26, n) * diameter, rng.uniform(0, 2 * np.pi, n)
        spot = c.ellipse(
            rng.uniform(0.55, 0.95, n).astype(np.float32),
            rng.uniform(0.5, 0.85, n).astype(np.float32),
            0.0,
            ((far * np.cos(turn)).astype(np.float32), (far * np.sin(turn)).astype(np.float32)),
        )
        h = h + 0.6 * shown * c.cover(spot, 0.4)
    e = np.full_like(h, 0.13)
    return _stack(c, cover, h, e)


def _turned(
    rng: np.random.Generator,
    mpp: float,
    long_um: float,
    short_um: float,
    h: float,
    variants: int,
    rough: float,
) -> Layer:
    """Elongated dark nuclei, `variants` per angle."""
    n = ANGLES * variants
    c = _Canvas(rng, n, long_um * 0.75, mpp)
    angle = (np.repeat(np.arange(ANGLES), variants) * np.pi / ANGLES).astype(np.float32)
    size = np.exp(rng.normal(0, 0.16, n)).astype(np.float32)
    thin = np.exp(rng.normal(0, 0.18, n)).astype(np.float32)
    depth = c.ellipse(long_um / 2 * size, short_um / 2 * thin, angle, rough=rough)
    tone = rng.normal(1, 0.12, (n, 1, 1)).astype(np.float32)
    return _stack(c, c.cover(depth), tone * (h + 0.14 * c.grain(0.5)), np.full_like(depth, 0.18))


def _round_dark(
    rng: np.random.Generator, mpp: float, diameter: float, h: float, n: int, clumped: float
) -> Layer:
    c = _Canvas(rng, n, diameter * 0.7, mpp)
    size = np.exp(rng.normal(0, 0.12, n)).astype(np.float32)
    stretch = np.exp(rng.normal(0, 0.12, n)).astype(np.float32)
    depth = c.ellipse(
        diameter / 2 * size * stretch,
        diameter / 2 * size / stretch,
        rng.uniform(0, 3.1, n).astype(np.float32),
    )
    tone = rng.normal(1, 0.1, (n, 1, 1)).astype(np.float32)
    return _stack(c, c.cover(depth), tone * (h + clumped * c.grain(0.6)), np.full_like(depth, 0.18))


def _neutrophils(rng: np.random.Generator, mpp: float, n: int) -> Layer:
    """Lobed nucleus of two to four dark dots in a pale pink cell of 8-10 um."""
    c = _Canvas(rng, n, 6.0, mpp)
    body = c.cover(c.ellipse(4.3, 4.0))
    h = np.full_like(body, 0.03)
    for k in range(3):
        turn = rng.uniform(0, 2 * np.pi, n)
        cx, cy = (1.7 * np.cos(turn)).astype(np.float32), (1.7 * np.sin(turn)).astype(np.float32)
        shown = (rng.random(n) < (1, 1, 0.7)[k])[:, None, None]
        h = np.maximum(h, 0.85 * shown * c.cover(c.ellipse(1.6, 1.2, 0.0, (cx, cy))))
    return _stack(c, body * 0.85, h, np.full_like(body, 0.14))


def _ghosts(rng: np.random.Generator, mpp: float, n: int) -> Layer:
    """Fading nuclei of karyolysis."""
    c = _Canvas(rng, n, 5.5, mpp)
    depth = c.ellipse(4.0, 3.7)
    cover = c.cover(depth, 0.8) * 0.8
    return _stack(c, cover, 0.10 + 0.08 * np.exp(-((depth / 0.7) ** 2)), np.full_like(depth, 0.25))


def _apoptotic_bodies(rng: np.random.Generator, mpp: float, n: int) -> Layer:
    """Shrunken red spheres with dark chromatin crumbs in a clear halo."""
    c = _Canvas(rng, n, 10.0, mpp)
    radius = rng.uniform(3.2, 6.2, n).astype(np.float32)
    halo = radius + rng.uniform(1.2, 2.8, n).astype(np.float32)
    outer = c.cover(c.ellipse(halo, halo, rough=0.04), 0.6)
    body = c.cover(c.ellipse(radius, radius * 0.93, rough=0.03))
    h = 0.16 * body
    for k in range(3):
        turn, far = rng.uniform(0, 2 * np.pi, n), rng.uniform(0, 0.5, n) * radius
        crumb = c.ellipse(
            rng.uniform(0.8, 1.9, n).astype(np.float32),
            rng.uniform(0.7, 1.4, n).astype(np.float32),
            0.0,
            ((far * np.cos(turn)).astype(np.float32), (far * np.sin(turn)).astype(np.float32)),
        )
        shown = (rng.random(n) < (1, 0.6, 0.4)[k])[:, None, None]
        h = np.maximum(h, 0.95 * shown * c.cover(crumb) * body)
    return _stack(c, outer * 0.93, h, 0.02 + 0.42 * body)


def _mitoses(rng: np.random.Generator, mpp: float) -> Layer:
    """Metaphase plates (and anaphase pairs) in a pale cell."""
    n = ANGLES * 2
    c = _Canvas(rng, n, 10.5, mpp)
    angle = (np.repeat(np.arange(ANGLES), 2) * np.pi / ANGLES).astype(np.float32)
    clear = c.cover(c.ellipse(9.5, 9.0, rough=0.05), 1.6) * 0.55
    late = np.tile(np.array([0.0, 1.0], np.float32), ANGLES)
    shift = late * 2.6
    h = np.full_like(clear, 0.03)
    for sign in (-1, 1):
        cx, cy = -np.sin(angle) * shift * sign, np.cos(angle) * shift * sign
        bar = c.ellipse(4.2, np.where(late > 0, 1.0, 1.5).astype(np.float32), angle, (cx, cy), rough=0.12)
        h = np.maximum(h, 1.5 * c.cover(bar + 0.25 * c.grain(0.5)))
    solid = np.clip(h, 0, 1)
    cover = np.maximum(clear, solid)
    return _stack(c, cover, h, np.full_like(h, 0.13))


def _erythrocytes(rng: np.random.Generator, mpp: float, n: int) -> Layer:
    c = _Canvas(rng, n, 4.5, mpp)
    size = rng.uniform(2.5, 3.2, n).astype(np.float32)
    depth = c.ellipse(
        size, size * rng.uniform(0.7, 1, n).astype(np.float32), rng.uniform(0, 3, n).astype(np.float32)
    )
    dimple = 1 - 0.25 * np.exp(-(((depth - 2.6) / 1.0) ** 2))
    return _stack(c, c.cover(depth), np.zeros_like(depth), np.zeros_like(depth), 0.72 * dimple)


def _vacuoles(rng: np.random.Generator, mpp: float, diameter: float, n: int) -> Layer:
    """Sharp empty discs."""
    c = _Canvas(rng, n, diameter * 0.62 + 0.5, mpp)
    depth = c.ellipse(diameter / 2, diameter / 2, rough=0.02)
    cover = c.cover(depth, 0.3)
    edge = np.exp(-((depth / 0.4) ** 2))
    return _stack(c, cover * 0.97, 0.04 * edge, 0.10 * edge)


def _ducts(rng: np.random.Generator, mpp: float, diameter: float, n: int) -> Layer:
    """Cuboidal epithelium with a ring of round nuclei around a small lumen."""
    c = _Canvas(rng, n, diameter * 0.68 + 2, mpp)
    stretch = np.exp(rng.normal(0, 0.16, n)).astype(np.float32)
    angle = rng.uniform(0, np.pi, n).astype(np.float32)
    outer = c.ellipse(diameter / 2 * stretch, diameter / 2 / stretch, angle, rough=0.04)
    lumen = outer - np.float32(min(6.5, diameter * 0.36))
    cover = c.cover(outer, 0.6)
    wall = np.clip(1 - c.cover(lumen, 0.5), 0, 1)
    h = 0.10 * wall * (1 + 0.5 * c.grain(0.5))
    count = max(5, round(np.pi * (diameter - 6) / 6.2))
    spin = rng.uniform(0, 2 * np.pi, n).astype(np.float32)
    for k in range(count):
        turn = spin + 2 * np.pi * (k + rng.uniform(-0.22, 0.22, n)) / count
        u, v = (diameter / 2 - 2.9) * stretch * np.cos(turn), (diameter / 2 - 2.9) / stretch * np.sin(turn)
        cx, cy = u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)
        spot = c.ellipse(
            2.5, 2.0, turn + np.pi / 2 + angle, (cx.astype(np.float32), cy.astype(np.float32)), 0.05
        )
        h = np.maximum(h, c.cover(spot) * (0.55 + 0.1 * c.grain(0.5)))
    ring = 0.08 * np.exp(-((outer / 0.8) ** 2))
    return _stack(c, cover, h, 0.10 * wall + ring)


def _arteries(rng: np.random.Generator, mpp: float, diameter: float, n: int) -> Layer:
    """Thick pink wall with concentric dark slivers around a small lumen."""
    c = _Canvas(rng, n, diameter * 0.68 + 2, mpp)
    outer = c.ellipse(diameter / 2, diameter / 2 * 0.9, rng.uniform(0, 3, n).astype(np.float32), rough=0.05)
    wall = np.clip(1 - c.cover(outer - 0.28 * diameter, 0.5), 0, 1)
    h = 0.05 * wall
    count = max(4, round(diameter / 2.6))
    spin = rng.uniform(0, 2 * np.pi, n)
    for k in range(count):
        turn = spin + 2 * np.pi * (k + rng.uniform(-0.3, 0.3, n)) / count
        far = rng.uniform(0.26, 0.42, n) * diameter
        spot = c.ellipse(
            2.4,
            0.8,
            (turn + np.pi / 2).astype(np.float32),
            ((far * np.cos(turn)).astype(np.float32), (far * np.sin(turn)).astype(np.float32)),
        )
        h = np.maximum(h, 0.6 * c.cover(spot))
    return _stack(c, c.cover(outer, 0.6), h, (0.27 + 0.03 * c.grain(0.8)) * wall)


@cache
def build_sprites(seed: int, mpp: float) -> SpriteBank:
    """All sprites of a slide; shapes differ between seeds. Kept: a process paints many slides."""
    rng = np.random.default_rng([seed, 61])
    keeps: list[FloatArray] = []
    adds: list[FloatArray] = []
    sides: list[int] = []
    first: dict[str, int] = {}
    count: dict[str, int] = {}

    def add(kind: str, *layers: Layer) -> None:
        first[kind] = len(sides)
        for keep, stain in layers:
            keeps.append(keep.ravel())
            adds.append(stain.reshape(-1, 3))
            sides.extend([keep.shape[1]] * len(keep))
        count[kind] = len(sides) - first[kind]

    add("hepatocyte", *(_hepatocyte_nuclei(rng, mpp, d, 8) for d in NUCLEUS_UM))
    add("sinusoidal", _turned(rng, mpp, 6.9, 3.6, 0.9, 3, 0.1))
    add("kupffer", _turned(rng, mpp, 6.4, 4.7, 0.85, 2, 0.12))
    add("spindle", _turned(rng, mpp, 11.5, 2.4, 0.52, 3, 0.06))
    add("oval", _turned(rng, mpp, 8.6, 5.0, 0.38, 3, 0.07))
    add("lymphocyte", _round_dark(rng, mpp, 5.9, 0.98, 12, 0.2))
    add("macrophage", _round_dark(rng, mpp, 6.8, 0.5, 10, 0.12))
    add("neutrophil", _neutrophils(rng, mpp, 10))
    add("pyknotic", _round_dark(rng, mpp, 4.4, 1.05, 8, 0.05))
    add("ghost", _ghosts(rng, mpp, 6))
    add("apoptotic", _apoptotic_bodies(rng, mpp, 12))
    add("mitosis", _mitoses(rng, mpp))
    add("erythrocyte", _erythrocytes(rng, mpp, 10))
    add("vacuole", *(_vacuoles(rng, mpp, d, 3) for d in VACUOLE_UM))
    add("duct", *(_ducts(rng, mpp, d, 4) for d in DUCT_UM))
    add("artery", *(_arteries(rng, mpp, d, 3) for d in ARTERY_UM))
    side = np.array(sides, np.int64)
    start = np.concatenate([[0], np.cumsum(side**2)[:-1]])
    keep, stain = np.concatenate(keeps).astype(np.float32), np.concatenate(adds).astype(np.float32)
    return SpriteBank(keep, stain, side, start, first, count)
