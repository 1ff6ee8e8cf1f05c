"""Test slides of a finished run under its attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from toxfusion.evaluation import figures
from toxfusion.models.modes import evaluating
from toxfusion.runs.loaded import LoadedRun
from toxfusion.slides.readers import open_slide
from toxfusion.training.folder import RunError

THUMBNAIL_PX = 1200


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
