"""Expression encoders: from a standardised profile [B, G] to expression tokens and an expression vector."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toxfusion.models.attention import READ_ONTO, SelfAttentionBlock, learned_tokens


class GeneError(ValueError):
    """Genes that are not those of the encoder."""


@dataclass(frozen=True)
class ExpressionEncoding:
    """What an expression encoder gives: tokens [B, P, W] and vector [B, W]."""

    tokens: Tensor
    vector: Tensor

    def take(self, samples: Tensor) -> ExpressionEncoding:
        """The samples int64 [n] in the order asked; one may be taken several times."""
        return ExpressionEncoding(self.tokens[samples], self.vector[samples])


class ExpressionEncoder(nn.Module, ABC):
    """Standardised expression [B, G] -> ExpressionEncoding with ``n_tokens`` tokens.

    Genes that are not visible are zero, the training mean, unless an encoder says otherwise.
    """

    def __init__(self, n_genes: int, width: int, *, n_tokens: int) -> None:
        super().__init__()
        self.n_genes, self.width, self.n_tokens = n_genes, width, n_tokens

    def forward(self, x: Tensor, visible: Tensor | None = None) -> ExpressionEncoding:
        """x: float [B, G]. visible: bool [B, G], True where a gene may be read; all of them where None."""
        if x.shape[1] != self.n_genes:
            raise GeneError(
                f"expression has {x.shape[1]} genes, the encoder {self.n_genes}; align the genes to the model's order"
            )
        return self.encode(x if visible is None else x.masked_fill(~visible, 0.0), visible)

    @abstractmethod
    def encode(self, x: Tensor, visible: Tensor | None) -> ExpressionEncoding:
        """x is zero where ``visible`` is False."""


class MLPExpression(ExpressionEncoder):
    """Two-layer perceptron; one token."""

    def __init__(self, n_genes: int, width: int, *, hidden: int | None = None, dropout: float = 0.1) -> None:
        super().__init__(n_genes, width, n_tokens=1)
        hidden = hidden or 2 * width
        self.layers = nn.Sequential(
            nn.Linear(n_genes, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.linear = nn.Linear(n_genes, width, bias=False)

    def encode(self, x: Tensor, visible: Tensor | None) -> ExpressionEncoding:
        vector = self.layers(x) + self.linear(x)
        return ExpressionEncoding(vector[:, None], vector)


class SNNExpression(ExpressionEncoder):
    """Self-normalising network: (Linear, ELU, AlphaDropout) layers; one token.

    Klambauer et al., NeurIPS 2017, as pathology models use it: weights start at deviation 1 / sqrt(fan in).
    """

    def __init__(
        self,
        n_genes: int,
        width: int,
        *,
        hidden: int | None = None,
        n_layers: int = 2,
        dropout: float = 0.25,
    ) -> None:
        super().__init__(n_genes, width, n_tokens=1)
        sizes = [n_genes, *[hidden or 2 * width] * (n_layers - 1), width]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            linear = nn.Linear(fan_in, fan_out)
            nn.init.normal_(linear.weight, std=fan_in**-0.5)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ELU(), nn.AlphaDropout(dropout)]
        self.layers = nn.Sequential(*layers)

    def encode(self, x: Tensor, visible: Tensor | None) -> ExpressionEncoding:
        vector = self.layers(x)
        return ExpressionEncoding(vector[:, None], vector)


class MaskedGeneEncoder(ExpressionEncoder):
    """Masked autoencoder over genes: learned latents read the visible genes, then attend to each other.

    The token of gene g in a sample is its embedding plus its value embedding, both of width d: the key is
    e_g K + x_g (u_g K), the value x_g v_g, with e, u and v learned vectors of the gene. As both are linear in
    x_g, the projections of all genes are computed once a batch and no [B, G, W] tensor is made:

        logit[b, m, g] = q_m . (e_g K) + x[b, g] q_m . (u_g K)      (-inf where gene g is not visible)
        latent[b, m]   = G O sum_g softmax_g(logit) x[b, g] v_g + l_m / 10

    The decoder mixes tokens and vector to a few decoder tokens t, which gene embeddings query:

        x^[b, g] = c_g + sum_n softmax_n(e_g Q . t_n) (e_g R . t_n)

    Args:
        n_latents: 32 to 128 latents; they are the expression tokens.
        n_blocks: self-attention blocks over the latents.
        gene_dim: width d of the gene vectors; half of ``width`` where None.
        n_decoder_tokens: tokens that the gene embeddings query.
    """

    def __init__(
        self,
        n_genes: int,
        width: int,
        *,
        n_latents: int = 32,
        heads: int = 4,
        n_blocks: int = 2,
        gene_dim: int | None = None,
        n_decoder_tokens: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(n_genes, width, n_tokens=n_latents + 1)
        gene_dim = gene_dim or width // 2
        self.gene = learned_tokens(n_genes, gene_dim)
        # Attention follows the genes at first, and their levels as far as training finds a use for that.
        self.level = nn.Parameter(torch.randn(n_genes, gene_dim) * 0.1)
        # As small as the weights of a linear layer over all genes, and read with a factor of G to match: at unit scale
        # an optimiser of fixed step would need sqrt(G) times as many steps to move what is read.
        self.value = nn.Parameter(torch.randn(n_genes, gene_dim) * n_genes**-0.5)
        self.latents = learned_tokens(n_latents, width)
        self.query = nn.Linear(width, gene_dim, bias=False)
        self.key = nn.Linear(gene_dim, gene_dim, bias=False)
        self.read_out = nn.Linear(gene_dim, width)
        self.blocks = nn.ModuleList(
            SelfAttentionBlock(width, heads, dropout=dropout) for _ in range(n_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        self.linear = nn.Linear(n_genes, width, bias=False)
        self.mix = nn.Linear(n_latents + 1, n_decoder_tokens, bias=False)
        self.ask = nn.Linear(width, gene_dim, bias=False)
        self.tell = nn.Linear(width, gene_dim, bias=False)
        self.gene_mean = nn.Parameter(torch.zeros(n_genes))

    def encode(self, x: Tensor, visible: Tensor | None) -> ExpressionEncoding:
        weights = self.read_weights(x, visible)
        # A fixed factor and not a norm, which would hide how strongly an animal responds.
        read = (weights * x[:, None]) @ self.value * self.n_genes
        tokens = self.read_out(read) + READ_ONTO * self.latents
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        vector = self.out(tokens.mean(1)) + self.linear(x)
        return ExpressionEncoding(torch.cat([tokens, vector[:, None]], 1), vector)

    def read_weights(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Share of each gene in what each latent reads, float32 [B, n_latents, G]; sums to 1 over visible genes."""
        query = self.query(self.latents) * self.gene.shape[1] ** -0.5
        by_gene = (query @ self.key(self.gene).T).float()
        by_level = (query @ self.key(self.level).T).float()
        logits = torch.addcmul(by_gene, x.float()[:, None], by_level)
        if visible is not None:
            # Where a sample shows nothing, its latents read zeros: the hidden values are gone from x by then.
            shown = visible | ~visible.any(1, keepdim=True)
            logits = logits.masked_fill(~shown[:, None], float("-inf"))
        return logits.softmax(-1)

    def decode(self, encoding: ExpressionEncoding) -> Tensor:
        """Expression [B, G] in standardised units from the tokens and the vector."""
        mixed = self.mix(encoding.tokens.transpose(1, 2)).transpose(1, 2)
        logits = self.ask(mixed) * self.gene.shape[1] ** -0.5 @ self.gene.T
        told = self.tell(mixed) * self.gene.shape[1] ** -0.5 @ self.gene.T
        return (logits.float().softmax(1) * told).sum(1) + self.gene_mean


class PathwayTokens(ExpressionEncoder):
    """One token a gene set, from a small network of its own; genes of no set share one further token, the last.

    SurvPath (Jaume et al., CVPR 2024), with self-attention over the tokens. No norm follows the residual path, which
    would hide how strongly an animal responds.

    Args:
        gene_sets: lists of gene positions in 0..n_genes - 1; a gene may be in several sets.
        hidden: units of each set's network.
        n_blocks: self-attention blocks over the tokens.

    Raises:
        GeneError: where a set is empty or names a gene that does not exist.
    """

    index: Tensor

    def __init__(
        self,
        n_genes: int,
        width: int,
        gene_sets: Sequence[Sequence[int]],
        *,
        hidden: int = 16,
        heads: int = 4,
        n_blocks: int = 1,
        dropout: float = 0.1,
    ) -> None:
        sets = [sorted({int(gene) for gene in genes}) for genes in gene_sets]
        for i, genes in enumerate(sets):
            if not genes or genes[0] < 0 or genes[-1] >= n_genes:
                raise GeneError(
                    f"gene set {i} holds {len(genes)} genes of positions {genes[:1]} to {genes[-1:]}; a set needs at "
                    f"least one gene, in 0..{n_genes - 1}: drop it or map it to the model's genes"
                )
        in_a_set = {gene for genes in sets for gene in genes}
        others = [gene for gene in range(n_genes) if gene not in in_a_set]
        if others:
            sets.append(others)
        super().__init__(n_genes, width, n_tokens=len(sets))
        self.register_buffer("index", torch.tensor([gene for genes in sets for gene in genes]))
        self.sizes = [len(genes) for genes in sets]
        self.first = nn.ModuleList(nn.Linear(size, hidden) for size in self.sizes)
        self.second = nn.Parameter(torch.randn(len(sets), hidden, width) * hidden**-0.5)
        self.identity = learned_tokens(len(sets), width, READ_ONTO)
        self.blocks = nn.ModuleList(
            SelfAttentionBlock(width, heads, dropout=dropout) for _ in range(n_blocks)
        )
        self.out = nn.Linear(width, width)

    def encode(self, x: Tensor, visible: Tensor | None) -> ExpressionEncoding:
        parts = x.index_select(1, self.index).split(self.sizes, 1)
        first = torch.stack([layer(part) for layer, part in zip(self.first, parts, strict=True)])
        tokens = torch.bmm(F.gelu(first), self.second).transpose(0, 1) + self.identity
        for block in self.blocks:
            tokens = block(tokens)
        return ExpressionEncoding(tokens, self.out(tokens.mean(1)))


class GeneDecoder(nn.Module):
    """A profile from one vector: for encoders without a decoder of their own, and for slide -> expression."""

    def __init__(self, width: int, n_genes: int, *, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or 2 * width
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, n_genes))

    def forward(self, vector: Tensor) -> Tensor:
        """[B, W] -> [B, G] in standardised units."""
        return self.layers(vector)
