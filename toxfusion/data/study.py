"""The study contract: reading, checking and writing a study folder. No pixels, no tensors, no splits.

Beyond docs/architecture.md: ``dose`` and ``time_h`` may be NaN, and ``dose_level``, ``batch`` and
``control_group`` may be the empty string, where a study has no such thing (spatial sections, for example).
Other columns of obs are kept as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toxfusion.data.audit import Audit

if TYPE_CHECKING:
    from toxfusion.data.bag_store import BagStore

SCHEMA = 1
DOSE_LEVELS = ("control", "low", "middle", "high")
GRADES = (0, 1, 2, 3, 4)
EXPRESSION_FILE = "expression.h5ad"
SLIDES_FILE = "slides.parquet"
AUDIT_FILE = "audit.json"

_FILLED_TEXT = ("animal_id", "compound", "study", "group_id")
_OPEN_TEXT = ("dose_level", "batch", "control_group")
_NUMBERS = ("dose", "time_h")
_LABELS = ("dili", "injury")
_REGION = ("x", "y", "width", "height")
OBS_COLUMNS = (*_FILLED_TEXT, *_OPEN_TEXT, *_NUMBERS, "is_control", *_LABELS)
SLIDE_COLUMNS = ("sample_id", "path", "mpp_override", *_REGION)


class StudyError(ValueError):
    """A study breaks its contract; the message names file, column and value, and what to do."""


def _fault(file: str, column: str, value: object, problem: str, remedy: str) -> StudyError:
    shown = value.item() if isinstance(value, np.generic) else value
    return StudyError(f"{file}, column {column!r}, value {shown!r}: {problem}. {remedy}.")


@dataclass(frozen=True)
class Study:
    """A checked study; the rows of expression, findings, spontaneous and chemistry are those of ``obs``.

    Attributes:
        root: the study folder.
        name, species: of the study; virtual: written by the generator.
        obs: indexed by sample_id, columns as in docs/architecture.md; dose mg/kg, time_h hours.
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
        return {str(s): rows.index.tolist() for s, rows in self.slides.groupby("sample_id", sort=False)}

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
        rows = self.obs.index.get_indexer(pd.Index(list(sample_ids), dtype=object))
        if (rows < 0).any():
            missing = [s for s, row in zip(sample_ids, rows, strict=True) if row < 0]
            raise KeyError(
                f"study {self.name!r} has no sample {missing[0]!r} ({len(missing)} missing in all)"
            )
        return rows.astype(np.int64)

    def features(self, encoder: str) -> BagStore:
        """The feature store of an encoder, opened for reading."""
        return self._store("features", encoder)

    def tiles(self, grid: str) -> BagStore:
        """The tile store of a grid, opened for reading."""
        return self._store("tiles", grid)

    def _store(self, kind: str, name: str) -> BagStore:
        from toxfusion.data.bag_store import BagStore

        folder = self.root / kind / name
        if not folder.is_dir():
            parent = self.root / kind
            present = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
            raise StudyError(
                f"{self.root}: no {kind} {name!r}; there are {present or 'none'}. "
                f"Run `python -m toxfusion.extract output={kind}` on this study first."
            )
        return BagStore.open(folder)


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
    obs = _obs_table(_indexed(obs, "sample_id", EXPRESSION_FILE))
    study = Study(
        root=root,
        name=name,
        species=species,
        virtual=virtual,
        obs=obs,
        var=_var_table(_indexed(var, "gene_id", EXPRESSION_FILE)),
        expression=np.asarray(expression, dtype=np.float32),
        findings=_aligned(findings, obs.index, "findings"),
        spontaneous=None if spontaneous is None else _aligned(spontaneous, obs.index, "spontaneous"),
        chemistry=None if chemistry is None else _aligned(chemistry, obs.index, "chemistry"),
        slides=_slide_table(_indexed(slides, "slide_id", SLIDES_FILE)),
        provenance=provenance,
    )
    check_study(study)
    if counts is not None and np.shape(counts) != study.expression.shape:
        raise StudyError(
            f"counts has shape {np.shape(counts)}, expression {study.expression.shape}; they must agree."
        )
    _write_files(study, counts, audit)
    return Study.open(root)


def check_study(study: Study) -> None:
    """Check every rule of the contract; Study.open and write_study both end here.

    Raises:
        StudyError: the first rule broken.
    """
    _check_samples(study)
    _check_controls(study.obs)
    _check_labels(study.obs)
    _check_expression(study)
    _check_findings(study)
    _check_slides(study)


# ------------------------------------------------------------------------------------------ reading


def _read(root: Path) -> Study:
    import anndata

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
        found = about.get("schema") if isinstance(about, dict) else None
        raise _fault(
            EXPRESSION_FILE,
            "uns['toxfusion']['schema']",
            found,
            f"this version reads schema {SCHEMA}",
            "Prepare it again",
        )
    x = adata.X
    dense = np.zeros(adata.shape, np.float32) if x is None else x.toarray() if hasattr(x, "toarray") else x
    obs = _obs_table(_indexed(adata.obs, "sample_id", EXPRESSION_FILE))
    return Study(
        root=root,
        name=str(about.get("name", root.name)),
        species=str(about.get("species", "")),
        virtual=bool(about.get("virtual", False)),
        obs=obs,
        var=_var_table(_indexed(adata.var, "gene_id", EXPRESSION_FILE)),
        expression=np.asarray(dense, dtype=np.float32),
        findings=_layer_table(adata.obsm, "findings", obs.index, required=True),
        spontaneous=_layer_table(adata.obsm, "spontaneous", obs.index)
        if "spontaneous" in adata.obsm
        else None,
        chemistry=_layer_table(adata.obsm, "chemistry", obs.index) if "chemistry" in adata.obsm else None,
        slides=_slide_table(_indexed(slides, "slide_id", SLIDES_FILE)),
        provenance=_provenance(about.get("provenance", {})),
    )


def _provenance(stored: object) -> dict[str, Any]:
    """Provenance is stored as JSON text, which keeps lists and nulls; a plain dictionary is read as well."""
    if isinstance(stored, str):
        return dict(json.loads(stored))
    return dict(stored) if isinstance(stored, dict) else {}


def _layer_table(obsm: Any, key: str, index: pd.Index, required: bool = False) -> pd.DataFrame:
    if key not in obsm:
        raise _fault(
            EXPRESSION_FILE,
            f"obsm[{key!r}]",
            None,
            "is missing",
            "Add a data frame, without columns if empty",
        )
    table = obsm[key]
    if not isinstance(table, pd.DataFrame):
        raise _fault(
            EXPRESSION_FILE, f"obsm[{key!r}]", type(table).__name__, "is no data frame", "Name its columns"
        )
    return table.set_axis(index, axis=0)


def _indexed(table: pd.DataFrame, key: str, file: str) -> pd.DataFrame:
    """A copy of ``table`` with text index ``key``; duplicates are an error."""
    table = table.set_index(key) if key in table.columns else table.copy()
    if table.index.isna().any():
        raise _fault(file, key, None, "an identifier is missing", "Give every row a name")
    table.index = pd.Index([str(v) for v in table.index], dtype=object, name=key)
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise _fault(
            file,
            key,
            twice[0],
            f"appears more than once ({len(twice)} repeats)",
            "Give every row its own name",
        )
    return table


def _aligned(table: pd.DataFrame, index: pd.Index, what: str) -> pd.DataFrame:
    table = table.set_index("sample_id") if "sample_id" in table.columns else table.copy()
    table.index = pd.Index([str(v) for v in table.index], dtype=object, name="sample_id")
    if len(table) != len(index) or set(table.index) != set(index):
        odd = sorted(set(table.index) ^ set(index))[:1] or table.index[table.index.duplicated()].tolist()[:1]
        raise _fault(
            what, "sample_id", odd[0], "its rows are not those of obs", "Give one row to every sample"
        )
    return table.loc[index]


def _column(table: pd.DataFrame, column: str, file: str) -> pd.Series:
    if column not in table.columns:
        raise _fault(file, column, None, f"the column is missing; there are {list(table.columns)}", "Add it")
    return table[column]


def _texts(table: pd.DataFrame, column: str, file: str) -> pd.Series:
    values = _column(table, column, file)
    if values.isna().any():
        raise _fault(file, column, None, f"is missing at {values.index[values.isna()][0]!r}", "Fill it in")
    return values.astype(object).map(str)


def _floats(table: pd.DataFrame, column: str, file: str) -> pd.Series:
    values = _column(table, column, file).astype(object)
    numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
    bad = numbers.isna() & values.notna()
    if bad.any() or np.isinf(numbers).any():
        bad |= np.isinf(numbers)
        raise _fault(
            file,
            column,
            values[bad].iloc[0],
            f"is no finite number at {values.index[bad][0]!r}",
            "Correct it",
        )
    return numbers


def _obs_table(obs: pd.DataFrame) -> pd.DataFrame:
    for column in (*_FILLED_TEXT, *_OPEN_TEXT):
        obs[column] = _texts(obs, column, EXPRESSION_FILE)
    for column in (*_NUMBERS, *_LABELS):
        obs[column] = _floats(obs, column, EXPRESSION_FILE)
    flags = _column(obs, "is_control", EXPRESSION_FILE)
    if not all(isinstance(v, bool | np.bool_) for v in flags):
        bad = next(v for v in flags if not isinstance(v, bool | np.bool_))
        raise _fault(EXPRESSION_FILE, "is_control", bad, "is neither True nor False", "Store booleans")
    obs["is_control"] = flags.astype(bool)
    categorical = obs.select_dtypes("category").columns
    return obs.astype(dict.fromkeys(categorical, object))


def _var_table(var: pd.DataFrame) -> pd.DataFrame:
    for column in ("symbol", "human_ortholog"):
        if column in var.columns or column == "symbol":
            values = _column(var, column, EXPRESSION_FILE).astype(object)
            var[column] = values.where(values.notna(), "").map(str)
    return var


def _slide_table(slides: pd.DataFrame) -> pd.DataFrame:
    for column in ("sample_id", "path"):
        slides[column] = _texts(slides, column, SLIDES_FILE)
    for column in ("mpp_override", *_REGION):
        slides[column] = _floats(slides, column, SLIDES_FILE)
    return slides


# ------------------------------------------------------------------------------------------ checking


def _check_samples(study: Study) -> None:
    obs = study.obs
    if obs.empty:
        raise StudyError(
            f"{EXPRESSION_FILE}: the study has no sample; look into {AUDIT_FILE} for what was dropped."
        )
    for column in _FILLED_TEXT:
        empty = obs.index[obs[column].str.strip() == ""]
        if len(empty):
            raise _fault(EXPRESSION_FILE, column, "", f"is empty at sample {empty[0]!r}", "Fill it in")
    for column in _NUMBERS:
        low = obs[obs[column] < 0]
        if len(low):
            value = low[column].iloc[0]
            raise _fault(
                EXPRESSION_FILE, column, value, f"is negative at sample {low.index[0]!r}", "Correct it"
            )


def _check_controls(obs: pd.DataFrame) -> None:
    unknown = obs[~obs["dose_level"].isin([*DOSE_LEVELS, ""])]
    if len(unknown):
        raise _fault(
            EXPRESSION_FILE,
            "dose_level",
            unknown["dose_level"].iloc[0],
            f"at sample {unknown.index[0]!r} is none of {DOSE_LEVELS}",
            "Map the study's own words to these, or to '' where there is no dose",
        )
    differs = obs[obs["is_control"] != (obs["dose_level"] == "control")]
    if len(differs):
        raise _fault(
            EXPRESSION_FILE,
            "is_control",
            bool(differs["is_control"].iloc[0]),
            f"contradicts dose_level {differs['dose_level'].iloc[0]!r} at sample {differs.index[0]!r}",
            "A vehicle control has both, no other sample has either",
        )
    dosed = obs[obs["is_control"] & (obs["dose"] > 0)]
    if len(dosed):
        value, sample = dosed["dose"].iloc[0], dosed.index[0]
        raise _fault(EXPRESSION_FILE, "dose", value, f"control sample {sample!r} has a dose", "Set it to 0")
    undosed = obs[~obs["is_control"] & (obs["dose"] == 0)]
    if len(undosed):
        sample = undosed.index[0]
        raise _fault(
            EXPRESSION_FILE, "dose", 0.0, f"treated sample {sample!r} has no dose", "Flag it as a control"
        )


def _check_labels(obs: pd.DataFrame) -> None:
    for column in _LABELS:
        bad = obs[obs[column].notna() & ~obs[column].isin([0.0, 1.0])]
        if len(bad):
            value, sample = bad[column].iloc[0], bad.index[0]
            raise _fault(
                EXPRESSION_FILE, column, value, f"at sample {sample!r} is not 0, 1 or NaN", "Correct it"
            )
    # A control may carry the label of its compound or none: only a different label is a contradiction.
    labelled = obs[~obs["is_control"] | obs["dili"].notna()]
    _check_constant(labelled, "compound", "dili")
    _check_constant(obs, "group_id", "injury")
    _check_constant(obs, "group_id", "compound")


def _check_constant(obs: pd.DataFrame, by: str, column: str) -> None:
    kinds = obs.groupby(by, sort=False)[column].nunique(dropna=False)
    mixed = kinds.index[kinds > 1]
    if len(mixed):
        values = obs.loc[obs[by] == mixed[0], column].unique().tolist()
        raise _fault(
            EXPRESSION_FILE,
            column,
            values,
            f"is not the same throughout {by} {mixed[0]!r}",
            f"Give each {by} one {column}",
        )


def _check_expression(study: Study) -> None:
    x = study.expression
    if x.shape != (len(study.obs), len(study.var)):
        raise _fault(
            EXPRESSION_FILE,
            "X",
            x.shape,
            f"is not {len(study.obs)} samples x {len(study.var)} genes",
            "Store one row a sample",
        )
    infinite = np.argwhere(np.isinf(x))
    if len(infinite):
        row, gene = infinite[0]
        raise _fault(
            EXPRESSION_FILE,
            "X",
            float(x[row, gene]),
            f"sample {study.obs.index[row]!r}, gene {study.var.index[gene]!r} is infinite",
            "Use log2(value + 1), or drop the sample",
        )
    absent = np.isnan(x).sum(axis=1)
    partial = np.flatnonzero((absent > 0) & (absent < x.shape[1]))
    if len(partial):
        row = partial[0]
        gene = int(np.flatnonzero(np.isnan(x[row]))[0])
        raise _fault(
            EXPRESSION_FILE,
            "X",
            float("nan"),
            f"sample {study.obs.index[row]!r} lacks {absent[row]} of {x.shape[1]} genes, "
            f"{study.var.index[gene]!r} first",
            "Impute them, drop these genes, or make the whole row NaN (no profile)",
        )


def _check_findings(study: Study) -> None:
    for what, table in (
        ("findings", study.findings),
        ("spontaneous", study.spontaneous),
        ("chemistry", study.chemistry),
    ):
        if table is None:
            continue
        file = f"{EXPRESSION_FILE} obsm[{what!r}]"
        for term in table.columns:
            if not isinstance(term, str) or "/" in term:
                raise _fault(file, str(term), term, "is no usable column name", "Use text without '/'")
            if what != "spontaneous":
                _floats(table, term, file)
    findings = study.findings
    for term in findings.columns:
        bad = findings[findings[term].notna() & ~findings[term].isin(GRADES)]
        if len(bad):
            value, sample = bad[term].iloc[0], bad.index[0]
            raise _fault(
                f"{EXPRESSION_FILE} obsm['findings']",
                term,
                value,
                f"grade of sample {sample!r} is none of {GRADES}",
                "Map the grades to 0 (absent) .. 4 (severe), NaN where not examined",
            )
    if study.spontaneous is not None:
        if list(study.spontaneous.columns) != list(findings.columns):
            odd = sorted(set(study.spontaneous.columns) ^ set(findings.columns))
            raise _fault(
                f"{EXPRESSION_FILE} obsm['spontaneous']",
                str(odd),
                odd,
                "its columns are not those of findings",
                "Align them",
            )
        for term in study.spontaneous.columns:
            if study.spontaneous[term].dtype != bool:
                dtype = str(study.spontaneous[term].dtype)
                raise _fault(
                    f"{EXPRESSION_FILE} obsm['spontaneous']", term, dtype, "is not boolean", "Store booleans"
                )


def _check_slides(study: Study) -> None:
    slides = study.slides
    orphans = slides[~slides["sample_id"].isin(study.obs.index)]
    if len(orphans):
        raise _fault(
            SLIDES_FILE,
            "sample_id",
            orphans["sample_id"].iloc[0],
            f"slide {orphans.index[0]!r} belongs to no sample of the study ({len(orphans)} such rows)",
            "Add the sample, or remove the row and record it in audit.json",
        )
    nameless = slides.index[slides["path"].str.strip() == ""]
    if len(nameless):
        raise _fault(
            SLIDES_FILE, "path", "", f"slide {nameless[0]!r} has no path", "Fill it in or remove the row"
        )
    for column in ("mpp_override", "width", "height"):
        bad = slides[slides[column] <= 0]
        if len(bad):
            value = bad[column].iloc[0]
            raise _fault(
                SLIDES_FILE, column, value, f"slide {bad.index[0]!r}: not positive", "Correct it or use NaN"
            )
    given = slides[list(_REGION)].notna().sum(axis=1)
    torn = slides.index[(given > 0) & (given < len(_REGION))]
    if len(torn):
        raise _fault(
            SLIDES_FILE,
            "x, y, width, height",
            None,
            f"slide {torn[0]!r} has a part of a region",
            "Give all four or none",
        )


# ------------------------------------------------------------------------------------------ writing


def _write_files(study: Study, counts: np.ndarray | None, audit: Audit) -> None:
    import anndata

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
    waiting: dict[Path, Path] = {}
    try:
        for file in (EXPRESSION_FILE, SLIDES_FILE, AUDIT_FILE):
            waiting[root / file] = root / f".{os.getpid()}.{file}"
        adata.write_h5ad(waiting[root / EXPRESSION_FILE], compression="gzip")
        study.slides.reset_index().to_parquet(waiting[root / SLIDES_FILE], index=False)
        Audit.write_new(waiting[root / AUDIT_FILE], audit)
        for place, temporary in waiting.items():
            os.replace(temporary, place)
    finally:
        for temporary in waiting.values():
            temporary.unlink(missing_ok=True)
