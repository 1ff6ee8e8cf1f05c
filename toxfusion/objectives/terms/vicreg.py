"""Shared parts of both modalities made equal, without negatives (VICReg, ICLR 2022)."""

from __future__ import annotations

from torch import Tensor

from toxfusion.models.network import Network
from toxfusion.objectives.terms.term import PAIR, NetworkShape, Term
from toxfusion.objectives.terms.view import View
from toxfusion.objectives.vicreg import VICReg, VICRegTerm


class SharedVICReg(Term):
    """VICReg between the shared parts; its own weights are 25, 25, 1."""

    branches = PAIR

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.regularised = VICReg()

    def forward(self, view: View, network: Network) -> Tensor:
        term: VICRegTerm = self.regularised(*view.shared, view.paired)
        self.beside = {
            "invariance": term.invariance,
            "variance": term.variance,
            "covariance": term.covariance,
        }
        return term.loss
