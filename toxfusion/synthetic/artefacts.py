"""Artefacts of preparation and scanning: folds, tears, knife lines, blur, bubbles, dust, pen and autolysis.

They know nothing of lesions; their rates are the cohort's business.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from toxfusion.synthetic.noise import FloatArray
from toxfusion.synthetic.slide_spec import SlideSpec

PEN_COLOURS = ((40, 70, 160), (30, 120, 70), (45, 45, 55))


class Artefacts:
    """Draws the artefacts of one slide onto windows given by their top-left pixel.

    Args:
        spec: the slide.
    """

    def __init__(self, spec: SlideSpec) -> None:
        self.spec = spec
        rng = np.random.default_rng([spec.seed, 97])
        self._size = np.array([spec.width, spec.height], float)
        draw = {name: rng.random(12) for name in ("fold", "tear", "knife_line", "blur", "bubble", "pen")}
        self._draw = draw
        self._dust = rng.random((max(6, int(spec.width * spec.height / 250_000)), 4))
        self._pen = PEN_COLOURS[int(rng.integers(len(PEN_COLOURS)))]

    def on_tissue(self, canvas: FloatArray, left: int, top: int) -> FloatArray:
        """Artefacts that act on the amount of stain; returns the changed window [h, w, 3]."""
        names = self.spec.artefacts
        if "autolysis" in names:
            nuclear = canvas[..., 0] > 0.18
            canvas[..., 0] *= np.where(nuclear, np.float32(0.62), np.float32(0.8))
            canvas[..., 1] *= 0.88
            canvas = cv2.GaussianBlur(canvas, (0, 0), 0.7 / self.spec.mpp)
        if "knife_line" in names:
            for k in range(2):
                gap = np.abs(
                    self._line_distance(canvas.shape, left, top, self._draw["knife_line"][4 * k : 4 * k + 4])
                )
                canvas *= np.clip(gap - 1.2, 0.25, 1)[..., None]
        if "tear" in names:
            gap = self._line_distance(canvas.shape, left, top, self._draw["tear"])
            along = self._along(canvas.shape, left, top, self._draw["tear"])
            half = np.clip(1 - np.abs(along) / (0.22 * self._size.min()), 0, 1) * (14 / self.spec.mpp)
            half *= 1 + 0.3 * np.sin(along * np.float32(self.spec.mpp / 9.0))
            canvas *= np.clip((np.abs(gap) - half) / 2 + 0.5, 0, 1)[..., None]
        if "fold" in names:
            gap = self._line_distance(canvas.shape, left, top, self._draw["fold"])
            bow = 18 / self.spec.mpp * np.sin(self._along(canvas.shape, left, top, self._draw["fold"]) / 170)
            width = (9 + 12 * self._draw["fold"][8]) / self.spec.mpp
            canvas *= 1 + 1.0 * np.clip((width - np.abs(gap + bow)) / 4, 0, 1)[..., None]
        return canvas

    def on_glass(self, rgb: NDArray[np.uint8], left: int, top: int) -> NDArray[np.uint8]:
        """Artefacts of optics and glass; returns the changed window [h, w, 3]."""
        names = self.spec.artefacts
        if "blur" in names:
            soft = cv2.GaussianBlur(rgb, (0, 0), 2.4 / self.spec.mpp)
            gap = self._spot_distance(rgb.shape, left, top, self._draw["blur"])
            share = np.clip((0.34 * self._size.min() - gap) / (0.12 * self._size.min()), 0, 1)[..., None]
            rgb = (rgb + share * (soft.astype(np.float32) - rgb)).astype(np.uint8)
        if "bubble" in names:
            gap = self._spot_distance(rgb.shape, left, top, self._draw["bubble"])
            radius = (0.12 + 0.1 * self._draw["bubble"][5]) * self._size.min()
            ring = np.exp(-(((gap - radius) / (5 / self.spec.mpp)) ** 2))[..., None]
            inside = (gap < radius)[..., None]
            rgb = np.clip((rgb + inside * 0.18 * (235.0 - rgb)) * (1 - 0.6 * ring), 0, 255).astype(np.uint8)
        if "dust" in names:
            rgb = self._with_dust(rgb, left, top)
        if "pen" in names:
            gap = self._line_distance(rgb.shape, left, top, self._draw["pen"])
            bow = 0.03 * self._size.min() * np.sin(self._along(rgb.shape, left, top, self._draw["pen"]) / 210)
            inside = np.clip((0.035 * self._size.min() - np.abs(gap + bow)) / 3, 0, 1)[..., None]
            ink = np.array(self._pen, np.float32) / 255
            rgb = (rgb * (1 - inside * 0.85 * (1 - ink))).astype(np.uint8)
        return rgb

    def _grid(self, shape: tuple[int, ...], left: int, top: int) -> tuple[FloatArray, FloatArray]:
        x = np.arange(left, left + shape[1], dtype=np.float32)[None]
        y = np.arange(top, top + shape[0], dtype=np.float32)[:, None]
        return x, y

    def _frame(self, draw: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float]:
        place = self._size * (0.25 + 0.5 * draw[:2])
        turn = np.pi * draw[2]
        return place, float(np.cos(turn)), float(np.sin(turn))

    def _line_distance(
        self, shape: tuple[int, ...], left: int, top: int, draw: NDArray[np.float64]
    ) -> FloatArray:
        x, y = self._grid(shape, left, top)
        place, cos, sin = self._frame(draw)
        return ((x - place[0]) * -sin + (y - place[1]) * cos).astype(np.float32)

    def _along(self, shape: tuple[int, ...], left: int, top: int, draw: NDArray[np.float64]) -> FloatArray:
        x, y = self._grid(shape, left, top)
        place, cos, sin = self._frame(draw)
        return ((x - place[0]) * cos + (y - place[1]) * sin).astype(np.float32)

    def _spot_distance(
        self, shape: tuple[int, ...], left: int, top: int, draw: NDArray[np.float64]
    ) -> FloatArray:
        x, y = self._grid(shape, left, top)
        place, _, _ = self._frame(draw)
        return np.hypot(x - place[0], y - place[1]).astype(np.float32)

    def _with_dust(self, rgb: NDArray[np.uint8], left: int, top: int) -> NDArray[np.uint8]:
        layer = np.full(rgb.shape[:2], 255, np.uint8)
        for place_x, place_y, size, turn in self._dust:
            centre = (int(place_x * self.spec.width) - left, int(place_y * self.spec.height) - top)
            axes = (
                max(1, int((1 + 5 * size**3) / self.spec.mpp)),
                max(1, int((0.8 + 2 * size) / self.spec.mpp)),
            )
            cv2.ellipse(layer, centre, axes, 180 * turn, 0, 360, 70, -1)
        shade = cv2.GaussianBlur(layer, (0, 0), 1.0 / self.spec.mpp)
        return (rgb.astype(np.uint16) * shade[..., None] // 255).astype(np.uint8)
