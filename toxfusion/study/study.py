"""Reading and writing a study folder. The rules it must keep are in ``rules``; no pixels, tensors or splits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.doubts import audit_doubts
from toxfusion.study.files import replacing
from toxfusion.study.rules import (
    AUDIT_FILE,
    EXPRESSION_FILE,
    SLIDES_FILE,
    StudyError,
    aligned,
    check_study,
    fault,
    indexed,
    obs_table,
    slide_table,
    storable,
    var_table,
)

SCHEMA = 1


@dataclass(frozen=True)
class Study:
    """A checked study; the rows of expression, findings, spontaneous and chemistry are those of ``obs``.

    Attributes:
        root: the study folder.
        name, species: of the study; virtual: written by the generator.
        obs: indexed by sample_id, columns as in docs/reference/study_folder.md; dose mg/kg, time_h hours.
        var: indexed by gene_id, with ``symbol`` and optionally ``human_ortholog``.
        expression: float32 [n_samples, n_genes], log2 scale; a row of NaN is a sample without a profile.
        findings: float [n_samples, n_terms], grade 0..4, NaN = not examined.
        spontaneous: bool, shaped as findings; None when unknown.
        chemistry: float [n_samples, n_analytes], NaN = not measured; None when there is none.
        slides: indexed by slide_id; x, y, width, height in level-0 px, NaN = the whole image.
        provenance: where the study came from, plain JSON types.
    """

    root: Path
    name: str
    species: str
    virtual: bool
    obs: pd.DataFrame
    var: pd.DataFrame
    expression: np.ndarray
    findings: pd.DataFrame
    spontaneous: pd.DataFrame | None
    chemistry: pd.DataFrame | None
    slides: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path | str) -> Study:
        """Read and check a study folder.

        Raises:
            StudyError: a file is missing or unreadable, or breaks the contract.
        """
        root = Path(root)
        study = _read(root)
        check_study(study)
        return study

    @property
    def sample_ids(self) -> list[str]:
        return self.obs.index.tolist()

    @cached_property
    def has_expression(self) -> np.ndarray:
        """bool [n_samples]: the sample has an expression profile."""
        if self.expression.shape[1] == 0:
            return np.zeros(len(self.obs), dtype=bool)
        return ~np.isnan(self.expression).all(axis=1)

    @cached_property
    def has_slide(self) -> np.ndarray:
        """bool [n_samples]: the sample has at least one slide."""
        return self.obs.index.isin(self.slides["sample_id"])

    @cached_property
    def _slides_by_sample(self) -> dict[str, list[str]]:
        return {str(s): slides.index.tolist() for s, slides in self.slides.groupby("sample_id", sort=False)}

    def slides_of(self, sample_id: str) -> list[str]:
        """Slide ids of a sample in the order of slides.parquet; empty when it has none.

        Raises:
            KeyError: the study has no such sample.
        """
        if sample_id not in self.obs.index:
            raise KeyError(f"study {self.name!r} has no sample {sample_id!r}")
        return self._slides_by_sample.get(sample_id, [])

    def slide_path(self, slide_id: str) -> Path:
        """Where the image of a slide lies, absolute when the study's root is."""
        if slide_id not in self.slides.index:
            raise KeyError(f"study {self.name!r} has no slide {slide_id!r}")
        return self.root / Path(str(self.slides.at[slide_id, "path"]))

    def positions(self, sample_ids: Sequence[str]) -> np.ndarray:
        """int64 [n]: rows of ``obs`` and ``expression`` that hold these samples, in the order asked.

        Raises:
            KeyError: the study lacks one of them.
        """
        positions = self.obs.index.get_indexer(pd.Index(list(sample_ids), dtype=object))
        if (positions < 0).any():
            missing = [s for s, position in zip(sample_ids, positions, strict=True) if position < 0]
            raise KeyError(
                f"study {self.name!r} has no sample {missing[0]!r} ({len(missing)} missing in all)"
            )
        return positions.astype(np.int64)

    def features(self, encoder: str) -> BagStore:
        """The feature store of an encoder, opened for reading."""
        return self._store("features", encoder)

    def tiles(self, grid: str) -> BagStore:
        """The tile store of a grid, opened for reading."""
        return self._store("tiles", grid)

    def _store(self, kind: str, name: str) -> BagStore:
        folder = self.root / kind / name
        if not folder.is_dir():
            parent = self.root / kind
            present = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
            key = {"tiles": "data.grid", "features": "tile_features.name"}[kind]
            other = f"Take {key}={present[0]}, or run" if present else "Run"
            raise StudyError(
                f"{self.root}: no {kind} {name!r}; there are {', '.join(present) or 'none'}. "
                f"{other} `python -m toxfusion.extract output={kind}` on this study first."
            )
        return BagStore.open(folder).whole()


def write_study(
    root: Path | str,
    *,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    expression: np.ndarray,
    findings: pd.DataFrame,
    slides: pd.DataFrame,
    spontaneous: pd.DataFrame | None = None,
    chemistry: pd.DataFrame | None = None,
    counts: np.ndarray | None = None,
    provenance: dict[str, Any],
    name: str,
    species: str,
    virtual: bool,
    audit: Audit,
) -> Study:
    """Check a study and write expression.h5ad, slides.parquet and audit.json; other folders are left alone.

    Every file is written beside its place and renamed, and nothing is renamed before all are written, so that
    an interrupted call leaves the former study.

    Args:
        obs: indexed by sample_id, or with a column of that name; so slides (slide_id) and var (gene_id).
        expression: [n_samples, n_genes], log2 scale; rows of NaN where there is no profile.
        findings, spontaneous, chemistry: indexed by sample_id, any order.
        counts: raw counts [n_samples, n_genes], when known; kept as a layer.
        provenance: plain JSON types.

    Returns:
        The study as read back.

    Raises:
        StudyError: the tables break the contract; nothing is written.
    """
    root = Path(root)
    obs = storable(obs_table(indexed(obs, "sample_id", EXPRESSION_FILE)), audit)
    study = Study(
        root=root,
        name=name,
        species=species,
        virtual=virtual,
        obs=obs,
        var=var_table(indexed(var, "gene_id", EXPRESSION_FILE)),
        expression=np.asarray(expression, dtype=np.float32),
        findings=aligned(findings, obs.index, "findings"),
        spontaneous=None if spontaneous is None else aligned(spontaneous, obs.index, "spontaneous"),
        chemistry=None if chemistry is None else aligned(chemistry, obs.index, "chemistry"),
        slides=slide_table(indexed(slides, "slide_id", SLIDES_FILE)),
        provenance=provenance,
    )
    check_study(study)
    audit_doubts(study, audit)
    if counts is not None and np.shape(counts) != study.expression.shape:
        raise StudyError(
            f"counts has shape {np.shape(counts)}, expression {study.expression.shape}; they must agree."
        )
    _write_files(study, counts, audit)
    return Study.open(root)


def _read(root: Path) -> Study:
    for file in (EXPRESSION_FILE, SLIDES_FILE):
        if not (root / file).is_file():
            raise StudyError(
                f"{root / file} is missing; write it with `python -m toxfusion.prepare` or write_study."
            )
    try:
        adata = anndata.read_h5ad(root / EXPRESSION_FILE)
    except (OSError, KeyError) as error:
        raise StudyError(
            f"{root / EXPRESSION_FILE} cannot be read ({error}); prepare the study again."
        ) from error
    try:
        slides = pd.read_parquet(root / SLIDES_FILE)
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{root / SLIDES_FILE} cannot be read ({error}); prepare the study again."
        ) from error
    about = adata.uns.get("toxfusion")
    if not isinstance(about, dict) or int(about.get("schema", -1)) != SCHEMA:
        schema = about.get("schema") if isinstance(about, dict) else None
        raise fault(
            EXPRESSION_FILE,
            "uns['toxfusion']['schema']",
            schema,
            f"this version reads schema {SCHEMA}",
            "Prepare it again",
        )
    x = adata.X
    dense = np.zeros(adata.shape, np.float32) if x is None else x.toarray() if hasattr(x, "toarray") else x
    obs = obs_table(indexed(adata.obs, "sample_id", EXPRESSION_FILE))
    return Study(
        root=root,
        name=str(about.get("name", root.name)),
        species=str(about.get("species", "")),
        virtual=bool(about.get("virtual", False)),
        obs=obs,
        var=var_table(indexed(adata.var, "gene_id", EXPRESSION_FILE)),
        expression=np.asarray(dense, dtype=np.float32),
        findings=_layer_table(adata.obsm, "findings", obs.index, required=True),
        spontaneous=_layer_table(adata.obsm, "spontaneous", obs.index)
        if "spontaneous" in adata.obsm
        else None,
        chemistry=_layer_table(adata.obsm, "chemistry", obs.index) if "chemistry" in adata.obsm else None,
        slides=slide_table(indexed(slides, "slide_id", SLIDES_FILE)),
        provenance=read_provenance(about.get("provenance", {})),
    )


def read_provenance(stored: object) -> dict[str, Any]:
    """Provenance is stored as JSON text, which keeps lists and nulls; a plain dictionary is read as well."""
    if isinstance(stored, str):
        return dict(json.loads(stored))
    return dict(stored) if isinstance(stored, dict) else {}


def _layer_table(obsm: Any, key: str, index: pd.Index, required: bool = False) -> pd.DataFrame:
    if key not in obsm:
        raise fault(
            EXPRESSION_FILE,
            f"obsm[{key!r}]",
            None,
            "is missing",
            "Add a data frame, without columns if empty",
        )
    table = obsm[key]
    if not isinstance(table, pd.DataFrame):
        raise fault(
            EXPRESSION_FILE, f"obsm[{key!r}]", type(table).__name__, "is no data frame", "Name its columns"
        )
    return table.set_axis(index, axis=0)


def _write_files(study: Study, counts: np.ndarray | None, audit: Audit) -> None:
    root = study.root
    root.mkdir(parents=True, exist_ok=True)
    # Text as categories: anndata would make them so on writing, and say so for every column.
    obs, var = (
        table.astype(dict.fromkeys(table.select_dtypes(object).columns, "category"))
        for table in (study.obs, study.var)
    )
    adata = anndata.AnnData(X=study.expression, obs=obs, var=var)
    adata.obsm["findings"] = study.findings.astype(np.float32)
    if study.spontaneous is not None:
        adata.obsm["spontaneous"] = study.spontaneous
    if study.chemistry is not None:
        adata.obsm["chemistry"] = study.chemistry.astype(np.float64)
    if counts is not None:
        adata.layers["counts"] = np.asarray(counts, dtype=np.float32)
    adata.uns["toxfusion"] = {
        "schema": SCHEMA,
        "name": study.name,
        "species": study.species,
        "virtual": study.virtual,
        "provenance": json.dumps(study.provenance),
    }
    with (
        replacing(root / EXPRESSION_FILE) as expression,
        replacing(root / SLIDES_FILE) as slides,
        replacing(root / AUDIT_FILE) as ledger,
    ):
        adata.write_h5ad(expression, compression="gzip")
        study.slides.reset_index().to_parquet(slides, index=False)
        Audit.write_new(ledger, audit)


def virtual_setting(provenance: Mapping[str, Any]) -> str:
    """How hard a virtual study is, in words, from its provenance: no number of it should stand without them."""
    setting, version = provenance.get("setting", "unknown"), provenance.get("generator_version", "unknown")
    kind = {"control": " (a positive control, made to be seen)", "realistic": " (as hard as real studies)"}
    return f"setting={setting}{kind.get(setting, '')}, generator {version}"
