"""Stain normalisation by tiatoolbox (Macenko, Vahadane, Reinhard): each image brought to the stain of one target.

What an image's stain is, is estimated once, from a sample of its tissue tiles, and holds for all its tiles: a tile
by itself may hold one stain only, and would be bent towards the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from toxfusion.slides.colour import Pixels
from toxfusion.slides.faults import SlideUnsuitable
from toxfusion.study.files import replace_file

METHODS = ("macenko", "vahadane", "reinhard")
#: tiles of an image that its stain is estimated from
SAMPLE_TILES = 16
TARGET_FILE = "stain_target.png"
#: of the two stains of an image as vectors; those of H&E lie about 4
LARGEST_CONDITION = 100.0
#: of LAB, 0 to 1; lighter pixels are glass
GLASS_LIGHTNESS = 0.9
#: of a channel of LAB
LEAST_DEVIATION = 1e-3
_RGB_LEVELS = 255

#: uint8 [n, P, P, 3] -> the same in the target's stain
Normalise = Callable[[Pixels], Pixels]


class StainError(ValueError):
    """A stain normalisation that cannot be done for any slide; the message says why."""


@dataclass(frozen=True)
class StainNormaliser:
    """Brings tiles to the stain of a target.

    Attributes:
        method: one of ``METHODS``.
        target: uint8 RGB [H, W, 3].
        fitted: tiatoolbox's normaliser, fitted to the target.
    """

    method: str
    target: Pixels
    fitted: Any

    @classmethod
    def fit(cls, method: str, target: Pixels) -> StainNormaliser:
        """Fit to a picture of stained tissue.

        Raises:
            StainError: an unknown method, or a picture without tissue.
        """
        if method not in METHODS:
            raise StainError(f"stain={method}: choose none, {', '.join(METHODS)}")
        from tiatoolbox.tools.stainnorm import get_normalizer

        fitted = get_normalizer(method)
        try:
            seen = _seen(method, target)
            fitted.fit(seen)
            _source(fitted, seen)
        except (ValueError, np.linalg.LinAlgError) as error:
            raise StainError(f"no {method} stain can be estimated from the target: {error}") from error
        return cls(method, target, fitted)

    def provenance(self) -> dict[str, str]:
        """What a store must not mix, as plain JSON values."""
        about = f"{self.target.shape}".encode() + np.ascontiguousarray(self.target).tobytes()
        return {"method": self.method, "target": hashlib.sha256(about).hexdigest()}

    def write_target(self, folder: Path) -> None:
        """Keep the target as ``TARGET_FILE`` in a folder, whole or not at all."""
        _, content = cv2.imencode(".png", cv2.cvtColor(self.target, cv2.COLOR_RGB2BGR))
        replace_file(folder / TARGET_FILE, content.tobytes())

    def of_image(self, name: str, sample: Pixels) -> Normalise:
        """What normalises the tiles of one image, its stain estimated from some of them.

        Args:
            name: of the image, for messages.
            sample: uint8 [n, P, P, 3], tissue.

        Raises:
            SlideUnsuitable: the sample does not show two stains.
        """
        try:
            source = _source(self.fitted, _seen(self.method, mosaic(sample)))
        except (ValueError, np.linalg.LinAlgError) as error:
            raise SlideUnsuitable(
                f"{name}: its {self.method} stain cannot be estimated from {len(sample)} tiles ({error}); leave the "
                "slide out, or use stain=none in a store of its own"
            ) from error
        return self._reinhard(*source) if self.method == "reinhard" else self._absorbing(*source)

    def _absorbing(self, stains: npt.NDArray[Any], strongest: npt.NDArray[Any]) -> Normalise:
        """Amounts of the image's stains, their 99th percentile brought to the target's, in the target's colours."""
        factor = self.fitted.maxC_target / strongest

        def normalise(tiles: Pixels) -> Pixels:
            amounts = self.fitted.get_concentrations(mosaic(tiles), stains) * factor
            light = _RGB_LEVELS * np.exp(-amounts @ self.fitted.stain_matrix_target)
            return np.clip(light, 0, _RGB_LEVELS).reshape(tiles.shape).astype(np.uint8)

        return normalise

    def _reinhard(self, means: tuple[float, ...], deviations: tuple[float, ...]) -> Normalise:
        """Mean and deviation of each channel of LAB brought from the image's tissue to the target's; glass stays."""
        targets = list(zip(self.fitted.target_means, self.fitted.target_stds, strict=True))

        def normalise(tiles: Pixels) -> Pixels:
            channels = self.fitted.lab_split(mosaic(tiles))
            moved = [
                (channel - mean) * (target_sd / sd) + target_mean
                for channel, mean, sd, (target_mean, target_sd) in zip(
                    channels, means, deviations, targets, strict=True
                )
            ]
            coloured = np.asarray(self.fitted.merge_back(*moved), np.uint8).reshape(tiles.shape)
            return np.where(_is_glass(mosaic(tiles)).reshape(*tiles.shape[:3], 1), tiles, coloured)

        return normalise


def mosaic(tiles: Pixels) -> Pixels:
    """Tiles [n, P, P, 3] one below the other as one picture [n P, P, 3]."""
    return tiles.reshape(-1, *tiles.shape[2:])


def read_target(path: Path | str) -> Pixels:
    """The picture of a target, uint8 RGB.

    Raises:
        StainError: no such file, or no picture.
    """
    if not Path(path).is_file():
        raise StainError(f"stain_target={path}: no such file")
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise StainError(f"stain_target={path}: is no picture that can be read (PNG, JPEG or plain TIFF)")
    return np.asarray(picture, np.uint8)


def _is_glass(picture: Pixels) -> npt.NDArray[np.bool_]:
    """bool [H, W]: pixels so light that they show no stain."""
    lightness = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)[..., 0]
    return np.asarray(lightness > GLASS_LIGHTNESS * _RGB_LEVELS)


def _seen(method: str, picture: Pixels) -> Pixels:
    """What a method may estimate from: Reinhard's tissue alone [n, 1, 3] (the others look for it themselves).

    Raises:
        ValueError: there is no tissue.
    """
    if method != "reinhard":
        return picture
    tissue = picture[~_is_glass(picture)]
    if not len(tissue):
        raise ValueError("it has no tissue")
    return tissue[:, None]


def _source(fitted: Any, picture: Pixels) -> tuple[Any, Any]:
    """Of Reinhard the mean and deviation of each channel; else stains [2, 3] and the 99th percentile of each's amount.

    Raises:
        ValueError: no tissue, one colour or one stain, of which a normaliser would make colours of noise.
    """
    if not hasattr(fitted, "extractor"):
        means, deviations = fitted.get_mean_std(picture)
        if min(deviations) < LEAST_DEVIATION:
            raise ValueError("it is of one colour")
        return means, deviations
    stains = fitted.extractor.get_stain_matrix(picture)
    if not np.isfinite(stains).all() or np.linalg.cond(stains) > LARGEST_CONDITION:
        raise ValueError("it does not show two stains")
    strongest = np.percentile(fitted.get_concentrations(picture, stains), 99, axis=0).reshape(1, 2)
    if not (strongest > 0).all():
        raise ValueError("it does not show two stains")
    return stains, strongest
