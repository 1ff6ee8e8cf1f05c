"""Properties of whole networks: every bag encoder with every fusion, and every expression encoder with every fusion."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.training.small_training import FEATURES, GENES, config, names
from toxfusion.data.batch import Batch, RaggedTiles
from toxfusion.models.network import Network, Representation
from toxfusion.training.assemble import build_network
from toxfusion.training.settings import NetworkSettings

SETS = {"first": [0, 1, 2, 3], "second": [3, 4, 5, 6, 7]}
LENGTHS = (5, 1, 9, 4, 0, 6)


#: Bag encoder, expression encoder, fusion: the latter two with the default of the other branch.
NETWORKS = [
    *((bag, "masked_genes", fusion) for bag in names("bag") for fusion in names("fusion")),
    *(
        ("abmil", expression, fusion)
        for expression in names("expression")
        if expression != "masked_genes"
        for fusion in names("fusion")
    ),
]
every_network = pytest.mark.parametrize("parts", NETWORKS, ids="-".join)


@functools.cache
def built(bag: str, expression: str, fusion: str) -> Network:
    """In evaluation mode; parts are taken from configs, since composing each of the networks takes longer."""
    gmt = ["expression.gene_sets.gmt=sets.gmt"] if expression == "pathways" else []
    chosen = config() | {
        "bag": config(f"bag={bag}")["bag"],
        "expression": config(f"expression={expression}", *gmt)["expression"],
        "fusion": config(f"fusion={fusion}")["fusion"],
    }
    torch.manual_seed(0)
    sets = SETS if expression == "pathways" else None
    return build_network(
        NetworkSettings.read(chosen), n_genes=GENES, tile_dim=FEATURES, gene_sets=sets
    ).eval()


def samples(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> Batch:
    """A batch with bags of these lengths; a sample without tiles has no slide, the fourth has no expression."""
    generator = torch.Generator().manual_seed(seed)
    n, sizes = len(lengths), torch.tensor(lengths)
    total, side = int(sizes.sum()), 400
    cells = torch.randperm(side * side, generator=generator)[:total]
    place = torch.stack([cells % side, cells // side], 1) * 128.0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    features = torch.randn(total, FEATURES, generator=generator)
    has_expression = torch.arange(n) != 3
    each = torch.arange(n)
    return Batch(
        sample_ids=[f"s{i}" for i in range(n)],
        tiles=RaggedTiles(features, place, offsets),
        expression=torch.randn(n, GENES, generator=generator) * has_expression[:, None],
        has_slide=sizes > 0,
        has_expression=has_expression,
        compound=each,
        group=each,
        animal=each,
        is_control=torch.zeros(n, dtype=torch.bool),
        labels={},
    )


def joined(batches: list[Batch]) -> Batch:
    """One batch of all, in order."""
    lengths = torch.cat([b.tiles.lengths for b in batches])
    tensors = {
        name: torch.cat([getattr(b, name) for b in batches])
        for name in ("expression", "has_slide", "has_expression", "compound", "group", "animal", "is_control")
    }
    tiles = RaggedTiles(
        torch.cat([b.tiles.features for b in batches]),
        torch.cat([b.tiles.coordinates for b in batches]),
        torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
    )
    return Batch(
        sample_ids=[name for b in batches for name in b.sample_ids], tiles=tiles, labels={}, **tensors
    )


def only(batch: Batch, sample: int) -> Batch:
    """A batch of one sample."""
    tiles = batch.tiles.select(batch.tiles.bag_index == sample)
    names = ("expression", "has_slide", "has_expression", "compound", "group", "animal", "is_control")
    tensors = {name: getattr(batch, name)[sample : sample + 1] for name in names}
    offsets = torch.tensor([0, len(tiles.features)])
    return replace(
        batch,
        sample_ids=batch.sample_ids[sample : sample + 1],
        tiles=replace(tiles, offsets=offsets),
        **tensors,
    )


def outputs(of: Representation) -> dict[str, Tensor]:
    """What a sample is represented by: each a row of it."""
    return {
        "fused": of.fused.vector,
        "gate": of.fused.gate,
        "slide": of.slide.vector,
        "slide_tokens": of.slide.tokens,
        "expression": of.expression.vector,
        "expression_tokens": of.expression.tokens,
        **{
            f"{branch}_{part}": getattr(of, f"{branch}_{part}")
            for branch in ("slide", "expression")
            for part in ("shared", "private")
        },
    }


def close(actual: Tensor, expected: Tensor, name: str) -> None:
    assert_close(actual, expected, rtol=1e-4, atol=1e-5, msg=lambda said: f"{name}: {said}")


@every_network
@torch.no_grad()
def test_order_of_tiles_does_not_matter(parts: tuple[str, str, str]) -> None:
    network, batch = built(*parts), samples()
    generator = torch.Generator().manual_seed(4)
    spread = torch.rand(sum(LENGTHS), generator=generator) + batch.tiles.bag_index
    order = spread.argsort()
    assert not torch.equal(order, order.sort().values)
    tiles = replace(
        batch.tiles, features=batch.tiles.features[order], coordinates=batch.tiles.coordinates[order]
    )
    was, now = network(batch), network(replace(batch, tiles=tiles))
    for name, value in outputs(was).items():
        close(outputs(now)[name], value, name)
    close(now.slide.attention, was.slide.attention[order], "attention")
    close(now.slide.tiles.features, was.slide.tiles.features[order], "encoded tiles")


@every_network
@torch.no_grad()
def test_a_sample_does_not_depend_on_its_companions_nor_on_padding(parts: tuple[str, str, str]) -> None:
    """Alone, among short bags, and beside a bag that pads its own to 16 and another of 70: the same sample."""
    network, batch = built(*parts), samples()
    companions = [[], [samples((2, 0, 3), seed=1)], [samples((16, 70, 7, 11), seed=2)]]
    for sample in range(len(LENGTHS)):
        mine = only(batch, sample)
        alone = network(mine)
        for others in companions[1:]:
            together = network(joined([*others, mine]))
            for name, value in outputs(alone).items():
                close(outputs(together)[name][-1:], value, f"{name} of sample {sample}")
            own_tiles = LENGTHS[sample]
            if own_tiles:
                close(together.slide.attention[-own_tiles:], alone.slide.attention, "attention")
            assert set(together.fused.attention) == set(alone.fused.attention)
            for name, weights in alone.fused.attention.items():
                length = own_tiles if name == "expression_to_tiles" else 1
                close(
                    together.fused.attention[name][len(together.fused.attention[name]) - length :],
                    weights,
                    name,
                )


@every_network
@torch.no_grad()
def test_a_missing_modality_is_not_read(parts: tuple[str, str, str]) -> None:
    """Samples 1 and 2 say that they have no slide and no expression; what lies there all the same must not matter."""
    network, batch = built(*parts), samples()
    has_slide, has_expression = batch.has_slide.clone(), batch.has_expression.clone()
    has_slide[1], has_expression[2] = False, False
    batch = replace(batch, has_slide=has_slide, has_expression=has_expression)
    fused = network(batch).fused
    assert fused.vector.isfinite().all()
    assert_close(fused.gate[1], torch.tensor([0.0, 1.0]))
    assert_close(fused.gate[2], torch.tensor([1.0, 0.0]))
    of_first = (batch.tiles.bag_index == 1)[:, None]
    features = torch.where(of_first, 50.0, batch.tiles.features)
    expression = batch.expression.clone()
    expression[2] = -50.0
    other = network(replace(batch, tiles=batch.tiles.with_features(features), expression=expression)).fused
    assert_close(other.vector, fused.vector)
    assert_close(other.gate, fused.gate)
    # The same change is heard where the modality is there.
    there = replace(
        batch, has_slide=samples().has_slide, has_expression=samples().has_expression, expression=expression
    )
    there = replace(there, tiles=batch.tiles.with_features(features))
    heard = network(there).fused.vector
    plain = network(samples()).fused.vector
    assert ((heard - plain)[1:3].abs().amax(1) > 1e-3).all()


@every_network
@torch.no_grad()
def test_nothing_at_all_is_finite(parts: tuple[str, str, str]) -> None:
    """A batch without a tile, and a sample with neither modality."""
    network = built(*parts)
    batch = samples((0, 0, 0))
    batch = replace(batch, has_expression=torch.tensor([True, False, True]))
    out = outputs(network(batch))
    assert all(value.isfinite().all() for value in out.values())
    assert not out["slide"].any()


@every_network
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@torch.no_grad()
def test_mixed_precision_stays_close(parts: tuple[str, str, str], kind: torch.dtype) -> None:
    """Within 6 % in bfloat16 and 1 % in float16, of the length of what float32 gives; gates stay float32."""
    network, batch = built(*parts), samples()
    exact = outputs(network(batch))
    with torch.autocast("cpu", kind):
        rough = network(batch)
    assert rough.fused.gate.dtype == rough.slide.attention.dtype == torch.float32
    share = 0.06 if kind == torch.bfloat16 else 0.01
    for name, value in outputs(rough).items():
        assert (value.float() - exact[name]).norm() < share * exact[name].norm(), name


@pytest.mark.parametrize("bag", [name for name in names("bag") if name != "transmil"])
@torch.inference_mode()
def test_a_hundred_thousand_tiles_beside_one_and_none(bag: str) -> None:
    network = built(bag, "masked_genes", "cross_attention")
    huge = samples((100_000, 1, 0), seed=5)
    out = network(huge)
    assert all(value.isfinite().all() for value in outputs(out).values())
    alone = network(only(huge, 1))
    for name, value in outputs(alone).items():
        close(outputs(out)[name][1:2], value, name)
