"""From cells, connective tissue and stamps to stained pixels, one block at a time.

A block depends only on the slide's specification and the block's place, so slides of any size are painted in pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from toxfusion.synthetic import pixels
from toxfusion.synthetic.artefacts import Artefacts
from toxfusion.synthetic.lesions import Stroma, build_stroma
from toxfusion.synthetic.lobules import GRID_UM, Lobules, build_lobules
from toxfusion.synthetic.noise import FloatArray, tileable_texture
from toxfusion.synthetic.objects import Objects, build_objects
from toxfusion.synthetic.parenchyma import Hepatocytes, build_hepatocytes
from toxfusion.synthetic.pixels import PERIOD
from toxfusion.synthetic.slide_spec import MASK_MPP, SlideSpec, Stain
from toxfusion.synthetic.sprites import SpriteBank, build_sprites

BLOCK = 768
MARGIN_UM = 22.0
ERYTHROCYTE_OD = (0.10, 0.80, 0.59)
GLASS_TINT = (1.0, 0.985, 0.995)
VARIANTS = 4
"""Sets of textures and of sprites, made once a process; a slide takes that of its seed."""
TEXTURE_UM = (0.45, 1.0, 1.25, 4.5)
"""Grain of the textures fine, medium, lace and slow."""


@dataclass(frozen=True)
class MaskBlock:
    """Truth under one block at `MASK_MPP`.

    Args:
        bits: uint16 [h, w] lesion bits.
        tissue: bool [h, w].
        place: rows and columns of the slide's mask that these are.
    """

    bits: NDArray[np.uint16]
    tissue: NDArray[np.bool_]
    place: tuple[slice, slice]


@dataclass(frozen=True)
class _Window:
    """A block with its margin: place, shape, owning hepatocyte of each pixel and coarse fields."""

    left: int
    top: int
    margin: int
    shape: tuple[int, int]
    owner: NDArray[np.int32]
    fields: dict[str, FloatArray]

    @property
    def core(self) -> tuple[slice, slice]:
        """The block without its margin."""
        m = self.margin
        return slice(m, self.shape[0] - m), slice(m, self.shape[1] - m)


@dataclass(frozen=True)
class _Textures:
    """Textures of period `PERIOD`.

    plain: float32 [PERIOD, PERIOD, 4], fine, medium, lace and slow. foam_*: distances in um to the nearest vacuole
    centre.
    """

    plain: FloatArray
    foam_coarse: FloatArray
    foam_fine: FloatArray


class SlidePainter:
    """Paints a slide block by block.

    Args:
        spec: the slide. All randomness comes from `spec.seed`.
    """

    def __init__(self, spec: SlideSpec) -> None:
        self.spec = spec
        self.lobules: Lobules = build_lobules(spec.seed, spec.width * spec.mpp, spec.height * spec.mpp)
        self.stroma: Stroma = build_stroma(spec, self.lobules)
        self.cells: Hepatocytes = build_hepatocytes(spec, self.lobules, self.stroma)
        variant = spec.seed % VARIANTS
        self.bank: SpriteBank = build_sprites(variant, spec.mpp)
        self.objects: Objects = build_objects(spec, self.lobules, self.stroma, self.cells, self.bank)
        self._margin = int(np.ceil(MARGIN_UM / spec.mpp))
        self._textures = _build_textures(variant, spec.mpp)
        self._foamy = bool(self.cells.micro.any()), bool(self.cells.foam.any())
        self._begin = np.random.default_rng([spec.seed, 84]).integers(PERIOD, size=2).tolist()
        self._artefacts = Artefacts(spec)
        self._colour = _stain_matrix(spec.stain)
        columns = [getattr(self.cells, name) for name in pixels.CELL_COLUMNS]
        self._cell_table = np.stack(columns, axis=1).astype(np.float32)
        self._cell_order = np.argsort(self.cells.centre[:, 1], kind="stable")
        self._cell_y = self.cells.centre[self._cell_order, 1]
        self._object_row = np.floor(self.objects.centre[:, 1] / (BLOCK * spec.mpp)).astype(np.int64)

    @property
    def blocks(self) -> tuple[int, int]:
        """Number of block rows and columns."""
        return -(-self.spec.height // BLOCK), -(-self.spec.width // BLOCK)

    def block(self, row: int, column: int) -> tuple[NDArray[np.uint8], MaskBlock]:
        """Paint one block of the lattice, uint8 [h, w, 3]; the last row and column are cut to the slide."""
        window = self._window(row, column)
        left, top, shape, fields = window.left, window.top, window.shape, window.fields
        canvas = self._parenchyma(window.owner, left, top, shape)
        pixels.paint_connective(
            canvas,
            *(fields[name] for name in ("tissue", "lumen", "depth", "pallor", "cellular")),
            self._textures.plain,
            *self._place(left, top),
            self.spec.mpp,
        )
        self._stamp(canvas, row, left, top)
        pixels.trim(canvas, fields["tissue"])
        canvas = self._artefacts.on_tissue(canvas, left, top)
        rgb = self._artefacts.on_glass(self._develop(canvas), left, top)
        return np.ascontiguousarray(rgb[window.core]), self._mask(window)

    def mask_block(self, row: int, column: int) -> MaskBlock:
        """Only the truth under a block, without painting it."""
        return self._mask(self._window(row, column))

    def _window(self, row: int, column: int) -> _Window:
        spec = self.spec
        margin = self._margin
        left, top = column * BLOCK - margin, row * BLOCK - margin
        shape = (
            min(BLOCK, spec.height - row * BLOCK) + 2 * margin,
            min(BLOCK, spec.width - column * BLOCK) + 2 * margin,
        )
        coarse = {
            "tissue": self.lobules.tissue,
            "lumen": self.lobules.lumen,
            "depth": self.stroma.depth,
            "pallor": self.stroma.pallor,
            "cellular": self.stroma.cellular,
        }
        fields = {name: self._patch(field, left, top, shape) for name, field in coarse.items()}
        return _Window(left, top, margin, shape, self._territories(left, top, shape), fields)

    def _patch(self, field: FloatArray, left: int, top: int, shape: tuple[int, int]) -> FloatArray:
        """A coarse field at level-0 pixels of a window; bilinear at half resolution, then doubled."""
        small = self._half_patch(field, left, top, shape)
        return cv2.resize(small, None, fx=2, fy=2)[: shape[0], : shape[1]]

    def _half_patch(self, field: FloatArray, left: int, top: int, shape: tuple[int, int]) -> FloatArray:
        """A coarse field at every second pixel of a window, [h / 2, w / 2] rounded up."""
        scale = self.spec.mpp / GRID_UM
        start = [(place + 1) * scale - self.lobules.origin / GRID_UM for place in (left, top)]
        matrix = np.array([[2 * scale, 0, start[0]], [0, 2 * scale, start[1]]])
        half = (-(-shape[1] // 2), -(-shape[0] // 2))
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(field, matrix, half, flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def _place(self, left: int, top: int) -> tuple[int, int]:
        """Where a window begins in the textures: column and row."""
        return left + self._begin[0], top + self._begin[1]

    def _territories(self, left: int, top: int, shape: tuple[int, int]) -> NDArray[np.int32]:
        """Index of the hepatocyte that owns each pixel (Voronoi, with wavy borders); -1 where there is none."""
        mpp = self.spec.mpp
        first, last = np.searchsorted(self._cell_y, [top * mpp, (top + shape[0]) * mpp])
        index = self._cell_order[first:last]
        places = np.floor(self.cells.centre[index] / mpp).astype(np.int64) - [left, top]
        inside = (places >= 0).all(1) & (places < [shape[1], shape[0]]).all(1)
        index, places = index[inside], places[inside]
        if len(index) == 0:
            return np.full(shape, -1, np.int32)
        seeds = np.ones(shape, np.uint8)
        seeds[places[:, 1], places[:, 0]] = 0
        _, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        cell_of_label = np.full(int(label.max()) + 1, -1, np.int32)
        cell_of_label[label[places[:, 1], places[:, 0]]] = index
        place = self._place(left, top)
        return pixels.bend_territories(label, cell_of_label, self._textures.plain, *place, 0.8 / mpp)

    def _parenchyma(
        self, owner: NDArray[np.int32], left: int, top: int, shape: tuple[int, int]
    ) -> FloatArray:
        """Cytoplasm, cell borders and sinusoids; float32 [h, w, 3] of haematoxylin, eosin, erythrocyte."""
        canvas = np.zeros((*shape, 3), np.float32)
        if not (owner >= 0).any():
            return canvas
        edges, within_cord = pixels.borders(owner, self.cells.cord)
        cord_gap = cv2.distanceTransform(within_cord, cv2.DIST_L2, 3)
        pixels.paint_parenchyma(
            canvas,
            owner,
            cv2.blur(edges, (3, 3)),
            cord_gap,
            self._along_cords(np.minimum(cord_gap, max(shape)), left, top),
            self._cell_table,
            self._textures.plain,
            self._textures.foam_coarse,
            self._textures.foam_fine,
            *self._foamy,
            *self._place(left, top),
            self.spec.mpp,
        )
        return canvas

    def _along_cords(self, cord_gap: FloatArray, left: int, top: int) -> FloatArray:
        """1 where a border between cords runs along the lobule's radius, near 0 where it cuts across it."""
        small = np.ascontiguousarray(cord_gap[::2, ::2])
        across_x = cv2.Sobel(small, cv2.CV_32F, 1, 0, ksize=3)
        across_y = cv2.Sobel(small, cv2.CV_32F, 0, 1, ksize=3)
        shape = cord_gap.shape
        axis_x, axis_y = (
            self._half_patch(axis, left, top, shape) for axis in (self.lobules.axis_x, self.lobules.axis_y)
        )
        squared = across_x * across_x + across_y * across_y
        cosine = across_x * axis_x + across_y * axis_y
        ratio = cv2.blur(cosine * cosine, (5, 5)) / (cv2.blur(squared, (5, 5)) + np.float32(1.0))
        return cv2.resize(np.clip(1.3 - 1.6 * ratio, 0.1, 1.0), shape[::-1])

    def _stamp(self, canvas: FloatArray, row: int, left: int, top: int) -> None:
        """Stamp the objects that touch a window, in drawing order."""
        spec, objects, bank = self.spec, self.objects, self.bank
        near = np.flatnonzero(np.abs(self._object_row - row) <= 1)
        places = np.floor(objects.centre[near] / spec.mpp).astype(np.int64) - [left, top]
        reach = int(32 / spec.mpp)
        height, width = canvas.shape[:2]
        inside = (places > -reach).all(1) & (places < [width + reach, height + reach]).all(1)
        near = near[inside]
        pixels.stamp(
            canvas,
            places[inside],
            objects.sprite[near],
            objects.mirror[near],
            bank.side,
            bank.start,
            bank.keep,
            bank.add,
        )

    def _develop(self, canvas: FloatArray) -> NDArray[np.uint8]:
        """Beer-Lambert law, the optics' blur, and the scanner's white point."""
        light = cv2.convertScaleAbs(cv2.exp(cv2.transform(canvas, self._colour)))
        sigma = self.spec.stain.blur_um / self.spec.mpp
        return np.asarray(cv2.GaussianBlur(light, (0, 0), sigma) if sigma > 0.2 else light, np.uint8)

    def _mask(self, window: _Window) -> MaskBlock:
        """Lesion bits and tissue at the mask pixels whose centres lie in the block."""
        left, top, margin = window.left, window.top, window.margin
        rows, first_row = mask_pixels(top + margin, window.shape[0] - 2 * margin, self.spec.mpp)
        columns, first_column = mask_pixels(left + margin, window.shape[1] - 2 * margin, self.spec.mpp)
        place = np.ix_(rows - top, columns - left)
        tissue = window.fields["tissue"][place] > 0
        owned = window.owner[place]
        bits = np.where(owned >= 0, self.cells.bits[np.maximum(owned, 0)], 0).astype(np.uint16)
        um = [(axis + 0.5) * self.spec.mpp - self.lobules.origin for axis in (rows, columns)]
        coarse = np.ix_(*(np.round(axis / GRID_UM).astype(int) for axis in um))
        bits = np.where(window.fields["depth"][place] > 0, self.stroma.bits[coarse], bits)
        bits[~tissue | (window.fields["lumen"][place] > 0)] = 0
        span = slice(first_row, first_row + len(rows)), slice(first_column, first_column + len(columns))
        return MaskBlock(bits, tissue, span)


def mask_pixels(start: int, length: int, mpp: float) -> tuple[NDArray[np.int64], int]:
    """Level-0 pixels under the mask pixel centres of an interval, and the index of the first mask pixel."""
    step = MASK_MPP / mpp
    first = int(np.ceil(start / step - 0.5))
    last = int(np.ceil((start + length) / step - 0.5))
    return np.floor((np.arange(first, last) + 0.5) * step).astype(np.int64), first


def mask_length(length: int, mpp: float) -> int:
    """Number of mask pixels along a side of `length` level-0 pixels."""
    return len(mask_pixels(0, length, mpp)[0])


def _stain_matrix(stain: Stain) -> NDArray[np.float32]:
    """[3, 4]: from stain amounts (haematoxylin, eosin, erythrocyte, and 1) to the natural logarithm of grey values."""
    vectors = [np.array(v, np.float64) for v in (stain.hematoxylin, stain.eosin, ERYTHROCYTE_OD)]
    strengths = (stain.h_strength, stain.e_strength, stain.e_strength)
    columns = [v / np.linalg.norm(v) * s for v, s in zip(vectors, strengths, strict=True)]
    absorbed = -np.log(10) * stain.thickness * stain.gamma * np.stack(columns, axis=1)
    glass = np.log(stain.white * np.array(GLASS_TINT))
    return np.column_stack([absorbed, glass]).astype(np.float32)


@cache
def _build_textures(number: int, mpp: float) -> _Textures:
    """One of the `VARIANTS` sets of textures that slides share, each slide from a place of its own on."""
    rng = np.random.default_rng([number, 83])
    plain = np.empty((PERIOD, PERIOD, len(TEXTURE_UM)), np.float32)
    for place, grain_um in enumerate(TEXTURE_UM):
        plain[..., place] = tileable_texture(rng, PERIOD, grain_um / mpp)
    return _Textures(plain, foam_coarse=_foam(rng, 2.7, mpp), foam_fine=_foam(rng, 1.8, mpp))


def _foam(rng: np.random.Generator, pitch_um: float, mpp: float) -> FloatArray:
    """Tileable distance (um) to jittered lattice points."""
    n = round(PERIOD * mpp / pitch_um)
    pitch = PERIOD / n
    seat = (
        np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1) + rng.uniform(0.05, 0.95, (n, n, 2))
    ) * pitch
    seeds = np.ones((PERIOD, PERIOD), np.uint8)
    pixels = seat.reshape(-1, 2).astype(int) % PERIOD
    seeds[pixels[:, 1], pixels[:, 0]] = 0
    pad = int(3 * pitch)
    wrapped = cv2.copyMakeBorder(seeds, pad, pad, pad, pad, cv2.BORDER_WRAP)
    gap = cv2.distanceTransform(wrapped, cv2.DIST_L2, 5)[pad:-pad, pad:-pad]
    return np.ascontiguousarray(gap * np.float32(mpp))
