"""Noise on what a network reads in pretraining, of the strength of a ridge."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from toxfusion.data.batch import Batch, RaggedTiles


class NoiseError(ValueError):
    """A strength of noise that is below 0."""


@dataclass(frozen=True)
class InputNoise:
    """Gaussian noise on profiles, and a shift and a scale of all tiles of a bag, as of another stain or scanner.

    A linear map that is fitted to inputs with noise of variance l is the ridge of penalty l on inputs without (Bishop,
    1995). So pretraining with the noise of the ridges that its linear start was solved with does not leave it by
    memorising pairs, and what lies beside the linear path is held as much.

    Attributes:
        slide: deviation of the shift, in units of the deviation of bag means over the batch; the log of the scale
            has this times the deviation of the log deviations in bags. 0 for none.
        expression: deviation, in units of a standardised gene. 0 for none.

    Raises:
        NoiseError: a negative strength.
    """

    slide: float
    expression: float

    def __post_init__(self) -> None:
        if min(self.slide, self.expression) < 0:
            raise NoiseError(
                f"pretrain.noise: slide={self.slide}, expression={self.expression}; a deviation is 0 or more"
            )

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with noise; samples without a modality stay as they are.

        Args:
            generator: on the CPU.
        """
        if self.expression > 0 and batch.expression.shape[1]:
            drawn = torch.randn(batch.expression.shape, generator=generator).to(batch.expression)
            noisy = batch.expression + self.expression * drawn * batch.has_expression[:, None]
            batch = replace(batch, expression=noisy)
        if self.slide > 0 and len(batch.tiles.features):
            batch = replace(batch, tiles=self._restained(batch.tiles, generator))
        return batch

    def _restained(self, tiles: RaggedTiles, generator: torch.Generator) -> RaggedTiles:
        bag, features = tiles.bag_index, tiles.features.float()
        shape = (2, tiles.n_bags, features.shape[1])
        shift, scale = torch.randn(shape, generator=generator).to(features)
        lengths = tiles.lengths.clamp(min=1)[:, None]
        nothing = features.new_zeros(shape[1:])
        mean = nothing.index_add(0, bag, features) / lengths
        spread = nothing.index_add(0, bag, (features - mean[bag]).square()) / lengths
        measured = tiles.lengths > 1
        between, within = (
            _deviation(mean[tiles.lengths > 0]),
            _deviation(spread[measured].clamp(min=1e-6).log() / 2),
        )
        shift, scale = self.slide * between * shift, (self.slide * within * scale).exp()
        moved = (features - mean[bag]) * scale[bag] + (mean + shift)[bag]
        return tiles.with_features(moved.to(tiles.features.dtype))


def _deviation(values: Tensor) -> Tensor:
    """[n, D] -> [D]; 0 where there are fewer than two rows."""
    return values.std(0, correction=0) if len(values) > 1 else values.new_zeros(values.shape[1])
