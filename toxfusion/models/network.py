"""The two branches, their shared and private projections, and fusion, as one network.

Heads and losses live elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from toxfusion.data.batch import Batch, RaggedTiles
from toxfusion.models.attention import scale_last
from toxfusion.models.bag import BagEncoder, SlideEncoding, bag_moments
from toxfusion.models.closed_form import LinearMap
from toxfusion.models.expression import ExpressionEncoder, ExpressionEncoding
from toxfusion.models.fusion import Fused, Fusion, SingleModality, drop_modality

Modality = Literal["both", "wsi", "omics"]
ProjectionKind = Literal["linear", "perceptron"]
START = 0.01
"""Share of its usual size at which what a linear path leaves to be learned begins."""
Encoding = TypeVar("Encoding", SlideEncoding, ExpressionEncoding)


class ModalityError(ValueError):
    """A modality that does not exist, or whose branch is missing."""


@dataclass(frozen=True)
class Representation:
    """What the network says of B samples; fields of an absent branch are None.

    Attributes:
        slide, expression: tokens and vectors of the branches.
        fused: vector [B, F] (F is `Network.fused_width`), gate [B, 2], attention between the modalities.
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

    def take(self, samples: Tensor) -> Seen[Encoding]:
        """The samples int64 [n] in the order asked; one may be taken several times."""
        return Seen(
            self.encoding.take(samples), self.shared[samples], self.private[samples], self.seen.take(samples)
        )


def _perceptron(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, out))


class Projections(nn.Module, ABC):
    """What makes a shared [B, S] and a private part [B, R] of a branch, and tokens of both."""

    shared_token: nn.Module
    private_token: nn.Module

    @abstractmethod
    def parts(self, vector: Tensor, view: Tensor, membership: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Shared [B, S] and private [B, R] part.

        Args:
            vector: [B, W], of the branch's encoder.
            view: what a linear map reads of the same samples: moments of the bag [B, 2 D], or the profile [B, G].
            membership: [B, K], 1 in the column of the sample's group; a sample of no group has the common map.
        """

    def tokens(self, shared: Tensor, private: Tensor) -> Tensor:
        """[B, 2, W], the shared before the private part."""
        return torch.stack([self.shared_token(shared), self.private_token(private)], 1)


class Perceptrons(Projections):
    """Both parts from the vector of the branch's encoder alone, as published."""

    def __init__(self, width: int, shared_dim: int, private_dim: int) -> None:
        super().__init__()
        self.shared = _perceptron(width, shared_dim)
        self.private = _perceptron(width, private_dim)
        self.shared_token = nn.Sequential(nn.LayerNorm(shared_dim), nn.Linear(shared_dim, width))
        self.private_token = nn.Sequential(nn.LayerNorm(private_dim), nn.Linear(private_dim, width))

    def parts(self, vector: Tensor, view: Tensor, membership: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.shared(vector), self.private(vector)


class LinearFirst(Projections):
    """A linear path from pooled tiles or the profile to both parts, with a perceptron beside that of the shared one.

        shared = A view + b + perceptron(vector),    private = C view + d

    What is linear can be solved in closed form from hundreds of pairs, which a perceptron from random weights does not
    find again by gradient; from there the network learns what is left. The perceptron begins near zero. There is none
    beside the private path: what one learned of its own modality made heads worse that learn from few labels. Both
    parts also stand in the fused vector, beside what the fusion makes of them, so that a linear head on that has its
    own shadow: a linear model of the parts. No norm follows a part: its directions are as loud as they are shared, and
    a norm would raise those that hold by chance.

    Where samples are of groups (organs), the shared part may deviate: to A view + b each group adds a map of its own,
    which begins at 0.

    Args:
        view_dim: columns of the view.
        n_groups: K, groups that deviate.
    """

    def __init__(
        self, width: int, shared_dim: int, private_dim: int, *, view_dim: int, n_groups: int = 0
    ) -> None:
        super().__init__()
        self.shared = _perceptron(width, shared_dim)
        self.shared_dim, self.private_dim = shared_dim, private_dim
        self.linear = nn.Linear(view_dim, shared_dim + private_dim)
        self.deviations = nn.Linear(view_dim, n_groups * shared_dim) if n_groups else None
        if self.deviations is not None:
            nn.init.zeros_(self.deviations.weight)
            nn.init.zeros_(self.deviations.bias)
        scale_last(self.shared, START)
        self.shared_token = nn.Sequential(nn.Linear(shared_dim, width, bias=False))
        self.private_token = nn.Sequential(nn.Linear(private_dim, width, bias=False))
        nn.init.zeros_(self.linear.bias)

    def parts(self, vector: Tensor, view: Tensor, membership: Tensor | None = None) -> tuple[Tensor, Tensor]:
        shared, private = self.linear(view).split([self.shared_dim, self.private_dim], 1)
        if self.deviations is not None and membership is not None:
            own = self.deviations(view).unflatten(1, (membership.shape[1], self.shared_dim))
            shared = shared + (membership.to(own)[:, :, None] * own).sum(1)
        return shared + self.shared(vector), private

    @torch.no_grad()
    def start_at(
        self, shared: LinearMap, private: LinearMap, groups: Mapping[int, LinearMap] | None = None
    ) -> None:
        """Set the linear path; the rest stays as it is.

        Args:
            groups: column of the membership -> the shared map of that group; others have the common one.
        """
        self.linear.weight.copy_(torch.cat([shared.weight, private.weight]))
        self.linear.bias.copy_(torch.cat([shared.bias, private.bias]))
        if self.deviations is None:
            return
        weight, bias = (
            of.view(-1, self.shared_dim, *of.shape[1:])
            for of in (self.deviations.weight, self.deviations.bias)
        )
        weight.zero_()
        bias.zero_()
        for column, own in (groups or {}).items():
            weight[column] = (own.weight - shared.weight).to(weight)
            bias[column] = (own.bias - shared.bias).to(bias)


class Network(nn.Module):
    """Slide branch, expression branch and fusion.

    Args:
        bag, expression: the branches; None where ``modality`` leaves one out.
        fusion: reads the tokens of both branches, with each branch's shared and private part as two further
            tokens; not used for one modality, where the tokens of that one are pooled.
        width: W, of the branches and the fusion; the fused vector has ``fused_width``: W, and with linear projections
            also S + R for each branch.
        shared_dim, private_dim: S and R of the projections.
        modality: "both", "wsi" or "omics"; the branch left out is neither built nor trained.
        modality_dropout: share of paired samples whose fusion sees one modality only, in training.
        projections: "linear" for `LinearFirst`, "perceptron" for `Perceptrons`.
        n_groups: groups in which the linear paths may deviate (`LinearFirst`).
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
        projections: ProjectionKind = "linear",
        n_groups: int = 0,
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
        sizes = width, shared_dim, private_dim
        self.slide_projections: Projections | None = None
        self.expression_projections: Projections | None = None
        if self.bag is not None:
            self.slide_projections = _projections(projections, sizes, 2 * self.bag.in_dim, n_groups)
        if self.expression is not None:
            self.expression_projections = _projections(projections, sizes, self.expression.n_genes, n_groups)
        # How loud the fusion is beside the parts that the fused vector carries; None where it carries none.
        self.fusion_gain = nn.Parameter(torch.full((width,), START)) if projections == "linear" else None
        carried = [self.slide_projections, self.expression_projections] if projections == "linear" else []
        self.fused_width = width + (shared_dim + private_dim) * sum(each is not None for each in carried)

    def forward(
        self, batch: Batch, *, visible: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Representation:
        """Represent B samples.

        Args:
            visible: bool [B, G], genes the expression branch may read; all where None.
            generator: of the modality dropout, on the CPU; torch's own where None.
        """
        slide = self.see_slide(batch.tiles, batch.path_membership)
        expression = self.see_expression(batch.expression, visible, batch.path_membership)
        return self.join(slide, expression, batch.has_slide, batch.has_expression, generator)

    def see_slide(self, tiles: RaggedTiles, membership: Tensor | None = None) -> Seen[SlideEncoding] | None:
        """The slide branch on B bags; None where the network has none.

        Args:
            membership: [B, K], of the groups in which linear paths deviate.
        """
        if self.bag is None or self.slide_projections is None:
            return None
        encoding = self.bag(tiles)
        shared, private = self.slide_projections.parts(encoding.vector, bag_moments(tiles), membership)
        tokens = torch.cat([encoding.tokens, self.slide_projections.tokens(shared, private)], 1)
        return Seen(encoding, shared, private, replace(encoding, tokens=tokens))

    def see_expression(
        self, x: Tensor, visible: Tensor | None = None, membership: Tensor | None = None
    ) -> Seen[ExpressionEncoding] | None:
        """The expression branch on x [B, G]; None where the network has none.

        Args:
            visible: as in `forward`. membership: as in `see_slide`.
        """
        if self.expression is None or self.expression_projections is None:
            return None
        encoding = self.expression(x, visible)
        profile = x if visible is None else x.masked_fill(~visible, 0.0)
        shared, private = self.expression_projections.parts(encoding.vector, profile, membership)
        tokens = torch.cat([encoding.tokens, self.expression_projections.tokens(shared, private)], 1)
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
            self._carrying(fused, slide, expression, has_slide, has_expression),
            slide=None if slide is None else slide.encoding,
            expression=None if expression is None else expression.encoding,
            slide_shared=None if slide is None else slide.shared,
            slide_private=None if slide is None else slide.private,
            expression_shared=None if expression is None else expression.shared,
            expression_private=None if expression is None else expression.private,
        )

    def _carrying(
        self,
        fused: Fused,
        slide: Seen[SlideEncoding] | None,
        expression: Seen[ExpressionEncoding] | None,
        has_slide: Tensor,
        has_expression: Tensor,
    ) -> Fused:
        """The fused vector with the parts of both branches beside it, each times its gate over the equal share.

        A part whose modality is missing is 0, and the other one is not made louder for that.
        """
        if self.fusion_gain is None:
            return fused
        present = torch.stack([has_slide, has_expression], 1)
        if isinstance(self.fusion, SingleModality):
            present = fused.gate > 0
        share = (fused.gate * present * present.sum(1, keepdim=True)).to(fused.vector.dtype)
        blocks = [self.fusion_gain * fused.vector]
        for column, seen in enumerate((slide, expression)):
            if seen is not None:
                parts = torch.cat([seen.shared, seen.private], 1)
                # where, not a product: what lies in a missing modality may be anything.
                blocks.append(torch.where(present[:, column, None], share[:, column, None] * parts, 0.0))
        return replace(fused, vector=torch.cat(blocks, 1))


def _projections(
    kind: ProjectionKind, sizes: tuple[int, int, int], view_dim: int, n_groups: int
) -> Projections:
    """The projections of one branch; sizes are W, S and R.

    Raises:
        ModalityError: an unknown kind.
    """
    if kind not in ("linear", "perceptron"):
        raise ModalityError(f"projections={kind!r} is neither linear nor perceptron")
    if kind == "perceptron":
        return Perceptrons(*sizes)
    return LinearFirst(*sizes, view_dim=view_dim, n_groups=n_groups)
