"""The two branches, their shared and private projections, and fusion, as one network.

Heads and losses live elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from toxfusion.data.batch import Batch
from toxfusion.models.bag import BagEncoder, SlideEncoding
from toxfusion.models.expression import ExpressionEncoder, ExpressionEncoding
from toxfusion.models.fusion import Fused, Fusion, SingleModality, drop_modality

Modality = Literal["both", "wsi", "omics"]


class ModalityError(ValueError):
    """A modality that does not exist, or whose branch is missing."""


@dataclass(frozen=True)
class Representation:
    """What the network says of B samples; fields of an absent branch are None.

    Attributes:
        slide, expression: tokens and vectors of the branches.
        fused: vector [B, W], gate [B, 2], attention between the modalities.
        slide_shared, expression_shared: [B, S], what the modalities have in common; not normalised.
        slide_private, expression_private: [B, R], what each has alone.
    """

    fused: Fused
    slide: SlideEncoding | None = None
    expression: ExpressionEncoding | None = None
    slide_shared: Tensor | None = None
    slide_private: Tensor | None = None
    expression_shared: Tensor | None = None
    expression_private: Tensor | None = None


class Projections(nn.Module):
    """A branch's vector [B, W] to its shared [B, S] and private [B, R] part, and both back to tokens."""

    def __init__(self, width: int, shared_dim: int, private_dim: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, shared_dim))
        self.private = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, private_dim))
        self.shared_token = nn.Sequential(nn.LayerNorm(shared_dim), nn.Linear(shared_dim, width))
        self.private_token = nn.Sequential(nn.LayerNorm(private_dim), nn.Linear(private_dim, width))

    def forward(self, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """shared [B, S], private [B, R], tokens [B, 2, W]."""
        shared, private = self.shared(vector), self.private(vector)
        return shared, private, torch.stack([self.shared_token(shared), self.private_token(private)], 1)


class Network(nn.Module):
    """Slide branch, expression branch and fusion.

    Args:
        bag, expression: the branches; None where ``modality`` leaves one out.
        fusion: reads the tokens of both branches, with each branch's shared and private part as two further
            tokens; not used for one modality, where the tokens of that one are pooled.
        width: W, of the branches and the fusion.
        shared_dim, private_dim: S and R of the projections.
        modality: "both", "wsi" or "omics"; the branch left out is neither built nor trained.
        modality_dropout: share of paired samples whose fusion sees one modality only, in training.
    """

    def __init__(
        self,
        bag: BagEncoder | None,
        expression: ExpressionEncoder | None,
        fusion: Fusion | None,
        width: int,
        shared_dim: int,
        private_dim: int,
        modality: Modality = "both",
        modality_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        needed = {"both": (bag, expression, fusion), "wsi": (bag,), "omics": (expression,)}
        if modality not in needed:
            raise ModalityError(f"modality={modality!r} is none of {', '.join(needed)}")
        if any(part is None for part in needed[modality]):
            raise ModalityError(
                f"modality={modality!r} needs bag={bag is not None}, expression={expression is not None}, "
                f"fusion={fusion is not None} to be there; build the missing part"
            )
        self.modality, self.modality_dropout = modality, modality_dropout
        self.bag = bag if modality != "omics" else None
        self.expression = expression if modality != "wsi" else None
        self.fusion: Fusion | SingleModality = (
            fusion if modality == "both" and fusion is not None else SingleModality(width, modality)
        )
        self.slide_projections = Projections(width, shared_dim, private_dim) if modality != "omics" else None
        self.expression_projections = (
            Projections(width, shared_dim, private_dim) if modality != "wsi" else None
        )

    def forward(
        self, batch: Batch, *, visible: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Representation:
        """Represent B samples.

        Args:
            visible: bool [B, G], genes the expression branch may read; all where None.
            generator: of the modality dropout, on the CPU; torch's own where None.
        """
        parts: dict[str, Tensor] = {}
        slide = expression = None
        if self.bag is not None and self.slide_projections is not None:
            slide = self.bag(batch.tiles)
            parts["slide_shared"], parts["slide_private"], extra = self.slide_projections(slide.vector)
            seen_slide = replace(slide, tokens=torch.cat([slide.tokens, extra], 1))
        if self.expression is not None and self.expression_projections is not None:
            expression = self.expression(batch.expression, visible)
            shared, private, extra = self.expression_projections(expression.vector)
            parts["expression_shared"], parts["expression_private"] = shared, private
            seen_expression = replace(expression, tokens=torch.cat([expression.tokens, extra], 1))
        if isinstance(self.fusion, SingleModality):
            fused = self.fusion(seen_slide if self.modality == "wsi" else seen_expression)
        else:
            has_slide, has_expression = batch.has_slide, batch.has_expression
            if self.training and self.modality_dropout > 0:
                has_slide, has_expression = drop_modality(
                    has_slide, has_expression, self.modality_dropout, generator
                )
            fused = self.fusion(seen_slide, seen_expression, has_slide, has_expression)
        return Representation(fused, slide, expression, **parts)
