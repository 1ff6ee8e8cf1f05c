"""Counts of 10x Genomics (.mtx folders, .h5) and of .h5ad files, one row a barcode, or summed to samples."""

from __future__ import annotations

import gzip
import re
import warnings
import zlib
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from toxfusion.study.audit import Audit
from toxfusion.study.importers.tables import STAGE, ImportTableError
from toxfusion.study.tables import identified, read_table

#: of a 10x matrix; other features are antibodies, guides or cut sites
GENES = "Gene Expression"
_MATRIX = re.compile(r"^(.*)matrix\.mtx(\.gz)?$")


def is_matrix_file(path: Path | str) -> bool:
    """A folder of a 10x matrix, a 10x .h5 or an .h5ad, and no table."""
    return Path(path).is_dir() or Path(path).suffix.lower() in (".h5", ".h5ad")


def read_counts(path: Path | str, audit: Audit) -> AnnData:
    """Raw counts, one row a barcode or sample, var indexed by gene id with ``symbol`` where the file says it.

    Args:
        path: a folder with matrix.mtx, barcodes.tsv and features.tsv or genes.tsv (each plain or .gz, with or without
            a prefix), a 10x .h5 of any version, or an .h5ad, whose layer ``counts`` comes before X.

    Raises:
        ImportTableError: a file is missing, damaged, holds no counts, or the parts differ in length.
    """
    place = Path(path)
    if place.is_dir():
        counts = _read_mtx(place)
    elif not place.is_file():
        raise ImportTableError(f"{path}: no such file; check the path")
    elif place.suffix.lower() == ".h5":
        counts = _read_h5(place)
    else:
        counts = _counted_h5ad(read_h5ad(place), place)
    if "feature_types" in counts.var:
        other = counts.var["feature_types"] != GENES
        for kind, n in counts.var["feature_types"][other].value_counts().items():
            audit.drop(STAGE, "features", str(kind), f"{n} features of {place.name}: not gene expression")
        counts = counts[:, ~other.to_numpy()]
    if not counts.n_obs or not counts.n_vars:
        raise ImportTableError(
            f"{path}: holds {counts.n_obs} barcodes and {counts.n_vars} genes; give another file"
        )
    return counts


def read_h5ad(path: Path | str) -> AnnData:
    """An .h5ad file.

    Raises:
        ImportTableError: it cannot be read.
    """
    if not Path(path).is_file():
        raise ImportTableError(f"{path}: no such file; check the path")
    try:
        return anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise ImportTableError(
            f"{path}: cannot be read as .h5ad ({_short(error)}); write it again"
        ) from error


def h5ad_values(path: Path | str) -> pd.DataFrame:
    """X of an .h5ad, float [n_samples, n_genes], rows and columns by their names.

    Raises:
        ImportTableError: it cannot be read, or has no X.
    """
    table = read_h5ad(path)
    if table.X is None:
        raise ImportTableError(
            f"{path}: has no X (layers: {list(table.layers)}); put the log2 values there, or use source=counts"
        )
    return table.to_df()


def sum_by_sample(cells: AnnData, samples: str, path: Path | str, audit: Audit) -> AnnData:
    """Pseudo-bulk: the counts of each sample's barcodes, summed.

    Args:
        cells: one row a barcode.
        samples: a table with the columns barcode and sample_id, or the name of a column of an .h5ad's obs.

    Raises:
        ImportTableError: neither a file nor a column, a barcode in two rows, or no barcode has a sample.
    """
    names = cells.obs_names.map(str)
    if Path(samples).is_file():
        table = identified(read_table(samples, required=("barcode", "sample_id")), "barcode", samples)
        of = table["sample_id"].reindex(names)
        strange = int((~table.index.isin(names)).sum())
        if strange:
            audit.drop(
                STAGE, "barcodes", Path(samples).name, f"{strange} barcodes are not in {Path(path).name}"
            )
    elif samples in cells.obs.columns:
        of = cells.obs[samples].astype(object)
    else:
        raise ImportTableError(
            f"source.pseudobulk={samples}: no such file, and no column of {path}, which has "
            f"{list(map(str, cells.obs.columns))[:12]}"
        )
    has = of.notna().to_numpy()
    if not has.any():
        raise ImportTableError(
            f"{samples}: gives none of the {len(names)} barcodes of {path} ({names[0]!r} ...) a sample; use the "
            "same names"
        )
    if n_without := int((~has).sum()):
        first = names[~has][0]
        audit.drop(
            STAGE, "barcodes", Path(path).name, f"{n_without} of {len(names)} ({first} ...) have no sample"
        )
    codes, sample_ids = pd.factorize(of[has].astype(str), sort=True)
    one = sparse.csr_matrix(
        (np.ones(len(codes)), (codes, np.arange(len(codes)))), (len(sample_ids), len(codes))
    )
    summed = one @ sparse.csr_matrix(cells.X)[np.flatnonzero(has)]
    for sample, n in zip(sample_ids, np.bincount(codes), strict=True):
        audit.change(STAGE, "profile", str(sample), f"the sum of {n} barcodes")
    return AnnData(sparse.csr_matrix(summed), pd.DataFrame(index=pd.Index(sample_ids)), cells.var)


def _read_mtx(folder: Path) -> AnnData:
    import scanpy

    matrices = [p for p in sorted(folder.iterdir()) if _MATRIX.match(p.name)]
    if len(matrices) != 1:
        raise ImportTableError(f"{folder}: holds {len(matrices)} files *matrix.mtx or .gz; keep one")
    match = _MATRIX.match(matrices[0].name)
    prefix = match[1] if match else ""
    features = _beside(folder, prefix, ("features.tsv", "genes.tsv"))
    barcodes = _beside(folder, prefix, ("barcodes.tsv",))
    try:
        counts = scanpy.read_mtx(matrices[0]).X.T
    except (OSError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, IndexError) as error:
        raise ImportTableError(
            f"{matrices[0]}: cannot be read as a MatrixMarket file ({_short(error)}); fetch it again"
        ) from error
    var = read_table(features, header=False, delimiter="\t", quoted=False, marks=())
    obs = read_table(barcodes, header=False, delimiter="\t", quoted=False, marks=())
    for table, file, n, what in (
        (var, features, counts.shape[1], "rows"),
        (obs, barcodes, counts.shape[0], "columns"),
    ):
        if len(table) != n:
            raise ImportTableError(
                f"{file}: has {len(table)} lines, and {matrices[0].name} {n} {what}; give the files of one matrix"
            )
    about = {"symbol": var[1].tolist()} if var.shape[1] > 1 else {}
    if var.shape[1] > 2:
        about["feature_types"] = var[2].tolist()
    names = pd.DataFrame(about, index=pd.Index(var[0], dtype=object))
    cells = pd.DataFrame(index=pd.Index(obs[0], dtype=object))
    return AnnData(sparse.csr_matrix(counts), cells, names)


def _beside(folder: Path, prefix: str, names: tuple[str, ...]) -> Path:
    for name in names:
        for suffix in ("", ".gz"):
            if (folder / f"{prefix}{name}{suffix}").is_file():
                return folder / f"{prefix}{name}{suffix}"
    raise ImportTableError(
        f"{folder}: {prefix}{' or '.join(names)} is missing beside {prefix}matrix.mtx; put it there"
    )


def _read_h5(path: Path) -> AnnData:
    import scanpy

    try:
        if not h5py.is_hdf5(path):
            raise OSError("is no HDF5 file, or cut off")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Variable names are not unique")
            counts = scanpy.read_10x_h5(path, gex_only=False)
    except Exception as error:  # scanpy raises Exception itself where a data set is missing
        raise ImportTableError(
            f"{path}: cannot be read as a 10x .h5 ({_short(error)}); fetch it again"
        ) from error
    counts.var["symbol"] = counts.var_names.astype(str)
    counts.var.index = counts.var["gene_ids"].astype(str).to_numpy(object)
    return counts


def _counted_h5ad(counted: AnnData, path: Path) -> AnnData:
    """The layer ``counts``, or X where it holds whole numbers."""
    values = counted.layers.get("counts", counted.X)
    entries = values.data if sparse.issparse(values) else np.asarray(values)
    if values is None or not np.array_equal(entries, np.round(entries)):
        raise ImportTableError(
            f"{path}: holds no counts: it has no layer 'counts' (layers: {list(counted.layers)}), and X is not of "
            "whole numbers; add the layer, or use source=matrix for log2 values"
        )
    return AnnData(values, counted.obs, counted.var[["symbol"] if "symbol" in counted.var else []])


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
