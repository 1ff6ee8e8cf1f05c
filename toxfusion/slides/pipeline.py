"""From a list of slides to a store of tiles or features, with a reason for every slide that is left out.

Here: the order of work, threads, the states of slides and their table. Not here: pixels (readers.py,
tissue.py), batches of the encoder (toxfusion.data.encoding).
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from toxfusion.console.progress import Progress
from toxfusion.slides.colour import Pixels
from toxfusion.slides.faults import SlideError, SlideUnreadable, SlideUnsuitable
from toxfusion.slides.grid import Corners, Region, TileGrid, check_resolution, clip_region, spread_evenly
from toxfusion.slides.grid import tile_corners as corners_of
from toxfusion.slides.ledger import Ledger, SlideRecord, State
from toxfusion.slides.light import check_light
from toxfusion.slides.readers import Slide, open_slide
from toxfusion.slides.resolution import IN_SLIDES_TABLE, ON_THE_COMMAND_LINE
from toxfusion.slides.stain import SAMPLE_TILES, Normalise, StainError, StainNormaliser, mosaic
from toxfusion.slides.tissue import TissueMask, contact_sheet, find_tissue, preview, write_picture
from toxfusion.study.bag_store import BagStore, BagWriter
from toxfusion.study.store_spec import BagRejected
from toxfusion.study.study import Study


class ExtractionError(ValueError):
    """What was asked for cannot be extracted; nothing was done."""


Item = TypeVar("Item")
Result = TypeVar("Result")

BLOCK_TILES = 32
SHEET_SLIDES = 60
#: Slides that are folders, and names that a folder has only by mistake.
FOLDER_SLIDES = (".zarr",)
SLIDE_SUFFIXES = (
    *FOLDER_SLIDES, ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".tif", ".tiff", ".dcm", ".jp2", ".png", ".jpg", ".jpeg",
)  # fmt: skip


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


class BagSink(Protocol):
    """Where tiles go: into a tile store, or through an encoder into a feature store."""

    def add(
        self,
        slide_id: str,
        blocks: Iterable[Pixels],
        coordinates: npt.NDArray[Any],
        *,
        tile_size: float,
        mpp0: float,
    ) -> None: ...

    def flush(self) -> None: ...


class TileSink:
    """Puts tiles as they are into a tile store."""

    def __init__(self, writer: BagWriter, ended: Callable[[str, BagRejected | None], None]) -> None:
        self._writer = writer
        self._ended = ended

    def add(
        self,
        slide_id: str,
        blocks: Iterable[Pixels],
        coordinates: npt.NDArray[Any],
        *,
        tile_size: float,
        mpp0: float,
    ) -> None:
        self._writer.append(slide_id, blocks, coordinates, tile_size=tile_size, mpp0=mpp0)
        self._ended(slide_id, None)

    def flush(self) -> None:
        """Nothing waits."""


def tasks_of_study(study: Study) -> list[SlideTask]:
    """A task for each row of slides.parquet, in its order."""
    columns = (study.slides[name] for name in ("path", "mpp_override", "x", "y", "width", "height"))
    return [
        SlideTask(
            str(slide_id),
            study.root / path,
            None if np.isnan(mpp) else float(mpp),
            None if np.isnan(box[0]) else Region(*map(round, box)),
        )
        for slide_id, path, mpp, *box in zip(study.slides.index, *columns, strict=True)
    ]


def tasks_of_files(places: Sequence[Path], mpp_override: float | None = None) -> list[SlideTask]:
    """A task for each file, and for each entry right in a folder; the id is the name without its suffix.

    A link that leads nowhere is an entry as well, and so is a folder named as a slide is; hidden entries and other
    folders (those beside an .mrxs, for instance) are none.

    Raises:
        ExtractionError: a place is not there or cannot be listed, holds no file, or two files have one name.
    """
    paths: list[Path] = []
    for place in places:
        if not os.path.lexists(place):
            raise ExtractionError(f"{place}: no such file or folder; give slides=FOLDER or slides=[FILE,...]")
        if not os.path.isdir(place) or place.suffix.lower() in FOLDER_SLIDES:
            paths.append(place)
            continue
        try:
            entries = sorted(place.iterdir())
        except OSError as error:
            raise ExtractionError(f"{place}: cannot be listed ({error}); change its mode") from error
        paths += (
            entry
            for entry in entries
            if not entry.name.startswith(".")
            and (not os.path.isdir(entry) or entry.suffix.lower() in SLIDE_SUFFIXES)
        )
    if not paths:
        raise ExtractionError(f"{', '.join(map(str, places))}: holds no file")
    stems = [path.stem.removesuffix(".ome") for path in paths]
    n_of = Counter(stems)
    names = [stem if n_of[stem] == 1 else path.name for stem, path in zip(stems, paths, strict=True)]
    doubled = [name for name, n in Counter(names).items() if n > 1]
    if doubled:
        raise ExtractionError(f"two files are called {doubled[0]}: extract their folders one by one")
    of = ON_THE_COMMAND_LINE
    return [SlideTask(name, path, mpp_override, said_by=of) for name, path in zip(names, paths, strict=True)]


def shard_of(tasks: Sequence[SlideTask], shard: object) -> list[SlideTask]:
    """The i-th of n parts ("i/n", 1 to n); slides of one image stay together.

    Raises:
        ExtractionError: not of the form i/n.
    """
    if shard is None:
        return list(tasks)
    match = re.fullmatch(r"(\d+)/(\d+)", str(shard))
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ExtractionError(f"shard={shard}: give i/n, for instance 1/4, with i from 1 to n")
    groups = list(_by_image(tasks))
    return [task for group in groups[int(match[1]) - 1 :: int(match[2])] for task in group]


def _by_image(tasks: Sequence[SlideTask]) -> Iterator[list[SlideTask]]:
    groups: dict[tuple[Path, float | None], list[SlideTask]] = {}
    for task in tasks:
        groups.setdefault((task.path, task.mpp_override), []).append(task)
    yield from groups.values()


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
        show = partial(_show, slide=slide, mask=mask, previews=previews)
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
    return _read_tiles(plans[0].slide, corners[spread_evenly(corners, SAMPLE_TILES)], grid)[0]


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


def _show(task: SlideTask, region: Region, *, slide: Slide, mask: TissueMask, previews: Path | None) -> None:
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


def extract_slides(
    tasks: Sequence[SlideTask],
    store: BagStore,
    grid: TileGrid,
    make_sink: Callable[[BagWriter, Callable[[str, BagRejected | None], None]], BagSink],
    *,
    jobs: int,
    ledger: Ledger,
    previews: Path | None,
    stain: StainNormaliser | None = None,
) -> dict[str, SlideRecord]:
    """Extract the slides that `store` does not hold yet.

    Args:
        tasks: the slides.
        store: tile or feature store.
        grid: where tiles lie.
        make_sink: makes what takes the tiles, from a writer and a function told of each slide that ended.
        jobs: threads that open slides and decode tiles, beside the one that stores or encodes.
        ledger: where each slide's end is written.
        previews: folder for a PNG a slide, None = no previews.
        stain: brings every tile to one stain; None leaves tiles as they are.

    Returns:
        A record for each slide of `tasks`; slides stored before are done.

    Raises:
        StoreError: the store cannot be written; all that is complete is kept.
    """
    missing = [task for task in tasks if task.slide_id not in store]
    for task in tasks:
        if task.slide_id in store and getattr(ledger.records.get(task.slide_id), "state", "") != "done":
            ledger.put(_stored_before(task, store))
    ledger.write()
    waiting: dict[str, TilePlan] = {}
    before = len(tasks) - len(missing)
    states: Counter[str] = Counter(done=before)
    shown = Progress("slides", len(tasks), unit="slides", done=before)

    def ended(slide_id: str, refusal: BagRejected | None) -> None:
        plan = waiting.pop(slide_id)
        record = plan.record
        record.n_tiles = len(plan.corners)
        record.sharpness = float(np.median(plan.sharpness))
        if refusal is not None:
            record.state, record.reason, record.n_tiles = "failed", str(refusal), None
        settle(record)

    def settle(record: SlideRecord) -> None:
        ledger.put(record)
        states[record.state] += 1
        shown.show(**states)
        shown.advance()

    with ThreadPoolExecutor(jobs) as pool, store.writer() as writer, shown:
        sink = make_sink(writer, ended)
        groups = _by_image(missing)
        for planned in in_order(
            pool, lambda group: plan_image(group, grid, stain, previews), groups, depth=jobs + 1
        ):
            for plan in planned:
                if isinstance(plan, SlideRecord):
                    settle(plan)
                    continue
                waiting[plan.slide_id] = plan
                if previews is not None:
                    write_picture(previews / f"{file_name(plan.slide_id)}.png", plan.picture)
                try:
                    sink.add(
                        plan.slide_id,
                        _read_blocks(pool, plan, grid, depth=2 * jobs),
                        plan.corners,
                        tile_size=plan.tile_size,
                        mpp0=plan.slide.mpp,
                    )
                except (SlideUnreadable, BagRejected) as error:
                    del waiting[plan.slide_id]
                    plan.record.state, plan.record.reason = "failed", str(error)
                    settle(plan.record)
            for slide in {id(p.slide): p.slide for p in planned if isinstance(p, TilePlan)}.values():
                slide.source.close()
        sink.flush()
    ledger.write()
    return {task.slide_id: ledger.records[task.slide_id] for task in tasks}


def _stored_before(task: SlideTask, store: BagStore) -> SlideRecord:
    """The record of a slide whose bag is stored, but whose row in the table an interruption took."""
    n = store.n_rows(task.slide_id)
    note = "stored by an interrupted run"
    return SlideRecord(task.slide_id, str(task.path), "done", note, mpp0=store.mpp0(task.slide_id), n_tiles=n)


def _read_blocks(pool: Executor, plan: TilePlan, grid: TileGrid, depth: int) -> Iterator[Pixels]:
    parts = (plan.corners[start : start + BLOCK_TILES] for start in range(0, len(plan.corners), BLOCK_TILES))

    def read(part: Corners) -> tuple[Pixels, list[float]]:
        tiles, sharpness = _read_tiles(plan.slide, part, grid)
        return (tiles if plan.normalise is None else plan.normalise(tiles)), sharpness

    for tiles, sharpness in in_order(pool, read, parts, depth):
        plan.sharpness += sharpness
        yield tiles


def _read_tiles(slide: Slide, corners: Corners, grid: TileGrid) -> tuple[Pixels, list[float]]:
    """Tiles uint8 [n, P, P, 3] and the sharpness of each."""
    side = grid.tile_px
    tiles = np.stack([slide.read_region(int(x), int(y), side, side, grid.mpp) for x, y in corners])
    grey = (cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY) for tile in tiles)
    return tiles, [float(cv2.Laplacian(picture, cv2.CV_32F).var()) for picture in grey]


def in_order(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[Result]:
    """Results of a function in the order of its items, `depth` under way; none outlives this generator."""
    pending: deque[Future[Result]] = deque()
    source = iter(items)
    try:
        for item in source:
            pending.append(pool.submit(function, item))
            if len(pending) >= depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        wait(pending)


def file_name(slide_id: str) -> str:
    """A slide id as the stem of a file: letters, digits, '.', '_', '-' and blanks stay, others go by code."""
    return re.sub(r"[^\w.\- ]", lambda match: f"%{ord(match[0]):02X}", slide_id)[:200]


def write_contact_sheet(path: Path, previews: Path, slide_ids: Sequence[str]) -> None:
    """At most 60 previews on one picture, evenly drawn from the slides."""
    there = [slide_id for slide_id in slide_ids if (previews / f"{file_name(slide_id)}.png").exists()]
    if not there:
        return
    taken = sorted({int(i) for i in np.linspace(0, len(there) - 1, min(len(there), SHEET_SLIDES))})
    pictures = []
    for i in taken:
        content = np.fromfile(previews / f"{file_name(there[i])}.png", np.uint8)
        picture = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)
        if picture is not None:
            pictures.append((there[i], np.asarray(picture, dtype=np.uint8)))
    write_picture(path, contact_sheet(pictures))


def default_jobs() -> int:
    """One thread for each core this process may use, at most 16."""
    return max(
        1, min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    )
