"""What is installed and works here: libraries, devices, slide readers, encoders, launchers and the disk."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image
from torch import distributed

from toxfusion.config import environment
from toxfusion.models.published import ENCODERS
from toxfusion.slides.faults import SlideError
from toxfusion.slides.readers import open_slide

#: Bytes written to learn how fast a folder is.
PROBE_BYTES = 64 * 2**20

LIBRARIES = (
    "torch", "lightning", "hydra-core", "timm", "torchvision", "numpy", "anndata", "scanpy", "scikit-learn",
    "openslide-python", "openslide-bin", "tifffile", "imagecodecs", "opencv-python", "tiatoolbox",
)  # fmt: skip


def versions() -> Iterator[str]:
    """A line for Python and each library; nothing is imported for it."""
    yield f"{'python':<18}{platform.python_version()}"
    yield from (f"{'environment':<18}{remark}" for remark in environment.remarks)
    for name in ("toxfusion", *LIBRARIES):
        try:
            yield f"{name:<18}{version(name)}"
        except PackageNotFoundError:
            yield f"{name:<18}missing: pip install {name}"


def devices() -> Iterator[str]:
    """A line for the CPU and for each GPU."""
    yield f"{'cpu':<18}{torch.get_num_threads()} threads"
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        yield f"{f'cuda:{i}':<18}{about.name}, {about.total_memory / 2**30:.0f} GiB"
    if torch.cuda.device_count() == 0:
        yield f"{'cuda':<18}none"


def readers() -> Iterator[str]:
    """The back ends of slides, each tried on a slide written for it."""
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
    for encoder in ENCODERS.values():
        scale = "natural images" if encoder.mpp is None else f"{encoder.mpp:g} um/px"
        yield (
            f"{'encoder':<18}{encoder.name:<15}{encoder.dim:>5} features, {encoder.input_px} px, {scale}; "
            f"{encoder.licence}"
        )


def launchers() -> Iterator[str]:
    """What starts several processes or jobs: a gloo group, a local job and a search, each tried, and SLURM."""
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
