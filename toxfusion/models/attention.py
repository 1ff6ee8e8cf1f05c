"""Multi-head attention and the transformer blocks built from it.

What attends to what is decided by the callers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WidthError(ValueError):
    """A width that the heads cannot share."""


class Attention(nn.Module):
    """Multi-head scaled dot-product attention that also returns its weights.

    The softmax is in float32 also under autocast. Keys to leave out get -inf before the softmax.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise WidthError(f"heads={heads} does not divide width={width}; choose a divisor of the width")
        self.heads = heads
        self.query = nn.Linear(width, width)
        # A bias on the keys shifts all logits of a query alike, so that softmax would give it no gradient.
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend from queries to context.

        Args:
            queries: [B, Q, W].
            context: [B, L, W].
            mask: bool [B, L], True where a row of the context is real; each sample needs one at least.

        Returns:
            [B, Q, W] and the weights, float32 [B, heads, Q, L].
        """
        q, k, v = (self._heads(t) for t in (self.query(queries), self.key(context), self.value(context)))
        logits = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).float()
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, None, :], float("-inf"))
        weights = logits.softmax(-1)
        mixed = (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)
        return self.out(mixed), weights

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Two layers with GELU, W -> ratio W -> W."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))


class SelfAttentionBlock(nn.Module):
    """Pre-norm transformer block over the tokens of one sample."""

    def __init__(self, width: int, heads: int, *, ratio: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = FeedForward(width, ratio)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, P, W] -> [B, P, W]."""
        normed = self.norm(tokens)
        tokens = tokens + self.dropout(self.attention(normed, normed)[0])
        return tokens + self.dropout(self.feed(self.norm_feed(tokens)))


class CrossAttentionBlock(nn.Module):
    """Pre-norm block in which tokens of one kind read those of another.

    Args:
        norm_context: norm what is read too, which takes its magnitude away.
    """

    def __init__(
        self, width: int, heads: int, *, ratio: int = 2, dropout: float = 0.0, norm_context: bool = True
    ) -> None:
        super().__init__()
        self.norm_queries = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width) if norm_context else nn.Identity()
        self.attention = Attention(width, heads)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = FeedForward(width, ratio)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """tokens [B, Q, W] read context [B, L, W] (mask bool [B, L]).

        Returns tokens and weights [B, heads, Q, L].
        """
        read, weights = self.attention(self.norm_queries(tokens), self.norm_context(context), mask)
        tokens = tokens + self.dropout(read)
        return tokens + self.dropout(self.feed(self.norm_feed(tokens))), weights


def learned_tokens(n: int, width: int, scale: float = 1.0) -> nn.Parameter:
    """[n, width] drawn from a normal of deviation ``scale``, so that tokens differ from the start.

    A token to which what is read of a sample is added wants a small scale: the sum of a unit normal and a small
    read-out is the same in all samples to 99 %, and what differs drowns in the norm that follows.
    """
    return nn.Parameter(torch.randn(n, width) * scale)


READ_ONTO = 0.1
"""Scale of learned tokens to which what is read of a sample is added."""


def scale_last(perceptron: nn.Sequential, share: float) -> None:
    """Shrink the last layer of a perceptron, so that it begins at a share of its usual size."""
    last = perceptron[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(share)
        last.bias.mul_(share)
