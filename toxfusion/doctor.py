"""``python -m toxfusion.doctor``: what is installed and works here, and whether a study is sound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toxfusion.config.entry import entry_point
from toxfusion.config.nodes import ConfigError

if TYPE_CHECKING:
    from toxfusion.study.bag_store import BagStore
    from toxfusion.study.study import Study

#: Bytes written to learn how fast a folder is.
PROBE_BYTES = 64 * 2**20
#: Of each end of a slide file, to tell two files apart.
COMPARED_BYTES = 2**20

LIBRARIES = (
    "torch", "lightning", "hydra-core", "timm", "torchvision", "numpy", "anndata", "scanpy", "scikit-learn",
    "openslide-python", "openslide-bin", "tifffile", "imagecodecs", "opencv-python", "tiatoolbox",
)  # fmt: skip


@entry_point("doctor")
def main(config: dict[str, Any]) -> None:
    """What is installed and works here; with study=FOLDER whether it and its stores are sound (else exit status 1)."""
    if config["study"] is None:
        for key in ("repair", "batch_audit"):
            if config[key]:
                raise ConfigError(f"{key}=true needs study=FOLDER")
        target = Path(config["paths"]["outputs"])
        for line in chain(versions(), devices(), readers(), encoders(), launchers()):
            print(line, flush=True)
        print(disk(target))
        return
    from toxfusion.study.study import Study

    study = Study.open(Path(config["study"]))
    print("\n".join([*describe(study), disk(study.root)]))
    if config["repair"]:
        print("\n".join(repaired(study)))
    if config["batch_audit"]:
        print("\n".join(batches(study, config)))
    problems = study_problems(study, checksums=config["checksums"])
    print("\n".join([*problems, f"{len(problems)} problems"] if problems else ["no problems"]))
    if problems:
        raise SystemExit(1)


def versions() -> Iterator[str]:
    """A line for Python and each library; nothing is imported for it."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    yield f"{'python':<18}{platform.python_version()}"
    for name in ("toxfusion", *LIBRARIES):
        try:
            yield f"{name:<18}{version(name)}"
        except PackageNotFoundError:
            yield f"{name:<18}missing: pip install {name}"


def devices() -> Iterator[str]:
    """A line for the CPU and for each GPU."""
    import torch

    yield f"{'cpu':<18}{torch.get_num_threads()} threads"
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        yield f"{f'cuda:{i}':<18}{about.name}, {about.total_memory / 2**30:.0f} GiB"
    if torch.cuda.device_count() == 0:
        yield f"{'cuda':<18}none"


def readers() -> Iterator[str]:
    """The back ends of slides, each tried on a slide written for it."""
    import tempfile

    import numpy as np
    import tifffile
    from PIL import Image

    from toxfusion.slides.readers import SlideError, open_slide

    picture = np.full((256, 256, 3), (226, 150, 190), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        tiled, ome, plain = (Path(folder) / name for name in ("a.tif", "b.ome.tif", "c.png"))
        tifffile.imwrite(
            tiled, picture, photometric="rgb", tile=(128, 128), compression="jpeg", metadata=None
        )
        tifffile.imwrite(ome, picture, photometric="rgb", ome=True)
        Image.fromarray(picture).save(plain)
        for path, kind in ((tiled, "tiled JPEG TIFF"), (ome, "OME-TIFF"), (plain, "PNG")):
            try:
                with open_slide(path, mpp_override=0.5) as slide:
                    slide.read_region(10, 10, 64, 64, 1.0)
                    yield f"{'reader':<18}{kind}: {slide.backend}"
            except SlideError as error:
                yield f"{'reader':<18}{kind}: does not work: {error}"


def encoders() -> Iterator[str]:
    """A line for each published encoder."""
    from toxfusion.slides.encoders import ENCODERS

    for row in ENCODERS.values():
        scale = "natural images" if row.mpp is None else f"{row.mpp:g} um/px"
        yield f"{'encoder':<18}{row.name:<15}{row.dim:>5} features, {row.input_px} px, {scale}; {row.licence}"


def launchers() -> Iterator[str]:
    """What starts several processes or jobs: a gloo group, a local job and a search, each tried, and SLURM."""
    import shutil

    for name, what, attempt in (
        ("torchrun", "gloo", _one_rank),
        ("submitit_local", "sweeps and shards as processes of this machine", _one_job),
        ("optuna", "searches (hparams_search=optuna)", _one_search),
    ):
        try:
            attempt()
            yield f"{'launcher':<18}{name}: works: {what}"
        except ImportError as error:
            yield f"{'launcher':<18}{name}: not installed ({error}): pip install 'toxfusion[sweeps]'"
        except (OSError, RuntimeError) as error:
            yield f"{'launcher':<18}{name}: does not work: {' '.join(str(error).split())[:200]}"
    sbatch = shutil.which("sbatch")
    yield f"{'launcher':<18}slurm: {sbatch or 'none, there is no sbatch on the path'}"


def _one_rank() -> None:
    """A process group of one rank on this machine adds up."""
    import tempfile

    import torch
    from torch import distributed

    if not distributed.is_available() or not distributed.is_gloo_available():
        raise RuntimeError("this torch was built without gloo")
    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            total = torch.ones(1)
            distributed.all_reduce(total)
        finally:
            distributed.destroy_process_group()


def _one_job() -> None:
    """A job of submitit's local executor comes back."""
    import platform
    import tempfile

    import hydra_plugins.hydra_submitit_launcher.submitit_launcher  # noqa: F401 Hydra must find it too
    import submitit

    with tempfile.TemporaryDirectory() as folder:
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=1)
        executor.submit(platform.node).result()


def _one_search() -> None:
    """Two trials of a search in memory."""
    import hydra_plugins.hydra_optuna_sweeper.optuna_sweeper  # noqa: F401
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study().optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=2)


def disk(folder: Path) -> str:
    """Free space of the disk that holds `folder` (or would hold it), and megabytes a second that it takes in."""
    import os
    import shutil
    import tempfile
    import time

    place = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    free = f"{'disk':<18}{place}: {shutil.disk_usage(place).free / 2**30:.1f} GiB free"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            block = os.urandom(2**20)
            start = time.perf_counter()
            for _ in range(PROBE_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            seconds = time.perf_counter() - start
    except OSError as error:
        return f"{free}; cannot be written: {error}"
    return f"{free}, {PROBE_BYTES / 1e6 / seconds:.0f} MB/s written"


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


def _some(names: Iterable[str], what: str = "samples") -> str:
    """How many there are, and the first three."""
    names = sorted(map(str, names))
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def stores_of(study: Study) -> tuple[list[BagStore], list[str]]:
    """The tile and feature stores of a study that can be opened, and a line for each that cannot."""
    from toxfusion.study.bag_store import BagStore, StoreError

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


def batches(study: Study, config: dict[str, Any]) -> Iterator[str]:
    """The batch audit as lines; also written as batch_audit.csv."""
    from toxfusion.evaluation.batch_audit import batch_audit
    from toxfusion.study.files import replace_file

    name = config["batch_features"]
    table = batch_audit(
        study,
        config["batch_columns"],
        store=None if name is None else study.features(name),
        permutations=config["batch_permutations"],
        seed=0,
    )
    file = Path(config["paths"]["output"]) / "batch_audit.csv"
    replace_file(file, table.to_csv(index=False).encode())
    yield "batches read off vehicle controls (balanced accuracy; p over permutations within sacrifice times):"
    yield table.to_string(index=False, float_format="%.3f", na_rep="")
    yield f"written to {file}"


def study_problems(study: Study, *, checksums: bool) -> list[str]:
    """One line a problem: files, samples, resolutions, splits that leak, and what stores hold amiss.

    Args:
        checksums: read every row of every store; otherwise only which bags they hold.
    """
    stores, unreadable = stores_of(study)
    return [
        *_file_problems(study),
        *_sample_problems(study),
        *_split_problems(study),
        *unreadable,
        *(line for store in stores for line in _store_problems(study, store, checksums)),
    ]


def repaired(study: Study) -> Iterator[str]:
    """Repair each store that can be opened; a line for each that lost something."""
    from toxfusion.study.importers.features import SOURCE

    for store in stores_of(study)[0]:
        if dropped := store.repair():
            imported = store.spec.provenance.get("source") == SOURCE
            again = "prepare source=features" if imported else "extract"
            yield f"{store.root}: dropped {', '.join(dropped)}; run {again} again"


def _file_problems(study: Study) -> Iterator[str]:
    from collections import defaultdict
    from os.path import realpath

    root = realpath(study.root)
    ids_of: dict[str, list[str]] = defaultdict(list)
    names_in: dict[Path, set[str]] = defaultdict(set)
    for slide_id, text in zip(study.slides.index, study.slides["path"], strict=True):
        given = study.root / text
        image = Path(realpath(given))
        ids_of[str(image)].append(str(slide_id))
        names_in[Path(realpath(given.parent))].add(given.name)  # a link is listed as what it links to
        names_in[image.parent].add(image.name)
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path, ids in ((Path(text), ids) for text, ids in ids_of.items()):
        if path.is_file():
            sizes[path.stat().st_size].append(path)
        elif not path.exists():
            yield from (f"slides.parquet: slide {slide_id}: {path} is missing" for slide_id in ids)
    for folder, listed in sorted(names_in.items()):
        if not folder.is_relative_to(root) or not folder.is_dir():
            continue
        unlisted = [p.name for p in folder.iterdir() if p.is_file() and p.name not in listed]
        if unlisted:
            more = ", ..." if len(unlisted) > 3 else ""
            first = ", ".join(sorted(unlisted)[:3])
            yield f"{folder}: {len(unlisted)} files are no slides of the study ({first}{more})"
    yield from _doubled(study, ids_of)
    for size, paths in sorted(sizes.items()):
        yield from _equal_files(size, paths, ids_of)


def _doubled(study: Study, ids_of: dict[str, list[str]]) -> Iterator[str]:
    """Slides that are the same part of the same image."""
    for image, ids in ids_of.items():
        if len(ids) == 1:
            continue
        regions = study.slides.loc[ids, ["x", "y", "width", "height"]]
        doubled = regions[regions.duplicated(keep=False)]
        for _, rows in doubled.groupby(list(regions.columns), dropna=False):
            box = [float(side) for side in rows.iloc[0]]
            part = "the whole" if math.isnan(box[0]) else f"the part {tuple(map(int, box))}"
            yield f"slides.parquet: {image}: {part} is {len(rows)} slides: {', '.join(map(str, rows.index))}"


def _equal_files(size: int, paths: list[Path], ids_of: dict[str, list[str]]) -> Iterator[str]:
    """Files of one size that begin and end alike: most likely one slide under two names."""
    from collections import defaultdict
    from hashlib import sha256

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
            yield f"{path}: cannot be read ({error})"
            continue
        alike[sha256(ends).digest()].append(path)
    for same in alike.values():
        if len(same) > 1:
            names = ", ".join(slide_id for path in same for slide_id in ids_of[str(path)])
            how = "equal content" if size <= 2 * COMPARED_BYTES else "equal size, start and end"
            yield f"slides.parquet: {len(same)} files of {how}: {names}; is one a copy of the other?"


def _sample_problems(study: Study) -> Iterator[str]:
    from toxfusion.slides.readers import MPP_RANGE

    neither = ~(study.has_slide | study.has_expression)
    # A study of findings and serum chemistry alone is meant so; among samples with tissue, one without was lost.
    if neither.any() and not neither.all():
        yield f"{_some(study.obs.index[neither])} with neither slides nor expression: training leaves them out"
    override = study.slides["mpp_override"].dropna()
    for slide_id, mpp in override[~override.between(*MPP_RANGE)].items():
        yield (
            f"slides.parquet: slide {slide_id}: mpp_override {mpp:g} is outside {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g} "
            "um/px: extract skips it"
        )


def _split_problems(study: Study) -> Iterator[str]:
    """Manifests below splits/ that cannot be read, or let a unit straddle training and test."""
    from toxfusion.study.splits import SplitError, read_manifest

    for path in sorted((study.root / "splits").rglob("*.json")):
        try:
            read_manifest(path).check(study)
        except SplitError as error:
            yield str(error) if str(path) in str(error) else f"{path}: {error}"


def _store_problems(study: Study, store: BagStore, checksums: bool) -> Iterator[str]:
    yield from (f"{store.root}: {line}" for line in store.verify(checksums=checksums))
    stored, listed = set(store.slide_ids), set(map(str, study.slides.index))
    for names, meaning in ((stored - listed, "not in slides.parquet"), (listed - stored, "have no bag")):
        if names:
            more = ", ..." if len(names) > 3 else ""
            yield f"{store.root}: {len(names)} slides {meaning} ({', '.join(sorted(names)[:3])}{more})"
    for slide_id, override in study.slides["mpp_override"].dropna().items() if store.placed else ():
        if slide_id in store and not math.isclose(mpp0 := store.mpp0(str(slide_id)), override, rel_tol=1e-3):
            yield (
                f"{store.root}: slide {slide_id} was stored at {mpp0:g} um per level-0 px, slides.parquet says "
                f"{override:g}: correct mpp_override, or remove the store and make it again"
            )


if __name__ == "__main__":
    main()
