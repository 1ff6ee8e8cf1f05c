"""From cells, connective tissue and stamps to stained pixels, one block at a time.

A block depends only on the slide's specification and the block's place, so slides of any size are painted in pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from toxfusion.synthetic.artefacts import Artefacts
from toxfusion.synthetic.lesions import Stroma, build_stroma
from toxfusion.synthetic.lobules import GRID_UM, Lobules, build_lobules
from toxfusion.synthetic.noise import FloatArray, tileable_texture
from toxfusion.synthetic.objects import Objects, build_objects
from toxfusion.synthetic.parenchyma import Hepatocytes, build_hepatocytes
from toxfusion.synthetic.slide_spec import MASK_MPP, SlideSpec, Stain
from toxfusion.synthetic.sprites import SpriteBank, build_sprites

BLOCK = 768
MARGIN_UM = 22.0
ERYTHROCYTE_OD = (0.10, 0.80, 0.59)
GLASS_TINT = (1.0, 0.985, 0.995)
PERIOD = 1024


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
    """Textures of period `PERIOD`, padded so that any window is one slice.

    foam_* are distances in um to the nearest vacuole centre, None on slides without such vacuoles.
    """

    fine: FloatArray
    medium: FloatArray
    lace: FloatArray
    slow: FloatArray
    foam_coarse: FloatArray | None
    foam_fine: FloatArray | None


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
        self.bank: SpriteBank = build_sprites(spec.seed, spec.mpp)
        self.objects: Objects = build_objects(spec, self.lobules, self.stroma, self.cells, self.bank)
        self._margin = int(np.ceil(MARGIN_UM / spec.mpp))
        self._textures = _build_textures(spec, self.cells, BLOCK + 2 * self._margin)
        self._artefacts = Artefacts(spec)
        self._colour = _stain_matrix(spec.stain)
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
        self._connective(canvas, fields, left, top, shape)
        self._stamp(canvas, row, left, top)
        canvas *= np.clip(fields["tissue"] + np.float32(0.5), 0, 1)[..., None]
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
        scale = self.spec.mpp / GRID_UM
        start = [(place + 1) * scale - self.lobules.origin / GRID_UM for place in (left, top)]
        matrix = np.array([[2 * scale, 0, start[0]], [0, 2 * scale, start[1]]])
        half = (-(-shape[1] // 2), -(-shape[0] // 2))
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        small = cv2.warpAffine(field, matrix, half, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return cv2.resize(small, (2 * half[0], 2 * half[1]))[: shape[0], : shape[1]]

    def _texture(self, texture: FloatArray, left: int, top: int, shape: tuple[int, int]) -> FloatArray:
        row, column = top % PERIOD, left % PERIOD
        return texture[row : row + shape[0], column : column + shape[1]]

    def _territories(self, left: int, top: int, shape: tuple[int, int]) -> NDArray[np.int32]:
        """Index of the hepatocyte that owns each pixel (Voronoi, with wavy borders); -1 where there is none."""
        mpp = self.spec.mpp
        first, last = np.searchsorted(self._cell_y, [top * mpp, (top + shape[0]) * mpp])
        index = self._cell_order[first:last]
        pixels = np.floor(self.cells.centre[index] / mpp).astype(np.int64) - [left, top]
        inside = (pixels >= 0).all(1) & (pixels < [shape[1], shape[0]]).all(1)
        index, pixels = index[inside], pixels[inside]
        if len(index) == 0:
            return np.full(shape, -1, np.int32)
        seeds = np.ones(shape, np.uint8)
        seeds[pixels[:, 1], pixels[:, 0]] = 0
        _, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        cell_of_label = np.full(int(label.max()) + 1, -1, np.int32)
        cell_of_label[label[pixels[:, 1], pixels[:, 0]]] = index
        wave = self._texture(self._textures.slow, left, top, shape) * np.float32(0.8 / mpp)
        column = np.arange(shape[1], dtype=np.float32)[None] + wave
        row = np.arange(shape[0], dtype=np.float32)[:, None] + wave[:, ::-1]
        bent = cv2.remap(
            label.astype(np.float32), column, row, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
        )
        return cell_of_label[bent.astype(np.int32)]

    def _parenchyma(
        self, owner: NDArray[np.int32], left: int, top: int, shape: tuple[int, int]
    ) -> FloatArray:
        """Cytoplasm, cell borders and sinusoids; float32 [h, w, 3] of haematoxylin, eosin, erythrocyte."""
        cells, mpp = self.cells, self.spec.mpp
        canvas = np.zeros((*shape, 3), np.float32)
        if not (owner >= 0).any():
            return canvas
        owner = np.maximum(owner, 0)
        fine = self._texture(self._textures.fine, left, top, shape)
        medium = self._texture(self._textures.medium, left, top, shape)
        lace = self._texture(self._textures.lace, left, top, shape)
        slow = self._texture(self._textures.slow, left, top, shape)
        grain = np.take(cells.granule, owner)
        eosin = np.take(cells.eosin, owner) * (0.205 + (0.042 + 0.03 * grain) * fine + 0.032 * medium)
        blue = np.take(cells.basophil, owner) * (
            0.034 + 0.095 * np.maximum(lace + 0.5 * medium + 0.3 * fine - 0.2, 0)
        )
        clear = np.clip((lace - (2.1 - 2.4 * np.take(cells.glycogen, owner))) * 1.6, 0, 0.68)
        for level, distance, radius, most in (
            (cells.micro, self._textures.foam_coarse, 0.95, 0.9),
            (cells.foam, self._textures.foam_fine, 0.6, 0.72),
        ):
            if distance is not None:
                share = np.take(level, owner)
                gap = self._texture(distance, left, top, shape)
                open_disc = np.clip(
                    (radius * (0.5 + 0.7 * share) * (1 + 0.22 * lace) - gap) / 0.35 + 0.5, 0, most
                )
                clear = np.maximum(clear, open_disc * (share > 0.2) * (0.6 + 0.4 * share))
        kept = 1 - clear
        eosin *= kept
        blue *= kept
        edge = _edges(owner)
        line = cv2.blur(edge, (3, 3)).astype(np.float32) * np.float32(1 / 255)
        eosin += 0.03 * line
        cord_gap = cv2.distanceTransform(255 - _edges(np.take(cells.cord, owner)), cv2.DIST_L2, 3)
        cord_gap = np.minimum(cord_gap, max(shape))  # a window inside one cord has no border to be far from
        half = np.take(cells.open_sinusoid, owner) * np.clip(0.85 + 1.05 * slow + 0.5 * lace, -0.3, 3.4)
        half *= self._along_cords(cord_gap, left, top)
        gap = np.clip((half - cord_gap * np.float32(mpp)) / np.float32(0.9) + 0.5, 0, 1)
        blood = np.take(cells.blood, owner)
        stream = np.clip(
            (np.roll(slow, 211, axis=1) + 0.6 * np.roll(lace, 97, axis=0) - 1.7 + 2.0 * blood) * 3, 0, 1
        )
        whole = blood >= 1.0
        if whole.any():
            gap = np.maximum(gap, whole * np.clip((np.roll(slow, 401, axis=0) - 0.9) * 3, 0, 1))
        kept = 1 - gap * (0.86 + 0.08 * medium)
        canvas[..., 0] = blue * kept
        canvas[..., 1] = np.maximum(eosin, 0.02) * kept
        canvas[..., 2] = 0.6 * gap * stream * (1 + 0.12 * fine + 0.15 * medium)
        return canvas

    def _along_cords(self, cord_gap: FloatArray, left: int, top: int) -> FloatArray:
        """1 where a border between cords runs along the lobule's radius, near 0 where it cuts across it."""
        small = cv2.resize(cord_gap, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST)
        across_x = cv2.Sobel(small, cv2.CV_32F, 1, 0, ksize=3)
        across_y = cv2.Sobel(small, cv2.CV_32F, 0, 1, ksize=3)
        shape = cord_gap.shape
        axis_x = cv2.resize(self._patch(self.lobules.axis_x, left, top, shape), small.shape[::-1])
        axis_y = cv2.resize(self._patch(self.lobules.axis_y, left, top, shape), small.shape[::-1])
        squared = across_x * across_x + across_y * across_y
        cosine = across_x * axis_x + across_y * axis_y
        ratio = cv2.blur(cosine * cosine, (5, 5)) / (cv2.blur(squared, (5, 5)) + np.float32(1.0))
        return cv2.resize(np.clip(1.3 - 1.6 * ratio, 0.1, 1.0), shape[::-1])

    def _connective(
        self, canvas: FloatArray, fields: dict[str, FloatArray], left: int, top: int, shape: tuple[int, int]
    ) -> None:
        """Stroma, vein walls, lumens and capsule over the parenchyma, in place."""
        concerned = (fields["depth"] > -6) | (fields["lumen"] > -6) | (fields["tissue"] < 6)
        index = np.flatnonzero(concerned)
        if len(index) == 0:
            return
        slow, medium, lace = (
            self._texture(texture, left, top, shape)[concerned]
            for texture in (self._textures.slow, self._textures.medium, self._textures.lace)
        )
        tissue, lumen, depth, pallor, cellular = (
            fields[name].ravel()[index] for name in ("tissue", "lumen", "depth", "pallor", "cellular")
        )
        flat = canvas.reshape(-1, 3)
        stain = flat[index]
        cover = np.clip((depth + 1.6 * slow) / 1.2 + 0.5, 0, 1)
        strand = 0.5 + 0.5 * np.cos(depth * 1.1 + 3.4 * slow + 1.4 * lace + 0.5 * medium)
        solid = 1 - pallor
        eosin = solid * (0.10 + 0.08 * strand + 0.025 * medium) + (1 - solid) * (0.012 + 0.035 * strand)
        blue = solid * (0.035 + 0.04 * strand + 0.02 * medium)
        eosin += cellular * (0.14 + 0.02 * medium - eosin)
        blue += cellular * (0.11 * cellular + 0.04 * medium - blue)
        for channel, value in ((0, blue), (1, eosin), (2, np.float32(0))):
            stain[:, channel] += cover * (value - stain[:, channel])
        wall = lumen + 0.7 * slow
        rim = np.exp(-(((wall + 1.3) / 1.1) ** 2))
        stain[:, 1] = np.maximum(stain[:, 1], 0.20 * rim)
        stain[:, 0] = np.maximum(stain[:, 0], 0.05 * rim)
        stain *= (1 - np.clip(wall / max(0.8, self.spec.mpp) + 0.5, 0, 1))[:, None]
        skin = np.exp(-(((tissue - 1.6) / 1.3) ** 2))
        stain[:, 1] = np.maximum(stain[:, 1], 0.24 * skin)
        flat[index] = stain

    def _stamp(self, canvas: FloatArray, row: int, left: int, top: int) -> None:
        """Stamp the objects that touch a window, in drawing order."""
        spec, objects = self.spec, self.objects
        near = np.flatnonzero(np.abs(self._object_row - row) <= 1)
        pixels = np.floor(objects.centre[near] / spec.mpp).astype(np.int64) - [left, top]
        reach = int(32 / spec.mpp)
        height, width = canvas.shape[:2]
        inside = (pixels > -reach).all(1) & (pixels < [width + reach, height + reach]).all(1)
        keep_bank, add_bank = self.bank.keep, self.bank.add
        columns = zip(
            pixels[inside].tolist(),
            objects.sprite[near][inside].tolist(),
            objects.mirror[near][inside].tolist(),
            strict=True,
        )
        for (x, y), sprite, mirror in columns:
            keep, add = keep_bank[sprite], add_bank[sprite]
            if mirror & 1:
                keep, add = keep[::-1], add[::-1]
            if mirror & 2:
                keep, add = keep[:, ::-1], add[:, ::-1]
            half = keep.shape[0] // 2
            x0, y0 = x - half, y - half
            a, b = max(0, -y0), min(2 * half, height - y0)
            c, d = max(0, -x0), min(2 * half, width - x0)
            if a >= b or c >= d:
                continue
            window = canvas[y0 + a : y0 + b, x0 + c : x0 + d]
            window *= keep[a:b, c:d]
            window += add[a:b, c:d]

    def _develop(self, canvas: FloatArray) -> NDArray[np.uint8]:
        """Beer-Lambert law, the optics' blur, and the scanner's white point."""
        stain = self.spec.stain
        density = cv2.transform(np.maximum(canvas, 0), self._colour)
        light: FloatArray = cv2.exp(density)
        light *= np.float32(stain.white) * np.array(GLASS_TINT, np.float32)
        sigma = stain.blur_um / self.spec.mpp
        if sigma > 0.2:
            light = cv2.GaussianBlur(light, (0, 0), sigma)
        return np.clip(light + 0.5, 0, 255).astype(np.uint8)

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


def _edges(label: NDArray[np.int32]) -> NDArray[np.uint8]:
    """255 where the right or lower neighbour has another label."""
    edge = np.zeros(label.shape, np.uint8)
    edge[:, :-1] = label[:, 1:] != label[:, :-1]
    edge[:-1] |= (label[1:] != label[:-1]).view(np.uint8)
    edge *= 255
    return edge


def _stain_matrix(stain: Stain) -> FloatArray:
    """Matrix from stain amounts (haematoxylin, eosin, erythrocyte) to the natural logarithm of light."""
    vectors = [np.array(v, np.float64) for v in (stain.hematoxylin, stain.eosin, ERYTHROCYTE_OD)]
    strengths = (stain.h_strength, stain.e_strength, stain.e_strength)
    rows = [v / np.linalg.norm(v) * s for v, s in zip(vectors, strengths, strict=True)]
    return (-np.log(10) * stain.thickness * stain.gamma * np.stack(rows, axis=1)).astype(np.float32)


def _build_textures(spec: SlideSpec, cells: Hepatocytes, window: int) -> _Textures:
    rng = np.random.default_rng([spec.seed, 83])
    um = 1 / spec.mpp

    def padded(texture: FloatArray) -> FloatArray:
        return np.pad(texture, ((0, window), (0, window)), mode="wrap")

    return _Textures(
        fine=padded(tileable_texture(rng, PERIOD, 0.45 * um)),
        medium=padded(tileable_texture(rng, PERIOD, 1.0 * um)),
        lace=padded(tileable_texture(rng, PERIOD, 1.25 * um)),
        slow=padded(tileable_texture(rng, PERIOD, 4.5 * um)),
        foam_coarse=padded(_foam(rng, 2.7, spec.mpp)) if cells.micro.any() else None,
        foam_fine=padded(_foam(rng, 1.8, spec.mpp)) if cells.foam.any() else None,
    )


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
