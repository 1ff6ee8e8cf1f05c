"""Tiles that were hidden from the bag encoder, from the slide vector."""

from __future__ import annotations

from torch import Tensor

from toxfusion.models.network import Network
from toxfusion.objectives.masked import MaskedTileFeatures
from toxfusion.objectives.terms.term import NetworkShape, Term
from toxfusion.objectives.terms.view import View


class TileRestoration(Term):
    """Mean squared error on features of hidden tiles, from the slide vector and their place in the bag."""

    branches = ("bag",)
    needs = frozenset({"hidden_tiles"})

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.restore = MaskedTileFeatures(shape.width, shape.tile_dim)

    def forward(self, view: View, network: Network) -> Tensor:
        loss: Tensor = self.restore(view.slide.vector, *view.hidden_tiles)
        return loss
