"""The loops over pixels that painting spends its time in, compiled by numba; each works on one window of a slide.

Here: arithmetic on arrays that `painting` has prepared, in place. Not here: what a slide holds, and files. Textures
repeat every `PERIOD` pixels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from toxfusion.synthetic.noise import FloatArray

PERIOD = 1024
FINE, MEDIUM, LACE, SLOW = range(4)
"""Places of the textures in the first axis."""

CELL_COLUMNS = ("eosin", "basophil", "granule", "glycogen", "micro", "foam", "open_sinusoid", "blood")
"""Of the table of hepatocytes, in the order of its columns."""
EOSIN, BASOPHIL, GRANULE, GLYCOGEN, MICRO, FOAM, OPEN_SINUSOID, BLOOD = range(len(CELL_COLUMNS))

_MASK = PERIOD - 1
compiled: Any = njit(cache=True, error_model="numpy", nogil=True, fastmath=True)


@compiled
def clip(value: float, low: float, high: float) -> float:
    """A number held within two others."""
    return min(max(value, low), high)


@compiled
def bilinear(field: FloatArray, x: float, y: float) -> float:
    """The value of a field between its cells; beyond its border that of the border."""
    height, width = field.shape
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    column, row = min(int(x), width - 2), min(int(y), height - 2)
    u, v = x - column, y - row
    above = (1 - u) * field[row, column] + u * field[row, column + 1]
    below = (1 - u) * field[row + 1, column] + u * field[row + 1, column + 1]
    return (1 - v) * above + v * below


@compiled
def bend_territories(
    owner: NDArray[np.int32],
    label: NDArray[np.int32],
    cell_of_label: NDArray[np.int32],
    textures: FloatArray,
    left: int,
    top: int,
    reach: float,
) -> None:
    """Write the hepatocyte of each pixel, read where slow waves of `reach` pixels lead: cells have wavy borders."""
    height, width = label.shape
    for y in range(height):
        row = (top + y) & _MASK
        for x in range(width):
            wave_x = textures[SLOW, row, (left + x) & _MASK] * reach
            wave_y = textures[SLOW, (row + PERIOD // 2) & _MASK, (left + x) & _MASK] * reach
            from_x = min(max(round(x + wave_x), 0), width - 1)
            from_y = min(max(round(y + wave_y), 0), height - 1)
            owner[y, x] = cell_of_label[label[from_y, from_x]]


@compiled
def borders(
    cells: NDArray[np.uint8],
    within_cord: NDArray[np.uint8],
    owner: NDArray[np.int32],
    cord: NDArray[np.int64],
) -> None:
    """Write 255 where the right or lower neighbour is of another cell; and 0 where it is of another cord, else 255."""
    height, width = owner.shape
    for y in range(height):
        for x in range(width):
            here = owner[y, x]
            right = owner[y, x + 1] if x + 1 < width else here
            below = owner[y + 1, x] if y + 1 < height else here
            cells[y, x], within_cord[y, x] = 0, 255
            if here != right or here != below:
                cells[y, x] = 255
                if cord[here] != cord[right] or cord[here] != cord[below]:
                    within_cord[y, x] = 0


@compiled
def _open_disc(share: float, gap: float, lace: float, radius: float, most: float) -> float:
    """Clearness inside a vacuole of foamy cytoplasm; ``gap`` is the distance in um to its centre."""
    if share <= 0.2:
        return 0.0
    disc = clip((radius * (0.5 + 0.7 * share) * (1 + 0.22 * lace) - gap) / 0.35 + 0.5, 0.0, most)
    return disc * (0.6 + 0.4 * share)


@compiled
def paint_parenchyma(
    canvas: FloatArray,
    owner: NDArray[np.int32],
    line: NDArray[np.uint8],
    cord_gap: FloatArray,
    along: FloatArray,
    cells: FloatArray,
    textures: FloatArray,
    foam_coarse: FloatArray,
    foam_fine: FloatArray,
    with_coarse: bool,
    with_fine: bool,
    inset: int,
    left: int,
    top: int,
    mpp: float,
) -> None:
    """Cytoplasm, cell borders and sinusoids.

    Args:
        canvas: float32 [h, w, 3] of haematoxylin, eosin and erythrocyte, written.
        owner: int32 [h + 2 inset, w + 2 inset], row of ``cells``. line: borders between cells, 0 to 255. cord_gap: px
            to the next border between cords. along: 1 where that border runs along the lobule's radius.
        cells: float32 [n, 8], `CELL_COLUMNS`.
        textures: float32 [4, PERIOD, PERIOD]. foam_coarse, foam_fine: um to vacuoles, [PERIOD, PERIOD]; read where
            with_coarse, with_fine.
        inset: px from the border of owner, line, cord_gap and along to that of the canvas.
        left, top: column and row of the canvas's first pixel in the textures, modulo PERIOD.
    """
    height, width = canvas.shape[:2]
    farthest = max(owner.shape)  # a window inside one cord has no border to be far from
    for v in range(height):
        row, y = (top + v) & _MASK, v + inset
        cell = np.int32(-1)
        basic = grain = grit = basophil = lacy = micro = foam = opened = blood = 0.0
        for u in range(width):
            column, x = (left + u) & _MASK, u + inset
            if u == 0 or owner[y, x] != cell:
                cell = owner[y, x]
                of = cells[cell]
                basic, grit = 0.205 * of[EOSIN], 0.032 * of[EOSIN]
                grain = of[EOSIN] * (0.042 + 0.03 * of[GRANULE])
                basophil, lacy = of[BASOPHIL], 2.1 - 2.4 * of[GLYCOGEN]
                micro, foam, opened, blood = of[MICRO], of[FOAM], of[OPEN_SINUSOID], of[BLOOD]
            fine, medium = textures[FINE, row, column], textures[MEDIUM, row, column]
            lace, slow = textures[LACE, row, column], textures[SLOW, row, column]
            eosin = basic + grain * fine + grit * medium
            blue = basophil * (0.034 + 0.095 * max(lace + 0.5 * medium + 0.3 * fine - 0.2, 0.0))
            clear = clip((lace - lacy) * 1.6, 0.0, 0.68)
            if with_coarse:
                clear = max(clear, _open_disc(micro, foam_coarse[row, column], lace, 0.95, 0.9))
            if with_fine:
                clear = max(clear, _open_disc(foam, foam_fine[row, column], lace, 0.6, 0.72))
            eosin = eosin * (1 - clear) + (0.03 / 255) * line[y, x]
            blue *= 1 - clear
            half = opened * clip(0.85 + 1.05 * slow + 0.5 * lace, -0.3, 3.4) * along[y, x]
            gap = clip((half - min(cord_gap[y, x], farthest) * mpp) / 0.9 + 0.5, 0.0, 1.0)
            if blood >= 1.0:
                pooled = textures[SLOW, (row - 401) & _MASK, column]
                gap = max(gap, clip((pooled - 0.9) * 3, 0.0, 1.0))
            kept = max(1 - gap * (0.86 + 0.08 * medium), 0.0)
            red = 0.0
            if gap > 0:
                flow = textures[SLOW, row, (column - 211) & _MASK]
                flow += 0.6 * textures[LACE, (row - 97) & _MASK, column]
                stream = clip((flow - 1.7 + 2.0 * blood) * 3, 0.0, 1.0)
                red = max(0.6 * gap * stream * (1 + 0.12 * fine + 0.15 * medium), 0.0)
            canvas[v, u, 0], canvas[v, u, 1], canvas[v, u, 2] = blue * kept, max(eosin, 0.02) * kept, red


@compiled
def paint_connective(
    canvas: FloatArray,
    tissue: FloatArray,
    lumen: FloatArray,
    depth: FloatArray,
    pallor: FloatArray,
    cellular: FloatArray,
    textures: FloatArray,
    left: int,
    top: int,
    mpp: float,
) -> None:
    """Stroma, vein walls, lumens and capsule over the parenchyma, in place.

    Args:
        canvas: float32 [h, w, 3]. tissue, lumen, depth: signed distances in um [h, w]. pallor, cellular: 0 to 1.
    """
    height, width = tissue.shape
    softness = max(0.8, mpp)
    for y in range(height):
        row = (top + y) & _MASK
        for x in range(width):
            if depth[y, x] <= -6 and lumen[y, x] <= -6 and tissue[y, x] >= 6:
                continue
            column = (left + x) & _MASK
            slow, lace = textures[SLOW, row, column], textures[LACE, row, column]
            blue, eosin, red = canvas[y, x, 0], canvas[y, x, 1], canvas[y, x, 2]
            cover = clip((depth[y, x] + 1.6 * slow) / 1.2 + 0.5, 0.0, 1.0)
            if cover > 0:
                medium = textures[MEDIUM, row, column]
                strand = 0.5 + 0.5 * math.cos(depth[y, x] * 1.1 + 3.4 * slow + 1.4 * lace + 0.5 * medium)
                solid, crowd = 1 - pallor[y, x], cellular[y, x]
                pink = solid * (0.10 + 0.08 * strand + 0.025 * medium)
                pink += (1 - solid) * (0.012 + 0.035 * strand)
                lilac = solid * (0.035 + 0.04 * strand + 0.02 * medium)
                pink += crowd * (0.14 + 0.02 * medium - pink)
                lilac += crowd * (0.11 * crowd + 0.04 * medium - lilac)
                blue += cover * (lilac - blue)
                eosin += cover * (pink - eosin)
                red -= cover * red
            wall = lumen[y, x] + 0.7 * slow
            if wall > -6:
                rim = math.exp(-(((wall + 1.3) / 1.1) ** 2))
                eosin, blue = max(eosin, 0.20 * rim), max(blue, 0.05 * rim)
            solid = 1 - clip(wall / softness + 0.5, 0.0, 1.0)
            eosin *= solid
            if tissue[y, x] < 8:
                eosin = max(eosin, 0.24 * math.exp(-(((tissue[y, x] - 1.6) / 1.3) ** 2)))
            canvas[y, x, 0], canvas[y, x, 1], canvas[y, x, 2] = max(blue * solid, 0.0), eosin, red * solid


@compiled
def stamp(
    canvas: FloatArray,
    places: NDArray[np.int64],
    sprites: NDArray[np.int64],
    mirrors: NDArray[np.int64],
    side: NDArray[np.int64],
    first: NDArray[np.int64],
    keep: FloatArray,
    add: FloatArray,
) -> None:
    """Stamp sprites in order: below * keep + add, never under 0.

    Args:
        canvas: float32 [h, w, 3]. places: [n, 2], x and y of the sprite's middle in the window. mirrors: bit 1 turns
            rows, bit 2 columns.
        side, first: of each sprite of the bank, and where its pixels begin in ``keep`` [p] and ``add`` [p, 3].
    """
    height, width = canvas.shape[:2]
    for k in range(len(sprites)):
        sprite, mirror = sprites[k], mirrors[k]
        length, start = side[sprite], first[sprite]
        x0, y0 = places[k, 0] - length // 2, places[k, 1] - length // 2
        for v in range(max(0, -y0), min(length, height - y0)):
            row = length - 1 - v if mirror & 1 else v
            for u in range(max(0, -x0), min(length, width - x0)):
                column = length - 1 - u if mirror & 2 else u
                pixel = start + row * length + column
                share = keep[pixel]
                for channel in range(3):
                    below = canvas[y0 + v, x0 + u, channel]
                    canvas[y0 + v, x0 + u, channel] = max(below * share + add[pixel, channel], 0.0)


@compiled
def trim(canvas: FloatArray, tissue: FloatArray) -> None:
    """Nothing outside the tissue, whose edge is one pixel soft; ``tissue``: signed distance to it."""
    height, width = tissue.shape
    for y in range(height):
        for x in range(width):
            if tissue[y, x] < 0.5:
                share = max(tissue[y, x] + 0.5, 0.0)
                for channel in range(3):
                    canvas[y, x, channel] *= share
