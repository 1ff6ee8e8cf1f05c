"""Whether an explanation is of the model: deletion and insertion of tiles, and the same run with random weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy.integrate import trapezoid
from torch import nn

from toxfusion.data.batch import Batch
from toxfusion.data.sampling import torch_seed
from toxfusion.explanation.targets import predict
from toxfusion.models.modes import as_array
from toxfusion.runs.loaded import LoadedRun
from toxfusion.runs.probes import network_of
from toxfusion.study.draws import generator

SHARES = tuple(np.linspace(0.0, 1.0, 11).tolist())


def randomised(run: LoadedRun, seed: int) -> LoadedRun:
    """The same run with the weights of network and heads drawn anew; data and tile features stay as they are."""
    predictor = copy.deepcopy(run.predictor)
    redrawn = replace(run, settings=replace(run.settings, seed=seed))
    predictor.network = network_of(redrawn, "random")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "heads"))
        for part in predictor.heads.modules():
            if isinstance(part, nn.Linear):
                part.reset_parameters()
    return replace(run, predictor=predictor.eval())


@torch.no_grad()
def keeping(run: LoadedRun, batch: Batch, task: str, kept: np.ndarray) -> np.ndarray:
    """The task's number of one sample with some of its tiles only.

    Args:
        batch: one sample with T tiles.
        kept: bool [n, T], the tiles of each version; a version without any has no slide.

    Returns:
        float64 [n].
    """
    where = batch.tiles.offsets.device
    copies = batch.take(torch.zeros(len(kept), dtype=torch.int64, device=where))
    tiles = copies.tiles.select(torch.from_numpy(kept.ravel()).to(where))
    return as_array(predict(run, replace(copies, tiles=tiles, has_slide=tiles.lengths > 0), task))


def first_tiles(order: np.ndarray) -> np.ndarray:
    """bool [len(SHARES), T]: the first 0, 10 ... 100 % of the tiles in an order int [T] (places, the first first)."""
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank < np.round(np.array(SHARES)[:, None] * len(order))


def deletion_insertion(
    run: LoadedRun, batch: Batch, task: str, score: np.ndarray, *, draws: int, seed: int
) -> pd.DataFrame:
    """The task's number as tiles are taken away, or put in, by falling score and in random order.

    Args:
        batch: one sample with T tiles. score: float [T].
        draws: random orders; their mean curve is what the score is compared with.

    Returns:
        One row a curve ("deletion", "insertion") and share of tiles, with value, and random, random_low and random_high
        (mean, least and largest of the draws). After Petsiuk et al. (BMVC 2018).
    """
    rng = generator(seed, "deletion", batch.sample_ids[0], task)
    n = len(score)
    orders = [np.argsort(-score, kind="stable"), *(rng.permutation(n) for _ in range(draws))]
    firsts = np.concatenate([first_tiles(order) for order in orders])
    parts = []
    for curve, kept in (("deletion", ~firsts), ("insertion", firsts)):
        values = keeping(run, batch, task, kept).reshape(len(orders), len(SHARES))
        parts.append(
            pd.DataFrame(
                {
                    "curve": curve,
                    "share": SHARES,
                    "value": values[0],
                    "random": values[1:].mean(0),
                    "random_low": values[1:].min(0),
                    "random_high": values[1:].max(0),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def area_between(curves: pd.DataFrame) -> dict[str, float]:
    """Area between the curve by score and the mean random one, above 0 where the score finds what raises the number.

    Deletion: random minus score (a good order lets the number fall sooner); insertion: score minus random.
    """
    areas = {}
    for curve, sign in (("deletion", -1.0), ("insertion", 1.0)):
        means = curves[curves["curve"] == curve]
        areas[curve] = sign * float(trapezoid(means["value"] - means["random"], means["share"]))
    return areas
