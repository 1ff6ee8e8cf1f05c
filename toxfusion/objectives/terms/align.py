"""The shared part of a slide against the shared part of its own expression profile."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from toxfusion.models.network import Network
from toxfusion.objectives.contrastive import ContrastiveTerm, Duplicates, InfoNCE, SigLIP
from toxfusion.objectives.terms.term import PAIR, NetworkShape, PretrainingError, Term
from toxfusion.objectives.terms.view import View

Contrast = Literal["infonce", "siglip"]


def said_beside(term: ContrastiveTerm) -> dict[str, Tensor]:
    """What a contrastive loss says beside itself: its scale, its accuracy, and how many rows it skipped."""
    return {"scale": term.scale, "accuracy": term.accuracy, "skipped": term.skipped.float()}


class Alignment(Term):
    """InfoNCE or SigLIP between the shared parts of slide and expression.

    Args:
        loss: "infonce" or "siglip".
        negatives: how pairs of one dose group, one animal, or two vehicle controls enter: "exclude", "soft" or "keep";
            "soft" with InfoNCE only.
        temperature: at the start, 0.01 to 1. learn_temperature: whether it moves.

    Raises:
        PretrainingError: a loss that does not exist, or "soft" with SigLIP.
        ContrastError: negatives or a temperature that the loss does not take.
    """

    branches = PAIR

    def __init__(
        self,
        shape: NetworkShape,
        *,
        loss: Contrast = "infonce",
        negatives: Duplicates = "exclude",
        temperature: float = 0.07,
        learn_temperature: bool = True,
    ) -> None:
        super().__init__()
        if loss not in get_args(Contrast):
            raise PretrainingError(f"loss={loss!r} is none of {', '.join(get_args(Contrast))}")
        self.contrast: InfoNCE | SigLIP
        if loss == "infonce":
            self.contrast = InfoNCE(
                temperature=temperature, learnable=learn_temperature, duplicates=negatives
            )
        elif negatives == "soft":
            raise PretrainingError("negatives='soft' does not go with loss='siglip'; take exclude or keep")
        else:
            self.contrast = SigLIP(temperature=temperature, learnable=learn_temperature, duplicates=negatives)

    def forward(self, view: View, network: Network) -> Tensor:
        term: ContrastiveTerm = self.contrast(*view.shared, view.kin, view.paired)
        self.beside = said_beside(term)
        return term.loss
