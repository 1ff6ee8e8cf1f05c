"""Shared and private parts kept apart."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from toxfusion.models.network import Network
from toxfusion.objectives.orthogonality import Orthogonality
from toxfusion.objectives.terms.term import NetworkShape, Term
from toxfusion.objectives.terms.view import View


class PartOrthogonality(Term):
    """Shared against private part of each branch, and the two private parts against each other; the mean of those.

    Args:
        form: "cosine" (of vectors) or "cross_correlation" (over the batch).

    Raises:
        OrthogonalityError: a form that does not exist.
    """

    def __init__(
        self, shape: NetworkShape, *, form: Literal["cosine", "cross_correlation"] = "cross_correlation"
    ) -> None:
        super().__init__()
        self.overlap = Orthogonality(form=form)

    def forward(self, view: View, network: Network) -> Tensor:
        out, batch = view.out, view.batch
        pairs = [
            (out.slide_shared, out.slide_private, batch.has_slide),
            (out.expression_shared, out.expression_private, batch.has_expression),
            (out.slide_private, out.expression_private, view.paired),
        ]
        terms = [self.overlap(a, b, both) for a, b, both in pairs if a is not None and b is not None]
        self.beside = {"floor": torch.stack([t.floor for t in terms]).mean()}
        return torch.stack([t.loss for t in terms]).mean()
