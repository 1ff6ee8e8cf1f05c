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
class Block:
    """Pixels of one block.

    Args:
        rgb: uint8 [h, w, 3].
        mask: uint16 [mh, mw] lesion bits at `MASK_MPP`.
        tissue: bool [mh, mw], tissue at `MASK_MPP`.
        mask_x, mask_y: column and row of the mask's first pixel in the slide's mask.
    """

    rgb: NDArray[np.uint8]
    mask: NDArray[np.uint16]
    tissue: NDArray[np.bool_]
    mask_x: int
    mask_y: int


@dataclass(frozen=True)
class _Textures:
    """Tileable textures [PERIOD, PERIOD]; foam_* are distances in um to the nearest vacuole centre."""

    fine: FloatArray
    medium: FloatArray
    lace: FloatArray
    slow: FloatArray
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
        self.bank: SpriteBank = build_sprites(spec.seed, spec.mpp)
        self.objects: Objects = build_objects(spec, self.lobules, self.stroma, self.cells, self.bank)
        self._textures = _build_textures(spec)
        self._artefacts = Artefacts(spec)
        self._colour = _stain_matrix(spec.stain)
        self._cell_order = np.argsort(self.cells.centre[:, 1], kind="stable")
        self._cell_y = self.cells.centre[self._cell_order, 1]
        self._object_row = np.floor(self.objects.centre[:, 1] / (BLOCK * spec.mpp)).astype(np.int64)

    @property
    def blocks(self) -> tuple[int, int]:
        """Number of block rows and columns."""
        return -(-self.spec.height // BLOCK), -(-self.spec.width // BLOCK)

    def block(self, row: int, column: int) -> Block:
        """Paint one block of the lattice; the last row and column are cut to the slide."""
        spec = self.spec
        x0, y0 = column * BLOCK, row * BLOCK
        width, height = min(BLOCK, spec.width - x0), min(BLOCK, spec.height - y0)
        margin = int(np.ceil(MARGIN_UM / spec.mpp))
        left, top = x0 - margin, y0 - margin
        shape = (height + 2 * margin, width + 2 * margin)
        fields = {
            name: self._patch(field, left, top, shape)
            for name, field in (
                ("tissue", self.lobules.tissue),
                ("lumen", self.lobules.lumen),
                ("depth", self.stroma.depth),
                ("pallor", self.stroma.pallor),
                ("cellular", self.stroma.cellular),
            )
        }
        owner = self._territories(left, top, shape)
        canvas = self._parenchyma(owner, left, top, shape)
        self._connective(canvas, fields, left, top, shape)
        self._stamp(canvas, row, left, top)
        np.multiply(canvas, np.clip(fields["tissue"] / np.float32(1.0) + 0.5, 0, 1)[..., None], out=canvas)
        canvas = self._artefacts.on_tissue(canvas, left, top)
        rgb = self._develop(canvas)
        rgb = self._artefacts.on_glass(rgb, left, top)
        core = np.ascontiguousarray(rgb[margin : margin + height, margin : margin + width])
        mask, tissue, mask_x, mask_y = self._mask(owner, fields, x0, y0, width, height, margin)
        return Block(core, mask, tissue, mask_x, mask_y)

    def _patch(self, field: FloatArray, left: int, top: int, shape: tuple[int, int]) -> FloatArray:
        """A coarse field at level-0 pixels of a window."""
        scale = self.spec.mpp / GRID_UM
        start = [(place + 0.5) * scale - self.lobules.origin / GRID_UM for place in (left, top)]
        matrix = np.array([[scale, 0, start[0]], [0, scale, start[1]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(field, matrix, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def _texture(self, texture: FloatArray, left: int, top: int, shape: tuple[int, int]) -> FloatArray:
        rows = np.arange(top, top + shape[0]) % PERIOD
        columns = np.arange(left, left + shape[1]) % PERIOD
        return texture[rows[:, None], columns[None]]

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
        bent = cv2.remap(label.astype(np.float32), column, row, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        return cell_of_label[bent.astype(np.int32)]

    def _parenchyma(self, owner: NDArray[np.int32], left: int, top: int, shape: tuple[int, int]) -> FloatArray:
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
        grain = cells.granule[owner]
        eosin = cells.eosin[owner] * (0.205 + (0.042 + 0.03 * grain) * fine + 0.032 * medium)
        blue = cells.basophil[owner] * (0.02 + 0.07 * np.maximum(lace + 0.5 * medium + 0.3 * fine - 0.2, 0))
        clear = np.clip((lace - (2.1 - 2.5 * cells.glycogen[owner])) * 1.8, 0, 0.8)
        for level, distance, radius, most in (
            (cells.micro, self._textures.foam_coarse, 0.95, 0.9),
            (cells.foam, self._textures.foam_fine, 0.55, 0.6),
        ):
            if level.any():
                share = level[owner]
                gap = self._texture(distance, left, top, shape)
                open_disc = np.clip((radius * (0.5 + 0.7 * share) - gap) / 0.35 + 0.5, 0, most)
                clear = np.maximum(clear, open_disc * (share > 0.2) * (0.6 + 0.4 * share))
        kept = 1 - clear
        eosin *= kept
        blue *= kept
        edge = _edges(owner)
        line = cv2.blur(edge, (3, 3)).astype(np.float32) * np.float32(1 / 255)
        eosin += 0.03 * line
        cord_gap = cv2.distanceTransform(255 - _edges(cells.cord[owner].astype(np.int32)), cv2.DIST_L2, 3)
        half = cells.open_sinusoid[owner] * np.clip(0.6 + 1.05 * slow + 0.5 * lace, -0.3, 3.4)
        gap = np.clip((half - cord_gap * np.float32(mpp)) / np.float32(0.9) + 0.5, 0, 1)
        blood = cells.blood[owner]
        stream = np.clip((np.roll(slow, 211, axis=1) + 0.6 * np.roll(lace, 97, axis=0) - 1.7 + 2.0 * blood) * 3, 0, 1)
        whole = blood >= 1.0
        if whole.any():
            gap = np.maximum(gap, whole * np.clip((np.roll(slow, 401, axis=0) - 0.9) * 3, 0, 1))
        kept = 1 - gap * (0.86 + 0.08 * medium)
        canvas[..., 0] = blue * kept
        canvas[..., 1] = np.maximum(eosin, 0.02) * kept
        canvas[..., 2] = 0.6 * gap * stream * (1 + 0.12 * fine + 0.15 * medium)
        return canvas

    def _connective(
        self, canvas: FloatArray, fields: dict[str, FloatArray], left: int, top: int, shape: tuple[int, int]
    ) -> None:
        """Stroma, vein walls, lumens and capsule over the parenchyma, in place."""
        mpp = self.spec.mpp
        near = fields["depth"] > -6
        wall = np.abs(fields["lumen"]) < 9
        capsule = fields["tissue"] < 6
        if not (near.any() or wall.any() or capsule.any() or (fields["lumen"] > 0).any()):
            return
        slow = self._texture(self._textures.slow, left, top, shape)
        medium = self._texture(self._textures.medium, left, top, shape)
        lace = self._texture(self._textures.lace, left, top, shape)
        depth = fields["depth"] + 1.6 * slow
        cover = np.clip(depth / 1.2 + 0.5, 0, 1)
        strand = 0.5 + 0.5 * np.cos(fields["depth"] * 1.1 + 3.4 * slow + 1.4 * lace + 0.5 * medium)
        solid = 1 - fields["pallor"]
        eosin = solid * (0.12 + 0.08 * strand + 0.025 * medium) + (1 - solid) * (0.012 + 0.035 * strand)
        blue = 0.02 + 0.03 * strand * solid
        eosin += fields["cellular"] * (0.14 + 0.02 * medium - eosin)
        blue += fields["cellular"] * (0.11 * fields["cellular"] + 0.04 * medium - blue)
        for channel, value in ((0, blue), (1, eosin), (2, np.float32(0))):
            canvas[..., channel] += cover * (value - canvas[..., channel])
        lumen = fields["lumen"] + 0.7 * slow
        rim = np.exp(-(((lumen + 1.3) / 1.1) ** 2))
        canvas[..., 1] = np.maximum(canvas[..., 1], 0.20 * rim)
        canvas[..., 0] = np.maximum(canvas[..., 0], 0.05 * rim)
        canvas *= (1 - np.clip(lumen / max(0.8, mpp) + 0.5, 0, 1))[..., None]
        skin = np.exp(-(((fields["tissue"] - 1.6) / 1.3) ** 2))
        canvas[..., 1] = np.maximum(canvas[..., 1], 0.24 * skin)

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
            pixels[inside].tolist(), objects.sprite[near][inside].tolist(), objects.mirror[near][inside].tolist(),
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
        light = cv2.exp(density)
        light *= np.float32(stain.white) * np.array(GLASS_TINT, np.float32)
        sigma = stain.blur_um / self.spec.mpp
        if sigma > 0.2:
            light = cv2.GaussianBlur(light, (0, 0), sigma)
        return np.clip(light + 0.5, 0, 255).astype(np.uint8)

    def _mask(
        self,
        owner: NDArray[np.int32],
        fields: dict[str, FloatArray],
        x0: int,
        y0: int,
        width: int,
        height: int,
        margin: int,
    ) -> tuple[NDArray[np.uint16], NDArray[np.bool_], int, int]:
        """Lesion bits and tissue at the mask pixels whose centres lie in the block."""
        rows, mask_y = mask_pixels(y0, height, self.spec.mpp)
        columns, mask_x = mask_pixels(x0, width, self.spec.mpp)
        place = np.ix_(rows - y0 + margin, columns - x0 + margin)
        tissue = fields["tissue"][place] > 0
        owned = owner[place]
        bits = np.where(owned >= 0, self.cells.bits[np.maximum(owned, 0)], 0).astype(np.uint16)
        um = [(axis + 0.5) * self.spec.mpp - self.lobules.origin for axis in (rows, columns)]
        coarse = np.ix_(*(np.clip(np.round(axis / GRID_UM).astype(int), 0, None) for axis in um))
        bits = np.where(fields["depth"][place] > 0, self.stroma.bits[coarse], bits)
        bits[~tissue | (fields["lumen"][place] > 0)] = 0
        return bits, tissue, mask_x, mask_y


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


def _build_textures(spec: SlideSpec) -> _Textures:
    rng = np.random.default_rng([spec.seed, 83])
    um = 1 / spec.mpp
    return _Textures(
        fine=tileable_texture(rng, PERIOD, 0.45 * um),
        medium=tileable_texture(rng, PERIOD, 1.0 * um),
        lace=tileable_texture(rng, PERIOD, 1.5 * um),
        slow=tileable_texture(rng, PERIOD, 4.5 * um),
        foam_coarse=_foam(rng, 2.7, spec.mpp),
        foam_fine=_foam(rng, 1.8, spec.mpp),
    )


def _foam(rng: np.random.Generator, pitch_um: float, mpp: float) -> FloatArray:
    """Tileable distance (um) to jittered lattice points."""
    n = round(PERIOD * mpp / pitch_um)
    pitch = PERIOD / n
    seat = (np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1) + rng.uniform(0.05, 0.95, (n, n, 2))) * pitch
    seeds = np.ones((PERIOD, PERIOD), np.uint8)
    pixels = seat.reshape(-1, 2).astype(int) % PERIOD
    seeds[pixels[:, 1], pixels[:, 0]] = 0
    pad = int(3 * pitch)
    seeds = cv2.copyMakeBorder(seeds, pad, pad, pad, pad, cv2.BORDER_WRAP)
    gap = cv2.distanceTransform(seeds, cv2.DIST_L2, 5)[pad:-pad, pad:-pad]
    return np.ascontiguousarray(gap * np.float32(mpp))
