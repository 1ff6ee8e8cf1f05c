"""Maps of embeddings in two dimensions, by principal components or UMAP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from sklearn.decomposition import PCA

from toxfusion.evaluation.figures.canvas import (
    CYCLE,
    DILI_COLOURS,
    DOSE_COLOURS,
    GREY,
    INJURY_COLOURS,
    MARKERS,
    STYLE,
    FigureError,
    new_figure,
    save_figure,
)

_MOST_COMPOUNDS_NAMED = 16


def embedding_map(
    embedding: np.ndarray,
    obs: pd.DataFrame,
    path: Path,
    *,
    method: Literal["pca", "umap"] = "pca",
    seed: int = 0,
    title: str = "",
) -> None:
    """Samples in two dimensions, coloured by dose level, by injury of their group and by compound.

    Of more compounds than a legend can name, the third panel has the DILI class of treated samples' compounds instead.

    Args:
        embedding: float [n, d].
        obs: n rows with dose_level, injury (1, 0, NaN), compound and, if known, dili (likewise), in the order of
            ``embedding``.
        method: ``pca``, or ``umap`` (needs umap-learn).

    Raises:
        FigureError: shapes that do not fit, NaN, fewer than three samples, or umap-learn is not installed.
    """
    embedding = np.asarray(embedding, dtype=np.float64)
    if embedding.ndim != 2 or len(embedding) != len(obs) or len(obs) < 3 or not np.isfinite(embedding).all():
        raise FigureError(
            f"a finite embedding [n >= 3, d] of {len(obs)} samples is needed, not {embedding.shape}."
        )
    points, names = project(embedding, method, seed)
    with mpl.rc_context(STYLE):
        figure = new_figure(13, 5.2)
        axes = figure.subplots(1, 3, sharex=True, sharey=True)
        dose = obs["dose_level"].astype(str).replace("", "not given")
        injury = obs["injury"].astype(float).map({1.0: "injured", 0.0: "not injured"}).fillna("no label")
        _categories(axes[0], points, dose, DOSE_COLOURS, "dose level")
        _categories(axes[1], points, injury, INJURY_COLOURS, "injury of the dose group")
        compound = obs["compound"].astype(str)
        if compound.nunique() > _MOST_COMPOUNDS_NAMED and "dili" in obs and obs["dili"].notna().any():
            dili = obs["dili"].astype(float).map({1.0: "DILI", 0.0: "no DILI"}).fillna("no label")
            _categories(
                axes[2], points, dili, DILI_COLOURS, f"DILI of the compound ({compound.nunique()} compounds)"
            )
        else:
            _compounds(axes[2], points, compound)
        for axis in axes:
            axis.set_xlabel(names[0])
            axis.set_xticks([])
            axis.set_yticks([])
        axes[0].set_ylabel(names[1])
        if title:
            figure.suptitle(title, fontsize=11)
        save_figure(figure, path)


def project(embedding: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, tuple[str, str]]:
    """Two dimensions of an embedding [n, D] by "pca" or "umap", float [n, 2], and what the axes are called."""
    if method == "pca":
        if embedding.shape[1] == 1:
            raise FigureError("a map needs an embedding of two dimensions or more.")
        fitted = PCA(2, random_state=seed)
        points = fitted.fit_transform(embedding)
        share = 100 * fitted.explained_variance_ratio_
        return points, (f"PC 1 ({share[0]:.0f} % of variance)", f"PC 2 ({share[1]:.0f} %)")
    return umap_points(embedding, seed), ("UMAP 1", "UMAP 2")


def umap_points(values: np.ndarray, seed: int, n_neighbors: int = 15) -> np.ndarray:
    """Two dimensions of values [n, D] by UMAP (McInnes et al., 2018), on one thread: float [n, 2]."""
    # Here, as training imports the figures too: UMAP compiles for seconds as it is imported, and sets threads.
    from umap import UMAP

    threads = torch.get_num_threads()
    points = np.asarray(UMAP(n_neighbors=n_neighbors, random_state=seed, n_jobs=1).fit_transform(values))
    # numba has set the threads of OpenMP, which are torch's too: sums would have another order from here on.
    torch.set_num_threads(threads)
    return points


def _categories(
    axis: Axes, points: np.ndarray, values: pd.Series, colours: dict[str, str], title: str
) -> None:
    present = {name: colour for name, colour in colours.items() if (values == name).any()}
    for name in sorted(set(values) - set(colours)):
        present[name] = GREY
    for name, colour in present.items():
        chosen = (values == name).to_numpy()
        axis.scatter(
            points[chosen, 0],
            points[chosen, 1],
            s=16,
            color=colour,
            linewidths=0.2,
            edgecolors="white",
            label=f"{name} ({chosen.sum()})",
        )
    axis.set_title(title)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, markerscale=1.6, handletextpad=0.2)


def _compounds(axis: Axes, points: np.ndarray, compound: pd.Series) -> None:
    """Each compound its own colour and marker; named in a legend while they are few."""
    names = sorted(compound.unique())
    for i, name in enumerate(names):
        chosen = (compound == name).to_numpy()
        axis.scatter(
            points[chosen, 0],
            points[chosen, 1],
            s=18,
            color=CYCLE[i % len(CYCLE)],
            marker=MARKERS[(i // len(CYCLE)) % len(MARKERS)],
            linewidths=0.2,
            edgecolors="white",
            label=name,
        )
    axis.set_title(f"compound ({len(names)})")
    if len(names) <= _MOST_COMPOUNDS_NAMED:
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.08), "ncols": 4}
        axis.legend(**below, markerscale=1.3, handletextpad=0.2, columnspacing=1.0, fontsize=8)
