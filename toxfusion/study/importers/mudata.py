"""A MuData file as a study: expression as one modality, slide embeddings, where there are any, as another."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.importers.features import compounds_seen
from toxfusion.study.importers.genes import GeneIds
from toxfusion.study.importers.matrix import Kind, import_matrix
from toxfusion.study.importers.tables import ImportTableError
from toxfusion.study.rules import AUDIT_FILE
from toxfusion.study.store_spec import UNPLACED, StoreSpec
from toxfusion.study.study import Study

STORE = "mudata"


def import_mudata(
    root: Path | str,
    *,
    file: str,
    expression: str = "expression",
    slides: str | None = None,
    trained_on: Sequence[str] | str | None = None,
    gene_ids: GeneIds = GeneIds(),  # noqa: B008  frozen
    kind: Kind = "log2",
    species: str = "Rattus norvegicus",
    name: str = "study",
) -> Study:
    """Write a study of the modalities of a .h5mu file.

    Args:
        file: its obs, or those of its modalities, hold compound, dose and any column of the contract; see
            ``import_matrix``.
        expression: modality of samples x genes.
        slides: modality of samples x numbers: one vector a sample becomes a bag of one tile in the store "mudata".
        trained_on: compounds that whatever made the slide vectors saw; None takes them from the modality's
            uns["trained_on"], and none where it has none.
        gene_ids, kind, species, name: see ``import_matrix``.

    Raises:
        ImportTableError: the package mudata is not installed, the file is none of MuData, or lacks a modality or a
            column; a slide vector is not finite or zeros, or all are the same.
        StudyError: the tables break the contract.
    """
    modalities, obs = _read(Path(file), [expression, *([slides] if slides is not None else [])])
    profiles = modalities[expression]
    with tempfile.TemporaryDirectory() as scratch:
        tables = {
            name: Path(scratch) / f"{Path(file).stem}.{name}"
            for name in ("h5ad", "samples.csv", "slides.csv")
        }
        bare = profiles[:, :].copy()
        bare.obs = bare.obs[[]]
        bare.write_h5ad(tables["h5ad"])
        obs.to_csv(tables["samples.csv"], index_label="sample_id")
        vectors = None if slides is None else modalities[slides].to_df()
        if vectors is not None:
            _check_vectors(vectors, file, str(slides))
            shown = pd.DataFrame({"sample_id": vectors.index, "path": str(Path(file).resolve())})
            shown.insert(0, "slide_id", [_slide_id(sample) for sample in vectors.index])
            shown.to_csv(tables["slides.csv"], index=False)
        try:
            study = import_matrix(
                root,
                expression=str(tables["h5ad"]),
                samples=str(tables["samples.csv"]),
                slides=None if vectors is None else str(tables["slides.csv"]),
                gene_ids=gene_ids,
                kind=kind,
                orientation="samples_by_genes",
                species=species,
                name=name,
            )
        except ImportTableError as error:
            raise ImportTableError(_of_the_file(str(error), tables, file, expression, slides)) from error
    if vectors is not None:
        seen = modalities[str(slides)].uns.get("trained_on", ()) if trained_on is None else trained_on
        audit = Audit()
        _write_vectors(study, vectors, Path(file), str(slides), compounds_seen(seen, study, audit))
        audit.write(study.root / AUDIT_FILE)
    return study


def _read(file: Path, wanted: Sequence[str]) -> tuple[dict[str, Any], pd.DataFrame]:
    """The wanted modalities, and the columns of all samples: those of the whole first, then each modality's own."""
    try:
        from mudata import read_h5mu
    except ImportError as error:
        raise ImportTableError(
            "source=mudata needs the package mudata, which is not installed: pip install 'toxfusion[interop]'"
        ) from error
    try:
        whole = read_h5mu(file)
    except (OSError, KeyError, ValueError) as error:
        raise ImportTableError(
            f"{file}: cannot be read as MuData ({error}); write it with write_h5mu"
        ) from error
    lacking = [name for name in wanted if name not in whole.mod]
    if lacking:
        raise ImportTableError(
            f"{file}: has no modality {lacking[0]!r}; it has {', '.join(whole.mod)}: set source.expression and "
            "source.slides"
        )
    samples = pd.Index(whole.obs_names.astype(str), name="sample_id")
    own = [column for column in whole.obs.columns if column.partition(":")[0] not in whole.mod]
    obs = whole.obs[own].set_axis(samples).astype(object)
    for name in wanted:
        theirs = whole.mod[name].obs.astype(object)
        obs = obs.combine_first(theirs.set_axis(theirs.index.astype(str)))
    return {name: whole.mod[name] for name in wanted}, obs.reindex(samples)


def _of_the_file(said: str, tables: dict[str, Path], file: str, expression: str, slides: str | None) -> str:
    """What is said of a scratch table, said of the part of the file that it holds."""
    parts = {"h5ad": f"modality {expression!r}", "samples.csv": "obs", "slides.csv": f"modality {slides!r}"}
    for name, table in tables.items():
        said = said.replace(str(table), f"{file}, {parts[name]}")
    return said


def _check_vectors(vectors: pd.DataFrame, file: str, modality: str) -> None:
    values = vectors.to_numpy(dtype=np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        sample, column = np.argwhere(bad)[0]
        raise ImportTableError(
            f"{file}, modality {modality!r}, sample {vectors.index[sample]!r}, column {column}: is "
            f"{values[sample, column]}; leave samples without a slide out of the modality"
        )
    zeros = ~values.any(axis=1)
    if zeros.any():
        raise ImportTableError(
            f"{file}, modality {modality!r}, sample {vectors.index[np.flatnonzero(zeros)][0]!r}: its vector is zeros; "
            "leave samples without a slide out of the modality"
        )
    if len(values) > 1 and (values == values[0]).all():
        raise ImportTableError(
            f"{file}, modality {modality!r}: all samples have one vector; make the vectors anew"
        )


def _slide_id(sample: object) -> str:
    return f"{sample}.vector"


def _write_vectors(
    study: Study, vectors: pd.DataFrame, file: Path, modality: str, trained_on: list[str]
) -> None:
    """One tile a sample, without a place, in the store `STORE`; samples that the study lacks are audited already."""
    weights = hashlib.sha256(file.read_bytes()).hexdigest()  # other vectors under the same name are refused
    provenance = {"encoder": f"{file.name}:{modality}", "weights": weights, "mpp": None, "tile_px": None,
                  "trained_on": trained_on, "source": STORE, "coordinates": UNPLACED}  # fmt: skip
    spec = StoreSpec("features", "float32", (vectors.shape[1],), provenance)
    store = BagStore.create(study.root / "features" / STORE, spec)
    with store.writer() as writer:
        for sample, vector in zip(vectors.index, vectors.to_numpy(np.float32), strict=True):
            slide_id = _slide_id(sample)
            if slide_id in study.slides.index and slide_id not in store:
                writer.append(slide_id, vector[None], np.zeros((1, 2), np.int32), tile_size=1.0, mpp0=1.0)
