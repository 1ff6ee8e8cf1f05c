"""Whether a study and its stores are sound: files, samples, resolutions, splits that leak, and bags."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from os.path import realpath
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from toxfusion.evaluation.batch_audit import batch_audit
from toxfusion.slides.resolution import MPP_RANGE
from toxfusion.study.bag_store import BagStore
from toxfusion.study.files import replace_file
from toxfusion.study.importers.features import SOURCE
from toxfusion.study.split import SplitError, read_manifest
from toxfusion.study.store_spec import StoreError
from toxfusion.study.study import Study

#: Of each end of a slide file, to tell two files apart.
COMPARED_BYTES = 2**20
#: Problems of one kind that are shown; the file of problems has them all.
SHOWN = 3


class Problem(NamedTuple):
    """One thing amiss: its kind, which several records may share, and the line that says it of one."""

    kind: str
    line: str


def describe(study: Study) -> Iterator[str]:
    """What a study holds, and the samples that lack a modality."""
    both = int((study.has_expression & study.has_slide).sum())
    yield (
        f"{study.name}: {len(study.obs)} samples of {study.obs['compound'].nunique()} compounds; "
        f"{int(study.has_expression.sum())} with expression, {int(study.has_slide.sum())} with slides, {both} with "
        f"both; {len(study.slides)} slides"
    )
    for has, lacking in ((study.has_slide, "slides"), (study.has_expression, "expression")):
        if not has.all() and has.any():
            yield f"{_some(study.obs.index[~has])} without {lacking}"
    if not both and study.has_slide.any() and study.has_expression.any():
        yield "no sample has slides and expression: nothing to align, so train with pretrain.warm_start.kind=none"


def _some(names: Iterable[str], what: str = "samples") -> str:
    """How many there are, and the first three."""
    names = sorted(map(str, names))
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def stores_of(study: Study) -> tuple[list[BagStore], list[str]]:
    """The tile and feature stores of a study that can be opened, and a line for each that cannot."""
    stores, unreadable = [], []
    inside = [p for name in ("store.json", "segments") for p in study.root.glob(f"*/*/{name}")]
    for folder in sorted(
        {path.parent for path in inside if path.parent.parent.name in ("tiles", "features")}
    ):
        try:
            stores.append(BagStore.open(folder))
        except StoreError as error:
            unreadable.append(str(error))
    return stores, unreadable


def batches(
    study: Study, file: Path, *, columns: Sequence[str], features: str | None, permutations: int
) -> Iterator[str]:
    """The batch audit as lines; also written to ``file`` as CSV.

    Args:
        columns: of obs, that name batches.
        features: a store of tile features of the study; None for none.
        permutations: of the levels, that p is counted over.
    """
    store = None if features is None else study.features(features)
    table = batch_audit(study, columns, store=store, permutations=permutations, seed=0)
    replace_file(file, table.to_csv(index=False).encode())
    yield "batches read off vehicle controls (balanced accuracy; p over permutations within sacrifice times):"
    yield table.to_string(index=False, float_format="%.3f", na_rep="")
    yield f"written to {file}"


def report(problems: Sequence[Problem], file: Path) -> Iterator[str]:
    """A line a problem; where many are of one kind, how many, the first ``SHOWN``, and the file that has all.

    Args:
        file: CSV of every problem (kind, problem); written only where a kind is cut short.
    """
    of_kind: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        of_kind[problem.kind].append(problem.line)
    cut = any(len(lines) > SHOWN for lines in of_kind.values())
    for kind, lines in of_kind.items():
        if len(lines) <= SHOWN:
            yield from lines
            continue
        yield f"{kind}: {len(lines)} times, such as"
        yield from (f"  {line}" for line in lines[:SHOWN])
    if cut:
        table = pd.DataFrame(problems, columns=list(Problem._fields))
        replace_file(file, table.to_csv(index=False).encode())
        yield f"all of them: {file}"
    yield f"{len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}"


def study_problems(study: Study, *, checksums: bool) -> list[Problem]:
    """Everything amiss: files, samples, resolutions, splits that leak, and what stores hold amiss.

    Args:
        checksums: read every row of every store; otherwise only which bags they hold.
    """
    stores, unreadable = stores_of(study)
    return [
        *_file_problems(study),
        *_sample_problems(study),
        *_split_problems(study),
        *(Problem("store that cannot be read", line) for line in unreadable),
        *(line for store in stores for line in _store_problems(study, store, checksums)),
    ]


def repaired(study: Study) -> Iterator[str]:
    """Repair each store that can be opened; a line for each that lost something."""
    for store in stores_of(study)[0]:
        if dropped := store.repair():
            imported = store.spec.provenance.get("source") == SOURCE
            again = "prepare source=features" if imported else "extract"
            yield f"{store.root}: dropped {', '.join(dropped)}; run {again} again"


def _file_problems(study: Study) -> Iterator[Problem]:
    root = realpath(study.root)
    ids_of: dict[str, list[str]] = defaultdict(list)
    names_in: dict[Path, set[str]] = defaultdict(set)
    for slide_id, text in zip(study.slides.index, study.slides["path"], strict=True):
        place = study.root / text
        image = Path(realpath(place))
        ids_of[str(image)].append(str(slide_id))
        names_in[Path(realpath(place.parent))].add(place.name)  # a link is listed as what it links to
        names_in[image.parent].add(image.name)
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path, ids in ((Path(text), ids) for text, ids in ids_of.items()):
        if path.is_file():
            sizes[path.stat().st_size].append(path)
        elif not path.exists():
            for slide_id in ids:
                yield Problem(
                    "slide file that is missing", f"slides.parquet: slide {slide_id}: {path} is missing"
                )
    for folder, listed in sorted(names_in.items()):
        if not folder.is_relative_to(root) or not folder.is_dir():
            continue
        unlisted = [p.name for p in folder.iterdir() if p.is_file() and p.name not in listed]
        if unlisted:
            more = ", ..." if len(unlisted) > 3 else ""
            first = ", ".join(sorted(unlisted)[:3])
            line = f"{folder}: {len(unlisted)} files are no slides of the study ({first}{more})"
            yield Problem("file that is no slide", line)
    yield from _doubled(study, ids_of)
    for size, paths in sorted(sizes.items()):
        yield from _equal_files(size, paths, ids_of)


def _doubled(study: Study, ids_of: dict[str, list[str]]) -> Iterator[Problem]:
    """Slides that are the same part of the same image."""
    for image, ids in ids_of.items():
        if len(ids) == 1:
            continue
        regions = study.slides.loc[ids, ["x", "y", "width", "height"]]
        doubled = regions[regions.duplicated(keep=False)]
        for _, slides in doubled.groupby(list(regions.columns), dropna=False):
            box = [float(side) for side in slides.iloc[0]]
            part = "the whole" if math.isnan(box[0]) else f"the part {tuple(map(int, box))}"
            names = ", ".join(map(str, slides.index))
            line = f"slides.parquet: {image}: {part} is {len(slides)} slides: {names}"
            yield Problem("region that is several slides", line)


def _equal_files(size: int, paths: list[Path], ids_of: dict[str, list[str]]) -> Iterator[Problem]:
    """Files of one size that begin and end alike: most likely one slide under two names."""
    if size == 0 or len(paths) == 1:
        return
    alike: dict[bytes, list[Path]] = defaultdict(list)
    for path in paths:
        try:
            with open(path, "rb") as file:
                ends = file.read(COMPARED_BYTES)
                file.seek(max(len(ends), size - COMPARED_BYTES))
                ends += file.read(COMPARED_BYTES)
        except OSError as error:
            yield Problem("slide file that cannot be read", f"{path}: cannot be read ({error})")
            continue
        alike[sha256(ends).digest()].append(path)
    for same in alike.values():
        if len(same) > 1:
            names = ", ".join(slide_id for path in same for slide_id in ids_of[str(path)])
            how = "equal content" if size <= 2 * COMPARED_BYTES else "equal size, start and end"
            line = f"slides.parquet: {len(same)} files of {how}: {names}; is one a copy of the other?"
            yield Problem("files that are alike", line)


def _sample_problems(study: Study) -> Iterator[Problem]:
    neither = ~(study.has_slide | study.has_expression)
    # A study of findings and serum chemistry alone is meant so; among samples with tissue, one without was lost.
    if neither.any() and not neither.all():
        line = (
            f"{_some(study.obs.index[neither])} with neither slides nor expression: training leaves them out"
        )
        yield Problem("samples without tissue", line)
    override = study.slides["mpp_override"].dropna()
    for slide_id, mpp in override[~override.between(*MPP_RANGE)].items():
        yield Problem(
            "resolution out of range",
            f"slides.parquet: slide {slide_id}: mpp_override {mpp:g} is outside {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g} "
            "um/px: extract skips it",
        )


def _split_problems(study: Study) -> Iterator[Problem]:
    """Manifests below splits/ that cannot be read, or let a unit straddle training and test."""
    for path in sorted((study.root / "splits").rglob("*.json")):
        try:
            read_manifest(path).check(study)
        except SplitError as error:
            line = str(error) if str(path) in str(error) else f"{path}: {error}"
            yield Problem("split that does not hold", line)


def _store_problems(study: Study, store: BagStore, checksums: bool) -> Iterator[Problem]:
    for line in store.verify(checksums=checksums):
        yield Problem("damaged store", f"{store.root}: {line}")
    stored, listed = set(store.slide_ids), set(map(str, study.slides.index))
    for names, meaning in ((stored - listed, "not in slides.parquet"), (listed - stored, "have no bag")):
        if names:
            more = ", ..." if len(names) > 3 else ""
            line = f"{store.root}: {len(names)} slides {meaning} ({', '.join(sorted(names)[:3])}{more})"
            yield Problem("slides of one side only", line)
    regions = study.slides[["x", "y", "width", "height"]].dropna()
    for slide_id, (x, y, width, height) in zip(regions.index, regions.to_numpy(float), strict=True):
        if store.placed and slide_id in store and store.reaches_out(str(slide_id), x, y, width, height):
            yield Problem(
                "tiles outside of the region",
                f"{store.root}: tiles of slide {slide_id} lie outside of its region in slides.parquet: remove the "
                "store and make it again",
            )
    for slide_id, override in study.slides["mpp_override"].dropna().items() if store.placed else ():
        if slide_id in store and not math.isclose(mpp0 := store.mpp0(str(slide_id)), override, rel_tol=1e-3):
            yield Problem(
                "resolution unlike slides.parquet",
                f"{store.root}: slide {slide_id} was stored at {mpp0:g} um per level-0 px, slides.parquet says "
                f"{override:g}: correct mpp_override, or remove the store and make it again",
            )
