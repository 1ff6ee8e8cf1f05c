"""What the parts of a branch, and the fused vector, still tell of the input."""

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

    Read from the shared and private parts of the branch together, and from the fused vector; mean squared errors, and
    the mean of those.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        parts = shape.shared_dim + shape.private_dim
        self.read_out = nn.ModuleDict()
        for source, size in (("parts", parts), ("fused", shape.width)):
            for target, width in (("tile", shape.tile_dim), ("profile", shape.n_genes)):
                if width:
                    self.read_out[f"{target}_from_{source}"] = nn.Linear(size, width)

    def forward(self, view: View, network: Network) -> Tensor:
        out, batch = view.out, view.batch
        errors: list[Tensor] = []
        if out.slide_shared is not None and out.slide_private is not None:
            parts = torch.cat([out.slide_shared, out.slide_private], 1)
            errors += self._errors("tile", view, parts, bag_means(batch.tiles), batch.has_slide)
        if out.expression_shared is not None and out.expression_private is not None:
            parts = torch.cat([out.expression_shared, out.expression_private], 1)
            errors += self._errors("profile", view, parts, batch.expression, batch.has_expression)
        return torch.stack(errors).mean()

    def _errors(
        self, name: str, view: View, parts: Tensor, target: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Errors of reading ``target`` [B, D] from the parts of its branch, and from the fused vector."""
        keep = present[:, None].expand_as(target)
        from_parts = self.read_out[f"{name}_from_parts"](parts)
        from_fused = self.read_out[f"{name}_from_fused"](view.out.fused.vector)
        return masked_mean_square(from_parts, target, keep), masked_mean_square(from_fused, target, keep)


def bag_means(tiles: RaggedTiles) -> Tensor:
    """Mean tile of each bag, [B, D]; zeros for an empty bag."""
    total = tiles.features.new_zeros(tiles.n_bags, tiles.features.shape[1])
    total.index_add_(0, tiles.bag_index, tiles.features)
    return total / tiles.lengths.clamp(min=1)[:, None]
