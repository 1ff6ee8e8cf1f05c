"""Latents of the expression branch that are masked, from the others: retention of MIRROR, IEEE TMI 2025."""

from __future__ import annotations

from torch import Tensor

from toxfusion.models.network import Network
from toxfusion.objectives.masked import LatentRetention
from toxfusion.objectives.terms.slide_latents import checked_share
from toxfusion.objectives.terms.term import NetworkShape, Term
from toxfusion.objectives.terms.view import View


class ExpressionLatentRestoration(Term):
    """Mean squared error on masked tokens of the expression branch, restored from the others.

    Where the branch has one token, as MIRROR's own has, entries of its vector are masked instead.

    Args:
        mask, stop_gradient: as of `SlideLatentRestoration`.
    """

    branches = ("expression",)

    def __init__(self, shape: NetworkShape, *, mask: float = 0.75, stop_gradient: bool = True) -> None:
        super().__init__()
        self.restore = LatentRetention(
            shape.width, shape.n_tokens, ratio=checked_share(mask), stop_gradient=stop_gradient
        )

    def forward(self, view: View, network: Network) -> Tensor:
        tokens, present = view.expression.tokens, view.batch.has_expression
        loss: Tensor = self.restore(tokens, present, view.generator)
        return loss
