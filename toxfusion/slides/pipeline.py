"""From a list of slides to a store of tiles or features, with a reason for every slide that is left out.

Here: the order of work, threads, the states of slides and their table. Not here: where tiles lie (planning.py),
pixels (readers.py, tissue.py), batches of the encoder (toxfusion.data.encoding).
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from toxfusion.console.progress import Progress
from toxfusion.slides.colour import Pixels
from toxfusion.slides.faults import SlideUnreadable
from toxfusion.slides.grid import Corners, Region, TileGrid
from toxfusion.slides.ledger import Ledger, SlideRecord
from toxfusion.slides.planning import SlideTask, TilePlan, file_name, plan_image, read_tiles
from toxfusion.slides.resolution import ON_THE_COMMAND_LINE
from toxfusion.slides.stain import StainNormaliser
from toxfusion.slides.tissue import contact_sheet, write_picture
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


class _OpenSlides:
    """Slides whose tiles are on the way to the store; writes down how each ends.

    Args:
        shown: progress, of which ``before`` slides were done.
    """

    def __init__(self, ledger: Ledger, shown: Progress, before: int) -> None:
        self._waiting: dict[str, TilePlan] = {}
        self._ledger, self._shown = ledger, shown
        self._states: Counter[str] = Counter(done=before)

    def ended(self, slide_id: str, refusal: BagRejected | None) -> None:
        """The sink has taken all tiles of a slide, or refuses them."""
        plan = self._waiting.pop(slide_id)
        record = plan.record
        record.n_tiles = len(plan.corners)
        record.sharpness = float(np.median(plan.sharpness))
        if refusal is not None:
            record.state, record.reason, record.n_tiles = "failed", str(refusal), None
        self.settle(record)

    def store(self, plan: TilePlan, blocks: Iterable[Pixels], sink: BagSink) -> None:
        """Hand the tiles of a slide to the sink; one that cannot be read to its end has failed."""
        self._waiting[plan.slide_id] = plan
        try:
            sink.add(plan.slide_id, blocks, plan.corners, tile_size=plan.tile_size, mpp0=plan.slide.mpp)
        except (SlideUnreadable, BagRejected) as error:
            del self._waiting[plan.slide_id]
            plan.record.state, plan.record.reason = "failed", str(error)
            self.settle(plan.record)

    def settle(self, record: SlideRecord) -> None:
        """Write down how a slide ended, and show it."""
        self._ledger.put(record)
        self._states[record.state] += 1
        self._shown.show(**self._states)
        self._shown.advance()


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
    before = len(tasks) - len(missing)
    shown = Progress("slides", len(tasks), unit="slides", done=before)
    open_slides = _OpenSlides(ledger, shown, before)
    with ThreadPoolExecutor(jobs) as pool, store.writer() as writer, shown:
        sink = make_sink(writer, open_slides.ended)
        groups = _by_image(missing)
        for planned in in_order(
            pool, lambda group: plan_image(group, grid, stain, previews), groups, depth=jobs + 1
        ):
            for plan in planned:
                if isinstance(plan, SlideRecord):
                    open_slides.settle(plan)
                    continue
                if previews is not None:
                    write_picture(previews / f"{file_name(plan.slide_id)}.png", plan.picture)
                open_slides.store(plan, _read_blocks(pool, plan, grid, depth=2 * jobs), sink)
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
        tiles, sharpness = read_tiles(plan.slide, part, grid)
        return (tiles if plan.normalise is None else plan.normalise(tiles)), sharpness

    for tiles, sharpness in in_order(pool, read, parts, depth):
        plan.sharpness += sharpness
        yield tiles


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
