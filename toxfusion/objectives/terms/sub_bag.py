"""Two random halves of one bag against each other."""

from __future__ import annotations

import torch
from torch import Tensor

from toxfusion.data.batch import RaggedTiles
from toxfusion.models.network import Network
from toxfusion.objectives.contrastive import ContrastiveTerm, Duplicates, InfoNCE
from toxfusion.objectives.masked import shuffled_places
from toxfusion.objectives.terms.align import said_beside
from toxfusion.objectives.terms.term import NetworkShape, Term
from toxfusion.objectives.terms.view import View, needed


class SubBagContrast(Term):
    """InfoNCE between the shared parts of two random halves of a bag.

    The halves are encoded here: the other terms see the bag whole.

    Args:
        negatives, temperature, learn_temperature: as of `Alignment`.

    Raises:
        ContrastError: negatives or a temperature that the loss does not take.
    """

    branches = ("bag",)

    def __init__(
        self,
        shape: NetworkShape,
        *,
        negatives: Duplicates = "exclude",
        temperature: float = 0.07,
        learn_temperature: bool = True,
    ) -> None:
        super().__init__()
        self.contrast = InfoNCE(temperature=temperature, learnable=learn_temperature, duplicates=negatives)

    def forward(self, view: View, network: Network) -> Tensor:
        first, second = split_bags(view.batch.tiles, view.generator)
        own = view.batch.path_membership
        twice = None if own is None else own.repeat(2, 1)
        shared = needed(network.see_slide(first.followed_by(second), twice), "the branch bag").shared
        has_both = second.lengths > 0
        term: ContrastiveTerm = self.contrast(*shared.chunk(2), view.kin, has_both)
        self.beside = said_beside(term)
        return term.loss


def split_bags(tiles: RaggedTiles, generator: torch.Generator) -> tuple[RaggedTiles, RaggedTiles]:
    """Two random halves of each bag; the first has the odd tile, so that it is empty only where the bag is."""
    first = shuffled_places(tiles, generator) % 2 == 0
    return tiles.select(first), tiles.select(~first)
