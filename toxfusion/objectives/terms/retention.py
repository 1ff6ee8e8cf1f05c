"""What the parts of a branch still tell of its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toxfusion.data.batch import RaggedTiles
from toxfusion.models.network import Network
from toxfusion.objectives.masked import masked_mean_square
from toxfusion.objectives.terms.term import NetworkShape, Term
from toxfusion.objectives.terms.view import View


class PartRetention(Term):
    """Linear read-out of the bag's mean tile and of the whole profile.

    Read from the shared and private parts of the branch together; mean squared errors, and the mean of those. Not read
    from the fused vector: a gate learns from that to close the modality with less to restore, and never opens again.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        parts = shape.shared_dim + shape.private_dim
        self.read_out = nn.ModuleDict(
            {
                target: nn.Linear(parts, width)
                for target, width in (("tile", shape.tile_dim), ("profile", shape.n_genes))
                if width
            }
        )

    def forward(self, view: View, network: Network) -> Tensor:
        out, batch = view.out, view.batch
        errors: list[Tensor] = []
        if out.slide_shared is not None and out.slide_private is not None:
            parts = torch.cat([out.slide_shared, out.slide_private], 1)
            errors.append(self._error("tile", parts, bag_means(batch.tiles), batch.has_slide))
        if out.expression_shared is not None and out.expression_private is not None:
            parts = torch.cat([out.expression_shared, out.expression_private], 1)
            errors.append(self._error("profile", parts, batch.expression, batch.has_expression))
        return torch.stack(errors).mean()

    def _error(self, name: str, parts: Tensor, target: Tensor, present: Tensor) -> Tensor:
        """Error of reading ``target`` [B, D] from parts [B, S + R], over the samples that have it."""
        keep = present[:, None].expand_as(target)
        return masked_mean_square(self.read_out[name](parts), target, keep)


def bag_means(tiles: RaggedTiles) -> Tensor:
    """Mean tile of each bag, [B, D]; zeros for an empty bag."""
    total = tiles.features.new_zeros(tiles.n_bags, tiles.features.shape[1])
    total.index_add_(0, tiles.bag_index, tiles.features)
    return total / tiles.lengths.clamp(min=1)[:, None]
