"""One pass over a batch, as the terms of pretraining see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from toxfusion.data.batch import Batch, RaggedTiles
from toxfusion.models.bag import SlideEncoding
from toxfusion.models.expression import ExpressionEncoding
from toxfusion.models.network import Representation
from toxfusion.objectives.contrastive import Kin
from toxfusion.objectives.style import Style, StyleBranch

Part = TypeVar("Part")


class HiddenTiles(NamedTuple):
    """The tiles before some were hidden, and bool [T], which."""

    tiles: RaggedTiles
    hidden: Tensor


class StylePair(NamedTuple):
    """What the style branch, which both modalities share, says of each."""

    slide: Style
    expression: Style


class MissingPart(RuntimeError):
    """A term reads a part of the view that it does not name among its branches or needs."""


@dataclass(frozen=True)
class View:
    """What was shown to the network, what was hidden, and what it made of the first.

    A property raises `MissingPart` where its part is absent: no term in use named it.

    Attributes:
        batch: all of it; the targets.
        out: of the tiles and genes that were shown.
        generator: of masks of tokens and of the style draw, on the CPU.
        genes: bool [B, G], True = hidden; None without expression or mask.
        tiles: those that the bag encoder did not see; None where no term restores tiles.
        style_branch: of the terms in use; None where none reads styles.
    """

    batch: Batch
    out: Representation
    generator: torch.Generator
    genes: Tensor | None = None
    tiles: HiddenTiles | None = None
    style_branch: StyleBranch | None = None

    @property
    def kin(self) -> Kin:
        return Kin(self.batch.group, self.batch.animal, self.batch.is_control)

    @property
    def paired(self) -> Tensor:
        """bool [B], samples with both modalities."""
        return self.batch.has_slide & self.batch.has_expression

    @property
    def slide(self) -> SlideEncoding:
        """What the bag encoder made of the tiles that were shown."""
        return needed(self.out.slide, "the branch bag")

    @property
    def expression(self) -> ExpressionEncoding:
        """What the expression encoder made of the genes that were shown."""
        return needed(self.out.expression, "the branch expression")

    @property
    def shared(self) -> tuple[Tensor, Tensor]:
        """The shared parts of slide and expression, [B, S] each."""
        slide = needed(self.out.slide_shared, "the branch bag")
        return slide, needed(self.out.expression_shared, "the branch expression")

    @property
    def hidden_genes(self) -> Tensor:
        """bool [B, G], True = hidden from the expression encoder."""
        return needed(self.genes, "hidden_genes")

    @property
    def hidden_tiles(self) -> HiddenTiles:
        """The tiles of the bags, and which of them were hidden from the bag encoder."""
        return needed(self.tiles, "hidden_tiles")

    @cached_property
    def style(self) -> StylePair:
        """Both vectors through the style branch, once a pass: terms that read it read the same draw."""
        branch = needed(self.style_branch, "style")
        slide = branch(self.slide.vector, self.generator)
        return StylePair(slide, branch(self.expression.vector, self.generator))


def needed(part: Part | None, name: str) -> Part:
    """A part of a view or network. Raises MissingPart where it is None."""
    if part is None:
        raise MissingPart(f"a term of pretraining reads {name}, which it names in neither branches nor needs")
    return part
