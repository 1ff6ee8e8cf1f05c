"""Fusions of published peers behind the contract of `toxfusion.models.fusion`, each written from its formulas.

The peers have no gate. Where none is said, the gate is the equal share of the modalities that are there, and the
learned token of a missing one takes part like any other token. `GuidedCoAttention` and `PartialAttention` read every
encoded tile of a sample, beside the tokens of its bag encoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toxfusion.models.attention import Attention, FeedForward, SelfAttentionBlock
from toxfusion.models.bag import SlideEncoding
from toxfusion.models.expression import ExpressionEncoding
from toxfusion.models.fusion import Fused, Fusion, present_softmax, side_by_side
from toxfusion.models.slide_context import in_order, slide_contexts


class GatedPool(nn.Module):
    """Gated attention pooling of tokens, a = softmax(w^T (tanh(V t) * sigmoid(U t))) (Ilse et al., ICML 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.content = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, K, W] -> [B, W]."""
        logits = self.score(self.content(tokens).tanh() * self.gate(tokens).sigmoid())
        return (logits.float().softmax(1).to(tokens.dtype) * tokens).sum(1)


class GuidedCoAttention(Fusion):
    """Expression tokens query tiles; each set then attends to itself and is pooled (Chen et al., ICCV 2021).

    With E the expression tokens and H the encoded tiles, and the tokens of the bag encoder beside them:

        C = O softmax((E Q) (H K)^T / sqrt(d)) (H V)      one row a token of E, made of the slide alone
        fused = perceptron([pool(self-attention(C)); pool(self-attention(E))])

    MCAT has six tokens from gene groups; here the tokens are those of the expression encoder. Its queries are normed
    here, its keys and values are not: C keeps the magnitude of the tiles. Attention "expression_to_tiles" is
    [T, heads, P].

    Args:
        width: W of tokens and of the fused vector.
        heads: heads of each attention; one in the source's co-attention.
        n_blocks: self-attention blocks over each set.

    Raises:
        WidthError: the heads do not divide the width.
    """

    def __init__(self, width: int, *, heads: int = 4, n_blocks: int = 2, dropout: float = 0.1) -> None:
        super().__init__(width)
        self.norm = nn.LayerNorm(width)
        self.co_attention = Attention(width, heads)
        self.slide_blocks = nn.Sequential(
            *(SelfAttentionBlock(width, heads, dropout=dropout) for _ in range(n_blocks)), GatedPool(width)
        )
        self.expression_blocks = nn.Sequential(
            *(SelfAttentionBlock(width, heads, dropout=dropout) for _ in range(n_blocks)), GatedPool(width)
        )
        self.out = side_by_side(width, width, dropout)

    def fuse(
        self, slide: SlideEncoding, expression: ExpressionEncoding, has_slide: Tensor, has_expression: Tensor
    ) -> Fused:
        queries = self.norm(expression.tokens)
        reads, on_tiles = [], []
        for context in slide_contexts(slide, has_slide):
            read, weights = self.co_attention(queries[context.bags], context.sequence, context.mask)
            reads.append((read, context.bags))
            on_tiles.append(context.on_tiles(weights))
        pooled = [self.slide_blocks(in_order(reads)), self.expression_blocks(expression.tokens)]
        return Fused(
            self.out(torch.cat(pooled, 1)),
            _equal_shares(has_slide, has_expression),
            {"expression_to_tiles": in_order(on_tiles)},
        )


class PartialAttention(Fusion):
    """Expression tokens attend to all, tiles to expression tokens alone (Jaume et al., CVPR 2024).

    With X = [E; H], the P expression tokens before the encoded tiles, the tokens of the bag encoder among them, and
    shared projections:

        X' = X + O softmax((X Q) (X K)^T / sqrt(d) + M) (X V),   M = -inf from slide to slide, 0 elsewhere
        fused = perceptron([mean(E''); mean(H'')]),              X'' = X' + feed-forward(X')

    The rows of E and of H are computed apart, so that no tile x tile matrix is made. SurvPath has no residual around
    the attention; here tokens are normed before the attention and keep a residual path. Attention
    "expression_to_tiles" is [T, heads, P].

    Args:
        width: W of tokens and of the fused vector.
        heads: heads of the attention; one in the source.

    Raises:
        WidthError: the heads do not divide the width.
    """

    def __init__(self, width: int, *, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__(width)
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = FeedForward(width, 2)
        self.dropout = nn.Dropout(dropout)
        self.out = side_by_side(width, width, dropout)

    def fuse(
        self, slide: SlideEncoding, expression: ExpressionEncoding, has_slide: Tensor, has_expression: Tensor
    ) -> Fused:
        pooled, on_tiles = [], []
        for context in slide_contexts(slide, has_slide):
            genes = expression.tokens[context.bags]
            normed_genes, normed_slide = self.norm(genes), self.norm(context.sequence)
            everything = torch.cat([normed_genes, normed_slide], 1)
            mask = F.pad(context.mask, (genes.shape[1], 0), value=True)
            of_genes, weights = self.attention(normed_genes, everything, mask)
            of_slide, _ = self.attention(normed_slide, normed_genes)
            real = context.mask[..., None]
            slide_mean = (self._fed(context.sequence, of_slide) * real).sum(1) / real.sum(1)
            pooled.append((torch.cat([self._fed(genes, of_genes).mean(1), slide_mean], 1), context.bags))
            on_tiles.append(context.on_tiles(weights))
        attention = {"expression_to_tiles": in_order(on_tiles)}
        return Fused(self.out(in_order(pooled)), _equal_shares(has_slide, has_expression), attention)

    def _fed(self, tokens: Tensor, read: Tensor) -> Tensor:
        tokens = tokens + self.dropout(read)
        return tokens + self.dropout(self.feed(self.norm_feed(tokens)))


class ProductOfExperts(Fusion):
    """Each modality is a Gaussian; their product with a unit Gaussian prior is fused.

    After PIBD (Zhang et al., ICLR 2024). With mean mu_m and precision T_m = exp(-v_m) of modality m, both [W], from
    its mean token (T_m = 0 where it is missing):

        mean = sum_m T_m mu_m / T,   variance = 1 / T,   T = 1 + sum_m T_m

    The fused vector is the mean in evaluation, and one draw by torch's own generator in training. The gate is the share
    of each modality in sum_m T_m, averaged over the W dimensions. The precision is read from a normed token, so that
    the strength of a response moves the mean and not the trust in it. PIBD also has prototypes and an information
    bottleneck, a divergence of each Gaussian from the prior in its loss; a fusion has no loss here, so that only
    the unit precision of the prior holds the product back.

    Args:
        width: W of tokens and of the fused vector.
    """

    MAX_LOG_VARIANCE = 10.0

    def __init__(self, width: int, *, dropout: float = 0.1) -> None:
        super().__init__(width)
        self.means = nn.ModuleList(
            nn.Sequential(FeedForward(width, 2), nn.Dropout(dropout)) for _ in range(2)
        )
        self.log_variances = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), FeedForward(width, 2)) for _ in range(2)
        )

    def fuse(
        self, slide: SlideEncoding, expression: ExpressionEncoding, has_slide: Tensor, has_expression: Tensor
    ) -> Fused:
        tokens = slide.tokens.mean(1), expression.tokens.mean(1)
        means = torch.stack([of(token) for of, token in zip(self.means, tokens, strict=True)], 1)
        log_variances = torch.stack(
            [of(token) for of, token in zip(self.log_variances, tokens, strict=True)], 1
        )
        bound = self.MAX_LOG_VARIANCE
        logits = -log_variances.float().clamp(-bound, bound)
        shares = present_softmax(logits, has_slide, has_expression)
        precision = (logits.exp() * (shares > 0)).sum(1)
        # sum T_m mu_m / T, as the shares among the modalities times what the prior leaves them.
        vector = (shares * means.float()).sum(1) * precision / (1.0 + precision)
        if self.training:
            vector = vector + torch.randn_like(vector) * (1.0 + precision).rsqrt()
        return Fused(vector.to(means.dtype), shares.mean(2))


def _equal_shares(has_slide: Tensor, has_expression: Tensor) -> Tensor:
    """float32 [B, 2], equal over the modalities that are there."""
    return present_softmax(torch.zeros(len(has_slide), 2, device=has_slide.device), has_slide, has_expression)
