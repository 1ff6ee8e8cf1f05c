"""Small batches of both modalities for the model tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from toxfusion.data.batch import Batch, RaggedTiles

FEATURES, GENES = 10, 40


def ragged(lengths: Sequence[int], *, seed: int = 0, dim: int = FEATURES) -> RaggedTiles:
    """Random tiles on a random part of a grid of 128 um."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    side = 400
    cells = torch.randperm(side * side, generator=generator)[:n]
    coordinates = torch.stack([cells % side, cells // side], 1) * 128.0
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    return RaggedTiles(torch.randn(n, dim, generator=generator), coordinates, offsets)


@pytest.fixture
def make_tiles() -> Callable[..., RaggedTiles]:
    return ragged


@pytest.fixture
def batch() -> Batch:
    """Six samples; the second has no slide, the fifth no expression."""
    generator = torch.Generator().manual_seed(1)
    expression = torch.randn(6, GENES, generator=generator)
    expression[4] = 0.0
    return Batch(
        sample_ids=[f"s{i}" for i in range(6)],
        tiles=ragged([5, 0, 3, 9, 4, 6]),
        expression=expression,
        has_slide=torch.tensor([1, 0, 1, 1, 1, 1], dtype=torch.bool),
        has_expression=torch.tensor([1, 1, 1, 1, 0, 1], dtype=torch.bool),
        compound=torch.tensor([0, 0, 1, 1, 2, 2]),
        group=torch.arange(6),
        animal=torch.arange(6),
        is_control=torch.tensor([0, 0, 0, 1, 0, 0], dtype=torch.bool),
        labels={},
    )
