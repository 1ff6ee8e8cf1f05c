"""Smooth random fields: one-off fields on coarse grids and tileable textures for painting."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

#: float32; OpenCV's stubs promise no more than a number.
FloatArray = NDArray[Any]


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> FloatArray:
    """Gaussian field of zero mean and unit variance.

    Args:
        rng: consumed.
        shape: rows, columns of the result.
        scale: standard deviation of the smoothing kernel in cells of the grid, above 0.

    Returns:
        float32 [rows, columns].
    """
    step = max(1, int(scale / 2))
    small = (shape[0] // step + 9, shape[1] // step + 9)
    sigma = scale / step
    field: FloatArray = rng.standard_normal(small, dtype=np.float32)
    field = cv2.GaussianBlur(field, (0, 0), sigma) * np.float32(2 * np.sqrt(np.pi) * sigma)
    if step > 1:
        field = cv2.resize(field, (small[1] * step, small[0] * step), interpolation=cv2.INTER_CUBIC)
    margin = 2 * step
    return np.ascontiguousarray(field[margin : margin + shape[0], margin : margin + shape[1]])


def tileable_texture(
    rng: np.random.Generator, period: int, sigma: float, sigma_across: float | None = None
) -> FloatArray:
    """Gaussian texture of zero mean and unit variance that repeats without a seam.

    Args:
        rng: consumed.
        period: side in pixels.
        sigma: smoothing along x in pixels.
        sigma_across: smoothing along y; `sigma` if None.

    Returns:
        float32 [period, period].
    """
    sigma_y = sigma if sigma_across is None else sigma_across
    pad = int(4 * max(sigma, sigma_y)) + 2
    field: FloatArray = rng.standard_normal((period, period), dtype=np.float32)
    field = cv2.copyMakeBorder(field, pad, pad, pad, pad, cv2.BORDER_WRAP)
    field = cv2.GaussianBlur(field, (0, 0), sigmaX=sigma, sigmaY=sigma_y)[pad:-pad, pad:-pad]
    return np.ascontiguousarray((field - field.mean()) / field.std())
