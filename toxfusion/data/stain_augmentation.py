"""Random views of H&E tiles for contrastive training, in batches: geometry, blur, stain and brightness. No I/O.

Stain is changed where stains live, in optical density: absorption of haematoxylin and eosin adds there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Optical density vectors (R, G, B) of haematoxylin, eosin and DAB as the residual (Ruifrok and Johnston, 2001).
STAIN_DENSITY = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


@dataclass(frozen=True)
class TileAugmentation:
    """One random view of each tile; which one depends on the generator alone.

    Attributes:
        min_area, max_aspect: the random crop keeps this share of the area at least, at an aspect within the limits;
            it is brought back to the full size. Sizes of nuclei carry meaning, so the crop is mild.
        blur_probability, blur_sigma: Gaussian blur, standard deviation in pixels drawn from 0.1 up to blur_sigma.
        stain_scale, stain_shift: each stain's optical density is multiplied by 1 +- stain_scale and shifted by
            +- stain_shift.
        brightness, contrast: factors 1 +- these.
    """

    min_area: float = 0.5
    max_aspect: float = 4 / 3
    blur_probability: float = 0.5
    blur_sigma: float = 1.0
    stain_scale: float = 0.25
    stain_shift: float = 0.03
    brightness: float = 0.1
    contrast: float = 0.1

    def __call__(self, tiles: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 [N, P, P, 3] -> float32 [N, 3, P, P] in 0..1.

        Args:
            generator: on the CPU, whatever the device of the tiles.

        Raises:
            ValueError: where the tiles are not uint8 [N, P, P, 3].
        """
        if tiles.dtype != torch.uint8 or tiles.dim() != 4 or tiles.shape[-1] != 3:
            raise ValueError(f"tiles must be uint8 [N, P, P, 3], these are {tiles.dtype} {list(tiles.shape)}")
        images = tiles.permute(0, 3, 1, 2).float() / 255.0
        images = self._crop_flip_turn(images, generator)
        images = self._blur(images, generator)
        images = self._stain(images, generator)
        return self._light(images, generator)

    def _crop_flip_turn(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Random resized crop, flips and quarter turns as one resampling."""
        n = len(images)
        area = _uniform(n, self.min_area, 1.0, generator)
        aspect = torch.exp(_uniform(n, -1.0, 1.0, generator) * torch.tensor(self.max_aspect).log())
        sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1.0)
        centre = _uniform((n, 2), -1.0, 1.0, generator) * (1 - sides)
        flip = torch.randint(0, 2, (n, 2), generator=generator) * 2.0 - 1.0
        swap = torch.randint(0, 2, (n,), generator=generator).bool()
        diagonal = torch.diag_embed(sides * flip)
        # Two flips and an exchange of the axes make the eight symmetries of the square.
        linear = torch.where(swap[:, None, None], diagonal.flip(2), diagonal)
        theta = torch.cat([linear, centre[:, :, None]], 2).to(images.device)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _blur(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Separable Gaussian blur, each image with its own deviation."""
        n, _, height, width = images.shape
        sigma = _uniform(n, 0.1, max(self.blur_sigma, 0.1), generator)
        blurred = torch.rand(n, generator=generator) < self.blur_probability
        radius = max(1, round(2 * self.blur_sigma))
        offset = torch.arange(-radius, radius + 1.0)
        kernel = torch.exp(-0.5 * (offset / sigma[:, None]).square())
        kernel = torch.where(blurred[:, None], kernel / kernel.sum(1, keepdim=True), (offset == 0).float())
        kernel = kernel.repeat_interleave(3, 0).to(images.device)
        padded = F.pad(images, (radius,) * 4, mode="reflect").reshape(1, 3 * n, height + 2 * radius, -1)
        blurred = F.conv2d(padded, kernel[:, None, :, None], groups=3 * n)
        return F.conv2d(blurred, kernel[:, None, None, :], groups=3 * n).reshape(n, 3, height, width)

    def _stain(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Scale and shift each stain's optical density, image by image."""
        n = len(images)
        scale = _uniform((n, 3), 1 - self.stain_scale, 1 + self.stain_scale, generator)
        shift = _uniform((n, 3), -self.stain_shift, self.stain_shift, generator)
        stains = F.normalize(torch.tensor(STAIN_DENSITY), dim=1)
        # density' = ((density S^-1) * scale + shift) S, one 3 x 3 matrix and one offset an image.
        matrix = torch.linalg.inv(stains) @ (scale[:, :, None] * stains)
        offset = shift @ stains
        density = -images.clamp(min=1 / 255).log().flatten(2)
        moved = matrix.transpose(1, 2).to(images.device) @ density + offset[:, :, None].to(images.device)
        return (-moved).exp().clamp(0.0, 1.0).view_as(images)

    def _light(self, images: Tensor, generator: torch.Generator) -> Tensor:
        n = len(images)
        brightness = _uniform((n, 1, 1, 1), 1 - self.brightness, 1 + self.brightness, generator).to(images)
        contrast = _uniform((n, 1, 1, 1), 1 - self.contrast, 1 + self.contrast, generator).to(images)
        mean = images.mean((1, 2, 3), keepdim=True)
        return (((images - mean) * contrast + mean) * brightness).clamp(0.0, 1.0)


def _uniform(shape: int | tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)
