"""Reconstruction: only masked entries count; the stop-gradient switch; masks of exact size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from toxfusion.objectives.masked import (
    ExpressionReconstruction,
    LatentRetention,
    MaskedGenes,
    MaskedTileFeatures,
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


@pytest.mark.parametrize("stop", [True, False])
def test_retention_moves_its_targets_only_without_stop_gradient(stop: bool) -> None:
    torch.manual_seed(0)
    module = LatentRetention(8, heads=2, stop_gradient=stop)
    nn.init.zeros_(
        module.out.weight
    )  # the prediction is a constant: gradient can reach tokens as targets alone
    tokens = torch.randn(3, 6, 8, requires_grad=True)
    module(tokens, torch.tensor([True, True, False]), torch.Generator().manual_seed(0)).backward()
    assert bool(tokens.grad[:2].any()) is not stop
    assert not tokens.grad[2].any()


def test_tile_features_are_predicted_against_detached_inputs() -> None:
    torch.manual_seed(0)
    module = MaskedTileFeatures(8, 5)
    vector = torch.randn(2, 8, requires_grad=True)
    target = torch.randn(4, 5, requires_grad=True)
    loss = module(vector, torch.rand(4, 2) * 1000, torch.tensor([0, 0, 1, 1]), target)
    loss.backward()
    assert vector.grad.abs().sum() > 0
    assert target.grad is None


def test_expression_reconstruction_counts_pairs_alone() -> None:
    decoder = nn.Linear(2, 3)
    nn.init.zeros_(decoder.weight)
    nn.init.zeros_(decoder.bias)
    expression = torch.tensor([[1.0, 2.0, 3.0], [50.0, 50.0, 50.0]])
    loss = ExpressionReconstruction(decoder)(torch.ones(2, 2), expression, torch.tensor([True, False]))
    assert float(loss) == pytest.approx(14 / 3)
