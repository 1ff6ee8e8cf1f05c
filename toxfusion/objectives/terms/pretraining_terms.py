"""The terms of self-supervised pretraining: which there are, what each needs, and how it is taken from a batch.

Only terms in use are built, so that no parameter is left without a gradient. Weighing and logging live elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from toxfusion.data.batch import Batch, RaggedTiles
from toxfusion.models.bag import BagEncoder, SlideEncoding
from toxfusion.models.expression import ExpressionEncoding, GeneDecoder, MaskedGeneEncoder
from toxfusion.models.network import Network, Projections, Representation
from toxfusion.objectives.contrastive import ContrastiveTerm, Duplicates, InfoNCE, Kin, SigLIP
from toxfusion.objectives.masked import (
    ExpressionReconstruction,
    LatentRetention,
    MaskedGenes,
    MaskedTileFeatures,
    TileRetention,
    masked_mean_square,
)
from toxfusion.objectives.orthogonality import Orthogonality
from toxfusion.objectives.style import PrototypeClustering, StyleBranch, StyleKL
from toxfusion.objectives.vicreg import Consistency, VICReg

PAIR = ("bag", "expression")

NEEDS: dict[str, tuple[str, ...]] = {
    "align": PAIR,
    "sub_bag": ("bag",),
    "genes": ("expression",),
    "orthogonality": (),
    "retention": (),
    "tiles": ("bag",),
    "slide_latents": ("bag",),
    "expression_latents": ("expression",),
    "expression_from_slide": PAIR,
    "style": PAIR,
    "cluster": PAIR,
    "vicreg": PAIR,
    "consistency": PAIR,
}
"""The terms, by their names in pretrain.weights: branches of the network without which each does not apply."""

CHOICES: dict[str, tuple[str, ...]] = {
    "align_loss": ("infonce", "siglip"),
    "negatives": ("exclude", "soft", "keep"),
    "orthogonality": ("cosine", "cross_correlation"),
}
MASKS = {
    "genes": "gene_mask",
    "tiles": "tile_mask",
    "slide_latents": "latent_mask",
    "expression_latents": "latent_mask",
}
"""Terms that restore what is hidden, and the share of it."""


class PretrainingError(ValueError):
    """A setting of pretraining that does not exist, or that does not go with the network."""


@dataclass(frozen=True)
class TermSettings:
    """The keys of conf/pretrain that are about the terms; full.yaml says what each does.

    Attributes:
        weights: term -> weight; a term of weight 0, or whose modality is not in use, is left out.
        gene_mask, tile_mask, latent_mask: shares of genes, tiles and tokens to hide, 0 to 1.
        stop_gradient: detach the targets of slide_latents and expression_latents.
        align_loss: "infonce" or "siglip".
        negatives: "exclude", "soft" or "keep" for pairs of one dose group, one animal, or two vehicle controls.
        temperature, learn_temperature: of align and sub_bag.
        orthogonality: its form, "cosine" or "cross_correlation".
        style_latent, prototypes: sizes of the style branch.
        cluster_temperature, cluster_entropy: of cluster.
    """

    weights: Mapping[str, float]
    gene_mask: float
    tile_mask: float
    latent_mask: float
    stop_gradient: bool
    align_loss: Literal["infonce", "siglip"]
    negatives: Duplicates
    temperature: float
    learn_temperature: bool
    orthogonality: Literal["cosine", "cross_correlation"]
    style_latent: int
    prototypes: int
    cluster_temperature: float
    cluster_entropy: float

    def in_use(self, network: Network) -> dict[str, float]:
        """Term -> weight, of those that have one and whose branches the network has.

        Raises:
            PretrainingError: an unknown term or choice, a share that hides nothing or all, too few prototypes, or no
                term left.
        """
        unknown = set(self.weights) - set(NEEDS)
        if unknown:
            raise PretrainingError(f"pretrain.weights: no term {sorted(unknown)}; there are {tuple(NEEDS)}")
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise PretrainingError(
                    f"pretrain.{key}={getattr(self, key)!r} is none of {', '.join(choices)}"
                )
        weights = {
            name: float(self.weights[name])
            for name, branches in NEEDS.items()
            if self.weights.get(name, 0.0) > 0 and all(getattr(network, b) is not None for b in branches)
        }
        if not weights:
            raise PretrainingError(
                f"pretrain.weights={dict(self.weights)}: no term applies to modality={network.modality}; give one "
                "that does a weight, or take pretrain=none"
            )
        for term, key in MASKS.items():
            if term in weights and not 0 < getattr(self, key) < 1:
                raise PretrainingError(
                    f"pretrain.{key}={getattr(self, key)}: the term {term} needs a share between 0 and 1"
                )
        if "cluster" in weights and self.prototypes < 2:
            raise PretrainingError(
                f"pretrain.prototypes={self.prototypes}: the term cluster needs 2 at least"
            )
        return weights


class HiddenTiles(NamedTuple):
    """The tiles before some were hidden, and bool [T], which."""

    tiles: RaggedTiles
    hidden: Tensor


@dataclass(frozen=True)
class View:
    """One pass over a batch: what was shown to the network, what was hidden, and what it made of the first.

    Attributes:
        batch: all of it; the targets.
        out: of the tiles and genes that were shown.
        hidden_genes: bool [B, G], or None without expression or mask.
        hidden_tiles: tiles that the bag encoder did not see, with the term tiles.
        other_half: the second half of each bag, with the term sub_bag.
        generator: of masks of tokens and of the style draw, on the CPU.
    """

    batch: Batch
    out: Representation
    hidden_genes: Tensor | None
    hidden_tiles: HiddenTiles | None
    other_half: RaggedTiles | None
    generator: torch.Generator

    @property
    def kin(self) -> Kin:
        return Kin(self.batch.group, self.batch.animal, self.batch.is_control)

    @property
    def paired(self) -> Tensor:
        """bool [B], samples with both modalities."""
        return self.batch.has_slide & self.batch.has_expression


class PretrainingTerms(nn.Module):
    """The terms in use, with the parameters that they alone have.

    Args:
        network: what is pretrained; not a part of this module.
        settings: see `TermSettings`.
        width, shared_dim, private_dim: of the network's vectors and of their shared and private parts.
        n_genes: G of the expression, 0 without.
        tile_dim: D of the tile features, 0 without.

    Attributes:
        settings: as given.
        weights: term -> weight, of the terms in use.
        beside: what the last pass says beside its losses, to be logged.

    Raises:
        PretrainingError: settings that do not exist, or do not go with each other or with the network.
    """

    def __init__(
        self,
        network: Network,
        settings: TermSettings,
        *,
        width: int,
        shared_dim: int,
        private_dim: int,
        n_genes: int,
        tile_dim: int,
    ) -> None:
        super().__init__()
        self.settings, self.weights = settings, settings.in_use(network)
        self.beside: dict[str, Tensor] = {}
        encoder = network.expression
        self.losses = nn.ModuleDict()
        if "align" in self.weights:
            self.losses["align"] = _alignment(settings)
        if "sub_bag" in self.weights:
            self.losses["sub_bag"] = _info_nce(settings)
        if "genes" in self.weights:
            self.losses["genes"] = MaskedGenes()
            if not isinstance(encoder, MaskedGeneEncoder):
                self.losses["decode_genes"] = GeneDecoder(width, n_genes)
        if "orthogonality" in self.weights:
            self.losses["orthogonality"] = Orthogonality(form=settings.orthogonality)
        if "retention" in self.weights:
            targets = {"tile": tile_dim} if network.bag is not None else {}
            targets |= {"profile": n_genes} if encoder is not None else {}
            for source, size in (("parts", shared_dim + private_dim), ("fused", width)):
                for name, target in targets.items():
                    self.losses[f"read_{name}_from_{source}"] = nn.Linear(size, target)
        if "tiles" in self.weights:
            self.losses["tiles"] = MaskedTileFeatures(width, tile_dim)
        ratio, stop = settings.latent_mask, settings.stop_gradient
        if "slide_latents" in self.weights:
            self.losses["slide_latents"] = TileRetention(width, ratio=ratio, stop_gradient=stop)
        if "expression_latents" in self.weights and encoder is not None:
            self.losses["expression_latents"] = LatentRetention(
                width, encoder.n_tokens, ratio=ratio, stop_gradient=stop
            )
        if "expression_from_slide" in self.weights:
            self.losses["expression_from_slide"] = ExpressionReconstruction(GeneDecoder(width, n_genes))
        if "style" in self.weights:
            self.losses["style"] = StyleKL()
        if "cluster" in self.weights:
            self.losses["cluster"] = PrototypeClustering(
                temperature=settings.cluster_temperature, entropy_weight=settings.cluster_entropy
            )
        if "style" in self.weights or "cluster" in self.weights:
            self.losses["style_branch"] = StyleBranch(
                width,
                latent=settings.style_latent,
                n_prototypes=settings.prototypes if "cluster" in self.weights else 0,
            )
        if "vicreg" in self.weights:
            self.losses["vicreg"] = VICReg()
        if "consistency" in self.weights:
            self.losses["consistency"] = Consistency()

    def forward(self, view: View, network: Network) -> dict[str, Tensor]:
        """Term -> loss, unweighted, scalars.

        Args:
            network: encodes the second half of the bags, and decodes genes where its encoder can.
        """
        self.beside = {}
        out, batch = view.out, view.batch
        found: dict[str, Tensor] = {}
        if "align" in self.weights:
            term = self.losses["align"](out.slide_shared, out.expression_shared, view.kin, view.paired)
            found["align"] = self._take("align", term)
        if "sub_bag" in self.weights:
            found["sub_bag"] = self._sub_bag(view, network)
        if "genes" in self.weights:
            decoded = self._decode(view, network)
            found["genes"] = self.losses["genes"](
                decoded, batch.expression, view.hidden_genes, batch.has_expression
            )
        if "orthogonality" in self.weights:
            found["orthogonality"] = self._orthogonality(view)
        if "retention" in self.weights:
            found["retention"] = self._retention(view)
        if "tiles" in self.weights:
            found["tiles"] = self._tiles(view)
        if "slide_latents" in self.weights:
            encoded = cast(SlideEncoding, out.slide).tiles
            found["slide_latents"] = self.losses["slide_latents"](encoded, view.generator)
        if "expression_latents" in self.weights:
            tokens = cast(ExpressionEncoding, out.expression).tokens
            found["expression_latents"] = self.losses["expression_latents"](
                tokens, batch.has_expression, view.generator
            )
        if "expression_from_slide" in self.weights:
            slide = cast(SlideEncoding, out.slide)
            found["expression_from_slide"] = self.losses["expression_from_slide"](
                slide.vector, batch.expression, view.paired
            )
        found |= self._style(view)
        if "vicreg" in self.weights:
            vicreg = self.losses["vicreg"](out.slide_shared, out.expression_shared, view.paired)
            found["vicreg"] = vicreg.loss
            self.beside |= {
                f"vicreg_{name}": getattr(vicreg, name) for name in ("invariance", "variance", "covariance")
            }
        if "consistency" in self.weights:
            found["consistency"] = self.losses["consistency"](
                out.slide_shared, out.expression_shared, view.paired
            )
        return found

    def _take(self, name: str, term: ContrastiveTerm) -> Tensor:
        """The loss of a contrastive term; what it says beside goes to the log."""
        self.beside |= {
            f"{name}_scale": term.scale,
            f"{name}_accuracy": term.accuracy,
            f"{name}_skipped": term.skipped.float(),
        }
        return term.loss

    def _sub_bag(self, view: View, network: Network) -> Tensor:
        """The shared part of a slide's shown half against that of its other half."""
        other = cast(RaggedTiles, view.other_half)
        bag, project = cast(BagEncoder, network.bag), cast(Projections, network.slide_projections)
        second = project(bag(other).vector)[0]
        term = self.losses["sub_bag"](view.out.slide_shared, second, view.kin, other.lengths > 0)
        return self._take("sub_bag", term)

    def _decode(self, view: View, network: Network) -> Tensor:
        """Expression [B, G] from what the branch made of the visible genes."""
        encoding = cast(ExpressionEncoding, view.out.expression)
        if isinstance(network.expression, MaskedGeneEncoder):
            return network.expression.decode(encoding)
        return self.losses["decode_genes"](encoding.vector)

    def _orthogonality(self, view: View) -> Tensor:
        """Shared against private of each branch, and the two private parts against each other."""
        out, batch = view.out, view.batch
        pairs = [
            (out.slide_shared, out.slide_private, batch.has_slide),
            (out.expression_shared, out.expression_private, batch.has_expression),
            (out.slide_private, out.expression_private, view.paired),
        ]
        terms = [
            self.losses["orthogonality"](a, b, k) for a, b, k in pairs if a is not None and b is not None
        ]
        self.beside["orthogonality_floor"] = torch.stack([t.floor for t in terms]).mean()
        return torch.stack([t.loss for t in terms]).mean()

    def _retention(self, view: View) -> Tensor:
        """Read the bag's mean tile and the whole profile back, from the parts of a branch and from the fused vector."""
        out, batch = view.out, view.batch
        errors = []
        for name, target, there, shared, private in (
            ("tile", bag_means(batch.tiles), batch.has_slide, out.slide_shared, out.slide_private),
            (
                "profile",
                batch.expression,
                batch.has_expression,
                out.expression_shared,
                out.expression_private,
            ),
        ):
            if shared is not None and private is not None:
                keep = there[:, None].expand_as(target)
                from_parts = self.losses[f"read_{name}_from_parts"](torch.cat([shared, private], 1))
                from_fused = self.losses[f"read_{name}_from_fused"](out.fused.vector)
                errors.append(masked_mean_square(from_parts, target, keep))
                errors.append(masked_mean_square(from_fused, target, keep))
        return torch.stack(errors).mean()

    def _tiles(self, view: View) -> Tensor:
        """Hidden tiles from the slide vector and their place in the bag."""
        whole, hidden = cast(HiddenTiles, view.hidden_tiles)
        return self.losses["tiles"](cast(SlideEncoding, view.out.slide).vector, whole, hidden)

    def _style(self, view: View) -> dict[str, Tensor]:
        """The terms style and cluster, of one pass of both vectors through the branch that they share."""
        out, batch = view.out, view.batch
        if "style_branch" not in self.losses or out.slide is None or out.expression is None:
            return {}
        branch = self.losses["style_branch"]
        slide = branch(out.slide.vector, view.generator)
        expression = branch(out.expression.vector, view.generator)
        found: dict[str, Tensor] = {}
        if "style" in self.weights:
            found["style"] = self.losses["style"](slide, expression, batch.has_slide, batch.has_expression)
        if "cluster" in self.weights:
            term = self.losses["cluster"](slide.scores, expression.scores, view.paired)
            found["cluster"] = term.loss
            self.beside |= {"cluster_kl": term.kl, "cluster_entropy": term.entropy}
        return found


def bag_means(tiles: RaggedTiles) -> Tensor:
    """Mean tile of each bag, [B, D]; zeros for an empty bag."""
    total = tiles.features.new_zeros(tiles.n_bags, tiles.features.shape[1])
    total.index_add_(0, tiles.bag_index, tiles.features)
    return total / tiles.lengths.clamp(min=1)[:, None]


def _info_nce(settings: TermSettings) -> InfoNCE:
    return InfoNCE(
        temperature=settings.temperature,
        learnable=settings.learn_temperature,
        duplicates=settings.negatives,
    )


def _alignment(settings: TermSettings) -> InfoNCE | SigLIP:
    if settings.align_loss == "infonce":
        return _info_nce(settings)
    if settings.negatives == "soft":
        raise PretrainingError(
            "pretrain.negatives='soft' does not go with pretrain.align_loss='siglip'; take exclude or keep"
        )
    return SigLIP(
        temperature=settings.temperature,
        learnable=settings.learn_temperature,
        duplicates=settings.negatives,
    )
