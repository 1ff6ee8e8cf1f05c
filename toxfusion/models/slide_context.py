"""What a fusion can read of a slide: the tokens of its bag encoder and every encoded tile, padded by length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from toxfusion.models.bag import LengthGroup, SlideEncoding, length_groups


@dataclass(frozen=True)
class SlideContext:
    """All there is to read of the slides of b samples.

    bags: int64 [b], their places in the batch. sequence: [b, K + L, W], the K tokens before the encoded
    tiles.
    mask: bool [b, K + L], True at tokens and real tiles. group: of the tiles; None where no sample has any.
    """

    bags: Tensor
    sequence: Tensor
    mask: Tensor
    group: LengthGroup | None

    def on_tiles(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Attention [b, heads, Q, K + L] -> that on real tiles [t, heads, Q], and their places among all tiles [t]."""
        if self.group is None:
            return weights.new_zeros(0, *weights.shape[1:3]), self.bags[:0]
        length = self.group.mask.shape[1]
        return self.group.unpad(weights[..., -length:].permute(0, 3, 1, 2))


def slide_contexts(slide: SlideEncoding, has_slide: Tensor) -> Iterator[SlideContext]:
    """The samples of a batch by the length of their bags; tiles of a slide that is missing or hidden are masked."""
    for group in length_groups(slide.tiles):
        tokens = slide.tokens[group.bags]
        mask = group.mask & has_slide[group.bags][:, None]
        yield SlideContext(
            group.bags,
            torch.cat([tokens, group.pad(slide.tiles.features).to(tokens.dtype)], 1),
            F.pad(mask, (tokens.shape[1], 0), value=True),
            group,
        )
    bare = (slide.tiles.lengths == 0).nonzero()[:, 0]
    if len(bare):
        tokens = slide.tokens[bare]
        yield SlideContext(bare, tokens, torch.ones_like(tokens[..., 0], dtype=torch.bool), None)


def in_order(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Rows of several parts, put where the second of each pair says."""
    joined = torch.cat([part for part, _ in parts])
    return torch.empty_like(joined).index_copy(0, torch.cat([where for _, where in parts]), joined)
