"""The network contains its linear shadow, and no token drowns what differs between samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.models.conftest import FEATURES, GENES, ragged
from toxfusion.data.batch import Batch
from toxfusion.models.bag import (
    BagEncoder,
    GatedAttention,
    LatentAttention,
    MeanPool,
    PooledAttention,
    TransMIL,
    bag_moments,
)
from toxfusion.models.closed_form import principal_map, shared_maps
from toxfusion.models.expression import (
    ExpressionEncoder,
    MaskedGeneEncoder,
    MLPExpression,
    PathwayTokens,
    SNNExpression,
)
from toxfusion.models.fusion import ConcatFusion, CrossAttentionFusion, Fusion, GatedFusion, LateFusion
from toxfusion.models.network import LinearFirst, Modality, Network

WIDTH, SHARED, PRIVATE = 32, 16, 8
LEAST_SHARE = 0.3

#: MaxPool is not here: the largest of many tiles is nearly the same in all bags, which is what a maximum is.
BAGS: dict[str, Callable[[], BagEncoder]] = {
    "mean": lambda: MeanPool(FEATURES, WIDTH),
    "abmil": lambda: GatedAttention(FEATURES, WIDTH),
    "pooled": lambda: PooledAttention(FEATURES, WIDTH),
    "latent": lambda: LatentAttention(FEATURES, WIDTH, n_latents=4, n_blocks=0),
    "transmil": lambda: TransMIL(FEATURES, WIDTH),
}
EXPRESSIONS: dict[str, Callable[[], ExpressionEncoder]] = {
    "masked_genes": lambda: MaskedGeneEncoder(GENES, WIDTH, n_latents=6),
    "mlp": lambda: MLPExpression(GENES, WIDTH),
    "snn": lambda: SNNExpression(GENES, WIDTH),
    "pathways": lambda: PathwayTokens(GENES, WIDTH, [range(10), range(10, 30)]),
}
FUSIONS: dict[str, Callable[[], Fusion]] = {
    "cross_attention": lambda: CrossAttentionFusion(WIDTH),
    "concat": lambda: ConcatFusion(WIDTH),
    "gated": lambda: GatedFusion(WIDTH),
    "late": lambda: LateFusion(WIDTH),
}


def share_that_differs(tokens: Tensor) -> Tensor:
    """Share of each token's mean squared norm that is its variance between samples: [B, K, W] -> [K]."""
    return tokens.var(0, correction=0).sum(-1) / tokens.square().sum(-1).mean(0)


def forty(seed: int = 0) -> Batch:
    """40 samples: bags that differ in their mean by 0.6 of the deviation of tiles, genes of unit variance."""
    generator = torch.Generator().manual_seed(seed)
    tiles = ragged([20] * 40, seed=seed)
    shift = 0.6 * torch.randn(40, FEATURES, generator=generator)
    tiles = tiles.with_features(0.8 * tiles.features + shift[tiles.bag_index])
    here, each = torch.ones(40, dtype=torch.bool), torch.arange(40)
    mixed = torch.cat([shift, torch.zeros(40, GENES - FEATURES)], 1)
    return Batch(
        sample_ids=[f"s{i}" for i in range(40)],
        tiles=tiles,
        expression=mixed + torch.randn(40, GENES, generator=generator),
        has_slide=here,
        has_expression=here,
        compound=each,
        group=each,
        animal=each,
        is_control=~here,
        labels={},
    )


def network(modality: Modality = "both", fusion: str = "cross_attention") -> Network:
    torch.manual_seed(0)
    return Network(
        BAGS["pooled"](), EXPRESSIONS["masked_genes"](), FUSIONS[fusion](), WIDTH, SHARED, PRIVATE, modality
    ).eval()


@pytest.mark.parametrize("name", BAGS)
@torch.no_grad()
def test_no_slide_token_drowns_what_differs_between_slides(name: str) -> None:
    torch.manual_seed(0)
    assert share_that_differs(BAGS[name]().eval()(forty().tiles).tokens).min() > LEAST_SHARE


@pytest.mark.parametrize("name", EXPRESSIONS)
@torch.no_grad()
def test_no_expression_token_drowns_what_differs_between_profiles(name: str) -> None:
    torch.manual_seed(0)
    assert share_that_differs(EXPRESSIONS[name]().eval()(forty().expression).tokens).min() > LEAST_SHARE


@pytest.mark.parametrize("name", FUSIONS)
@torch.no_grad()
def test_no_fusion_drowns_what_differs_between_samples(name: str) -> None:
    of = network(fusion=name)
    batch = forty()
    slide, expression = of.see_slide(batch.tiles), of.see_expression(batch.expression)
    assert slide is not None
    assert expression is not None
    for tokens in (slide.seen.tokens, expression.seen.tokens):
        assert share_that_differs(tokens).min() > LEAST_SHARE
    assert share_that_differs(of(batch).fused.vector[:, None]) > LEAST_SHARE


def started(batch: Batch, of: Network) -> tuple[Tensor, Tensor]:
    """Set the closed form into the network; returns the shared parts that it says."""
    moments = bag_moments(batch.tiles)
    maps = shared_maps(moments, batch.expression, SHARED, first_ridge=1.0, second_ridge=4.0)
    shared = maps.first(moments), maps.second(batch.expression)
    for projections, own, view, part in (
        (of.slide_projections, maps.first, moments, shared[0]),
        (of.expression_projections, maps.second, batch.expression, shared[1]),
    ):
        assert isinstance(projections, LinearFirst)
        projections.start_at(own, principal_map(view, PRIVATE, without=part))
    return shared


def carried(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Of fused vectors [B, F], what they carry of slide and expression, [B, S + R] each."""
    slide, expression = vector[:, WIDTH:].split(SHARED + PRIVATE, 1)
    return slide, expression


@torch.no_grad()
def test_a_network_at_its_start_is_the_closed_form_on_new_samples_too() -> None:
    of, batch = network(), forty()
    shared = started(batch, of)
    out = of(batch)
    for actual, expected in zip((out.slide_shared, out.expression_shared), shared, strict=True):
        assert actual is not None
        assert (actual - expected).norm() < 0.02 * expected.norm()
    for part, private in (
        (out.slide_shared, out.slide_private),
        (out.expression_shared, out.expression_private),
    ):
        together = torch.corrcoef(torch.cat([part[:, :4], private[:, :4]], 1).T)[:4, 4:]  # type: ignore[index]
        assert together.abs().max() < 0.1
    # The fused vector is what the fusion says, next to nothing yet, with the parts of both branches beside it.
    slide, expression = carried(out.fused.vector)
    for block, part, private in (
        (slide, shared[0], out.slide_private),
        (expression, shared[1], out.expression_private),
    ):
        expected = torch.cat([part.float(), private], 1)  # type: ignore[list-item]
        assert (block - expected).norm() < 0.05 * expected.norm()
    assert out.fused.vector[:, :WIDTH].norm() < 0.05 * out.fused.vector.norm()


@torch.no_grad()
def test_one_modality_has_the_same_part_in_the_fused_vector_as_both() -> None:
    both, alone, batch = network(), network("wsi"), forty()
    started(batch, both)
    alone.bag, alone.slide_projections = both.bag, both.slide_projections
    without, of_expression = carried(both(batch.without("expression")).fused.vector)
    of_slide = alone(batch).fused.vector[:, WIDTH:]
    together, _ = carried(both(batch).fused.vector)
    assert (of_slide - together).norm() < 0.05 * of_slide.norm()
    assert_close(without, of_slide)
    assert not of_expression.any()


def test_the_start_leaves_something_to_learn() -> None:
    """Every parameter of the perceptrons beside the linear path, and of the fusion, has a gradient at the start."""
    of, batch = network().train(), forty()
    with torch.no_grad():
        started(batch, of)
    torch.manual_seed(1)
    out = of(batch)
    ends = [out.fused.vector, out.slide_private, out.expression_private]
    sum((end * torch.randn_like(end)).sum() for end in ends).backward()  # type: ignore[union-attr, arg-type]
    unmoved = [
        name
        for name, parameter in of.named_parameters()
        if (parameter.grad is None or not parameter.grad.any())
        and not name.startswith(("fusion.missing", "expression.mix", "expression.ask", "expression.tell"))
        and name != "expression.gene_mean"
    ]
    assert not unmoved


@torch.no_grad()
def test_the_gate_weighs_what_the_fused_vector_carries() -> None:
    of, batch = network(), forty()
    started(batch, of)
    assert isinstance(of.fusion, CrossAttentionFusion)
    equal = of(batch).fused
    assert_close(equal.gate, torch.full((40, 2), 0.5), atol=0.1, rtol=0)
    last = of.fusion.gate.layers[-1]
    assert isinstance(last, nn.Linear)
    last.weight.zero_()
    last.bias.copy_(torch.tensor([10.0, -10.0]))
    slide, expression = carried(of(batch).fused.vector)
    assert expression.abs().max() < 1e-6
    before = carried(equal.vector)[0]
    assert (slide - 2 * before).norm() < 0.1 * slide.norm()


@torch.no_grad()
def test_peers_have_no_linear_path() -> None:
    torch.manual_seed(0)
    of = Network(
        BAGS["abmil"](),
        EXPRESSIONS["mlp"](),
        FUSIONS["concat"](),
        WIDTH,
        SHARED,
        PRIVATE,
        projections="perceptron",
    ).eval()
    batch = forty()
    assert not any(
        "linear" in name or "carry" in name for name, _ in of.named_parameters() if "projections" in name
    )
    slide, expression = of.see_slide(batch.tiles), of.see_expression(batch.expression)
    assert slide is not None
    assert expression is not None
    assert isinstance(of.fusion, ConcatFusion)
    plain = of.fusion(slide.seen, expression.seen, batch.has_slide, batch.has_expression).vector
    assert_close(of(replace(batch)).fused.vector, plain)
