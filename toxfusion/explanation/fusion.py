"""Fusion: the gate, which tokens attend to which, and what the prediction would be without a modality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from toxfusion.data.batch import Batch
from toxfusion.explanation.genes import expression_token_names
from toxfusion.explanation.regions import PLACE, tile_places
from toxfusion.models.bag import BagEncoder, PooledAttention
from toxfusion.models.modes import as_array
from toxfusion.runs.loaded import LoadedRun
from toxfusion.runs.probes import MODALITIES

DESCRIBED = ("compound", "dose_level", "dose", "time_h", "is_control")


def _described(run: LoadedRun, batch: Batch) -> pd.DataFrame:
    obs = run.fold.study.obs.loc[batch.sample_ids, list(DESCRIBED)].rename_axis("sample_id").reset_index()
    return obs.assign(
        has_slide=batch.has_slide.cpu().numpy(), has_expression=batch.has_expression.cpu().numpy()
    )


@torch.no_grad()
def gates(run: LoadedRun, batch: Batch) -> pd.DataFrame:
    """Share of each modality in what is fused, with compound, dose and time of the sample.

    A gate of 0 or 1 stands where a modality is missing, or where the network reads one alone.
    """
    gate = run.network(batch).fused.gate.float().cpu().numpy()
    return _described(run, batch).assign(gate_slide=gate[:, 0], gate_expression=gate[:, 1])


def gates_by(samples: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread of the slide's gate over samples with both modalities, by compound, dose level and time.

    Args:
        samples: of `gates`.

    Returns:
        by, value, n, mean, sd, low, high; NaN for the sd of one sample.
    """
    both = samples[samples["has_slide"] & samples["has_expression"]]
    parts = []
    for by in ("compound", "dose_level", "time_h"):
        summary = both.groupby(by)["gate_slide"].agg(n="size", mean="mean", sd="std", low="min", high="max")
        parts.append(summary.rename_axis("value").reset_index().assign(by=by).astype({"value": str}))
    return pd.concat(parts, ignore_index=True)[["by", "value", "n", "mean", "sd", "low", "high"]]


@torch.no_grad()
def without_each(run: LoadedRun, batch: Batch, tasks: Sequence[str]) -> pd.DataFrame:
    """Each task's number as it is, without the slide, and without expression; NaN where nothing would be left."""
    whole = run.targets(run.predictor.vector(batch))
    table = _described(run, batch)
    parts = []
    for task in tasks:
        parts.append(table[["sample_id", "compound"]].assign(task=task, value=as_array(whole[task])))
    numbers = pd.concat(parts, ignore_index=True)
    both = (batch.has_slide & batch.has_expression).cpu().numpy()
    for modality in MODALITIES:
        hidden = run.targets(run.predictor.vector(batch.without(modality)))
        values = [np.where(both, as_array(hidden[task]), np.nan) for task in tasks]
        numbers[f"without_{modality}"] = np.concatenate(values)
    return numbers


def slide_token_names(run: LoadedRun) -> list[str]:
    """The tokens of the bag encoder; the two that the network adds come last."""
    bag = run.network.bag
    assert isinstance(bag, BagEncoder), "asked of a network that reads slides"
    if isinstance(bag, PooledAttention):
        names = [*(f"slide {i}" for i in range(bag.heads)), "moments"]
    else:
        names = ["slide"] if bag.n_tokens == 1 else [f"slide {i}" for i in range(bag.n_tokens)]
    return [*names, "shared", "private"]


@torch.no_grad()
def token_attention(run: LoadedRun, batch: Batch) -> pd.DataFrame:
    """Which slide token reads which expression token, the mean over heads and samples that have both.

    Returns:
        direction ("slide_to_expression"), from, to, attention (sums to 1 over ``to``), n; empty where the fusion
        has no such attention.
    """
    readings = []
    both = batch.has_slide & batch.has_expression
    if bool(both.any()):
        attention = run.network(batch).fused.attention
        if "slide_to_expression" in attention:
            mean = attention["slide_to_expression"][both].mean((0, 1)).float().cpu().numpy()
            readings = [
                {
                    "direction": "slide_to_expression",
                    "from": name,
                    "to": to,
                    "attention": float(weight),
                    "n": int(both.sum()),
                }
                for name, weights in zip(slide_token_names(run), mean, strict=True)
                for to, weight in zip(expression_token_names(run), weights, strict=True)
            ]
    return pd.DataFrame(readings, columns=["direction", "from", "to", "attention", "n"])


@torch.no_grad()
def expression_on_tiles(run: LoadedRun, sample_ids: Sequence[str]) -> pd.DataFrame:
    """How much each expression token reads each tile, by fusions that read tiles (cross-attention, MCAT, SurvPath).

    What a token reads of the slide's own tokens, which are of all tiles at once, is left out, so that a column sums
    to less than 1 over a slide.

    Returns:
        ``PLACE`` and one column an expression token; without further columns where there is no such attention.
    """
    table = tile_places(run, sample_ids)
    network = run.network
    if table.empty or network.expression is None or network.bag is None:
        return table[list(PLACE)]
    batch = run.batch(sample_ids)
    outputs = network(batch)
    if "expression_to_tiles" not in outputs.fused.attention:
        return table[list(PLACE)]
    names = expression_token_names(run)
    weights = outputs.fused.attention["expression_to_tiles"].mean(1)
    return pd.concat([table, pd.DataFrame(weights.float().cpu().numpy(), columns=names)], axis=1)
