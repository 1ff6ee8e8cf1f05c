"""Losses of reconstruction: masked genes, masked tile features, latents, and expression from the slide."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toxfusion.data.batch import RaggedTiles
from toxfusion.distributed.ranks import global_mean
from toxfusion.models.attention import CrossAttentionBlock, FeedForward, SelfAttentionBlock
from toxfusion.models.bag import length_groups, padded_together
from toxfusion.models.precision import at_least_float32


def masked_mean_square(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """sum m (x^ - x)^2 / sum m over all ranks, in float32; 0 where nothing is masked.

    Args:
        predicted, target: [..., D]. mask: bool, of their shape or of its leading dimensions (a masked token
            then
            counts by the mean over D).
    """
    everywhere = mask if mask.dim() == target.dim() else mask[..., None]
    error = at_least_float32(predicted) - at_least_float32(target)
    # Masked before squaring: what does not count may be NaN, and so must not reach the gradient.
    square = torch.where(everywhere, error, 0.0).square()
    if mask.dim() < square.dim():
        square = square.mean(-1)
    return global_mean(square.sum(), mask.sum())


def draw_mask(
    shape: tuple[int, int],
    ratio: float,
    generator: torch.Generator | None = None,
    *,
    device: torch.device | None = None,
) -> Tensor:
    """bool [B, N] with exactly round(ratio N) True in each row, never all of them, drawn on the CPU."""
    n_rows, n_columns = shape
    n_masked = min(round(ratio * n_columns), n_columns - 1)
    rank = torch.rand(n_rows, n_columns, generator=generator).argsort(1).argsort(1)
    return (rank < n_masked).to(device or "cpu")


def shuffled_places(tiles: RaggedTiles, generator: torch.Generator | None = None) -> Tensor:
    """int64 [T], the place of each tile in a random order of its bag, drawn on the CPU."""
    keys = torch.rand(len(tiles.features), generator=generator).to(tiles.offsets.device)
    order = torch.argsort(tiles.bag_index + keys.to(torch.float64))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return place - tiles.offsets[:-1][tiles.bag_index]


def draw_hidden_tiles(tiles: RaggedTiles, share: float, generator: torch.Generator | None = None) -> Tensor:
    """bool [T], True for a random ``share`` (below 1, rounded down) of the tiles of each bag; never all of them."""
    n_hidden = (share * tiles.lengths).floor().to(torch.int64)
    return shuffled_places(tiles, generator) < n_hidden[tiles.bag_index]


class MaskedGenes(nn.Module):
    """Mean squared error on masked, train-standardised expression: sum m (x - x^)^2 / sum m."""

    def forward(self, predicted: Tensor, target: Tensor, masked: Tensor, has_expression: Tensor) -> Tensor:
        """predicted, target [B, G]; masked bool [B, G], True = hidden from the encoder.

        Has_expression bool [B].
        """
        return masked_mean_square(predicted, target.detach(), masked & has_expression[:, None])


class TilePlaces(nn.Module):
    """Sine and cosine of where a tile lies in its bag, relative to the mean of the bag, at ``n_waves`` wavelengths."""

    wavelengths: Tensor

    def __init__(self, n_waves: int = 4) -> None:
        super().__init__()
        self.n_features = 4 * n_waves
        # 128 um to a few mm: from a few tiles to a section.
        self.register_buffer("wavelengths", 128.0 * 4.0 ** torch.arange(n_waves))

    def forward(self, tiles: RaggedTiles) -> Tensor:
        """float32 [T, 4 n_waves]; zeros for a tile without a place."""
        places = tiles.coordinates
        total = places.new_zeros(tiles.n_bags, 2).index_add_(0, tiles.bag_index, places)
        middle = total / tiles.lengths.clamp(min=1)[:, None]
        phase = 2 * torch.pi * (places - middle[tiles.bag_index])[:, :, None] / self.wavelengths
        return torch.cat([phase.sin(), phase.cos()], -1).flatten(1).nan_to_num(0.0)


class MaskedTileFeatures(nn.Module):
    """Predict hidden tile features from the slide vector and the tile's place, against detached inputs.

    The target is the input of the bag encoder, not its output, so that no collapse can lower it.

    Args:
        width: W of the slide vector and tokens.
        feature_dim: D of the tile features.
    """

    def __init__(self, width: int, feature_dim: int, *, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or 2 * width
        self.places = TilePlaces()
        self.layers = nn.Sequential(
            nn.Linear(width + self.places.n_features, hidden), nn.GELU(), nn.Linear(hidden, feature_dim)
        )

    def forward(self, vector: Tensor, tiles: RaggedTiles, hidden: Tensor) -> Tensor:
        """vector [B, W] of the tiles that were shown; tiles: all of them; hidden: bool [T]."""
        place, bag = self.places(tiles)[hidden], tiles.bag_index[hidden]
        predicted = self.layers(torch.cat([vector[bag], place.to(vector.dtype)], 1))
        everything = torch.ones(len(place), dtype=torch.bool, device=place.device)
        return masked_mean_square(predicted, tiles.features[hidden].detach(), everything)


class TileRetention(nn.Module):
    """Restore masked encoded tiles of a bag from the others (slide retention of MIRROR, IEEE TMI 2025).

    A masked tile is a learned vector with its place; one decoder block lets it read the tiles that are left, so that
    n tiles cost ratio (1 - ratio) n^2 dot products. Targets are the encoder's own output; ``stop_gradient`` detaches
    them, without which encoder and target can collapse together.
    """

    def __init__(
        self, width: int, *, heads: int = 4, ratio: float = 0.75, stop_gradient: bool = True
    ) -> None:
        super().__init__()
        self.ratio, self.stop_gradient = ratio, stop_gradient
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.places = TilePlaces()
        self.place_token = nn.Linear(self.places.n_features, width)
        self.block = CrossAttentionBlock(width, heads)
        self.out = nn.Linear(width, width)

    def forward(self, tiles: RaggedTiles, generator: torch.Generator | None = None) -> Tensor:
        """tiles: encoded, features [T, W]; bags of one tile have nothing to restore it from, and do not count."""
        hidden = draw_hidden_tiles(tiles, self.ratio, generator)
        place = self.place_token(self.places(tiles).to(self.mask_token.dtype))
        asked = tiles.with_features(self.mask_token + place).select(hidden)
        left = tiles.with_features(tiles.features + place.to(tiles.features.dtype)).select(~hidden)
        restored, where = [asked.features[:0]], [hidden.new_zeros(0, dtype=torch.int64)]
        for queries in length_groups(asked):
            context = padded_together(left, queries.bags)
            decoded, _ = self.block(queries.pad(asked.features), context.pad(left.features), context.mask)
            real, index = queries.unpad(decoded)
            restored.append(real.to(asked.features.dtype))
            where.append(index)
        target = tiles.features[hidden][torch.cat(where)]
        predicted = self.out(torch.cat(restored))
        everything = torch.ones(len(predicted), dtype=torch.bool, device=predicted.device)
        return masked_mean_square(predicted, target.detach() if self.stop_gradient else target, everything)


class LatentRetention(nn.Module):
    """Restore masked expression latents from the others (retention of MIRROR, IEEE TMI 2025).

    Of several tokens, masked ones are replaced by a learned vector and one block rebuilds them; which token it was, a
    learned identity says. Of one token, as MIRROR's own encoder has, entries are masked and a perceptron rebuilds
    them. Targets and ``stop_gradient`` as in `TileRetention`.
    """

    def __init__(
        self,
        width: int,
        n_tokens: int,
        *,
        heads: int = 4,
        ratio: float = 0.75,
        stop_gradient: bool = True,
    ) -> None:
        super().__init__()
        self.ratio, self.stop_gradient = ratio, stop_gradient
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.identity = nn.Parameter(torch.randn(n_tokens, width) * 0.02) if n_tokens > 1 else None
        self.block = SelfAttentionBlock(width, heads) if n_tokens > 1 else FeedForward(width, 2)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, present: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """tokens [B, P, W]; present bool [B], samples that have the modality."""
        entries = tokens.shape[1:] if self.identity is None else tokens.shape[1:2]
        masked = draw_mask((len(tokens), entries.numel()), self.ratio, generator, device=tokens.device)
        masked = masked[:, None] if self.identity is None else masked[..., None]
        seen = torch.where(masked, self.mask_token.to(tokens), tokens)
        if self.identity is not None:
            seen = seen + self.identity.to(tokens)
        restored = self.out(self.block(seen))
        target = tokens.detach() if self.stop_gradient else tokens
        counted = masked if self.identity is None else masked[..., 0]
        return masked_mean_square(restored, target, counted & present.reshape(-1, *[1] * (counted.dim() - 1)))


class ExpressionReconstruction(nn.Module):
    """Expression from the slide vector by a decoder, mean squared error (Tangle-Rec, CVPR 2024)."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, slide_vector: Tensor, expression: Tensor, paired: Tensor) -> Tensor:
        """slide_vector [B, W]; expression [B, G]; paired bool [B], samples with both."""
        return masked_mean_square(
            self.decoder(slide_vector), expression.detach(), paired[:, None].expand_as(expression)
        )
