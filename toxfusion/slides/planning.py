"""From a slide to its tiles: where they lie, the stain they are brought to, or why there are none."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from toxfusion.slides.colour import Pixels
from toxfusion.slides.faults import SlideError, SlideUnreadable, SlideUnsuitable
from toxfusion.slides.grid import Corners, Region, TileGrid, check_resolution, clip_region, spread_evenly
from toxfusion.slides.grid import tile_corners as corners_of
from toxfusion.slides.ledger import SlideRecord, State
from toxfusion.slides.light import check_light
from toxfusion.slides.readers import Slide, open_slide
from toxfusion.slides.resolution import IN_SLIDES_TABLE
from toxfusion.slides.stain import SAMPLE_TILES, Normalise, StainError, StainNormaliser, mosaic
from toxfusion.slides.tissue import TissueMask, find_tissue, preview, write_picture


@dataclass(frozen=True)
class SlideTask:
    """A slide to extract.

    Attributes:
        slide_id: its id in the store.
        path: the image file; several slides may lie in one.
        mpp_override: micrometres per level-0 pixel, None = by the file.
        region: the part of the image that is this slide, None = all of it.
        said_by: where mpp_override was given, for messages.
    """

    slide_id: str
    path: Path
    mpp_override: float | None = None
    region: Region | None = None
    said_by: str = IN_SLIDES_TABLE


@dataclass
class TilePlan:
    """A slide whose tiles are known, before they are read; ``normalise`` brings them to a target's stain."""

    slide_id: str
    slide: Slide
    corners: Corners
    tile_size: float
    picture: Pixels
    record: SlideRecord
    sharpness: list[float] = field(default_factory=list)
    normalise: Normalise | None = None


def plan_image(
    tasks: Sequence[SlideTask],
    grid: TileGrid,
    stain: StainNormaliser | None = None,
    previews: Path | None = None,
) -> list[TilePlan | SlideRecord]:
    """Open an image, find its tissue, lay the grid, estimate its stain; for each slide a plan, or how it ended.

    A slide that has no tile, does not look like transmitted light or has no stain to estimate leaves its preview in
    ``previews``, so that a person sees why.
    """
    slide = None
    try:
        slide = open_slide(tasks[0].path, mpp_override=tasks[0].mpp_override, said_by=tasks[0].said_by)
        check_resolution(slide, grid)
        mask = find_tissue(slide)
        show = partial(_show, mask=mask, previews=previews)
        planned = [_plan_slide(task, slide, mask, grid, show) for task in tasks]
    except SlideError as error:
        if slide is not None:
            slide.source.close()
        return [_ended(task, error) for task in tasks]
    if stain is not None:
        planned = _with_stain(planned, grid, stain, previews)
    if not any(isinstance(plan, TilePlan) for plan in planned):
        slide.source.close()
    return planned


def _with_stain(
    planned: Sequence[TilePlan | SlideRecord], grid: TileGrid, stain: StainNormaliser, previews: Path | None
) -> list[TilePlan | SlideRecord]:
    """The plans of one image with its stain; how they ended, and their previews, where it cannot be estimated."""
    plans = [plan for plan in planned if isinstance(plan, TilePlan)]
    if not plans:
        return list(planned)
    try:
        normalise = stain.of_image(plans[0].slide.path.name, _sample_tiles(plans, grid))
    except SlideError as error:
        for plan in plans:
            plan.record.state = "skipped" if isinstance(error, SlideUnsuitable) else "failed"
            plan.record.reason = str(error)
            if previews is not None:
                write_picture(previews / f"{file_name(plan.slide_id)}.png", plan.picture)
        return [plan.record if isinstance(plan, TilePlan) else plan for plan in planned]
    for plan in plans:
        plan.normalise = normalise
    return list(planned)


def _sample_tiles(plans: Sequence[TilePlan], grid: TileGrid) -> Pixels:
    """At most ``SAMPLE_TILES`` tiles [n, P, P, 3] of one image, evenly spread over its slides."""
    corners = np.concatenate([plan.corners for plan in plans])
    return read_tiles(plans[0].slide, corners[spread_evenly(corners, SAMPLE_TILES)], grid)[0]


def stain_target(tasks: Sequence[SlideTask], grid: TileGrid) -> tuple[str, Pixels]:
    """The first slide by name that has tiles, and ``SAMPLE_TILES`` of them one below the other, uint8 RGB.

    Raises:
        StainError: no slide has tiles.
    """
    for task in sorted(tasks, key=lambda task: task.slide_id):
        plan = plan_image([task], grid)[0]
        if not isinstance(plan, TilePlan):
            continue
        try:
            return task.slide_id, mosaic(_sample_tiles([plan], grid))
        except SlideUnreadable:
            continue
        finally:
            plan.slide.source.close()
    raise StainError(
        f"none of {len(tasks)} slides has a tile to take the target's stain from; give stain_target=FILE"
    )


def _ended(task: SlideTask, error: SlideError) -> SlideRecord:
    state: State = "skipped" if isinstance(error, SlideUnsuitable) else "failed"
    return SlideRecord(task.slide_id, str(task.path), state, str(error))


def _show(task: SlideTask, region: Region, *, mask: TissueMask, previews: Path | None) -> None:
    """The preview of a slide without tiles."""
    if previews is not None:
        none = np.zeros((0, 2), dtype=np.int32)
        write_picture(previews / f"{file_name(task.slide_id)}.png", preview(mask, region, none, 0.0))


def _plan_slide(
    task: SlideTask, slide: Slide, mask: TissueMask, grid: TileGrid, show: Callable[[SlideTask, Region], None]
) -> TilePlan | SlideRecord:
    try:
        region = clip_region(slide, task.region)
    except SlideUnsuitable as error:
        return _ended(task, error)
    try:
        check_light(mask.overview, slide.path.name)
    except SlideUnsuitable as error:
        show(task, region)
        return _ended(task, error)
    tile_size = grid.tile_size(slide.mpp)
    all_corners = corners_of(region, grid, slide.mpp)
    tissue = mask.shares("tissue", all_corners, tile_size)
    pen = mask.shares("pen", all_corners, tile_size)
    fit = all_corners[(tissue >= grid.min_tissue) & (pen <= grid.max_pen)]
    record = SlideRecord(
        task.slide_id,
        str(task.path),
        "done",
        "; ".join(filter(None, (*slide.remarks, slide.doubt))),
        slide.backend,
        slide.mpp,
        *slide.dimensions,
        n_grid=len(all_corners),
        n_tissue=len(fit),
        tissue_share=mask.region_share("tissue", region),
        pen_share=mask.region_share("pen", region),
    )
    if len(fit) == 0:
        record.state, record.reason = "skipped", _no_tiles(record, region, grid, slide.mpp)
        show(task, region)
        return record
    kept = fit[spread_evenly(fit, grid.max_tiles)]
    return TilePlan(task.slide_id, slide, kept, tile_size, preview(mask, region, kept, tile_size), record)


def _no_tiles(record: SlideRecord, region: Region, grid: TileGrid, mpp0: float) -> str:
    if record.n_grid == 0:
        return (
            f"{region.width * mpp0:.0f} x {region.height * mpp0:.0f} um is smaller than one tile "
            f"({grid.tile_px * grid.mpp:.0f} um)"
        )
    return (
        f"none of {record.n_grid} tiles has at least {grid.min_tissue:.0%} tissue and at most "
        f"{grid.max_pen:.0%} pen (the slide has {record.tissue_share:.1%} tissue, {record.pen_share:.1%} pen)"
    )


def read_tiles(slide: Slide, corners: Corners, grid: TileGrid) -> tuple[Pixels, list[float]]:
    """Tiles uint8 [n, P, P, 3] and the sharpness of each."""
    side = grid.tile_px
    tiles = np.stack([slide.read_region(int(x), int(y), side, side, grid.mpp) for x, y in corners])
    grey = (cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY) for tile in tiles)
    return tiles, [float(cv2.Laplacian(picture, cv2.CV_32F).var()) for picture in grey]


def file_name(slide_id: str) -> str:
    """A slide id as the stem of a file: letters, digits, '.', '_', '-' and blanks stay, others go by code."""
    return re.sub(r"[^\w.\- ]", lambda match: f"%{ord(match[0]):02X}", slide_id)[:200]
