"""Bag encoders: from the tile features of a sample to slide tokens and a slide vector.

Tiles of one sample only ever meet each other. Bags of like length are padded together (`length_groups`), so
that a batch of bags costs a few dense operations and a bag of 100,000 beside bags of 1 wastes no memory.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toxfusion.data.batch import RaggedTiles
from toxfusion.models.attention import (
    READ_ONTO,
    Attention,
    CrossAttentionBlock,
    SelfAttentionBlock,
    learned_tokens,
)
from toxfusion.models.precision import at_least_float32, full_precision


@dataclass(frozen=True)
class SlideEncoding:
    """What a bag encoder gives.

    Attributes:
        tokens: [B, K, W], a fixed number a bag; zeros for an empty bag.
        vector: [B, W].
        attention: float32 [T, heads], weight of each tile in its bag; sums to 1 over a bag.
        tiles: the bags with encoded features [T, W]: what the pooling reads.
    """

    tokens: Tensor
    vector: Tensor
    attention: Tensor
    tiles: RaggedTiles

    def take(self, bags: Tensor) -> SlideEncoding:
        """The bags int64 [n] in the order asked; one may be taken several times."""
        attention = self.tiles.with_features(self.attention).take(bags).features
        return SlideEncoding(self.tokens[bags], self.vector[bags], attention, self.tiles.take(bags))


class GroupEncoding(NamedTuple):
    """One group of b bags: tokens [b, K, W], vector [b, W], attention float32 [b, L, heads].

    tiles: [b, L, W] where the encoder changes the projected tiles, None where it reads them as they are.
    """

    tokens: Tensor
    vector: Tensor
    attention: Tensor
    tiles: Tensor | None = None


@dataclass(frozen=True)
class LengthGroup:
    """Bags of like length, padded together.

    bags: int64 [b], their places in the batch. index: int64 [b, L], rows of the ragged tensor (0 in padding).
    mask: bool [b, L], True at real tiles.
    """

    bags: Tensor
    index: Tensor
    mask: Tensor

    def pad(self, ragged: Tensor) -> Tensor:
        """[T, ...] -> [b, L, ...], zeros in the padding."""
        picked = ragged.index_select(0, self.index.flatten()).unflatten(0, tuple(self.index.shape))
        return picked * self.mask.reshape(*self.mask.shape, *[1] * (ragged.dim() - 1)).to(ragged.dtype)

    def unpad(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        """[b, L, ...] -> the real rows and where they belong in the ragged tensor."""
        return padded[self.mask], self.index[self.mask]


def length_groups(tiles: RaggedTiles) -> list[LengthGroup]:
    """Bags grouped by the power of two of their length: less than half of a group is padding.

    Empty bags are left out.
    """
    members: dict[int, list[int]] = {}
    for bag, length in enumerate(tiles.lengths.tolist()):
        if length:
            members.setdefault((length - 1).bit_length(), []).append(bag)
    return [
        padded_together(tiles, torch.tensor(bags, device=tiles.offsets.device)) for bags in members.values()
    ]


def padded_together(tiles: RaggedTiles, bags: Tensor) -> LengthGroup:
    """The bags int64 [b], padded to the longest of them."""
    lengths = tiles.lengths[bags]
    steps = torch.arange(int(lengths.max()), device=bags.device)
    mask = steps < lengths[:, None]
    return LengthGroup(bags, (tiles.offsets[bags][:, None] + steps) * mask, mask)


def _place(parts: list[tuple[Tensor, Tensor]], n_rows: int, empty: Tensor) -> Tensor:
    """Put the rows of each group where they belong; rows that no group names are zeros like ``empty``."""
    out = empty.new_zeros(n_rows, *empty.shape)
    for values, where in parts:
        out = out.index_copy(0, where, values.to(out.dtype))
    return out


@full_precision
def bag_moments(tiles: RaggedTiles) -> Tensor:
    """Mean and deviation of each feature over the tiles of a bag, side by side: float32 [B, 2 D].

    The deviation is over n, and 1 is taken off it, its value over all tiles: both are then near 0 in an ordinary bag.
    An empty bag gives zeros; a bag of one tile has a deviation of 0.
    """
    features, bag = at_least_float32(tiles.features), tiles.bag_index
    lengths = tiles.lengths.clamp(min=1)[:, None]
    nothing = features.new_zeros(tiles.n_bags, features.shape[1])
    mean = nothing.index_add(0, bag, features) / lengths
    spread = nothing.index_add(0, bag, (features - mean[bag]).square()) / lengths
    # The root has no slope at 0, where a bag of one tile lies.
    deviation = torch.where(spread > 0, spread.clamp(min=1e-12).sqrt(), 0.0) - 1.0
    return torch.cat([mean, deviation.masked_fill(tiles.lengths[:, None] == 0, 0.0)], 1)


class BagEncoder(nn.Module, ABC):
    """Standardised tiles [T, in_dim] of B bags -> SlideEncoding with ``n_tokens`` tokens a bag.

    Args:
        in_dim: width D of a tile's feature vector.
        width: width W of everything that comes out.
        dropout: share of projected tile features set to zero in training.

    An empty bag gives zeros. The order of tiles in a bag does not matter.
    """

    def __init__(self, in_dim: int, width: int, *, n_tokens: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.in_dim, self.width, self.n_tokens, self.heads = in_dim, width, n_tokens, heads
        # No norm over a tile's features: a tile near the mean of all would look as remarkable as any other.
        self.project = nn.Sequential(nn.Linear(in_dim, width), nn.GELU(), nn.Dropout(dropout))

    def forward_features(self, tiles: RaggedTiles) -> Tensor:
        """Projected tile features, [T, W]."""
        return self.project(tiles.features)

    def forward(self, tiles: RaggedTiles) -> SlideEncoding:
        """Encode B bags."""
        return self.encode(self.forward_features(tiles), tiles)

    def encode(self, features: Tensor, tiles: RaggedTiles) -> SlideEncoding:
        """Encode B bags from their projected features [T, W]."""
        tokens, vectors, attention, encoded = [], [], [], []
        for group in length_groups(tiles):
            encoding = self.encode_group(features, tiles, group)
            tokens.append((encoding.tokens, group.bags))
            vectors.append((encoding.vector, group.bags))
            attention.append(group.unpad(encoding.attention))
            if encoding.tiles is not None:
                encoded.append(group.unpad(encoding.tiles))
        kind = features.new_zeros(())
        return SlideEncoding(
            _place(tokens, tiles.n_bags, kind.expand(self.n_tokens, self.width)),
            _place(vectors, tiles.n_bags, kind.expand(self.width)),
            _place(attention, len(features), kind.float().expand(self.heads)),
            tiles.with_features(
                _place(encoded, len(features), kind.expand(self.width)) if encoded else features
            ),
        )

    @abstractmethod
    def encode_group(self, features: Tensor, tiles: RaggedTiles, group: LengthGroup) -> GroupEncoding:
        """Encode one group of b bags; ``features`` are those of all tiles of the batch, [T, W]."""


class MeanPool(BagEncoder):
    """The mean of a bag's projected features; every tile weighs the same."""

    def __init__(self, in_dim: int, width: int, *, dropout: float = 0.1) -> None:
        super().__init__(in_dim, width, n_tokens=1, heads=1, dropout=dropout)
        self.out = nn.Linear(width, width)

    def encode_group(self, features: Tensor, tiles: RaggedTiles, group: LengthGroup) -> GroupEncoding:
        weights = group.mask.float() / group.mask.sum(1, keepdim=True)
        pooled = group.pad(features).float().sum(1) / group.mask.sum(1, keepdim=True)
        vector = self.out(pooled)
        return GroupEncoding(vector[:, None], vector, weights[..., None])


class MaxPool(BagEncoder):
    """The largest value of each feature in a bag; a tile's weight is the share of features it supplies."""

    def __init__(self, in_dim: int, width: int, *, dropout: float = 0.1) -> None:
        super().__init__(in_dim, width, n_tokens=1, heads=1, dropout=dropout)
        self.out = nn.Linear(width, width)

    def encode_group(self, features: Tensor, tiles: RaggedTiles, group: LengthGroup) -> GroupEncoding:
        padded = group.pad(features).masked_fill(~group.mask[..., None], float("-inf"))
        largest, winner = padded.max(1)
        weights = F.one_hot(winner, padded.shape[1]).float().mean(1)
        vector = self.out(largest)
        return GroupEncoding(vector[:, None], vector, weights[..., None])


class GatedAttention(BagEncoder):
    """Gated attention MIL, one token a head.

    With e_i = w^T (tanh(V x_i) * sigmoid(U x_i)), a = softmax(e) over the bag.

    Ilse et al., ICML 2018. The slide vector is a linear map of the heads side by side.
    """

    def __init__(
        self, in_dim: int, width: int, *, heads: int = 4, hidden: int | None = None, dropout: float = 0.1
    ) -> None:
        super().__init__(in_dim, width, n_tokens=heads, heads=heads, dropout=dropout)
        hidden = hidden or width
        self.content = nn.Linear(width, hidden)
        self.gate = nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, heads, bias=False)
        self.out = nn.Linear(heads * width, width)

    def encode_group(self, features: Tensor, tiles: RaggedTiles, group: LengthGroup) -> GroupEncoding:
        tokens, weights = self.read(features, group)
        return GroupEncoding(tokens, self.out(tokens.flatten(1)), weights)

    def read(self, features: Tensor, group: LengthGroup) -> tuple[Tensor, Tensor]:
        """Tokens [b, heads, W], and the weights of tiles in them, float32 [b, L, heads]."""
        padded = group.pad(features)
        logits = self.score(self.content(padded).tanh() * self.gate(padded).sigmoid()).float()
        weights = logits.masked_fill(~group.mask[..., None], float("-inf")).softmax(1)
        return weights.transpose(1, 2).to(padded.dtype) @ padded, weights


class PooledAttention(GatedAttention):
    """Gated attention heads as tokens, and after them one token of the bag's mean and deviation.

    What is spread over a slide shows in its moments, which attention would have to find; what lies in a few tiles shows
    in the heads, and drowns in moments. The slide vector is a linear map of all tokens side by side.
    """

    def __init__(
        self, in_dim: int, width: int, *, heads: int = 4, hidden: int | None = None, dropout: float = 0.1
    ) -> None:
        super().__init__(in_dim, width, heads=heads, hidden=hidden, dropout=dropout)
        self.n_tokens = heads + 1
        self.moments = nn.Linear(2 * in_dim, width)
        self.out = nn.Linear(self.n_tokens * width, width)

    def encode_group(self, features: Tensor, tiles: RaggedTiles, group: LengthGroup) -> GroupEncoding:
        tokens, weights = self.read(features, group)
        pooled = self.moments(bag_moments(tiles.take(group.bags)))
        tokens = torch.cat([tokens, pooled[:, None].to(tokens.dtype)], 1)
        return GroupEncoding(tokens, self.out(tokens.flatten(1)), weights)


class LatentAttention(BagEncoder):
    """Learned latent queries read a bag by cross-attention, then attend to each other.

    After the Perceiver (Jaegle et al., ICML 2021). A tile's weight is the mean over latents, for each head.
    """

    def __init__(
        self,
        in_dim: int,
        width: int,
        *,
        n_latents: int = 8,
        heads: int = 4,
        n_blocks: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(in_dim, width, n_tokens=n_latents, heads=heads, dropout=dropout)
        self.latents = learned_tokens(n_latents, width, READ_ONTO)
        self.read = CrossAttentionBlock(width, heads, dropout=dropout)
        self.blocks = nn.ModuleList(
            SelfAttentionBlock(width, heads, dropout=dropout) for _ in range(n_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def encode_group(self, features: Tensor, tiles: RaggedTiles, group: LengthGroup) -> GroupEncoding:
        latents = self.latents.expand(len(group.bags), -1, -1)
        tokens, weights = self.read(latents, group.pad(features), group.mask)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return GroupEncoding(tokens, self.out(tokens.mean(1)), weights.mean(2).transpose(1, 2))


class PyramidPositions(nn.Module):
    """Position by depth-wise convolutions of side 7, 5 and 3 over a square of tiles (PPEG of TransMIL)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, side, padding=side // 2, groups=width) for side in (7, 5, 3)
        )

    def forward(self, tokens: Tensor, cell: Tensor, side: int, mask: Tensor) -> Tensor:
        """tokens [b, L, W] at cells int64 [b, L] of a side x side square, zeros where no tile is."""
        masked = (tokens * mask[..., None]).to(tokens.dtype)
        square = masked.new_zeros(len(masked), side * side + 1, masked.shape[-1])
        # Padding goes to one cell beyond the square, which is cut off before the convolutions.
        where = cell.masked_fill(~mask, side * side)[..., None].expand_as(masked)
        square = square.scatter(1, where, masked)[:, :-1].transpose(1, 2).unflatten(2, (side, side))
        position = torch.stack([convolve(square) for convolve in self.convolutions]).sum(0)
        return tokens + position.flatten(2).transpose(1, 2).gather(1, where.clamp(max=side * side - 1))


class TransMIL(BagEncoder):
    """Transformer over the tiles of a bag with a class token and convolutional positions (Shao et al., NeurIPS 2021).

    Tiles are sorted by coordinate (y, then x) and laid row by row into a square of side ceil(sqrt(n)); empty
    cells are zeros, not copies of tiles. A bag whose tiles have no place is read without positions, as a set. The
    second layer is read by the class token alone, so that it is
    computed for that one; the encoded tiles are what it reads. Attention is exact, at O(n^2) time: bags of some ten
    thousand tiles want `LatentAttention`.
    """

    def __init__(self, in_dim: int, width: int, *, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__(in_dim, width, n_tokens=1, heads=heads, dropout=dropout)
        self.class_token = learned_tokens(1, width, READ_ONTO)
        self.norm_first = nn.LayerNorm(width)
        self.first = Attention(width, heads)
        self.positions = PyramidPositions(width)
        self.norm_second = nn.LayerNorm(width)
        self.second = Attention(width, heads)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def encode_group(self, features: Tensor, tiles: RaggedTiles, group: LengthGroup) -> GroupEncoding:
        tokens = torch.cat([self.class_token.expand(len(group.bags), -1, -1), group.pad(features)], 1)
        mask = F.pad(group.mask, (1, 0), value=True)
        normed = self.norm_first(tokens)
        tokens = tokens + _attend_exactly(self.first, normed, mask)
        cell, side = _square_cells(tiles, group)
        placed = group.pad(tiles.coordinates.isnan().any(1)).any(1).logical_not()
        moved = self.positions(tokens[:, 1:], cell, side, group.mask)
        moved = torch.where(placed[:, None, None], moved, tokens[:, 1:])
        tokens = torch.cat([tokens[:, :1], moved], 1)
        normed = self.norm_second(tokens)
        read, weights = self.second(normed[:, :1], normed, mask)
        vector = self.out(self.norm(tokens[:, 0] + read[:, 0]))
        on_tiles = weights[:, :, 0, 1:].transpose(1, 2)
        on_tiles = on_tiles / on_tiles.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        return GroupEncoding(vector[:, None], vector, on_tiles, tokens[:, 1:])


def _attend_exactly(attention: Attention, tokens: Tensor, mask: Tensor) -> Tensor:
    """Self-attention [b, L, W] without keeping its [L, L] weights."""
    q, k, v = (
        layer(tokens).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for layer in (attention.query, attention.key, attention.value)
    )
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
    return attention.out(mixed.transpose(1, 2).flatten(2))


def _square_cells(tiles: RaggedTiles, group: LengthGroup) -> tuple[Tensor, int]:
    """The cell int64 [b, L] of each tile in its bag's square, laid out in a square of the group's side."""
    x, y = group.pad(tiles.coordinates.nan_to_num(0.0)).unbind(-1)
    # Slides of one sample can share coordinates; the content then decides, so that order does not matter.
    content = group.pad(tiles.features.float().sum(1))
    order = content.argsort(dim=1, stable=True)
    for key in (x, y, (~group.mask).to(x.dtype)):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    rank = order.argsort(1)
    own_side = group.mask.sum(1).sqrt().ceil().long()[:, None]
    side = math.isqrt(group.mask.shape[1] - 1) + 1
    return (rank // own_side) * side + rank % own_side, side
