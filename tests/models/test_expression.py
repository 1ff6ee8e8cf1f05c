"""Expression encoders: hidden genes stay hidden, samples stay apart, parameters learn, decoders learn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from toxfusion.models.expression import (
    ExpressionEncoder,
    GeneDecoder,
    MaskedGeneEncoder,
    MLPExpression,
    PathwayTokens,
    SNNExpression,
)

GENES, WIDTH = 40, 16
SETS = [[0, 1, 2, 3], [3, 4, 5], [10, 11]]
ENCODERS: dict[str, Callable[[], ExpressionEncoder]] = {
    "mlp": lambda: MLPExpression(GENES, WIDTH),
    "snn": lambda: SNNExpression(GENES, WIDTH),
    "masked_genes": lambda: MaskedGeneEncoder(GENES, WIDTH, n_latents=6),
    "pathways": lambda: PathwayTokens(GENES, WIDTH, SETS),
}
every_encoder = pytest.mark.parametrize("name", ENCODERS)


def built(name: str) -> ExpressionEncoder:
    torch.manual_seed(0)
    return ENCODERS[name]().eval()


def profiles(n: int = 5) -> torch.Tensor:
    return torch.randn(n, GENES, generator=torch.Generator().manual_seed(2))


@every_encoder
@pytest.mark.parametrize("n", [1, 5])
def test_shapes_and_independence_of_samples(name: str, n: int) -> None:
    encoder, x = built(name), profiles(n)
    encoding = encoder(x)
    assert encoding.tokens.shape == (n, encoder.n_tokens, WIDTH)
    assert encoding.vector.shape == (n, WIDTH)
    alone = encoder(x[:1])
    assert_close(alone.vector[0], encoding.vector[0], rtol=1e-4, atol=1e-5)
    assert_close(alone.tokens[0], encoding.tokens[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "masked_genes", "pathways"])
@torch.no_grad()
def test_the_strength_of_a_response_survives(name: str) -> None:
    """Values are changes against controls: four times the change must not look like the change itself."""
    encoder, x = built(name), profiles()
    none, weak, strong = (encoder(factor * x).vector for factor in (0.0, 1.0, 4.0))
    assert ((strong - none).norm(dim=1) > 2.5 * (weak - none).norm(dim=1)).all()


@every_encoder
def test_values_of_hidden_genes_are_not_read(name: str) -> None:
    encoder, x = built(name), profiles()
    visible = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) > 0.4
    other = torch.where(visible, x, x + 100.0)
    assert_close(encoder(other, visible).tokens, encoder(x, visible).tokens)
    assert not torch.allclose(encoder(x, visible).vector, encoder(x).vector, atol=1e-4)


def test_hidden_genes_get_no_attention_at_all() -> None:
    encoder, x = built("masked_genes"), profiles()
    visible = torch.ones_like(x, dtype=torch.bool)
    visible[:, 7:20] = False
    weights = encoder.read_weights(x, visible)
    assert weights[..., 7:20].abs().max() == 0
    assert_close(weights.sum(-1), torch.ones(5, 6))


def test_a_profile_with_every_gene_hidden_is_finite_and_says_nothing() -> None:
    encoder, x = built("masked_genes"), profiles()
    nothing = encoder(x, torch.zeros_like(x, dtype=torch.bool)).vector
    assert nothing.isfinite().all()
    assert_close(nothing, nothing[:1].expand(5, -1))


def test_reading_is_attention_over_gene_tokens_written_out() -> None:
    encoder, x = built("masked_genes"), profiles(2)
    tokens = encoder.gene + x[:, :, None] * encoder.level
    query = encoder.query(encoder.latents)
    logits = torch.einsum("md,bgd->bmg", query, encoder.key(tokens)) / encoder.gene.shape[1] ** 0.5
    assert_close(encoder.read_weights(x), logits.softmax(-1), rtol=1e-4, atol=1e-6)


@every_encoder
def test_every_parameter_learns(name: str) -> None:
    encoder = built(name)
    encoding = encoder(profiles())
    torch.manual_seed(1)
    loss = (encoding.tokens * torch.randn_like(encoding.tokens)).sum() + encoding.vector.square().sum()
    if isinstance(encoder, MaskedGeneEncoder):
        loss = loss + encoder.decode(encoding).square().sum()
    loss.backward()
    assert not [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@every_encoder
def test_bfloat16_stays_close(name: str) -> None:
    encoder, x = built(name), profiles()
    exact = encoder(x).vector
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(x).vector.float()
    assert (rough - exact).norm() / exact.norm() < 0.05


def test_masked_genes_are_predicted_from_the_others() -> None:
    """Genes that move together in two programmes: hidden ones must be predicted well above the mean's error of 1."""
    generator = torch.Generator().manual_seed(0)
    loadings = torch.randn(2, GENES, generator=generator)
    x = torch.randn(256, 2, generator=generator) @ loadings
    x = (x - x.mean(0)) / x.std(0)
    torch.manual_seed(0)
    encoder = MaskedGeneEncoder(GENES, WIDTH, n_latents=8, dropout=0.0)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=5e-3)
    for _ in range(150):
        visible = torch.rand(128, GENES, generator=generator) > 0.3
        drawn = x[torch.randint(0, 192, (128,), generator=generator)]
        error = (encoder.decode(encoder(drawn, visible)) - drawn).square()[~visible].mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    visible = torch.rand(64, GENES, generator=generator) > 0.3
    held_out = x[192:]
    error = (encoder.decode(encoder(held_out, visible)) - held_out).square()[~visible].mean()
    assert error < 0.4


def test_a_pathway_token_hears_its_own_genes_only() -> None:
    torch.manual_seed(0)
    encoder = PathwayTokens(GENES, WIDTH, SETS, n_blocks=0).eval()
    assert encoder.n_tokens == len(SETS) + 1  # the genes of no set
    for token, genes in enumerate([*SETS, [g for g in range(GENES) if not any(g in s for s in SETS)]]):
        x = profiles(1).requires_grad_()
        encoder(x).tokens[0, token].square().sum().backward()
        assert x.grad[0].nonzero()[:, 0].tolist() == genes


def test_no_further_token_where_sets_cover_all_genes() -> None:
    assert PathwayTokens(4, WIDTH, [[0, 1], [2, 3]]).n_tokens == 2


@pytest.mark.parametrize("sets", [[[0], []], [[0, GENES]], [[-1]]])
def test_a_gene_set_that_cannot_be_is_refused(sets: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="gene set"):
        PathwayTokens(GENES, WIDTH, sets)


@every_encoder
def test_another_number_of_genes_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="align the genes"):
        built(name)(torch.zeros(2, GENES + 1))


def test_gene_decoder_gives_a_profile() -> None:
    assert GeneDecoder(WIDTH, GENES)(torch.zeros(3, WIDTH)).shape == (3, GENES)
