"""Gradients and integrated gradients of a task's number by tiles, genes and clinical columns.

Integrated gradients (Sundararajan et al., ICML 2017) of F at x against a baseline x0:

    IG_j = (x_j - x0_j) int_0^1 dF/dx_j (x0 + a (x - x0)) da,      sum_j IG_j = F(x) - F(x0)

by captum with Gauss-Legendre points, whose number is doubled until the sum holds within 1 % (`TOLERANCE`) or
`MOST_STEPS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from toxfusion.data.batch import Batch, RaggedTiles
from toxfusion.explanation.targets import predict
from toxfusion.models.modes import as_array
from toxfusion.models.predictor import read_by_heads
from toxfusion.runs.loaded import LoadedRun

TOLERANCE = 0.01
"""Largest error of the sum of integrated gradients, as a share of the difference that they explain."""
ROUNDING = 1e-4
"""What float32 leaves of that error where the difference itself is next to nothing."""
MOST_STEPS = 1024
_ROWS_AT_ONCE = 65_536
"""Tiles that the network reads in one call."""


@dataclass(frozen=True)
class Attribution:
    """Shares of n inputs in F(x) - F(x0).

    Attributes:
        values: float32, shaped as the inputs: [B, G] of genes, [T, D] of the tiles of one sample.
        value, baseline: float64 [B], F at the input and at the baseline (B is 1 for tiles).
        error: float64 [B], sum of values - (value - baseline).
        steps: int [B], points of the integral.
    """

    values: np.ndarray
    value: np.ndarray
    baseline: np.ndarray
    error: np.ndarray
    steps: np.ndarray

    @property
    def converged(self) -> np.ndarray:
        """bool [B]: the error is within 1 % of the difference."""
        return within_tolerance(self.error, self.value - self.baseline)

    def checks(self, sample_ids: Sequence[str]) -> pd.DataFrame:
        """One row a sample: sample_id, value, baseline, difference, error, steps, converged."""
        return pd.DataFrame(
            {
                "sample_id": list(sample_ids),
                "value": self.value,
                "baseline": self.baseline,
                "difference": self.value - self.baseline,
                "error": self.error,
                "steps": self.steps,
                "converged": self.converged,
            }
        )


def within_tolerance(error: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Whether errors of a sum are within `TOLERANCE` of the difference it should give, or no more than `ROUNDING`."""
    return np.abs(error) <= np.maximum(TOLERANCE * np.abs(difference), ROUNDING)


def tile_gradients(run: LoadedRun, batch: Batch, task: str) -> Tensor:
    """dF/dx of every tile feature of B samples, float32 [T, D]; samples do not depend on each other's tiles."""
    features = batch.tiles.features.clone().requires_grad_()
    seen = replace(batch, tiles=batch.tiles.with_features(features))
    (gradient,) = torch.autograd.grad(predict(run, seen, task).sum(), features)
    return gradient


def gene_gradients(run: LoadedRun, batch: Batch, task: str) -> Tensor:
    """dF/dx of every gene of B samples, float32 [B, G]."""
    expression = batch.expression.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        predict(run, replace(batch, expression=expression), task).sum(), expression
    )
    return gradient


def integrate_tiles(
    run: LoadedRun, batch: Batch, task: str, control: np.ndarray, *, steps: int = 32
) -> Attribution:
    """Integrated gradients of one sample's tiles; every tile starts at the mean tile of matched controls.

    Args:
        batch: one sample with tiles.
        control: float32 [D], see `FoldData.control_tiles`.
        steps: points to begin with.
    """
    tiles = batch.tiles
    length = len(tiles.features)
    begin = torch.from_numpy(control).to(tiles.features).expand_as(tiles.features)

    def along(features: Tensor) -> Tensor:
        """[S, T, D] -> [S]: the sample with S versions of its tiles."""
        n = len(features)
        bags = RaggedTiles(
            features.flatten(0, 1),
            tiles.coordinates.repeat(n, 1),
            torch.arange(n + 1, device=tiles.offsets.device) * length,
        )
        copies = batch.take(torch.zeros(n, dtype=torch.int64, device=tiles.offsets.device))
        return predict(run, replace(copies, tiles=bags), task)

    attributions = _integrated(
        along, tiles.features[None], begin[None], (), steps, max(1, _ROWS_AT_ONCE // max(length, 1))
    )
    return replace(attributions, values=attributions.values[0])


def integrate_genes(
    run: LoadedRun, batch: Batch, task: str, control: np.ndarray, *, steps: int = 32
) -> Attribution:
    """Integrated gradients of the genes of B samples, from matched controls; the slides stay as they are.

    Args:
        batch: samples with expression.
        control: float32 [B, G], see `ExpressionTransform.control_profiles`.
        steps: points to begin with.
    """

    network = run.network
    with torch.no_grad():
        slide = network.see_slide(batch.tiles, batch.path_membership)

    def along(expression: Tensor, samples: Tensor) -> Tensor:
        """[S, G] of the samples int64 [S] -> [S]."""
        seen = None if slide is None else slide.take(samples)
        own = None if batch.path_membership is None else batch.path_membership[samples]
        shown = network.join(
            seen,
            network.see_expression(expression, membership=own),
            batch.has_slide[samples],
            batch.has_expression[samples],
        )
        beside = [None if of is None else of[samples] for of in (batch.clinical, batch.head_membership)]
        return run.targets(read_by_heads(shown.fused.vector, *beside))[task]

    samples = torch.arange(len(batch), device=batch.expression.device)
    begin = torch.from_numpy(control).to(batch.expression)
    longest = max(1, int(batch.tiles.lengths.max())) if len(batch) else 1
    return _integrated(along, batch.expression, begin, (samples,), steps, max(1, _ROWS_AT_ONCE // longest))


def integrate_clinical(run: LoadedRun, batch: Batch, task: str, *, steps: int = 32) -> Attribution:
    """Integrated gradients of the clinical columns of B samples, from the training mean; all else stays as it is.

    Args:
        batch: with clinical columns [B, C].
        steps: points to begin with.
    """
    assert batch.clinical is not None, "asked of a run with clinical columns"
    with torch.no_grad():
        fused = run.network(batch).fused.vector

    def along(clinical: Tensor, samples: Tensor) -> Tensor:
        """[S, C] of the samples int64 [S] -> [S]."""
        membership = None if batch.head_membership is None else batch.head_membership[samples]
        return run.targets(read_by_heads(fused[samples], clinical, membership))[task]

    samples = torch.arange(len(batch), device=fused.device)
    mean = torch.zeros_like(batch.clinical)
    return _integrated(along, batch.clinical, mean, (samples,), steps, _ROWS_AT_ONCE)


def _integrated(
    function: Callable[..., Tensor],
    inputs: Tensor,
    baselines: Tensor,
    extra: tuple[Tensor, ...],
    steps: int,
    at_once: int,
) -> Attribution:
    """Integrated gradients of each example of ``inputs`` [B, ...], with more points where the sum does not hold."""
    with torch.no_grad():
        value, baseline = (as_array(function(x, *extra)) for x in (inputs, baselines))
    values = np.zeros(tuple(inputs.shape), np.float32)
    error, taken = np.zeros(len(inputs)), np.zeros(len(inputs), np.int64)
    method = IntegratedGradients(function, multiply_by_inputs=True)
    waiting = np.arange(len(inputs))
    while len(waiting):
        unconverged = torch.from_numpy(waiting)
        # captum takes at least one point for every example of a call.
        for part in unconverged.split(max(1, at_once)):
            attributions = method.attribute(
                inputs[part],
                baselines[part],
                additional_forward_args=tuple(e[part] for e in extra) or None,
                n_steps=steps,
                internal_batch_size=max(at_once, len(part)),
            )
            values[part.numpy()] = attributions.detach().float().cpu().numpy()
        sums = values[waiting].reshape(len(waiting), -1).sum(1, dtype=np.float64)
        error[waiting] = sums - (value - baseline)[waiting]
        taken[waiting] = steps
        open_still = ~within_tolerance(error[waiting], (value - baseline)[waiting])
        steps *= 2
        waiting = waiting[open_still] if steps <= MOST_STEPS else waiting[:0]
    return Attribution(values, value, baseline, error, taken)


def samples_with(run: LoadedRun, sample_ids: Sequence[str], modality: str) -> list[str]:
    """Those that have slide tiles, or an expression profile, for a run that reads them."""
    network = run.network
    if modality == "slide":
        return [] if network.bag is None else [s for s in sample_ids if run.fold.has_slide(s)]
    return [] if network.expression is None else [s for s in sample_ids if run.fold.has_expression(s)]
