"""Fusion of slide and expression tokens into one vector, with a gate that weighs the modalities for each sample.

Learned tokens stand in for a missing modality; its gate is 0 where the other one is there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from toxfusion.models.attention import CrossAttentionBlock, FeedForward, scale_last
from toxfusion.models.bag import SlideEncoding
from toxfusion.models.expression import ExpressionEncoding
from toxfusion.models.slide_context import in_order, slide_contexts


@dataclass(frozen=True)
class Fused:
    """vector [B, W]; gate float32 [B, 2] (slide, expression; sums to 1); attention name -> [B, heads, Q, L]."""

    vector: Tensor
    gate: Tensor
    attention: dict[str, Tensor] = field(default_factory=dict)


def drop_modality(
    has_slide: Tensor, has_expression: Tensor, probability: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Hide one modality, either with equal chance, from a share of the samples that have both.

    Args:
        has_slide, has_expression: bool [B].
        probability: share of paired samples that lose a modality.
        generator: on the CPU; torch's own where None.

    Returns:
        has_slide and has_expression after dropping; a sample never loses its last modality.
    """
    draws = torch.rand(2, len(has_slide), generator=generator).to(has_slide.device)
    dropped = has_slide & has_expression & (draws[0] < probability)
    lose_slide = draws[1] < 0.5
    return has_slide & ~(dropped & lose_slide), has_expression & ~(dropped & ~lose_slide)


class Gate(nn.Module):
    """Softmax weights of two modalities from their pooled vectors.

    It begins near the equal share: weights that differ between samples by chance would be noise on what is fused.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(2 * width), nn.Linear(2 * width, width // 2), nn.GELU(), nn.Linear(width // 2, 2)
        )
        scale_last(self.layers, 0.1)

    def forward(self, slide: Tensor, expression: Tensor, has_slide: Tensor, has_expression: Tensor) -> Tensor:
        """slide, expression [B, W] -> float32 [B, 2]."""
        return present_softmax(self.layers(torch.cat([slide, expression], 1)), has_slide, has_expression)


def present_softmax(logits: Tensor, has_slide: Tensor, has_expression: Tensor) -> Tensor:
    """Softmax over the modalities that are there; over both where none is.

    Args:
        logits: [B, 2] or [B, 2, W], slide before expression; the second axis is summed to 1.
        has_slide, has_expression: bool [B].

    Returns:
        float32, of the shape of the logits.
    """
    present = torch.stack([has_slide, has_expression], 1)
    present = present | ~present.any(1, keepdim=True)
    present = present.reshape(*present.shape, *[1] * (logits.dim() - 2))
    return logits.float().masked_fill(~present, float("-inf")).softmax(1)


class Fusion(nn.Module, ABC):
    """Slide and expression tokens -> Fused.

    Args:
        width: W of tokens and of the fused vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.missing_slide = nn.Parameter(torch.randn(width) * 0.02)
        self.missing_expression = nn.Parameter(torch.randn(width) * 0.02)

    def forward(
        self,
        slide: SlideEncoding,
        expression: ExpressionEncoding,
        has_slide: Tensor,
        has_expression: Tensor,
    ) -> Fused:
        """Fuse B samples; has_slide and has_expression: bool [B]."""
        # where, not indexing: the learned tokens stay in the graph of every batch, as DDP needs.
        slide_tokens = torch.where(
            has_slide[:, None, None], slide.tokens, self.missing_slide.to(slide.tokens)
        )
        expression_tokens = torch.where(
            has_expression[:, None, None],
            expression.tokens,
            self.missing_expression.to(expression.tokens),
        )
        return self.fuse(
            replace(slide, tokens=slide_tokens),
            replace(expression, tokens=expression_tokens),
            has_slide,
            has_expression,
        )

    @abstractmethod
    def fuse(
        self, slide: SlideEncoding, expression: ExpressionEncoding, has_slide: Tensor, has_expression: Tensor
    ) -> Fused:
        """Fuse B samples whose missing tokens are already replaced; encoded tiles are not."""


def _weighed(gate: Tensor, slide: Tensor, expression: Tensor) -> Tensor:
    """Slide and expression [B, W], each times its share of the gate: [B, 2, W]."""
    return gate.to(slide.dtype)[:, :, None] * torch.stack([slide, expression], 1)


def side_by_side(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """A perceptron from the pooled vectors of two modalities, one after the other, to one: [B, 2 W] -> [B, W]."""
    return nn.Sequential(
        nn.Linear(2 * width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
    )


class ReadOut(nn.Module):
    """The gated vectors of two modalities side by side to one, [B, 2 W] -> [B, W]: a linear map plus a perceptron.

    Side by side, so that what one modality says is not added to the noise of the other. The last layer of the
    perceptron starts at ``START`` of its usual size: on dozens of compounds a perceptron alone folds away what few
    animals with a rare lesion say, so it has to earn its part.
    """

    START = 0.1

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, width)
        self.perceptron = side_by_side(width, hidden, dropout)
        scale_last(self.perceptron, self.START)

    def forward(self, gated: Tensor) -> Tensor:
        return self.linear(gated) + self.perceptron(gated)


class CrossAttentionFusion(Fusion):
    """Expression tokens read tiles, slide tokens read expression tokens; a `ReadOut` of the two gated, pooled sets.

    Which region goes with which genes is asked of the tiles themselves: a token has forgotten where it comes from. What
    is read keeps its magnitude, as no norm is on it. Attention "slide_to_expression" is [B, heads, K, P],
    "expression_to_tiles" [T, heads, P], with what goes to the slide tokens left out of the latter.

    Args:
        heads: heads of each cross-attention.
        n_blocks: blocks in each direction.
    """

    def __init__(self, width: int, *, heads: int = 4, n_blocks: int = 1, dropout: float = 0.1) -> None:
        super().__init__(width)
        self.slide_blocks = nn.ModuleList(
            CrossAttentionBlock(width, heads, dropout=dropout, norm_context=False) for _ in range(n_blocks)
        )
        self.expression_blocks = nn.ModuleList(
            CrossAttentionBlock(width, heads, dropout=dropout, norm_context=False) for _ in range(n_blocks)
        )
        self.gate = Gate(width)
        self.out = ReadOut(width, width, dropout)

    def fuse(
        self, slide: SlideEncoding, expression: ExpressionEncoding, has_slide: Tensor, has_expression: Tensor
    ) -> Fused:
        attention: dict[str, Tensor] = {}
        genes = expression.tokens
        for slide_block, expression_block in zip(self.slide_blocks, self.expression_blocks, strict=True):
            of_slide, attention["slide_to_expression"] = slide_block(slide.tokens, genes)
            genes, attention["expression_to_tiles"] = _read_tiles(expression_block, genes, slide, has_slide)
            slide = replace(slide, tokens=of_slide)
        pooled_slide, pooled_expression = slide.tokens.mean(1), genes.mean(1)
        gate = self.gate(pooled_slide, pooled_expression, has_slide, has_expression)
        return Fused(self.out(_weighed(gate, pooled_slide, pooled_expression).flatten(1)), gate, attention)


def _read_tiles(
    block: nn.Module, tokens: Tensor, slide: SlideEncoding, has_slide: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens [B, P, W] after reading slide tokens and tiles, and the weights of tiles, float32 [T, heads, P]."""
    reads, on_tiles = [], []
    for context in slide_contexts(slide, has_slide):
        read, weights = block(tokens[context.bags], context.sequence, context.mask)
        reads.append((read, context.bags))
        on_tiles.append(context.on_tiles(weights))
    return in_order(reads), in_order(on_tiles)


class ConcatFusion(Fusion):
    """No cross-attention: a `ReadOut` of the gated pooled vectors.

    Args:
        heads, n_blocks: of the `CrossAttentionFusion` whose number of parameters sets the hidden width, so
            that an ablation changes the mechanism and not the size.
    """

    def __init__(self, width: int, *, heads: int = 4, n_blocks: int = 1, dropout: float = 0.1) -> None:
        super().__init__(width)
        with torch.device("meta"):
            budget = _n_parameters(CrossAttentionFusion(width, heads=heads, n_blocks=n_blocks))
        self.gate = Gate(width)
        left = budget - _n_parameters(self) - _n_parameters(nn.Linear(2 * width, width))
        self.out = ReadOut(width, max(width, left // (3 * width + 1)), dropout)

    def fuse(
        self, slide: SlideEncoding, expression: ExpressionEncoding, has_slide: Tensor, has_expression: Tensor
    ) -> Fused:
        pooled_slide, pooled_expression = slide.tokens.mean(1), expression.tokens.mean(1)
        gate = self.gate(pooled_slide, pooled_expression, has_slide, has_expression)
        return Fused(self.out(_weighed(gate, pooled_slide, pooled_expression).flatten(1)), gate)


def _n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class GatedFusion(Fusion):
    """Gated multimodal unit: the gated sum of tanh(W_s s) and tanh(W_e e) (Arevalo et al., 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.slide = nn.Linear(width, width)
        self.expression = nn.Linear(width, width)
        self.gate = Gate(width)

    def fuse(
        self, slide: SlideEncoding, expression: ExpressionEncoding, has_slide: Tensor, has_expression: Tensor
    ) -> Fused:
        pooled_slide, pooled_expression = slide.tokens.mean(1), expression.tokens.mean(1)
        gate = self.gate(pooled_slide, pooled_expression, has_slide, has_expression)
        candidates = self.slide(pooled_slide).tanh(), self.expression(pooled_expression).tanh()
        return Fused(_weighed(gate, *candidates).sum(1), gate)


class LateFusion(Fusion):
    """Each modality has a perceptron of its own; their mean is fused, so a linear head averages two logits."""

    def __init__(self, width: int, *, dropout: float = 0.1) -> None:
        super().__init__(width)
        self.slide = nn.Sequential(FeedForward(width, 2), nn.Dropout(dropout))
        self.expression = nn.Sequential(FeedForward(width, 2), nn.Dropout(dropout))

    def fuse(
        self, slide: SlideEncoding, expression: ExpressionEncoding, has_slide: Tensor, has_expression: Tensor
    ) -> Fused:
        of_slide = self.slide(slide.tokens.mean(1))
        of_expression = self.expression(expression.tokens.mean(1))
        gate = present_softmax(of_slide.new_zeros(len(of_slide), 2), has_slide, has_expression)
        return Fused(_weighed(gate, of_slide, of_expression).sum(1), gate)


class SingleModality(nn.Module):
    """The tokens of the one modality of a unimodal network, pooled; the gate is 1 for it."""

    def __init__(self, width: int, modality: str) -> None:
        super().__init__()
        self.modality = modality
        self.out = nn.Linear(width, width)

    def forward(self, encoding: SlideEncoding | ExpressionEncoding) -> Fused:
        """Pool the tokens [B, K, W]."""
        vector = self.out(encoding.tokens.mean(1))
        gate = torch.zeros(len(vector), 2, device=vector.device)
        gate[:, 0 if self.modality == "wsi" else 1] = 1.0
        return Fused(vector, gate)
