"""Cross-modal retrieval: does a slide find its own expression profile, and the other way round? Beside
chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

KS = (1, 5, 10)
_ROWS_AT_ONCE = 1024


def ranks(query: np.ndarray, target: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Rank of the best right target of each query by cosine similarity, 1 = first; ties count one half.

    Args:
        query, target: float [n, d], row i of both belongs to sample i.
        groups: [n]; a target is right when its group is the query's; None: only row i itself is right.

    Returns:
        float64 [n]. A constant embedding gets the mid-rank (as chance), never rank 1.

    Raises:
        ValueError: shapes that differ, NaN or Inf, fewer than two samples.
    """
    left, right = unit_length(_checked(query, "query")), unit_length(_checked(target, "target"))
    if left.shape != right.shape or len(left) < 2:
        raise ValueError(
            f"query {left.shape} and target {right.shape} must be [n, d] alike, with n at least 2."
        )
    group = np.arange(len(left)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    out = np.empty(len(left))
    for start in range(0, len(left), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        similarity = np.round(left[block] @ right.T, 9)
        correct = group[block, None] == group[None, :]
        best = np.where(correct, similarity, -np.inf).max(axis=1, keepdims=True)
        above = (~correct & (similarity > best)).sum(axis=1)
        tied = (~correct & (similarity == best)).sum(axis=1)
        out[block] = 1 + above + tied / 2
    return out


def _checked(vectors: np.ndarray, name: str) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"{name} embeddings must be a finite [n, d] matrix; got shape {vectors.shape}.")
    return vectors


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """float64 [n, d], each vector divided by its length; a vector of zeros stays so."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norm > 0, norm, 1.0)


def chance(groups: np.ndarray | None, n: int, ks: Sequence[int] = KS) -> tuple[dict[int, float], float]:
    """Recall at k and median rank of a random order of the targets, in closed form.

    With m right targets of n, P(best rank > r) = C(n - m, r) / C(n, r), averaged over the queries.

    Returns:
        Recall for each k, and the smallest rank at which the mean chance of a hit is at least one half.
    """
    sizes = np.ones(n, dtype=int)
    if groups is not None:
        _, inverse, count = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
        sizes = count[inverse]
    m, weight = np.unique(sizes, return_counts=True)
    r = np.arange(n + 1)
    later = n - m[:, None]
    log_missed = special.gammaln(later + 1) - special.gammaln(np.maximum(later - r, 0) + 1)
    log_missed -= special.gammaln(n + 1) - special.gammaln(n - r + 1)
    missed = np.where(r <= later, np.exp(log_missed), 0.0)
    hit = 1 - (weight[:, None] * missed).sum(axis=0) / n
    return {k: float(hit[min(k, n)]) for k in ks}, float(np.argmax(hit >= 0.5 - 1e-12))


def retrieval_table(
    slide: np.ndarray,
    expression: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    ks: Sequence[int] = KS,
    shuffles: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """Retrieval in both directions, by instance and (when groups are given) by group.

    Args:
        slide, expression: float [n, d], shared embeddings of the same n samples, which have both modalities.
        groups: [n], for example group_id: animals of one compound, dose and time are near-duplicates.
        shuffles: how many random pairings to average as an empirical null; 0 for none.

    Returns:
        One row per direction (slide_to_expression, expression_to_slide), match (instance, group) and metric
        (recall_at_<k>, median_rank) with columns value, chance, shuffled (NaN without shuffles), n.
    """
    directions = {"slide_to_expression": (slide, expression), "expression_to_slide": (expression, slide)}
    matches: dict[str, np.ndarray | None] = {"instance": None}
    if groups is not None:
        matches["group"] = np.asarray(groups)
    records = []
    for direction, (query, target) in directions.items():
        for match, of_group in matches.items():
            summary = _summary(ranks(query, target, of_group), ks)
            at_chance, median_at_chance = chance(of_group, len(query), ks)
            expected = {
                **{f"recall_at_{k}": v for k, v in at_chance.items()},
                "median_rank": median_at_chance,
            }
            null = _shuffled(query, target, of_group, ks, shuffles, seed)
            for metric, value in summary.items():
                records.append(
                    {
                        "direction": direction,
                        "match": match,
                        "metric": metric,
                        "value": value,
                        "chance": expected[metric],
                        "shuffled": null.get(metric, float("nan")),
                        "n": len(query),
                    }
                )
    return pd.DataFrame(records)


def _summary(rank: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    return {
        **{f"recall_at_{k}": float((rank <= k).mean()) for k in ks},
        "median_rank": float(np.median(rank)),
    }


def _shuffled(
    query: np.ndarray,
    target: np.ndarray,
    groups: np.ndarray | None,
    ks: Sequence[int],
    shuffles: int,
    seed: int,
) -> dict[str, float]:
    if shuffles == 0:
        return {}
    rng = np.random.default_rng(seed)
    drawn = [
        _summary(ranks(query, target[rng.permutation(len(target))], groups), ks) for _ in range(shuffles)
    ]
    return {metric: float(np.mean([d[metric] for d in drawn])) for metric in drawn[0]}
