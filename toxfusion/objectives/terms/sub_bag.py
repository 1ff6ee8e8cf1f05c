"""Two random halves of one bag against each other."""

from __future__ import annotations

from torch import Tensor

from toxfusion.models.network import Network
from toxfusion.objectives.contrastive import ContrastiveTerm, Duplicates, InfoNCE
from toxfusion.objectives.terms.align import said_beside
from toxfusion.objectives.terms.term import NetworkShape, Term
from toxfusion.objectives.terms.view import View, needed


class SubBagContrast(Term):
    """InfoNCE between the shared parts of two random halves of a bag.

    Args:
        negatives, temperature, learn_temperature: as of `Alignment`.

    Raises:
        ContrastError: negatives or a temperature that the loss does not take.
    """

    branches = ("bag",)
    needs = frozenset({"other_half"})

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
        bag = needed(network.bag, "the branch bag")
        project = needed(network.slide_projections, "the branch bag")
        first = needed(view.out.slide_shared, "the branch bag")
        other = view.other_half
        second = project(bag(other).vector)[0]
        term: ContrastiveTerm = self.contrast(first, second, view.kin, other.lengths > 0)
        self.beside = said_beside(term)
        return term.loss
