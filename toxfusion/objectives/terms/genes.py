"""Genes that were hidden, from those that were shown."""

from __future__ import annotations

from torch import Tensor

from toxfusion.models.expression import GeneDecoder, MaskedGeneEncoder
from toxfusion.models.network import Network
from toxfusion.objectives.masked import MaskedGenes
from toxfusion.objectives.terms.term import NetworkShape, Term
from toxfusion.objectives.terms.view import View


class GeneRestoration(Term):
    """Mean squared error on hidden, standardised genes, by the decoder of the expression branch or one of its own."""

    branches = ("expression",)
    needs = frozenset({"hidden_genes"})

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.error = MaskedGenes()
        self.decode = None if shape.decodes_genes else GeneDecoder(shape.width, shape.n_genes)

    def forward(self, view: View, network: Network) -> Tensor:
        batch = view.batch
        loss: Tensor = self.error(
            self._decoded(view, network), batch.expression, view.hidden_genes, batch.has_expression
        )
        return loss

    def _decoded(self, view: View, network: Network) -> Tensor:
        """Expression [B, G] from what the branch made of the genes that were shown."""
        if self.decode is None and isinstance(network.expression, MaskedGeneEncoder):
            return network.expression.decode(view.expression)
        assert self.decode is not None, "a branch without a decoder of its own gets one"
        decoded: Tensor = self.decode(view.expression.vector)
        return decoded
