"""The style of both modalities, held near a unit normal (MIRROR, IEEE TMI 2025)."""

from __future__ import annotations

from torch import Tensor

from toxfusion.models.network import Network
from toxfusion.objectives.style import StyleKL
from toxfusion.objectives.terms.term import PAIR, NetworkShape, Term
from toxfusion.objectives.terms.view import View


class StylePrior(Term):
    """KL of the style latents of both modalities from a unit normal."""

    branches = PAIR
    needs = frozenset({"style"})

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.divergence = StyleKL()

    def forward(self, view: View, network: Network) -> Tensor:
        batch = view.batch
        loss: Tensor = self.divergence(*view.style, batch.has_slide, batch.has_expression)
        return loss
