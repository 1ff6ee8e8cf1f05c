"""Reconstruction: only masked entries count; the stop-gradient switch; masks of exact size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from toxfusion.data.batch import RaggedTiles
from toxfusion.objectives.masked import (
    ExpressionReconstruction,
    LatentRetention,
    MaskedGenes,
    MaskedTileFeatures,
    TileRetention,
    draw_hidden_tiles,
    draw_mask,
    masked_mean_square,
)


def test_masked_mean_square_by_hand() -> None:
    predicted = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    target = torch.tensor([[0.0, 2.0], [5.0, 9.0]])
    mask = torch.tensor([[True, False], [True, False]])
    assert float(masked_mean_square(predicted, target, mask)) == (1 + 4) / 2
    assert float(masked_mean_square(predicted, target, torch.zeros_like(mask))) == 0.0
    tokens = masked_mean_square(predicted[None], target[None], torch.tensor([[False, True]]))
    assert float(tokens) == (4 + 25) / 2  # mean over width, then over masked tokens


def test_unmasked_entries_may_be_anything() -> None:
    target = torch.tensor([[0.0, float("nan")]])
    predicted = torch.zeros(1, 2, requires_grad=True)
    loss = masked_mean_square(predicted, target, torch.tensor([[True, False]]))
    loss.backward()
    assert float(loss) == 0.0
    assert predicted.grad.isfinite().all()


def test_samples_without_expression_do_not_count() -> None:
    predicted, target = torch.ones(2, 3), torch.zeros(2, 3)
    target[1] = 100.0
    masked = torch.ones(2, 3, dtype=torch.bool)
    assert float(MaskedGenes()(predicted, target, masked, torch.tensor([True, False]))) == 1.0


def test_masks_have_an_exact_size_and_follow_their_generator() -> None:
    masks = [draw_mask((4, 10), 0.75, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert (masks[0].sum(1) == 8).all()
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert (draw_mask((4, 10), 1.0).sum(1) == 9).all()  # something is always left to read


def bags(*lengths: int, width: int = 8) -> RaggedTiles:
    n = sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return RaggedTiles(torch.randn(n, width, requires_grad=True), torch.rand(n, 2) * 1000, offsets)


every_token_count = pytest.mark.parametrize("n_tokens", [1, 6])


@every_token_count
@pytest.mark.parametrize("stop", [True, False])
def test_retention_moves_its_targets_only_without_stop_gradient(stop: bool, n_tokens: int) -> None:
    torch.manual_seed(0)
    module = LatentRetention(8, n_tokens, heads=2, stop_gradient=stop)
    # The prediction is a constant: gradient can reach tokens as targets alone.
    nn.init.zeros_(module.out.weight)
    tokens = torch.randn(3, n_tokens, 8, requires_grad=True)
    module(tokens, torch.tensor([True, True, False]), torch.Generator().manual_seed(0)).backward()
    assert bool(tokens.grad[:2].any()) is not stop
    assert not tokens.grad[2].any()


@pytest.mark.parametrize("stop", [True, False])
def test_tile_retention_moves_its_targets_only_without_stop_gradient(stop: bool) -> None:
    torch.manual_seed(0)
    module, tiles = TileRetention(8, heads=2, stop_gradient=stop), bags(4, 0, 1, 9)
    nn.init.zeros_(module.out.weight)
    module(tiles, torch.Generator().manual_seed(0)).backward()
    assert bool(tiles.features.grad.any()) is not stop
    assert not tiles.features.grad[4].any()  # a bag of one tile has none to restore it from


@every_token_count
def test_masked_latents_are_restored_from_the_others_and_told_apart(n_tokens: int) -> None:
    torch.manual_seed(0)
    module, present = LatentRetention(8, n_tokens, heads=2), torch.tensor([True])
    tokens = torch.randn(1, n_tokens, 8, requires_grad=True)
    module(tokens, present, torch.Generator().manual_seed(0)).backward()
    size = 6 if n_tokens > 1 else 8
    masked = draw_mask((1, size), 0.75, torch.Generator().manual_seed(0))[0]
    read = tokens.grad[0].abs().sum(1) > 0 if n_tokens > 1 else tokens.grad[0, 0].abs() > 0
    assert torch.equal(read, ~masked)


def test_a_hidden_tile_is_told_by_its_place_and_read_from_its_own_bag() -> None:
    torch.manual_seed(0)
    module, tiles = TileRetention(8, heads=2), bags(8, 4)
    hidden = draw_hidden_tiles(tiles, 0.75, torch.Generator().manual_seed(0))
    loss = module(tiles, torch.Generator().manual_seed(0))
    loss.backward()
    assert torch.equal(tiles.features.grad.abs().sum(1) > 0, ~hidden)
    first, second = (i for i in hidden.nonzero()[:2, 0].tolist())
    swapped = tiles.coordinates.clone()
    swapped[[first, second]] = swapped[[second, first]]
    other = module(replace(tiles, coordinates=swapped), torch.Generator().manual_seed(0))
    assert not torch.isclose(loss, other)


def test_bags_of_one_tile_alone_give_nothing_to_restore() -> None:
    assert float(TileRetention(8, heads=2)(bags(1, 1, 0))) == 0.0


def test_tile_features_are_predicted_against_detached_inputs() -> None:
    torch.manual_seed(0)
    module, tiles = MaskedTileFeatures(8, 5), bags(3, 3, width=5)
    vector = torch.randn(2, 8, requires_grad=True)
    module(vector, tiles, torch.tensor([True, False, True, True, False, False])).backward()
    assert vector.grad.abs().sum() > 0
    assert tiles.features.grad is None


def test_expression_reconstruction_counts_pairs_alone() -> None:
    decoder = nn.Linear(2, 3)
    nn.init.zeros_(decoder.weight)
    nn.init.zeros_(decoder.bias)
    expression = torch.tensor([[1.0, 2.0, 3.0], [50.0, 50.0, 50.0]])
    loss = ExpressionReconstruction(decoder)(torch.ones(2, 2), expression, torch.tensor([True, False]))
    assert float(loss) == pytest.approx(14 / 3)
