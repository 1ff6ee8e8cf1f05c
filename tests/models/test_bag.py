"""Properties of every bag encoder: order, padding, companions, empty and huge bags, gradients, mixed precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from toxfusion.data.batch import RaggedTiles
from toxfusion.models.bag import (
    BagEncoder,
    GatedAttention,
    LatentAttention,
    MaxPool,
    MeanPool,
    PooledAttention,
    SlideEncoding,
    TransMIL,
    bag_moments,
    length_groups,
)
from toxfusion.models.clam import ClusteredAttention

Make = Callable[..., RaggedTiles]
DIM, WIDTH = 10, 16
ENCODERS: dict[str, Callable[[], BagEncoder]] = {
    "mean": lambda: MeanPool(DIM, WIDTH),
    "max": lambda: MaxPool(DIM, WIDTH),
    "abmil": lambda: GatedAttention(DIM, WIDTH, heads=3),
    "pooled": lambda: PooledAttention(DIM, WIDTH, heads=3),
    "clam": lambda: ClusteredAttention(DIM, WIDTH),
    "latent": lambda: LatentAttention(DIM, WIDTH, n_latents=5, heads=2),
    "transmil": lambda: TransMIL(DIM, WIDTH, heads=4),
}
every_encoder = pytest.mark.parametrize("name", ENCODERS)


def built(name: str) -> BagEncoder:
    torch.manual_seed(0)
    return ENCODERS[name]().eval()


def one_bag(tiles: RaggedTiles, bag: int) -> RaggedTiles:
    return tiles.select(tiles.bag_index == bag)


def bag_of(encoding: SlideEncoding, bag: int) -> tuple[torch.Tensor, torch.Tensor]:
    return encoding.tokens[bag], encoding.vector[bag]


@every_encoder
def test_shapes_and_attention_that_sums_to_one(name: str, make_tiles: Make) -> None:
    encoder, tiles = built(name), make_tiles([4, 0, 1, 7])
    encoding = encoder(tiles)
    assert encoding.tokens.shape == (4, encoder.n_tokens, WIDTH)
    assert encoding.vector.shape == (4, WIDTH)
    assert encoding.attention.shape == (12, encoder.heads)
    for weights in tiles.split(encoding.attention):
        if len(weights):
            assert_close(weights.sum(0), torch.ones(encoder.heads))
    features = encoder.forward_features(tiles)
    assert_close(encoder.encode(features, tiles).attention, encoding.attention)


@every_encoder
def test_order_of_tiles_does_not_matter(name: str, make_tiles: Make) -> None:
    encoder, tiles = built(name), make_tiles([9, 14])
    order = torch.cat([torch.randperm(9), 9 + torch.randperm(14)])
    shuffled = RaggedTiles(tiles.features[order], tiles.coordinates[order], tiles.offsets)
    was, now = encoder(tiles), encoder(shuffled)
    assert_close(now.tokens, was.tokens, rtol=1e-4, atol=1e-5)
    assert_close(now.vector, was.vector, rtol=1e-4, atol=1e-5)
    assert_close(now.attention, was.attention[order], rtol=1e-4, atol=1e-6)


def test_order_of_tiles_does_not_matter_where_two_slides_share_coordinates(make_tiles: Make) -> None:
    encoder, tiles = built("transmil"), make_tiles([8])
    tiles = replace(tiles, coordinates=tiles.coordinates[:4].repeat(2, 1))
    order = torch.arange(7, -1, -1)
    shuffled = RaggedTiles(tiles.features[order], tiles.coordinates[order], tiles.offsets)
    assert_close(encoder(shuffled).vector, encoder(tiles).vector, rtol=1e-4, atol=1e-5)


@every_encoder
def test_a_bag_does_not_depend_on_its_companions(name: str, make_tiles: Make) -> None:
    encoder, tiles = built(name), make_tiles([5, 8, 6, 1, 7, 0])
    together = encoder(tiles)
    for bag in range(6):
        alone = encoder(one_bag(tiles, bag))
        for mine, joined in zip((alone.tokens[bag], alone.vector[bag]), bag_of(together, bag), strict=True):
            assert_close(mine, joined, rtol=1e-4, atol=1e-5)


@every_encoder
def test_nothing_flows_from_one_bag_to_another(name: str, make_tiles: Make) -> None:
    encoder, tiles = built(name), make_tiles([5, 8, 6])
    features = tiles.features.clone().requires_grad_()
    encoding = encoder(tiles.with_features(features))
    (encoding.tokens[1].square().sum() + encoding.vector[1].square().sum()).backward()
    touched = features.grad.abs().sum(1) > 0
    assert not touched[:5].any()
    assert not touched[13:].any()
    assert touched[5:13].any()


@every_encoder
def test_empty_bags_give_zeros_and_one_tile_all_the_weight(name: str, make_tiles: Make) -> None:
    encoding = built(name)(make_tiles([0, 1]))
    assert not encoding.tokens[0].any()
    assert not encoding.vector[0].any()
    assert encoding.vector[1].isfinite().all()
    assert_close(encoding.attention, torch.ones_like(encoding.attention))
    nothing = built(name)(make_tiles([0, 0]))
    assert not nothing.vector.any()


@pytest.mark.parametrize("name", ["mean", "max", "abmil", "pooled", "latent"])
def test_a_bag_of_a_hundred_thousand(name: str, make_tiles: Make) -> None:
    tiles = make_tiles([100_000, 1])
    with torch.inference_mode():
        encoding = built(name)(tiles)
    assert encoding.vector.isfinite().all()
    assert_close(
        encoding.attention[:100_000].sum(0), torch.ones(encoding.attention.shape[1]), atol=1e-3, rtol=0
    )


@every_encoder
def test_every_parameter_learns(name: str, make_tiles: Make) -> None:
    encoder = built(name)
    encoding = encoder(make_tiles([5, 8, 6]))
    torch.manual_seed(1)
    ((encoding.tokens * torch.randn_like(encoding.tokens)).sum() + encoding.vector.square().sum()).backward()
    idle = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle


@every_encoder
def test_bfloat16_stays_close(name: str, make_tiles: Make) -> None:
    encoder, tiles = built(name), make_tiles([5, 8, 0, 6])
    exact = encoder(tiles)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(tiles)
    assert rough.attention.dtype == torch.float32
    assert_close(rough.attention.sum(), torch.tensor(3.0 * encoder.heads), rtol=1e-3, atol=0)
    difference = (rough.vector.float() - exact.vector).norm() / exact.vector.norm()
    assert difference < 0.05


def test_gated_attention_is_the_published_formula(make_tiles: Make) -> None:
    encoder, tiles = built("abmil"), make_tiles([6])
    h = encoder.forward_features(tiles)
    e = (torch.tanh(encoder.content(h)) * torch.sigmoid(encoder.gate(h))) @ encoder.score.weight.T
    assert_close(encoder.encode(h, tiles).attention, e.softmax(0))


def test_transmil_sees_where_tiles_are(make_tiles: Make) -> None:
    encoder, tiles = built("transmil"), make_tiles([9])
    moved = replace(tiles, coordinates=tiles.coordinates.flip(0))
    assert not torch.allclose(encoder(moved).vector, encoder(tiles).vector, atol=1e-4)


def test_groups_of_like_length_hold_little_padding(make_tiles: Make) -> None:
    lengths = [1, 2, 3, 4, 5, 63, 64, 65, 1000, 0]
    groups = length_groups(make_tiles(lengths))
    assert sorted(bag for group in groups for bag in group.bags.tolist()) == list(range(9))
    assert all(group.mask.float().mean() > 0.5 for group in groups)
    places = torch.cat([group.index[group.mask] for group in groups])
    assert torch.equal(places.sort().values, torch.arange(sum(lengths)))


def test_transmil_reads_a_bag_without_places_as_a_set(make_tiles: Make) -> None:
    """Its positions then count for nothing, and a bag beside it that has places keeps them."""
    encoder, tiles = built("transmil"), make_tiles([6, 5])
    there = tiles.bag_index == 0
    unplaced = replace(tiles, coordinates=tiles.coordinates.masked_fill(there[:, None], torch.nan))
    encoding = encoder(unplaced)
    assert_close(encoding.vector[1], encoder(tiles).vector[1])
    with torch.no_grad():
        for convolution in encoder.positions.convolutions:  # type: ignore[attr-defined]
            convolution.weight.mul_(7.0)
    changed = encoder(unplaced)
    assert_close(changed.vector[0], encoding.vector[0])
    assert not torch.allclose(changed.vector[1], encoding.vector[1])
    shuffled = unplaced.features.clone()
    shuffled[:6] = unplaced.features[:6].flip(0)
    assert_close(encoder(replace(unplaced, features=shuffled)).vector[0], encoding.vector[0])


def test_moments_of_a_bag_are_its_mean_and_deviation(make_tiles: Make) -> None:
    tiles = make_tiles([5, 0, 1, 8])
    moments = bag_moments(tiles)
    assert moments.shape == (4, 2 * DIM)
    for bag, features in enumerate(tiles.split(tiles.features)):
        if len(features):
            assert_close(moments[bag, :DIM], features.mean(0))
            assert_close(moments[bag, DIM:], features.std(0, correction=0) - 1)
    assert not moments[1].any()
    assert bag_moments(tiles.with_features(tiles.features.bfloat16())).dtype == torch.float32


def test_moments_of_one_tile_have_a_gradient_that_is_finite(make_tiles: Make) -> None:
    tiles = make_tiles([1, 3])
    features = tiles.features.clone().requires_grad_()
    bag_moments(tiles.with_features(features)).square().sum().backward()
    assert features.grad.isfinite().all()
    assert features.grad.any(1).all()
