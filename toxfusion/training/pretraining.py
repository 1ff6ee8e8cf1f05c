"""Self-supervised pretraining on paired slides and expression: a weighted sum of named terms, each logged.

What is hidden from the network is decided here; the terms live in `toxfusion.objectives.terms`.
"""

from __future__ import annotations

from dataclasses import replace

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from toxfusion.data.batch import Batch
from toxfusion.data.input_noise import InputNoise
from toxfusion.data.sampling import seed_draws, torch_generator
from toxfusion.distributed.ranks import rank
from toxfusion.models.network import Network, Representation
from toxfusion.objectives.masked import draw_hidden_tiles
from toxfusion.objectives.monitors import alignment, smooth_rank, uniformity, variance_of
from toxfusion.objectives.terms.term_set import TermSet
from toxfusion.objectives.terms.view import HiddenTiles, View
from toxfusion.training.optimization import Optimization, is_logged
from toxfusion.training.warm_start import linear_parameters

NO_NOISE = InputNoise(slide=0.0, expression=0.0)


class PretrainingModule(L.LightningModule):
    """The network with its self-supervised terms.

    Args:
        network: what is pretrained.
        terms: those in use on this network.
        seed: masks, noise and sub-bags are a function of it and the step.
        noise: on what the network reads in training; targets and validation are without.
        holds_linear: the linear paths stay as they are: a closed form solved them, and steps would only take them away.
    """

    def __init__(
        self,
        network: Network,
        terms: TermSet,
        *,
        optimization: Optimization,
        seed: int,
        noise: InputNoise = NO_NOISE,
        holds_linear: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.terms = network, terms
        self.optimization, self.seed = optimization, seed
        self.noise, self.holds_linear = noise, holds_linear

    def losses(self, batch: Batch, generator: torch.Generator) -> tuple[dict[str, Tensor], Representation]:
        """The terms in use, unweighted, and the representation they were taken from.

        Args:
            generator: on the CPU; of gene masks, sub-bags, hidden tiles and tokens, and of the style draw.
        """
        settings, needs = self.terms.settings, self.terms.needs
        shown, hidden_tiles, hidden_genes = batch.tiles, None, None
        if self.network.expression is not None and settings.gene_mask > 0:
            draws = torch.rand(batch.expression.shape, generator=generator).to(batch.expression.device)
            hidden_genes = (draws < settings.gene_mask) & batch.has_expression[:, None]
        if "hidden_tiles" in needs:
            hidden = draw_hidden_tiles(batch.tiles, settings.tile_mask, generator)
            shown, hidden_tiles = batch.tiles.select(~hidden), HiddenTiles(batch.tiles, hidden)
        visible = None if hidden_genes is None else ~hidden_genes
        read = replace(batch, tiles=shown)
        if self.training:
            read = self.noise(read, generator)
        out = self.network(read, visible=visible)
        view = View(batch, out, generator, hidden_genes, hidden_tiles, self.terms.style_branch)
        return self.terms(view, self.network), out

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        seed_draws(self.device, self.seed, "pretrain", batch.step, rank())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms, out = self.losses(batch, torch_generator(self.seed, "masks", batch.step, rank()))
        if is_logged(self.trainer):
            self._monitor(out, batch)
        return self._log(terms, "train", len(batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        terms, _ = self.losses(batch, torch_generator(self.seed, "masks", -1, batch_idx, rank()))
        self._log(terms, "valid", len(batch))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        held = linear_parameters(self.network) if self.holds_linear else []
        shares = {f"network.{name}": 0.0 for name in held}
        return self.optimization.configure(self, shares)

    @torch.no_grad()
    def _monitor(self, out: Representation, batch: Batch) -> None:
        """Signs of collapse: rank, alignment and uniformity of shared parts, variance of private parts, mean gate."""
        values = {f"monitor/{k}": v.detach() for k, v in self.terms.beside.items()}
        values["monitor/gate_slide"] = out.fused.gate[:, 0].mean()
        for name, shared, private, there in (
            ("slide", out.slide_shared, out.slide_private, batch.has_slide),
            ("expression", out.expression_shared, out.expression_private, batch.has_expression),
        ):
            if shared is not None and private is not None and there.sum() > 1:
                values[f"monitor/rank_{name}"] = smooth_rank(shared[there].float())
                values[f"monitor/uniformity_{name}"] = uniformity(shared[there])
                values[f"monitor/variance_private_{name}"] = variance_of(private[there])
        paired = batch.has_slide & batch.has_expression
        if out.slide_shared is not None and out.expression_shared is not None and paired.any():
            values["monitor/alignment"] = alignment(out.slide_shared[paired], out.expression_shared[paired])
        self.log_dict(values, batch_size=len(batch))

    def _log(self, terms: dict[str, Tensor], part: str, size: int) -> Tensor:
        total = self.terms.total(terms)
        values = {f"{part}/{k}": v.detach() for k, v in terms.items()} | {f"{part}/loss": total.detach()}
        if part == "valid" or is_logged(self.trainer):
            self.log_dict(values, batch_size=size, sync_dist=part == "valid", on_step=part == "train")
        return total
