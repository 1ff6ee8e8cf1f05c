"""What an explanation was made from: versions, configs and their digests, and hashes of the files that were read."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from toxfusion import __version__
from toxfusion.explanation.agreement import headline_scores
from toxfusion.runs.loaded import LoadedRun
from toxfusion.study.files import sha256_of
from toxfusion.study.split import read_manifest
from toxfusion.study.study import Study

LIBRARIES = ("torch", "lightning", "captum", "numpy", "scipy", "pandas", "anndata", "scikit-learn",
             "openslide-python", "tifffile", "opencv-python")  # fmt: skip


def versions() -> dict[str, str]:
    """toxfusion, Python, and the libraries that make the numbers."""
    return {
        "toxfusion": __version__,
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
    }


def describe_study(study: Study, slides: Iterable[str]) -> dict[str, Any]:
    """Name, kind and hashes of a study: its tables, and the images of the slides that are drawn."""
    files = {name: study.root / name for name in ("expression.h5ad", "slides.parquet")}
    files |= {f"slide {s}": study.slide_path(s) for s in slides}
    return {
        "name": study.name,
        "species": study.species,
        "virtual": study.virtual,
        "n_samples": len(study.obs),
        "provenance": study.provenance,
        "sha256": {name: sha256_of(path) for name, path in files.items()},
    }


def describe_run(run: LoadedRun) -> dict[str, Any]:
    """Config, digest, headline metrics, hashes, and the encoder of the tiles of one run."""
    folder = run.folder
    done = folder.finished()
    assert done is not None, "a loaded run is finished"
    manifest = read_manifest(folder.split).manifest
    scores = json.loads(folder.metrics.read_text())["scores"] if folder.metrics.is_file() else {}
    files = {
        "best.ckpt": folder.stage("finetune") / "best.ckpt",
        "predictions.parquet": folder.predictions,
        "split.json": folder.split,
    }
    return {
        "digest": done["digest"],
        "config": run.config,
        "scores": headline_scores(scores),
        "sha256": {name: sha256_of(path) for name, path in files.items() if path.is_file()},
        "tile_encoder": run.contract["features"],
        "split": {k: manifest[k] for k in ("study", "scheme", "settings", "transductive") if k in manifest},
    }
