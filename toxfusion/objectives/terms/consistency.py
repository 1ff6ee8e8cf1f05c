"""Shared parts of both modalities made equal, read as logits of binary codes."""

from __future__ import annotations

from torch import Tensor

from toxfusion.models.network import Network
from toxfusion.objectives.terms.term import PAIR, NetworkShape, Term
from toxfusion.objectives.terms.view import View
from toxfusion.objectives.vicreg import Consistency


class SharedConsistency(Term):
    """Symmetric KL between the shared parts, read as logits of binary codes; constant codes are a trivial minimum."""

    branches = PAIR

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.agreement = Consistency()

    def forward(self, view: View, network: Network) -> Tensor:
        loss: Tensor = self.agreement(*view.shared, view.paired)
        return loss
