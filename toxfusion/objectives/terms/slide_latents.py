"""Encoded tiles of a bag that are masked, from the others: slide retention of MIRROR, IEEE TMI 2025."""

from __future__ import annotations

from torch import Tensor

from toxfusion.models.network import Network
from toxfusion.objectives.masked import TileRetention
from toxfusion.objectives.terms.term import NetworkShape, PretrainingError, Term
from toxfusion.objectives.terms.view import View


def checked_share(share: float) -> float:
    """A share of latents to mask. Raises PretrainingError where it hides nothing, or all."""
    if not 0 < share < 1:
        raise PretrainingError(f"mask={share}: needs a share between 0 and 1 (pretrain.latent_mask)")
    return share


class SlideLatentRestoration(Term):
    """Mean squared error on masked encoded tiles, restored from the others of the bag and their place.

    Args:
        mask: share of the encoded tiles of a bag to mask, 0 to 1.
        stop_gradient: detach the targets; without it, encoder and target can collapse together.
    """

    branches = ("bag",)

    def __init__(self, shape: NetworkShape, *, mask: float = 0.75, stop_gradient: bool = True) -> None:
        super().__init__()
        self.restore = TileRetention(shape.width, ratio=checked_share(mask), stop_gradient=stop_gradient)

    def forward(self, view: View, network: Network) -> Tensor:
        loss: Tensor = self.restore(view.slide.tiles, view.generator)
        return loss
