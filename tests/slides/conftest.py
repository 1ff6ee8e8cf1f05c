"""Small slides for the tests of readers, tissue, grid and pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

GLASS, EOSIN, NUCLEUS = (244, 243, 246), (226, 150, 190), (96, 62, 142)


def _paint(width: int, height: int, seed: int = 0) -> np.ndarray:
    """uint8 RGB [height, width, 3]: an ellipse of tissue with nuclei on glass, filling the middle 80 %."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), GLASS, np.uint8)
    centre, axes = (width // 2, height // 2), (int(0.4 * width), int(0.4 * height))
    cv2.ellipse(picture, centre, axes, 0, 0, 360, EOSIN, -1)
    for _ in range(width * height // 400):
        angle, radius = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.9))
        x, y = centre[0] + axes[0] * radius * np.cos(angle), centre[1] + axes[1] * radius * np.sin(angle)
        cv2.circle(picture, (int(x), int(y)), 3, NUCLEUS, -1)
    noise = rng.integers(-4, 5, picture.shape)
    return np.clip(picture.astype(int) + noise, 0, 255).astype(np.uint8)


def _write_pyramid(
    path: Path, picture: np.ndarray, *, mpp: float | None = 0.5, levels: int = 3, jpeg: bool = True
) -> Path:
    """A tiled pyramidal TIFF that OpenSlide opens; mpp in its resolution tags."""
    options: dict[str, object] = {"tile": (128, 128), "photometric": "rgb", "metadata": None}
    if jpeg:
        options |= {"compression": "jpeg", "compressionargs": {"level": 92}}
    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            size = picture.shape[1] >> level, picture.shape[0] >> level
            part = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if level else picture
            if mpp is not None:
                per_cm = 1e4 / (mpp * 2**level)
                options["resolution"] = (per_cm, per_cm)
            writer.write(part, subfiletype=int(level > 0), **options)
    return path


@pytest.fixture(scope="session")
def section() -> Callable[..., np.ndarray]:
    """section(width, height, seed=0) -> uint8 RGB [height, width, 3], an ellipse of tissue on glass."""
    return _paint


@pytest.fixture
def write_slide(tmp_path: Path) -> Callable[..., Path]:
    """write_slide(name, width=640, height=512, seed=0, mpp=0.5, levels=3, jpeg=True) -> path of a TIFF."""

    def write(name: str, width: int = 640, height: int = 512, seed: int = 0, **options: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return _write_pyramid(path, _paint(width, height, seed), **options)  # type: ignore[arg-type]

    return write
