"""Self-supervised pretraining on paired slides and expression: a weighted sum of named terms, each logged.

Terms of one modality are left out when the other modality is not in use; the terms of the pair then have no weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from toxfusion.data.batch import Batch, RaggedTiles
from toxfusion.data.sampling import torch_generator, torch_seed
from toxfusion.distributed import rank
from toxfusion.models.expression import ExpressionEncoding, GeneDecoder, MaskedGeneEncoder
from toxfusion.models.network import Network, Representation
from toxfusion.modules.optimization import Optimization
from toxfusion.objectives.contrastive import ContrastiveTerm, Duplicates, InfoNCE, Kin
from toxfusion.objectives.masked import MaskedGenes, masked_mean_square
from toxfusion.objectives.monitors import smooth_rank, variance_of
from toxfusion.objectives.orthogonality import Orthogonality

TERMS = ("align", "sub_bag", "genes", "orthogonality", "retention")
"""Names of the terms, as in pretrain.weights."""

NEEDS: dict[str, tuple[str, ...]] = {
    "align": ("bag", "expression"),
    "sub_bag": ("bag",),
    "genes": ("expression",),
}
"""Branches of the network without which a term does not apply."""


class PretrainingError(ValueError):
    """A term of pretraining that does not exist."""


def split_bags(tiles: RaggedTiles, generator: torch.Generator) -> tuple[RaggedTiles, RaggedTiles]:
    """Two random halves of each bag; the first has the odd tile, so that it is empty only where the bag is."""
    keys = torch.rand(len(tiles.features), generator=generator).to(tiles.offsets.device)
    order = torch.argsort(tiles.bag_index + keys.to(torch.float64))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    first = (place - tiles.offsets[:-1][tiles.bag_index]) % 2 == 0
    return tiles.select(first), tiles.select(~first)


class PretrainingModule(L.LightningModule):
    """The network with its self-supervised terms.

    Args:
        network: what is pretrained.
        width, shared_dim, private_dim: of the network's vectors and of their shared and private parts.
        n_genes: G of the expression, 0 without.
        tile_dim: D of the tile features, 0 without.
        weights: term -> weight; see conf/pretrain/full.yaml.
        gene_mask: share of genes hidden from the expression branch, 0 to 1.
        negatives: "exclude", "soft" or "keep" for pairs of one dose group, one animal, or two vehicle controls.
        temperature, learn_temperature: of InfoNCE.
        orthogonality: its form, "cosine" or "cross_correlation".
        seed: masks and sub-bags are a function of it and the step.

    Raises:
        PretrainingError: an unknown term.
    """

    def __init__(
        self,
        network: Network,
        *,
        shared_dim: int,
        private_dim: int,
        width: int,
        n_genes: int,
        tile_dim: int,
        weights: Mapping[str, float],
        gene_mask: float,
        negatives: Duplicates,
        temperature: float,
        learn_temperature: bool,
        orthogonality: Literal["cosine", "cross_correlation"],
        optimization: Optimization,
        seed: int,
    ) -> None:
        super().__init__()
        unknown = set(weights) - set(TERMS)
        if unknown:
            raise PretrainingError(f"pretrain.weights: no term {sorted(unknown)}; there are {TERMS}")
        self.network, self.optimization, self.seed = network, optimization, seed
        self.gene_mask = gene_mask
        self.weights = {k: float(w) for k, w in weights.items() if w > 0 and self._applies(k)}
        self.align, self.sub_bag = (
            InfoNCE(temperature=temperature, learnable=learn_temperature, duplicates=negatives)
            for _ in range(2)
        )
        self.genes, self.orthogonality = MaskedGenes(), Orthogonality(form=orthogonality)
        parts = shared_dim + private_dim
        encoder = network.expression
        self.decoder = (
            GeneDecoder(width, n_genes)
            if encoder is not None and not isinstance(encoder, MaskedGeneEncoder)
            else None
        )
        targets = {"tile": tile_dim} if network.bag is not None else {}
        targets |= {"profile": n_genes} if encoder is not None else {}
        self.read_parts = nn.ModuleDict({name: nn.Linear(parts, size) for name, size in targets.items()})
        self.read_fused = nn.ModuleDict({name: nn.Linear(width, size) for name, size in targets.items()})

    def losses(self, batch: Batch, generator: torch.Generator) -> tuple[dict[str, Tensor], Representation]:
        """The terms in use, unweighted, and the representation they were taken from.

        Args:
            generator: on the CPU; of gene masks and sub-bags.
        """
        self.beside: dict[str, Tensor] = {}
        network = self.network
        other = None
        seen = batch
        if "sub_bag" in self.weights:
            first, other = split_bags(batch.tiles, generator)
            seen = replace(batch, tiles=first)
        hidden = None
        if network.expression is not None:
            draws = torch.rand(batch.expression.shape, generator=generator).to(batch.expression.device)
            hidden = (draws < self.gene_mask) & batch.has_expression[:, None]
        out = network(seen, visible=None if hidden is None else ~hidden)
        terms: dict[str, Tensor] = {}
        kin = Kin(batch.group, batch.animal, batch.is_control)
        if "align" in self.weights:
            paired = batch.has_slide & batch.has_expression
            terms["align"] = self._take(
                "align", self.align(out.slide_shared, out.expression_shared, kin, paired)
            )
        if other is not None and network.bag is not None and network.slide_projections is not None:
            there = other.lengths > 0
            second = network.slide_projections(network.bag(other).vector)[0]
            terms["sub_bag"] = self._take("sub_bag", self.sub_bag(out.slide_shared, second, kin, there))
        if "genes" in self.weights and out.expression is not None and hidden is not None:
            decoded = self._decode(out.expression)
            terms["genes"] = self.genes(decoded, batch.expression, hidden, batch.has_expression)
        if "orthogonality" in self.weights:
            terms["orthogonality"] = self._orthogonality(out, batch)
        if "retention" in self.weights:
            terms["retention"] = self._retention(out, batch)
        return terms, out

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(torch_seed(self.seed, "pretrain", batch.step, rank()))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms, out = self.losses(batch, torch_generator(self.seed, "masks", batch.step, rank()))
        self._monitor(out, batch)
        return self._log(terms, "train", len(batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        terms, _ = self.losses(batch, torch_generator(self.seed, "masks", -1, batch_idx, rank()))
        self._log(terms, "valid", len(batch))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return self.optimization.configure(self)

    def _applies(self, term: str) -> bool:
        return all(getattr(self.network, branch) is not None for branch in NEEDS.get(term, ()))

    def _take(self, name: str, term: ContrastiveTerm) -> Tensor:
        """The loss of a contrastive term; what it says beside goes to the log."""
        self.beside |= {
            f"{name}_scale": term.scale,
            f"{name}_accuracy": term.accuracy,
            f"{name}_skipped": term.skipped.float(),
        }
        return term.loss

    def _decode(self, encoding: ExpressionEncoding) -> Tensor:
        """Expression [B, G] from what the branch made of the visible genes."""
        if isinstance(self.network.expression, MaskedGeneEncoder):
            return self.network.expression.decode(encoding)
        return cast(GeneDecoder, self.decoder)(encoding.vector)

    def _orthogonality(self, out: Representation, batch: Batch) -> Tensor:
        """Shared against private of each branch, and the two private parts against each other."""
        both = batch.has_slide & batch.has_expression
        pairs = [
            (out.slide_shared, out.slide_private, batch.has_slide),
            (out.expression_shared, out.expression_private, batch.has_expression),
            (out.slide_private, out.expression_private, both),
        ]
        terms = [self.orthogonality(a, b, k) for a, b, k in pairs if a is not None and b is not None]
        self.beside["orthogonality_floor"] = torch.stack([t.floor for t in terms]).mean()
        return torch.stack([t.loss for t in terms]).mean()

    def _retention(self, out: Representation, batch: Batch) -> Tensor:
        """Read the bag's mean tile and the whole profile back, from the parts of a branch and from the fused vector."""
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
                from_parts = self.read_parts[name](torch.cat([shared, private], 1))
                errors.append(masked_mean_square(from_parts, target, keep))
                errors.append(masked_mean_square(self.read_fused[name](out.fused.vector), target, keep))
        return torch.stack(errors).mean()

    @torch.no_grad()
    def _monitor(self, out: Representation, batch: Batch) -> None:
        """Signs of collapse: smooth rank of the shared parts, variance of the private parts, mean gate."""
        values = {f"monitor/{k}": v.detach() for k, v in self.beside.items()}
        values["monitor/gate_slide"] = out.fused.gate[:, 0].mean()
        for name, shared, private, there in (
            ("slide", out.slide_shared, out.slide_private, batch.has_slide),
            ("expression", out.expression_shared, out.expression_private, batch.has_expression),
        ):
            if shared is not None and private is not None and there.sum() > 1:
                values[f"monitor/rank_{name}"] = smooth_rank(shared[there].float())
                values[f"monitor/variance_private_{name}"] = variance_of(private[there])
        self.log_dict(values, batch_size=len(batch))

    def _log(self, terms: dict[str, Tensor], part: str, size: int) -> Tensor:
        total = torch.stack([self.weights[k] * v for k, v in terms.items()]).sum()
        values = {f"{part}/{k}": v.detach() for k, v in terms.items()} | {f"{part}/loss": total.detach()}
        self.log_dict(values, batch_size=size, sync_dist=part == "valid", on_step=part == "train")
        return total


def bag_means(tiles: RaggedTiles) -> Tensor:
    """Mean tile of each bag, [B, D]; zeros for an empty bag."""
    total = tiles.features.new_zeros(tiles.n_bags, tiles.features.shape[1])
    total.index_add_(0, tiles.bag_index, tiles.features)
    return total / tiles.lengths.clamp(min=1)[:, None]
