"""Instance clustering of CLAM: values by hand, which tiles it takes, and what it teaches."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from toxfusion.data.batch import RaggedTiles
from toxfusion.models.bag import SlideEncoding
from toxfusion.models.clam import ClusteredAttention
from toxfusion.objectives.instance_clustering import InstanceClustering, smooth_svm


def encoding(attention: list[float], features: torch.Tensor, lengths: list[int]) -> SlideEncoding:
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    tiles = RaggedTiles(features, torch.zeros(len(features), 2), offsets)
    empty = torch.zeros(len(lengths), 1, features.shape[1])
    return SlideEncoding(empty, empty[:, 0], torch.tensor(attention)[:, None], tiles)


def test_smooth_svm_by_hand() -> None:
    scores = torch.tensor([[0.0, 0.0], [2.0, -1.0]])
    loss = smooth_svm(scores, torch.tensor([True, False]))
    assert float(loss) == pytest.approx((math.log(1 + math.e) + math.log(1 + math.exp(1 - 3.0))) / 2)


def test_the_ends_of_attention_are_the_instances() -> None:
    """Tile 2 has the highest attention and tile 0 the lowest; class 1 of two: classifier 1 sees both, 0 the first."""
    term = InstanceClustering(1, 2, n_tiles=1)
    with torch.no_grad():
        term.classifiers.weight.copy_(torch.tensor([[0.0], [1.0], [0.0], [2.0]]))
        term.classifiers.bias.zero_()
    of = encoding([0.1, 0.3, 0.6], torch.tensor([[5.0], [100.0], [3.0]]), [3])
    softplus = torch.nn.functional.softplus
    own = (softplus(torch.tensor(1 - 6.0)) + softplus(torch.tensor(1 + 10.0))) / 2
    other = softplus(torch.tensor(1 + 3.0))
    assert_close(term(of, torch.tensor([1.0])), (own + other) / 2)


def test_bags_without_a_label_or_of_one_tile_do_not_count() -> None:
    term = InstanceClustering(3, 2)
    of = encoding([0.5, 0.5, 1.0], torch.randn(3, 3), [2, 1])
    nothing = term(of, torch.tensor([float("nan"), 1.0]))
    assert nothing.item() == 0
    nothing.backward()
    assert term.classifiers.weight.grad is not None
    assert_close(term(of, torch.tensor([1.0, 0.0])), term(of, torch.tensor([1.0, float("nan")])))


def test_it_pulls_the_ends_apart_and_leaves_the_choice_alone() -> None:
    torch.manual_seed(0)
    bag = ClusteredAttention(6, 8, dropout=0.0, instance_tiles=4)
    term = InstanceClustering(8, 2, n_tiles=4)
    tiles = RaggedTiles(torch.randn(40, 6), torch.zeros(40, 2), torch.tensor([0, 20, 40]))
    label, before = torch.tensor([0.0, 1.0]), None
    optimizer = torch.optim.Adam([*bag.parameters(), *term.parameters()], lr=0.02)
    for _ in range(60):
        loss = term(bag(tiles), label)
        before = loss.item() if before is None else before
        optimizer.zero_grad()
        loss.backward()
        assert bag.score.weight.grad is None
        optimizer.step()
    assert before is not None
    assert loss.item() < 0.5 * before


def test_its_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"instance_weight=1"):
        ClusteredAttention(6, 8, instance_weight=1.0)
