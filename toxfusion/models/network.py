"""The two branches, their shared and private projections, and fusion, as one network.

Heads and losses live elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from toxfusion.data.batch import Batch, RaggedTiles
from toxfusion.models.bag import BagEncoder, SlideEncoding
from toxfusion.models.expression import ExpressionEncoder, ExpressionEncoding
from toxfusion.models.fusion import Fused, Fusion, SingleModality, drop_modality

Modality = Literal["both", "wsi", "omics"]
Encoding = TypeVar("Encoding", SlideEncoding, ExpressionEncoding)


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


@dataclass(frozen=True)
class Seen(Generic[Encoding]):
    """What one branch makes of B samples.

    Attributes:
        encoding: of its encoder.
        shared, private: [B, S] and [B, R].
        seen: the encoding with the shared and the private part as two further tokens: what the fusion reads.
    """

    encoding: Encoding
    shared: Tensor
    private: Tensor
    seen: Encoding

    def take(self, rows: Tensor) -> Seen[Encoding]:
        """The samples int64 [n] in the order asked; one may be taken several times."""
        return Seen(self.encoding.take(rows), self.shared[rows], self.private[rows], self.seen.take(rows))


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
        slide = self.see_slide(batch.tiles)
        expression = self.see_expression(batch.expression, visible)
        return self.join(slide, expression, batch.has_slide, batch.has_expression, generator)

    def see_slide(self, tiles: RaggedTiles) -> Seen[SlideEncoding] | None:
        """The slide branch on B bags; None where the network has none."""
        if self.bag is None or self.slide_projections is None:
            return None
        encoding = self.bag(tiles)
        shared, private, extra = self.slide_projections(encoding.vector)
        tokens = torch.cat([encoding.tokens, extra], 1)
        return Seen(encoding, shared, private, replace(encoding, tokens=tokens))

    def see_expression(self, x: Tensor, visible: Tensor | None = None) -> Seen[ExpressionEncoding] | None:
        """The expression branch on x [B, G]; None where the network has none. ``visible`` as in `forward`."""
        if self.expression is None or self.expression_projections is None:
            return None
        encoding = self.expression(x, visible)
        shared, private, extra = self.expression_projections(encoding.vector)
        tokens = torch.cat([encoding.tokens, extra], 1)
        return Seen(encoding, shared, private, replace(encoding, tokens=tokens))

    def join(
        self,
        slide: Seen[SlideEncoding] | None,
        expression: Seen[ExpressionEncoding] | None,
        has_slide: Tensor,
        has_expression: Tensor,
        generator: torch.Generator | None = None,
    ) -> Representation:
        """Fuse what the branches saw of the same B samples; has_slide and has_expression: bool [B]."""
        if isinstance(self.fusion, SingleModality):
            only = slide if self.modality == "wsi" else expression
            assert only is not None, "a network has the branch of its modality"
            fused = self.fusion(only.seen)
        else:
            assert slide is not None, "a network with a fusion has both branches"
            assert expression is not None, "a network with a fusion has both branches"
            if self.training and self.modality_dropout > 0:
                has_slide, has_expression = drop_modality(
                    has_slide, has_expression, self.modality_dropout, generator
                )
            fused = self.fusion(slide.seen, expression.seen, has_slide, has_expression)
        return Representation(
            fused,
            slide=None if slide is None else slide.encoding,
            expression=None if expression is None else expression.encoding,
            slide_shared=None if slide is None else slide.shared,
            slide_private=None if slide is None else slide.private,
            expression_shared=None if expression is None else expression.shared,
            expression_private=None if expression is None else expression.private,
        )
