"""Noise on inputs is the ridge that it is said to be, and touches only what is there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.testing import assert_close

from tests.models.conftest import GENES, ragged
from toxfusion.data.batch import Batch
from toxfusion.data.input_noise import InputNoise, NoiseError
from toxfusion.models.bag import bag_moments


def samples(lengths: list[int], seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    n = len(lengths)
    here, each = torch.ones(n, dtype=torch.bool), torch.arange(n)
    has_expression = each != 1
    return Batch(
        sample_ids=[f"s{i}" for i in range(n)],
        tiles=ragged(lengths, seed=seed),
        expression=torch.randn(n, GENES, generator=generator) * has_expression[:, None],
        has_slide=torch.tensor(lengths) > 0,
        has_expression=has_expression,
        compound=each,
        group=each,
        animal=each,
        is_control=~here,
        labels={},
    )


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_least_squares_on_noisy_profiles_is_the_ridge_on_clean_ones() -> None:
    batch = samples([1] * 60)
    batch = replace(batch, has_expression=torch.ones(60, dtype=torch.bool))
    x = batch.expression - batch.expression.mean(0)
    target = x[:, :3].sum(1)
    ridge = Ridge(alpha=60 * 1.5**2, fit_intercept=False).fit(x.numpy(), target.numpy()).coef_
    noise, centred = InputNoise(slide=0.0, expression=1.5), replace(batch, expression=x)
    drawn = [noise(centred, draw(seed)).expression for seed in range(4000)]
    gram = torch.stack([n.T @ n for n in drawn]).mean(0)
    moment = torch.stack([n.T @ target for n in drawn]).mean(0)
    assert_close(torch.linalg.solve(gram, moment), torch.from_numpy(ridge), rtol=0.1, atol=0.01)


def test_the_shift_of_bags_has_the_deviation_that_is_asked_and_their_tiles_move_together() -> None:
    batch = samples([30] * 40)
    width = batch.tiles.features.shape[1]
    clean = bag_moments(batch.tiles)
    spread = clean[:, :width].std(0, correction=0)
    moved = torch.stack(
        [bag_moments(InputNoise(slide=0.5, expression=0.0)(batch, draw(s)).tiles) - clean for s in range(200)]
    )
    assert_close(moved[..., :width].flatten(0, 1).std(0), 0.5 * spread, rtol=0.1, atol=0)
    assert moved[..., width:].std() > 0
    tiles = InputNoise(slide=0.5, expression=0.0)(batch, draw(0)).tiles
    order_before = batch.tiles.split(batch.tiles.features)[0].argsort(0)
    assert torch.equal(tiles.split(tiles.features)[0].argsort(0), order_before)


@pytest.mark.parametrize("lengths", [[3, 0, 1, 4], [0, 0], [1, 1]])
def test_what_is_missing_stays_missing_and_all_is_finite(lengths: list[int]) -> None:
    batch = samples(lengths)
    noisy = InputNoise(slide=1.0, expression=1.0)(batch, draw(0))
    assert noisy.tiles.features.isfinite().all()
    assert torch.equal(noisy.tiles.offsets, batch.tiles.offsets)
    assert not noisy.expression[1].any()
    assert not torch.equal(noisy.expression[0], batch.expression[0])


def test_the_same_seed_draws_the_same_and_none_leaves_the_batch() -> None:
    batch = samples([3, 4, 5])

    def read(of: Batch) -> tuple[Tensor, Tensor]:
        return of.tiles.features, of.expression

    first, second, other = (read(InputNoise(0.5, 1.0)(batch, draw(seed))) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert all(
        torch.equal(a, b)
        for a, b in zip(read(InputNoise(0.0, 0.0)(batch, draw(0))), read(batch), strict=True)
    )


def test_a_negative_deviation_is_refused() -> None:
    with pytest.raises(NoiseError, match=r"pretrain\.noise: slide=-1"):
        InputNoise(slide=-1, expression=0.0)
