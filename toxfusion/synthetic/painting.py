"""From cells, connective tissue and stamps to stained pixels, one block at a time.

A block depends only on the slide's specification and the block's place, so slides of any size are painted in pieces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

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
ARTEFACT_REACH_UM = 10.0
"""How far artefacts blur, at least: autolysis to 2.8 um and the blurred spot to 7.2 um."""
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
    """A block with a margin, wherein cells and cords are told apart; what is painted of it ends `inset` px earlier.

    Args:
        left, top: of the margin's first pixel. shape: with the margin. owner: hepatocyte of each pixel.
        fields: coarse fields at the painted pixels.
    """

    left: int
    top: int
    margin: int
    inset: int
    shape: tuple[int, int]
    owner: NDArray[np.int32]
    fields: dict[str, FloatArray]

    @property
    def painted(self) -> tuple[int, int, tuple[int, int]]:
        """Left, top and shape of what is painted."""
        inset = self.inset
        return self.left + inset, self.top + inset, (self.shape[0] - 2 * inset, self.shape[1] - 2 * inset)

    @property
    def core(self) -> tuple[slice, slice]:
        """The block in what is painted."""
        rim = self.margin - self.inset
        height, width = self.painted[2]
        return slice(rim, height - rim), slice(rim, width - rim)


@dataclass(frozen=True)
class _Textures:
    """Textures of period `PERIOD`.

    plain: float32 [4, PERIOD, PERIOD], fine, medium, lace and slow. foam_*: distances in um to the nearest vacuole
    centre.
    """

    plain: FloatArray
    foam_coarse: FloatArray
    foam_fine: FloatArray


class _Scratch:
    """Arrays that each block overwrites: fresh memory would cost a block a fifth of its time."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[Any]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """The array of a name, [shape], with what an earlier block left in it."""
        size = math.prod(shape)
        if name not in self._kept or self._kept[name].size < size:
            self._kept[name] = np.empty(size, dtype)
        return self._kept[name][:size].reshape(shape)


class SlidePainter:
    """Paints a slide block by block, each over the memory of the one before: one painter is of one thread.

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
        self._scratch = _Scratch()
        self._margin = int(np.ceil(MARGIN_UM / spec.mpp))
        optics_um = 3 * spec.stain.blur_um + (ARTEFACT_REACH_UM if spec.artefacts else 0)
        self._inset = max(0, self._margin - int(np.ceil(optics_um / spec.mpp)) - 3) // 2 * 2
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
        left, top, _ = window.painted
        fields = window.fields
        canvas = self._parenchyma(window)
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
        return rgb[window.core], self._mask(window)

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
        fields = {name: self._patch(name, field, left, top, shape) for name, field in coarse.items()}
        owner = self._territories(left, top, shape)
        return _Window(left, top, margin, self._inset, shape, owner, fields)

    def _patch(self, name: str, field: FloatArray, left: int, top: int, shape: tuple[int, int]) -> FloatArray:
        """A coarse field at the painted pixels of a window; bilinear at half resolution, then doubled."""
        small = self._half_patch(field, left, top, shape)
        height, width = (side - 2 * self._inset for side in shape)
        first = max(self._inset // 2 - 1, 0)  # a pixel more on every side, which doubling reads
        after = [first + (side + 1) // 2 + 2 for side in (height, width)]
        cut = small[first : after[0], first : after[1]]
        doubled = self._scratch.array(name, (2 * cut.shape[0], 2 * cut.shape[1]))
        cv2.resize(cut, None, doubled, fx=2, fy=2)
        skip = self._inset - 2 * first
        return doubled[skip : skip + height, skip : skip + width]

    def _half_patch(self, field: FloatArray, left: int, top: int, shape: tuple[int, int]) -> FloatArray:
        """A coarse field at every second pixel of a window, [h / 2, w / 2] rounded up."""
        scale = self.spec.mpp / GRID_UM
        start = [(place + 1) * scale - self.lobules.origin / GRID_UM for place in (left, top)]
        matrix = np.array([[2 * scale, 0, start[0]], [0, 2 * scale, start[1]]])
        half = (-(-shape[1] // 2), -(-shape[0] // 2))
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        small = self._scratch.array("half", half[::-1])
        cv2.warpAffine(field, matrix, half, small, flags, cv2.BORDER_REPLICATE)
        return small

    def _place(self, left: int, top: int) -> tuple[int, int]:
        """Where a window begins in the textures: column and row."""
        return left + self._begin[0], top + self._begin[1]

    def _territories(self, left: int, top: int, shape: tuple[int, int]) -> NDArray[np.int32]:
        """Index of the hepatocyte that owns each pixel (Voronoi, with wavy borders); -1 where there is none."""
        mpp = self.spec.mpp
        first, last = np.searchsorted(self._cell_y, [top * mpp, (top + shape[0]) * mpp])
        index = self._cell_order[first:last]
        places = np.floor(self.cells.centre[index] / mpp).astype(np.int64) - np.array([left, top])
        inside = _within(places, 0, shape)
        index, places = index[inside], places[inside]
        if len(index) == 0:
            return np.full(shape, -1, np.int32)
        seeds = np.ones(shape, np.uint8)
        seeds[places[:, 1], places[:, 0]] = 0
        label = self._scratch.array("label", shape, np.int32)
        cv2.distanceTransformWithLabels(
            seeds, cv2.DIST_L2, 5, self._scratch.array("gap", shape), label, cv2.DIST_LABEL_PIXEL
        )
        cell_of_label = np.full(int(label.max()) + 1, -1, np.int32)
        cell_of_label[label[places[:, 1], places[:, 0]]] = index
        place = self._place(left, top)
        owner = self._scratch.array("owner", shape, np.int32)
        pixels.bend_territories(owner, label, cell_of_label, self._textures.plain, *place, 0.8 / mpp)
        return owner

    def _parenchyma(self, window: _Window) -> FloatArray:
        """Cytoplasm, cell borders and sinusoids; float32 [h, w, 3] of haematoxylin, eosin, erythrocyte."""
        left, top, shape = window.painted
        owner = window.owner
        if not (owner >= 0).any():
            return np.zeros((*shape, 3), np.float32)
        canvas = self._scratch.array("canvas", (*shape, 3))
        edges, within_cord = (self._scratch.array(name, owner.shape, np.uint8) for name in ("cells", "cords"))
        pixels.borders(edges, within_cord, owner, self.cells.cord)
        cord_gap = self._scratch.array("gap", owner.shape)
        cv2.distanceTransform(within_cord, cv2.DIST_L2, 3, cord_gap)
        pixels.paint_parenchyma(
            canvas,
            owner,
            cv2.blur(edges, (3, 3), within_cord),
            cord_gap,
            self._along_cords(cord_gap, window.left, window.top),
            self._cell_table,
            self._textures.plain,
            self._textures.foam_coarse,
            self._textures.foam_fine,
            *self._foamy,
            window.inset,
            *self._place(left, top),
            self.spec.mpp,
        )
        return canvas

    def _along_cords(self, cord_gap: FloatArray, left: int, top: int) -> FloatArray:
        """1 where a border between cords runs along the lobule's radius, near 0 where it cuts across it."""
        small = np.minimum(cord_gap[::2, ::2], max(cord_gap.shape))
        across_x = cv2.Sobel(small, cv2.CV_32F, 1, 0, ksize=3)
        across_y = cv2.Sobel(small, cv2.CV_32F, 0, 1, ksize=3)
        shape = cord_gap.shape
        squared = across_x * across_x + across_y * across_y
        cosine = across_x * self._half_patch(self.lobules.axis_x, left, top, shape)
        cosine += across_y * self._half_patch(self.lobules.axis_y, left, top, shape)
        ratio = cv2.blur(cosine * cosine, (5, 5)) / (cv2.blur(squared, (5, 5)) + np.float32(1.0))
        along = self._scratch.array("along", shape)
        cv2.resize(np.clip(1.3 - 1.6 * ratio, 0.1, 1.0), shape[::-1], along)
        return along

    def _stamp(self, canvas: FloatArray, row: int, left: int, top: int) -> None:
        """Stamp the objects that touch a window, in drawing order."""
        spec, objects, bank = self.spec, self.objects, self.bank
        near = np.flatnonzero(np.abs(self._object_row - row) <= 1)
        places = np.floor(objects.centre[near] / spec.mpp).astype(np.int64) - np.array([left, top])
        reach = int(32 / spec.mpp)
        inside = _within(places, reach, canvas.shape)
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
        """Beer-Lambert law, the optics' blur, and the scanner's white point; the canvas is spent."""
        light = cv2.convertScaleAbs(cv2.exp(cv2.transform(canvas, self._colour, canvas), canvas))
        sigma = self.spec.stain.blur_um / self.spec.mpp
        return np.asarray(cv2.GaussianBlur(light, (0, 0), sigma) if sigma > 0.2 else light, np.uint8)

    def _mask(self, window: _Window) -> MaskBlock:
        """Lesion bits and tissue at the mask pixels whose centres lie in the block."""
        left, top, margin = window.left, window.top, window.margin
        rows, first_row = mask_pixels(top + margin, window.shape[0] - 2 * margin, self.spec.mpp)
        columns, first_column = mask_pixels(left + margin, window.shape[1] - 2 * margin, self.spec.mpp)
        place = np.ix_(rows - top, columns - left)
        painted = np.ix_(rows - top - window.inset, columns - left - window.inset)
        tissue = window.fields["tissue"][painted] > 0
        owned = window.owner[place]
        bits = np.where(owned >= 0, self.cells.bits[np.maximum(owned, 0)], 0).astype(np.uint16)
        um = [(axis + 0.5) * self.spec.mpp - self.lobules.origin for axis in (rows, columns)]
        coarse = np.ix_(*(np.round(axis / GRID_UM).astype(int) for axis in um))
        bits = np.where(window.fields["depth"][painted] > 0, self.stroma.bits[coarse], bits)
        bits[~tissue | (window.fields["lumen"][painted] > 0)] = 0
        span = slice(first_row, first_row + len(rows)), slice(first_column, first_column + len(columns))
        return MaskBlock(bits, tissue, span)


def _within(places: NDArray[np.int64], reach: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether places [n, 2], x and y, lie in a window or nearer to it than `reach`."""
    x, y = places.T
    return (x >= -reach) & (x < shape[1] + reach) & (y >= -reach) & (y < shape[0] + reach)


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
    plain = np.empty((len(TEXTURE_UM), PERIOD, PERIOD), np.float32)
    for place, grain_um in enumerate(TEXTURE_UM):
        plain[place] = tileable_texture(rng, PERIOD, grain_um / mpp)
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
