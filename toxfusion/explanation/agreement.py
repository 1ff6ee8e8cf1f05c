"""Whether scores are of what a run has learned: rank correlation with those of random weights, nulls, other seeds.

After Adebayo et al., "Sanity checks for saliency maps" (NeurIPS 2018): a score that stays when the weights are drawn
anew is of the picture, not of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from toxfusion.evaluation.bootstrap import mean_over_clusters
from toxfusion.evaluation.families import FAMILIES
from toxfusion.explanation import genes, regions
from toxfusion.explanation.attribution import samples_with
from toxfusion.explanation.folder import file_name
from toxfusion.runs.loaded import LoadedRun
from toxfusion.study.split import read_manifest
from toxfusion.study.vocabulary import in_order
from toxfusion.training.folder import RunError, RunFolder

LEAST_TILES = 5
"""Slides with fewer tiles are left out: their ranks say nothing."""
TILE_SCORES = ("contribution", "gradient")
COLUMNS = ("run", "against", "other", "subject", "score", "task", "n", "n_compounds",
           "spearman", "low", "high", "signed")  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """What a run says of the samples that are explained.

    Attributes:
        tiles: of `regions.tile_scores`, None where the run reads no slides.
        genes: task -> integrated gradients, index sample_id, columns gene_id.
    """

    tiles: pd.DataFrame | None
    genes: dict[str, pd.DataFrame]

    @classmethod
    def read(cls, place: Path, tasks: Sequence[str]) -> Scores:
        """The scores of a run that was explained into the folder."""
        tiles = place / "regions" / "tiles.parquet"
        files = {t: place / "genes" / f"{file_name(t)}.parquet" for t in tasks}
        return cls(
            pd.read_parquet(tiles) if tiles.is_file() else None,
            {t: pd.read_parquet(file) for t, file in files.items() if file.is_file()},
        )


def scores_of(run: LoadedRun, tasks: Sequence[str], steps: int) -> Scores:
    """Tile scores of all test slides, and integrated gradients of the genes of all treated test samples."""
    test = run.fold.split.test
    with_slide = samples_with(run, test, "slide")
    treated = [s for s in test if not run.fold.study.obs.at[s, "is_control"]]
    with_expression = samples_with(run, treated, "expression")
    known = [t for t in tasks if t in run.tasks.names]
    tiles = regions.tile_scores(run, with_slide, known) if with_slide else None
    by_task = (
        {t: genes.attribute_genes(run, with_expression, t, steps=steps).integrated for t in known}
        if with_expression
        else {}
    )
    return Scores(tiles, by_task)


def agreement(one: Scores, other: Scores, compound: Mapping[str, str]) -> pd.DataFrame:
    """Spearman's rank correlation of two runs' scores: tiles within each slide, genes within each sample.

    Of signed scores the correlation of absolute values (which tiles and genes weigh) stands beside that of the values
    (which way they push). Constant scores have none.

    Args:
        compound: sample_id -> compound, the clusters of the bootstrap.

    Returns:
        One row a score and task: subject ("tiles" or "genes"), score, task ("" for attention), n (slides or samples),
        n_compounds, spearman (mean over them, of absolute values) with 95 % interval low and high, and signed.
    """
    records = []
    if one.tiles is not None and other.tiles is not None:
        key = ["slide_id", "tile"]
        both = one.tiles.merge(other.tiles, on=key, suffixes=("", "|other"), validate="one_to_one")
        groups = [g for _, g in both.groupby("slide_id", sort=False) if len(g) >= LEAST_TILES]
        owner = [compound[str(g["sample_id"].iloc[0])] for g in groups]
        columns = [
            "attention",
            *(c for c in map(str, one.tiles) if c.startswith(TILE_SCORES) and c in other.tiles),
        ]
        for column in columns:
            pairs = [(g[column].to_numpy()[None], g[f"{column}|other"].to_numpy()[None]) for g in groups]
            score, _, task = column.partition(":")
            records.append({"subject": "tiles", "score": score, "task": task, **_summary(pairs, owner)})
    for task, mine in one.genes.items():
        theirs = other.genes.get(task)
        if theirs is None:
            continue
        shared = mine.columns.intersection(theirs.columns)
        samples = mine.index.intersection(theirs.index)
        pair = (mine.loc[samples, shared].to_numpy(), theirs.loc[samples, shared].to_numpy())
        owner = [compound[str(s)] for s in samples]
        records.append({"subject": "genes", "score": "integrated", "task": task, **_summary([pair], owner)})
    return pd.DataFrame(records)


def _summary(pairs: Sequence[tuple[np.ndarray, np.ndarray]], owner: Sequence[str]) -> dict[str, float]:
    """Means over the rows of all pairs (float [m, n] each), with the interval of a bootstrap over ``owner``."""
    absolute = [row_correlation(np.abs(a), np.abs(b)) for a, b in pairs]
    signed = [row_correlation(a, b) for a, b in pairs]
    values = np.concatenate(absolute) if absolute else np.empty(0)
    defined = ~np.isnan(values)
    owners = np.asarray(owner, dtype=str)[defined]
    mean = mean_over_clusters(values[defined], owners)
    sign = np.concatenate(signed)[defined] if signed else values
    return {
        "n": int(defined.sum()),
        "n_compounds": len(set(owners)),
        "spearman": mean.value,
        "low": mean.low,
        "high": mean.high,
        "signed": float(sign.mean()) if defined.any() else float("nan"),
    }


def row_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rho of each row of two float [m, n], ties at their mean rank; NaN for a constant row."""
    a, b = (rankdata(v, axis=1) for v in (one, other))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    length = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.where(length > 0, (a * b).sum(1) / np.where(length > 0, length, 1.0), np.nan)


def null_kind(folder: RunFolder) -> str:
    """What was destroyed in a null run on purpose.

    Raises:
        RunError: nothing was.
    """
    config = folder.read_config()
    kinds = [name for key, name in (("permute_labels", "permuted labels"), ("shuffle_pairs", "shuffled pairs"))
             if config.get(key)]  # fmt: skip
    if not kinds:
        raise RunError(
            f"{folder.root}: nulls: neither labels were permuted nor pairs shuffled in this run; name runs of "
            "experiment=null_permuted_labels or null_shuffled_pairs"
        )
    return " and ".join(kinds)


def nulls_of(run: RunFolder, nulls: Sequence[RunFolder]) -> list[RunFolder]:
    """Null runs on the same test part as a run.

    Raises:
        RunError: none is.
    """
    test = set(read_manifest(run.split).test)
    matching = [null for null in nulls if set(read_manifest(null.split).test) == test]
    if nulls and not matching:
        raise RunError(
            f"{run.root}: none of the nulls ({', '.join(str(n.root) for n in nulls)}) has its test part; train them on "
            "the same study and split (split.fold, split.n_folds, split.seed)"
        )
    return matching


def headline_scores(
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> list[dict[str, object]]:
    """The headline metrics of a run's metrics.json ("scores"): task, metric, value, low, high, n, chance."""
    chosen: list[dict[str, object]] = []
    for task in in_order(scores):
        for metric, entry in scores[task].items():
            family = FAMILIES.get(str(entry.get("family")))
            if family is None or entry.get("headline") != task or metric != family.metric:
                continue
            kept = {k: entry.get(k) for k in ("value", "low", "high", "n", "n_compounds", "reason")}
            chosen.append({"task": task, "metric": metric, **kept, "chance": family.chance})
    return chosen
