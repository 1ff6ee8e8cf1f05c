"""Losses of reconstruction: masked genes, masked tile features, latents, and expression from the slide."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toxfusion.distributed import global_mean
from toxfusion.models.attention import SelfAttentionBlock
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


class MaskedGenes(nn.Module):
    """Mean squared error on masked, train-standardised expression: sum m (x - x^)^2 / sum m."""

    def forward(self, predicted: Tensor, target: Tensor, masked: Tensor, has_expression: Tensor) -> Tensor:
        """predicted, target [B, G]; masked bool [B, G], True = hidden from the encoder.

        Has_expression bool [B].
        """
        return masked_mean_square(predicted, target.detach(), masked & has_expression[:, None])


class MaskedTileFeatures(nn.Module):
    """Predict hidden tile features from the slide vector and the tile's place, against detached inputs.

    The target is the input of the bag encoder, not its output, so that no collapse can lower it. A hidden
    tile is told apart by sine and cosine of its position relative to the bag's mean, at ``n_waves``
    wavelengths.

    Args:
        width: W of the slide vector and tokens.
        feature_dim: D of the tile features.
    """

    wavelengths: Tensor

    def __init__(self, width: int, feature_dim: int, *, hidden: int | None = None, n_waves: int = 4) -> None:
        super().__init__()
        hidden = hidden or 2 * width
        # 128 um to a few mm: from a few tiles to a section.
        self.register_buffer("wavelengths", 128.0 * 4.0 ** torch.arange(n_waves))
        self.layers = nn.Sequential(
            nn.Linear(width + 4 * n_waves, hidden), nn.GELU(), nn.Linear(hidden, feature_dim)
        )

    def forward(self, vector: Tensor, place: Tensor, bag_index: Tensor, target: Tensor) -> Tensor:
        """vector [B, W]; for M hidden tiles: place [M, 2] (um), bag_index int64 [M], target [M, D]."""
        phase = 2 * torch.pi * place[:, :, None] / self.wavelengths
        waves = torch.cat([phase.sin(), phase.cos()], -1).flatten(1)
        predicted = self.layers(torch.cat([vector[bag_index], waves.to(vector.dtype)], 1))
        everything = torch.ones(len(place), dtype=torch.bool, device=place.device)
        return masked_mean_square(predicted, target.detach(), everything)


class LatentRetention(nn.Module):
    """Restore masked latents of an encoder from the others (retention of MIRROR, IEEE TMI 2025).

    Masked tokens are replaced by a learned vector and one block rebuilds them. Targets are the encoder's own
    output; ``stop_gradient`` detaches them, without which encoder and target can collapse together.
    """

    def __init__(
        self, width: int, *, heads: int = 4, ratio: float = 0.75, stop_gradient: bool = True
    ) -> None:
        super().__init__()
        self.ratio, self.stop_gradient = ratio, stop_gradient
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.block = SelfAttentionBlock(width, heads)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, present: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """tokens [B, P, W], P > 1; present bool [B], samples that have the modality."""
        masked = draw_mask((len(tokens), tokens.shape[1]), self.ratio, generator, device=tokens.device)
        restored = self.out(self.block(torch.where(masked[..., None], self.mask_token.to(tokens), tokens)))
        target = tokens.detach() if self.stop_gradient else tokens
        return masked_mean_square(restored, target, masked & present[:, None])


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
