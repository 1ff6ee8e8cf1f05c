"""The expression profile decoded from the slide: the reconstruction of TANGLE, CVPR 2024."""

from __future__ import annotations

from torch import Tensor

from toxfusion.models.expression import GeneDecoder
from toxfusion.models.network import Network
from toxfusion.objectives.masked import ExpressionReconstruction
from toxfusion.objectives.terms.term import PAIR, NetworkShape, Term
from toxfusion.objectives.terms.view import View


class ExpressionFromSlide(Term):
    """Mean squared error of the standardised profile that a decoder reads from the slide vector."""

    branches = PAIR

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.reconstruct = ExpressionReconstruction(GeneDecoder(shape.width, shape.n_genes))

    def forward(self, view: View, network: Network) -> Tensor:
        loss: Tensor = self.reconstruct(view.slide.vector, view.batch.expression, view.paired)
        return loss
