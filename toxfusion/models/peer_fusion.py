"""Fusions of published peers behind the contract of `toxfusion.models.fusion`, each written from its formulas.

The peers have no gate. Where none is said, the gate is the equal share of the modalities that are there, and the
learned token of a missing one takes part like any other token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toxfusion.models.attention import Attention, FeedForward, SelfAttentionBlock
from toxfusion.models.fusion import Fused, Fusion, present_softmax


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


def _side_by_side(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width))


class GuidedCoAttention(Fusion):
    """Expression tokens query slide tokens; each set then attends to itself and is pooled (Chen et al., ICCV 2021).

    With E the expression and H the slide tokens:

        C = O softmax((E Q) (H K)^T / sqrt(d)) (H V)      one row a token of E, made of slide tokens alone
        fused = perceptron([pool(self-attention(C)); pool(self-attention(E))])

    MCAT has six tokens from gene groups and a token a patch; here the tokens are those of the two branches. Its
    queries are normed here, its keys and values are not: C keeps the magnitude of the slide tokens.

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
        self.out = _side_by_side(width, dropout)

    def fuse(self, slide: Tensor, expression: Tensor, has_slide: Tensor, has_expression: Tensor) -> Fused:
        read, weights = self.co_attention(self.norm(expression), slide)
        pooled = torch.cat([self.slide_blocks(read), self.expression_blocks(expression)], 1)
        return Fused(
            self.out(pooled), _equal_shares(has_slide, has_expression), {"expression_to_slide": weights}
        )


class PartialAttention(Fusion):
    """Expression tokens attend to all tokens, slide tokens to expression tokens alone (Jaume et al., CVPR 2024).

    With X = [E; H], the P expression tokens before the K slide tokens, and shared projections:

        X' = X + O softmax((X Q) (X K)^T / sqrt(d) + M) (X V),   M = -inf from slide to slide, 0 elsewhere
        fused = perceptron([mean(E''); mean(H'')]),              X'' = X' + feed-forward(X')

    The rows of E and of H are computed apart, so that no K x K matrix is made and none needs a mask. SurvPath has no
    residual around the attention and takes each patch for a token; here tokens are normed before the attention and
    keep a residual path, and slide tokens are those of the bag encoder.

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
        self.out = _side_by_side(width, dropout)

    def fuse(self, slide: Tensor, expression: Tensor, has_slide: Tensor, has_expression: Tensor) -> Fused:
        normed_slide, normed_expression = self.norm(slide), self.norm(expression)
        everything = torch.cat([normed_expression, normed_slide], 1)
        of_expression, to_all = self.attention(normed_expression, everything)
        of_slide, to_expression = self.attention(normed_slide, normed_expression)
        pooled = [
            self._fed(tokens + self.dropout(read)).mean(1)
            for tokens, read in ((expression, of_expression), (slide, of_slide))
        ]
        attention = {"expression_to_all": to_all, "slide_to_expression": to_expression}
        return Fused(self.out(torch.cat(pooled, 1)), _equal_shares(has_slide, has_expression), attention)

    def _fed(self, tokens: Tensor) -> Tensor:
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

    def fuse(self, slide: Tensor, expression: Tensor, has_slide: Tensor, has_expression: Tensor) -> Fused:
        tokens = slide.mean(1), expression.mean(1)
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
