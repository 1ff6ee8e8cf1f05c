"""Pictures of a finished run: its embeddings, and a test slide under its attention."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import torch

from toxfusion.evaluation import figures
from toxfusion.models.modes import evaluating
from toxfusion.runs.loaded import LoadedRun, load_own_study, load_run
from toxfusion.slides.readers import open_slide
from toxfusion.training.folder import RunError, RunFolder

THUMBNAIL_PX = 1200


def draw_embeddings(folder: RunFolder, path: Path) -> None:
    """Fused vectors of the validation and test samples, in two dimensions."""
    table = anndata.read_h5ad(folder.embeddings)
    table = table[table.obs["part"] != "train"]
    figures.embedding_map(table.X, table.obs, path)


def draw_heatmap(folder: RunFolder, path: Path, slide_id: str | None = None) -> str:
    """Attention of a run over one slide, the mean over heads.

    Args:
        slide_id: the slide; where None, the first of ``worst_slides``.

    Returns:
        The slide's id.

    Raises:
        RunError: no slide of the test part, or one without tiles.
    """
    study, split = load_own_study(folder)
    run = load_run(folder, study, split)
    if slide_id is None:
        shown = worst_slides(run, 1)
        if not shown:
            raise RunError(f"{folder.root}: no test sample has exactly one slide with tiles; name a slide")
        slide_id = shown[0]
    draw_slide(run, slide_id, path)
    return slide_id


def worst_slides(run: LoadedRun, n: int) -> list[str]:
    """Up to n test slides, of the samples with the highest grade of any finding that have one slide with tiles."""
    study, test = run.fold.study, run.fold.split.test
    worst = study.findings.loc[test].max(axis=1).sort_values(ascending=False, kind="stable")
    shown = [s for s in worst.index if len(study.slides_of(s)) == 1 and run.fold.has_slide(s)]
    return [study.slides_of(sample)[0] for sample in shown[:n]]


@torch.no_grad()
def draw_slide(run: LoadedRun, slide_id: str, path: Path) -> None:
    """Attention of a loaded run over one slide, the mean over heads.

    Raises:
        RunError: the run has no attention, the same for all tiles, or the slide is one of several of its sample.
        SlideError: the slide cannot be read.
    """
    study, folder = run.fold.study, run.folder
    sample = str(study.slides.at[slide_id, "sample_id"])
    if run.network.bag is None or run.fold.store is None or study.slides_of(sample) != [slide_id]:
        raise RunError(
            f"{folder.root}: no attention over slide {slide_id}: the run reads no slides, or {sample} has several"
        )
    if not run.fold.store.placed:
        raise RunError(
            f"{folder.root}: no picture of slide {slide_id}: the features of {run.fold.store.root} were imported "
            "without coordinates, so that attention has no place on it; `explain` writes it as a table"
        )
    with evaluating(run.network.bag):
        attention = run.network.bag(run.batch([sample]).tiles).attention.float().mean(1).cpu().numpy()
    if len(attention) and np.allclose(attention, attention[0], rtol=1e-4, atol=0):
        raise RunError(
            f"{folder.root}: every tile of slide {slide_id} weighs the same, so there is nothing to see"
        )
    override = _override(study.slides["mpp_override"].loc[slide_id])
    with open_slide(study.slide_path(slide_id), mpp_override=override) as slide:
        downsample = max(1.0, max(slide.dimensions) / THUMBNAIL_PX)
        thumbnail = slide.overview(slide.mpp * downsample)
    grades = study.findings.loc[sample].dropna().to_dict()
    lesions = (
        ", ".join(f"{term} {int(grade)}" for term, grade in grades.items() if grade >= 1) or "no finding"
    )
    figures.slide_attention(
        thumbnail,
        run.fold.store.coordinates(slide_id),
        run.fold.store.tile_size(slide_id),
        attention,
        path,
        downsample=downsample,
        mpp0=run.fold.store.mpp0(slide_id),
        title=f"{slide_id}: {lesions}",
    )


def _override(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
