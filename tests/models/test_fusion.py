"""Fusion and the network: missing modalities, gates, equal size of the ablation, gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from toxfusion.data.batch import Batch, RaggedTiles
from toxfusion.models.bag import GatedAttention, SlideEncoding
from toxfusion.models.expression import ExpressionEncoding, MaskedGeneEncoder
from toxfusion.models.fusion import (
    ConcatFusion,
    CrossAttentionFusion,
    Fusion,
    GatedFusion,
    LateFusion,
    ReadOut,
    drop_modality,
)
from toxfusion.models.network import Modality, Network, Representation
from toxfusion.models.peer_fusion import GuidedCoAttention, PartialAttention, ProductOfExperts

WIDTH, DIM, GENES = 16, 10, 40
FUSIONS: dict[str, Callable[[], Fusion]] = {
    "cross_attention": lambda: CrossAttentionFusion(WIDTH, heads=2),
    "concat": lambda: ConcatFusion(WIDTH, heads=2),
    "gated": lambda: GatedFusion(WIDTH),
    "late": lambda: LateFusion(WIDTH),
    "mcat": lambda: GuidedCoAttention(WIDTH, heads=2),
    "survpath": lambda: PartialAttention(WIDTH, heads=2),
    "poe": lambda: ProductOfExperts(WIDTH),
}
#: Fusions whose tokens read each other across modalities, so that a stand-in token is heard.
CROSSING = {"cross_attention", "mcat", "survpath"}
every_fusion = pytest.mark.parametrize("name", FUSIONS)
YES = torch.ones(4, dtype=torch.bool)


def built(name: str) -> Fusion:
    torch.manual_seed(0)
    return FUSIONS[name]().eval()


def encodings(n: int = 4) -> tuple[SlideEncoding, ExpressionEncoding]:
    torch.manual_seed(3)
    slide, expression = torch.randn(n, 3, WIDTH), torch.randn(n, 5, WIDTH)
    lengths = torch.tensor([3, 2, 5, 0] * (n // 4))
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    n_tiles = int(lengths.sum())
    tiles = RaggedTiles(torch.randn(n_tiles, WIDTH), torch.rand(n_tiles, 2) * 1000, offsets)
    return (
        SlideEncoding(slide, slide.mean(1), torch.zeros(n_tiles, 1), tiles),
        ExpressionEncoding(expression, expression.mean(1)),
    )


def scaled(slide: SlideEncoding, factor: float) -> SlideEncoding:
    return replace(
        slide,
        tokens=factor * slide.tokens,
        vector=factor * slide.vector,
        tiles=slide.tiles.with_features(factor * slide.tiles.features),
    )


@every_fusion
def test_shapes_gates_and_independence_of_samples(name: str) -> None:
    fusion, (slide, expression) = built(name), encodings()
    fused = fusion(slide, expression, YES, YES)
    assert fused.vector.shape == (4, WIDTH)
    assert_close(fused.gate.sum(1), torch.ones(4))
    one = fusion(
        SlideEncoding(
            slide.tokens[:1],
            slide.vector[:1],
            slide.attention[:3],
            RaggedTiles(slide.tiles.features[:3], slide.tiles.coordinates[:3], slide.tiles.offsets[:2]),
        ),
        ExpressionEncoding(expression.tokens[:1], expression.vector[:1]),
        YES[:1],
        YES[:1],
    )
    assert_close(one.vector[0], fused.vector[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cross_attention", "concat", "late", "mcat", "survpath", "poe"])
@torch.no_grad()
def test_the_strength_of_a_response_survives(name: str) -> None:
    fusion, (slide, expression) = built(name), encodings()
    none, weak, strong = (
        fusion(
            scaled(slide, f),
            replace(expression, tokens=f * expression.tokens),
            YES,
            YES,
        )
        for f in (0.0, 1.0, 4.0)
    )
    change = [(out.vector - none.vector).norm(dim=1) for out in (weak, strong)]
    assert (change[1] > 1.5 * change[0]).all()


@torch.no_grad()
def test_a_read_out_begins_nearly_linear() -> None:
    torch.manual_seed(0)
    out = ReadOut(WIDTH, WIDTH, 0.1).eval()
    one, other = torch.randn(2, 64, 2 * WIDTH)
    bend = out(one + other) - out(one) - out(other) + out(torch.zeros_like(one))
    assert bend.norm() < 0.1 * (out(one) - out(torch.zeros_like(one))).norm()
    assert bend.norm() > 0


@every_fusion
def test_order_of_tokens_does_not_matter(name: str) -> None:
    fusion, (slide, expression) = built(name), encodings()
    was = fusion(slide, expression, YES, YES).vector
    turned = fusion(
        replace(
            slide,
            tokens=slide.tokens.flip(1),
            tiles=slide.tiles.with_features(
                torch.cat([bag.flip(0) for bag in slide.tiles.split(slide.tiles.features)])
            ),
        ),
        replace(expression, tokens=expression.tokens.flip(1)),
        YES,
        YES,
    )
    assert_close(turned.vector, was, rtol=1e-4, atol=1e-5)


@every_fusion
def test_a_missing_modality_is_neither_read_nor_weighed(name: str) -> None:
    fusion, (slide, expression) = built(name), encodings()
    has_slide = torch.tensor([True, False, True, False])
    has_expression = torch.tensor([True, True, False, False])
    fused = fusion(slide, expression, has_slide, has_expression)
    seen = has_slide[slide.tiles.bag_index][:, None]
    noise = replace(
        slide,
        tokens=torch.where(has_slide[:, None, None], slide.tokens, 99.0),
        tiles=slide.tiles.with_features(torch.where(seen, slide.tiles.features, 99.0)),
    )
    noise_expression = replace(
        expression, tokens=torch.where(has_expression[:, None, None], expression.tokens, -99.0)
    )
    again = fusion(noise, noise_expression, has_slide, has_expression)
    assert_close(again.vector, fused.vector)
    assert_close(fused.gate[1], torch.tensor([0.0, 1.0]))
    assert_close(fused.gate[2], torch.tensor([1.0, 0.0]))
    assert fused.vector.isfinite().all()


@every_fusion
def test_every_parameter_learns(name: str) -> None:
    fusion, (slide, expression) = built(name), encodings()
    has_slide = torch.tensor([True, False, True, True])
    has_expression = torch.tensor([True, True, False, True])
    torch.manual_seed(1)
    out = fusion(slide, expression, has_slide, has_expression).vector
    (out * torch.randn_like(out)).sum().backward()
    # A missing modality weighs 0: its learned token acts only where the other modality reads it.
    idle = {n for n, p in fusion.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert idle <= (set() if name in CROSSING else {"missing_slide", "missing_expression"})


@every_fusion
def test_bfloat16_stays_close(name: str) -> None:
    fusion, (slide, expression) = built(name), encodings()
    exact = fusion(slide, expression, YES, YES)
    with torch.autocast("cpu", torch.bfloat16):
        rough = fusion(slide, expression, YES, YES)
    assert rough.gate.dtype == torch.float32
    assert_close(rough.gate, exact.gate, rtol=0, atol=0.02)
    assert (rough.vector.float() - exact.vector).norm() / exact.vector.norm() < 0.05


@pytest.mark.parametrize(("width", "n_blocks"), [(64, 1), (96, 1), (128, 2), (512, 1)])
def test_concatenation_has_as_many_parameters_as_cross_attention(width: int, n_blocks: int) -> None:
    full, ablated = (
        sum(p.numel() for p in kind(width, n_blocks=n_blocks).parameters())
        for kind in (CrossAttentionFusion, ConcatFusion)
    )
    assert abs(ablated / full - 1) < 0.1


def test_cross_attention_mixes_modalities_before_the_gate_and_concatenation_does_not_attend() -> None:
    slide, expression = encodings()
    attention = built("cross_attention")(slide, expression, YES, YES).attention
    assert attention["slide_to_expression"].shape == (4, 2, 3, 5)
    assert attention["expression_to_tiles"].shape == (10, 2, 5)
    assert_close(attention["slide_to_expression"].sum(-1), torch.ones(4, 2, 3))
    assert not built("concat")(slide, expression, YES, YES).attention


def test_late_fusion_is_additive() -> None:
    """No interaction: f(s, e) - f(s', e) does not depend on e."""
    fusion, (slide, expression) = built("late"), encodings()
    other_slide, other_expression = (
        scaled(slide, -1.0),
        ExpressionEncoding(-expression.tokens, -expression.vector),
    )

    def of(s: SlideEncoding, e: ExpressionEncoding) -> torch.Tensor:
        return fusion(s, e, YES, YES).vector

    first = of(slide, expression) - of(other_slide, expression)
    second = of(slide, other_expression) - of(other_slide, other_expression)
    assert_close(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cross_attention", "mcat", "survpath"])
def test_every_tile_is_read_and_says_by_whom(name: str) -> None:
    fusion, (slide, expression) = built(name), encodings()
    was = fusion(slide, expression, YES, YES)
    assert was.attention["expression_to_tiles"].shape == (10, 2, 5)
    assert (was.attention["expression_to_tiles"] > 0).all()
    for tile, bag in enumerate(slide.tiles.bag_index.tolist()):
        changed = slide.tiles.features.clone()
        changed[tile] += 1.0
        other = replace(slide, tiles=slide.tiles.with_features(changed))
        moved = (fusion(other, expression, YES, YES).vector - was.vector).abs().amax(1)
        assert moved[bag] > 1e-4
        assert (moved[torch.arange(4) != bag] == 0).all()


def test_partial_attention_is_the_masked_attention_over_the_joint_sequence() -> None:
    """Against softmax(QK^T + M) written out for one sample, with M = -inf from slide to slide."""
    fusion, (slide, expression) = built("survpath"), encodings()
    assert isinstance(fusion, PartialAttention)
    out, n = fusion(slide, expression, YES, YES), 5
    for sample, tiles in enumerate(slide.tiles.split(slide.tiles.features)):
        joint = torch.cat([expression.tokens[sample], slide.tokens[sample], tiles])
        normed, own = fusion.norm(joint), fusion.attention
        q, k, v = (f(normed).unflatten(-1, (2, -1)).transpose(0, 1) for f in (own.query, own.key, own.value))
        logits = q @ k.transpose(-2, -1) / (WIDTH / 2) ** 0.5
        logits[:, n:, n:] = float("-inf")
        weights = logits.softmax(-1)
        tokens = joint + own.out((weights @ v).transpose(0, 1).flatten(1))
        tokens = tokens + fusion.feed(fusion.norm_feed(tokens))
        expected = fusion.out(torch.cat([tokens[:n].mean(0), tokens[n:].mean(0)]))
        assert_close(out.vector[sample], expected, rtol=1e-4, atol=1e-5)
        on_tiles = slide.tiles.split(out.attention["expression_to_tiles"])[sample]
        assert_close(on_tiles, weights[:, :n, n + 3 :].permute(2, 0, 1))


def test_the_product_of_experts_by_hand() -> None:
    fusion, (slide, expression) = built("poe"), encodings()
    assert isinstance(fusion, ProductOfExperts)
    tokens = slide.tokens.mean(1), expression.tokens.mean(1)
    mean = [of(token) for of, token in zip(fusion.means, tokens, strict=True)]
    precision = [(-of(token)).exp() for of, token in zip(fusion.log_variances, tokens, strict=True)]
    total = precision[0] + precision[1]
    both = fusion(slide, expression, YES, YES)
    assert_close(both.vector, (precision[0] * mean[0] + precision[1] * mean[1]) / (1 + total))
    assert_close(both.gate[:, 0], (precision[0] / total).mean(1))
    slide_alone = fusion(slide, expression, YES, ~YES)
    assert_close(slide_alone.vector, precision[0] * mean[0] / (1 + precision[0]))


def test_the_product_of_experts_draws_in_training_only_around_its_mean() -> None:
    (slide, expression), fusion = encodings(), ProductOfExperts(WIDTH, dropout=0.0)
    exact = fusion.eval()(slide, expression, YES, YES).vector
    assert torch.equal(fusion(slide, expression, YES, YES).vector, exact)
    fusion.train()
    torch.manual_seed(7)
    draws = torch.stack([fusion(slide, expression, YES, YES).vector for _ in range(400)])
    torch.manual_seed(7)
    assert torch.equal(fusion(slide, expression, YES, YES).vector, draws[0])
    assert (draws.std(0) > 0.1).all()
    assert_close(draws.mean(0), exact, rtol=0, atol=5 * 400**-0.5)


def test_modality_dropout_leaves_one_modality_and_follows_its_generator() -> None:
    n = 4000
    has_slide = torch.ones(n, dtype=torch.bool)
    has_expression = torch.ones(n, dtype=torch.bool)
    has_expression[:1000] = False
    kept = drop_modality(has_slide, has_expression, 0.4, torch.Generator().manual_seed(5))
    again = drop_modality(has_slide, has_expression, 0.4, torch.Generator().manual_seed(5))
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    assert (kept[0] | kept[1]).all()
    assert kept[0][:1000].all()
    lost_slide, lost_expression = (~kept[0][1000:]).float().mean(), (~kept[1][1000:]).float().mean()
    assert abs(lost_slide - 0.2) < 0.03
    assert abs(lost_expression - 0.2) < 0.03


def network(modality: Modality = "both", **more: float) -> Network:
    torch.manual_seed(0)
    return Network(
        GatedAttention(DIM, WIDTH, heads=2, dropout=0.0),
        MaskedGeneEncoder(GENES, WIDTH, n_latents=4, heads=2, dropout=0.0),
        CrossAttentionFusion(WIDTH, heads=2, dropout=0.0),
        WIDTH,
        8,
        6,
        modality,
        **more,
    )


def parts(r: Representation) -> dict[str, torch.Tensor | None]:
    names = ("slide_shared", "slide_private", "expression_shared", "expression_private")
    return {name: getattr(r, name) for name in names}


def test_the_network_represents_every_sample_whatever_it_lacks(batch: Batch) -> None:
    r = network().eval()(batch)
    assert r.fused.vector.shape == (6, WIDTH + 2 * (8 + 6))
    assert r.fused.vector.isfinite().all()
    assert {k: v.shape[1] for k, v in parts(r).items()} == {
        "slide_shared": 8,
        "slide_private": 6,
        "expression_shared": 8,
        "expression_private": 6,
    }
    assert_close(r.fused.gate[1], torch.tensor([0.0, 1.0]))
    assert_close(r.fused.gate[4], torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize(("modality", "gate", "absent"), [("wsi", 0, "expression"), ("omics", 1, "slide")])
def test_one_modality_neither_builds_nor_reads_the_other(
    modality: Modality, gate: int, absent: str, batch: Batch
) -> None:
    net = network(modality).eval()
    assert not [n for n, _ in net.named_parameters() if n.startswith((f"{absent}_", f"{absent}."))]
    assert (net.bag is None) == (absent == "slide")
    r = net(batch)
    assert (r.fused.gate[:, gate] == 1).all()
    assert r.fused.gate.sum() == 6
    assert {k for k, v in parts(r).items() if v is None} == {f"{absent}_shared", f"{absent}_private"}
    if absent == "expression":
        other = replace(batch, expression=batch.expression + 1)
    else:
        other = replace(batch, tiles=batch.tiles.with_features(batch.tiles.features + 1))
    assert_close(net(other).fused.vector, r.fused.vector)


@pytest.mark.parametrize("modality", ["both", "wsi", "omics"])
def test_every_parameter_of_the_active_path_learns(modality: Modality, batch: Batch) -> None:
    net = network(modality)
    r = net(batch)
    torch.manual_seed(1)
    outputs = [r.fused.vector, *(v for v in parts(r).values() if v is not None)]
    if net.expression is not None:
        outputs.append(net.expression.decode(r.expression))
    sum((out * torch.randn_like(out)).sum() for out in outputs).backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_modality_dropout_works_in_training_only(batch: Batch) -> None:
    net = network(modality_dropout=1.0)
    both = batch.has_slide & batch.has_expression
    gate = net.train()(batch, generator=torch.Generator().manual_seed(0)).fused.gate
    assert ((gate[both] == 0) | (gate[both] == 1)).all()
    gate = net.eval()(batch).fused.gate
    assert ((gate[both] > 0) & (gate[both] < 1)).all()


def test_a_missing_branch_is_refused() -> None:
    with pytest.raises(ValueError, match="build the missing part"):
        Network(None, MaskedGeneEncoder(GENES, WIDTH), None, WIDTH, 8, 8, "both")
    with pytest.raises(ValueError, match="is none of both, wsi, omics"):
        Network(None, None, None, WIDTH, 8, 8, "image")
