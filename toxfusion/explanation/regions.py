"""Regions: what each tile of a sample weighs in a prediction, for tables, for pictures, and for QuPath."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from toxfusion.explanation.attribution import integrate_tiles, tile_gradients
from toxfusion.runs.loaded import LoadedRun
from toxfusion.study.files import replace_file

PLACE = ("sample_id", "slide_id", "tile", "x", "y", "side", "mpp0")


def tile_places(run: LoadedRun, sample_ids: Sequence[str]) -> pd.DataFrame:
    """Where the tiles of samples lie, in the order of the rows of their batch.

    Returns:
        Columns ``PLACE``: tile is its row in the slide's bag; x, y its top-left corner and side its side, level-0
        px; mpp0 micrometres per level-0 px. All NaN where features have no coordinates.
    """
    store = run.fold.store
    parts = []
    for sample in sample_ids:
        for slide in run.fold.bag_slides(sample):
            assert store is not None, "a sample has slides where there is a store"
            corners, unknown = store.coordinates(slide), None if store.placed else np.nan
            parts.append(
                pd.DataFrame(
                    {
                        "sample_id": sample,
                        "slide_id": slide,
                        "tile": np.arange(len(corners)),
                        "x": corners[:, 0] if unknown is None else unknown,
                        "y": corners[:, 1] if unknown is None else unknown,
                        "side": store.tile_size(slide) if unknown is None else unknown,
                        "mpp0": store.mpp0(slide) if unknown is None else unknown,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(PLACE))


def tile_scores(run: LoadedRun, sample_ids: Sequence[str], tasks: Sequence[str]) -> pd.DataFrame:
    """Attention, gradient and gradient x input of every tile of samples that have slides.

    Attention is that of the bag encoder and the same for every task. "contribution:<task>" is the gradient times the
    difference to the mean tile of matched controls, summed over features: exactly the tile's signed share in the task's
    number where the way from tile to number is linear, and its first-order estimate elsewhere. "gradient:<task>" is the
    length of the gradient, without a sign.

    Returns:
        ``PLACE``, attention (mean over heads), attention_<head>, and two columns a task.
    """
    table = tile_places(run, sample_ids)
    if table.empty:
        return table
    batch = run.batch(sample_ids)
    with torch.no_grad():
        slide = run.network.see_slide(batch.tiles, batch.path_membership)
    assert slide is not None, "a sample has tiles where the network reads slides"
    attention = slide.encoding.attention.float().cpu().numpy()
    scores = {"attention": attention.mean(1)} | {f"attention_{h}": a for h, a in enumerate(attention.T)}
    control = torch.from_numpy(run.fold.control_tiles(sample_ids)).to(batch.tiles.features)
    control = control.repeat_interleave(batch.tiles.lengths, 0)
    difference = batch.tiles.features - control
    for task in tasks:
        gradient = tile_gradients(run, batch, task)
        scores[f"contribution:{task}"] = (gradient * difference).sum(1).float().cpu().numpy()
        scores[f"gradient:{task}"] = gradient.norm(dim=1).float().cpu().numpy()
    return pd.concat([table, pd.DataFrame(scores)], axis=1)


def add_integrated(
    run: LoadedRun, scores: pd.DataFrame, tasks: Sequence[str], *, steps: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Integrated gradients of the tiles, column "integrated:<task>" beside those of `tile_scores`.

    Returns:
        The wider table, and one row a sample and task with value, baseline (all tiles as in matched controls), their
        difference, the error of the sum and whether it is within 1 %.
    """
    scores, checks = scores.copy(), []
    for sample, tiles in scores.groupby("sample_id", sort=False).groups.items():
        batch = run.batch([str(sample)])
        control = run.fold.control_tiles([str(sample)])[0]
        for task in tasks:
            integrated = integrate_tiles(run, batch, task, control, steps=steps)
            scores.loc[tiles, f"integrated:{task}"] = integrated.values.sum(1)
            checks.append(integrated.checks([str(sample)]).assign(task=task))
    return scores, pd.concat(checks, ignore_index=True)


def spread_out(score: np.ndarray, corners: np.ndarray, n: int, apart: float) -> np.ndarray:
    """The highest scores that lie apart: each next one is the highest at least ``apart`` from all before it.

    Args:
        score: float [T]. corners: [T, 2], in the unit of ``apart``.

    Returns:
        int64 [at most n], positions, the highest first.
    """
    chosen: list[int] = []
    for i in np.argsort(-score, kind="stable"):
        if len(chosen) == n:
            break
        if all(np.hypot(*(corners[i] - corners[j]).astype(np.float64)) >= apart for j in chosen):
            chosen.append(int(i))
    return np.array(chosen, dtype=np.int64)


def extreme_tiles(of_slide: pd.DataFrame, column: str, n: int) -> pd.DataFrame:
    """Top and bottom tiles of one slide by a column, two tile sides apart; no tile is in both.

    A slide of one tile has a top and no bottom.

    Returns:
        Rows of the table with end ("top" or "bottom") and rank from 1.
    """
    side = float(of_slide["side"].iloc[0])
    n = min(n, max(1, len(of_slide) // 2))
    parts, left = [], of_slide
    for end, sign in (("top", 1.0), ("bottom", -1.0)):
        chosen = spread_out(sign * left[column].to_numpy(), left[["x", "y"]].to_numpy(), n, 2 * side)
        parts.append(left.iloc[chosen].assign(end=end, rank=np.arange(1, len(chosen) + 1)))
        left = left.drop(index=parts[-1].index)
    return pd.concat(parts)


def geojson(of_slide: pd.DataFrame) -> dict[str, Any]:
    """Tiles of one slide as a FeatureCollection that QuPath imports: squares in level-0 px, scores as measurements.

    Every number column that is no place becomes a measurement; JSON has no NaN, so that one that is not finite is
    left out.
    """
    measured = [c for c in of_slide.columns if c not in PLACE and pd.api.types.is_numeric_dtype(of_slide[c])]
    features = []
    for tile in of_slide.to_dict("records"):
        left, top = float(tile["x"]), float(tile["y"])
        right, bottom = left + float(tile["side"]), top + float(tile["side"])
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {
                    "objectType": "tile",
                    "name": f"{tile['slide_id']} {tile['tile']}",
                    "measurements": {c: float(tile[c]) for c in measured if np.isfinite(tile[c])},
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


def write_geojson(of_slide: pd.DataFrame, path: Path) -> None:
    """`geojson` as a file, at once or not at all."""
    replace_file(path, json.dumps(geojson(of_slide), allow_nan=False).encode())
