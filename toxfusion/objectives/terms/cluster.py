"""Prototypes that the styles of both modalities are assigned to (MIRROR, IEEE TMI 2025)."""

from __future__ import annotations

from torch import Tensor

from toxfusion.models.network import Network
from toxfusion.objectives.style import ClusterTerm, PrototypeClustering
from toxfusion.objectives.terms.term import PAIR, NetworkShape, Term
from toxfusion.objectives.terms.view import View


class PrototypeAgreement(Term):
    """Symmetric KL between the prototypes that both modalities are assigned to, minus the entropy of their mean.

    Args:
        temperature: of the assignments. entropy: weight of the entropy.
    """

    branches = PAIR
    needs = frozenset({"style", "prototypes"})

    def __init__(self, shape: NetworkShape, *, temperature: float = 0.1, entropy: float = 1.0) -> None:
        super().__init__()
        self.agreement = PrototypeClustering(temperature=temperature, entropy_weight=entropy)

    def forward(self, view: View, network: Network) -> Tensor:
        slide, expression = view.style
        term: ClusterTerm = self.agreement(slide.scores, expression.scores, view.paired)
        self.beside = {"kl": term.kl, "entropy": term.entropy}
        return term.loss
