"""Rendering the slides of a study: in processes, taken up where it ended, and kept by specification in a cache.

How a slide is painted is in `painting`; which slides a study has, in `study`.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

import cv2
import pandas as pd

from toxfusion.console.progress import Progress
from toxfusion.study.files import replace_file, write_parquet
from toxfusion.synthetic.cohort import GENERATOR_VERSION, CohortError
from toxfusion.synthetic.histology import render_slide
from toxfusion.synthetic.slide_spec import SlideSpec


def render_slides(
    root: Path, specs: dict[str, tuple[str, SlideSpec]], jobs: int, cache: Path | None, progress: bool
) -> None:
    """Render what is not there yet, or link it from the cache, in ``jobs`` processes; then write the truth of slides.

    A slide is there when its file, its mask and a truth row of the same specification are. The truth row is written
    last, each file by a rename, so that an interrupted call is taken up where it ended. The tables
    truth/slides.parquet and truth/lesions.parquet hold the rows of all.
    """
    for folder in ("slides", "truth/masks", "truth/slides"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    missing = [spec for _, spec in specs.values() if not _is_rendered(root, spec)]
    before = len(specs) - len(missing)
    with Progress("slides", len(specs), unit="slides", done=before, hidden=not progress) as shown:
        if jobs == 1 or len(missing) < 2:
            for spec in missing:
                render_one(root, spec, cache)
                shown.advance()
        else:
            _render_in_processes(root, missing, jobs, cache, shown.advance)
    _write_slide_truth(root, specs)


def _render_in_processes(
    root: Path, specs: Sequence[SlideSpec], jobs: int, cache: Path | None, done: Callable[[], object]
) -> None:
    context = multiprocessing.get_context("spawn")
    # A process a core: threads of OpenCV within each would wait for one another.
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        futures = [pool.submit(render_one, root, spec, cache) for spec in specs]
        try:
            for future in as_completed(futures):
                future.result()
                done()
        except BrokenProcessPool as error:
            raise CohortError(
                f"{root / 'slides'}: a rendering process was killed (out of memory?). Run the same command "
                "again, with fewer jobs if need be: finished slides are kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def render_one(root: Path, spec: SlideSpec, cache: Path | None = None) -> None:
    """Render one slide with its mask, then its truth row; or link the three from the cache, which gets what is new."""
    files = _files(root, spec)
    kept = [] if cache is None else [cache / f"{_digest(spec)}{file.suffix}" for file in files]
    if kept and all(file.is_file() for file in kept):
        for source, target in zip(kept, files, strict=True):
            _link(source, target)
        return
    slide, mask, record = files
    truth = render_slide(spec, slide, mask)
    replace_file(record, json.dumps({"digest": _digest(spec), **asdict(truth)}).encode())
    for source, target in zip(files, kept, strict=False):
        _link(source, target)


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy on another disk; at once or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
    part.replace(target)


def _files(root: Path, spec: SlideSpec) -> tuple[Path, Path, Path]:
    """Slide, mask and truth row; the row is written last."""
    return (
        root / "slides" / f"{spec.slide_id}.tif",
        root / "truth" / "masks" / f"{spec.slide_id}.png",
        root / "truth" / "slides" / f"{spec.slide_id}.json",
    )


def _digest(spec: SlideSpec) -> str:
    return hashlib.sha256(f"{GENERATOR_VERSION} {spec!r}".encode()).hexdigest()[:16]


def _is_rendered(root: Path, spec: SlideSpec) -> bool:
    files = _files(root, spec)
    return all(file.is_file() for file in files) and json.loads(files[-1].read_text())["digest"] == _digest(
        spec
    )


def _write_slide_truth(root: Path, specs: dict[str, tuple[str, SlideSpec]]) -> None:
    slides, lesions = [], []
    for slide_id, (sample_id, spec) in specs.items():
        record = json.loads(_files(root, spec)[-1].read_text())
        area = record.pop("area_fraction")
        slides.append(
            {"slide_id": slide_id, "sample_id": sample_id, "artefacts": " ".join(spec.artefacts), **record}
        )
        for lesion in spec.lesions:
            lesions.append({"slide_id": slide_id, **asdict(lesion), "area_fraction": area[lesion.phenotype]})
    write_parquet(pd.DataFrame(slides), root / "truth" / "slides.parquet")
    columns = ["slide_id", "phenotype", "severity", "zone", "area_fraction"]
    write_parquet(pd.DataFrame(lesions, columns=columns), root / "truth" / "lesions.parquet")
