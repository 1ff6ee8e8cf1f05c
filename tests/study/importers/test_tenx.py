"""10x counts: every layout reads alike, sums of barcodes are sums, and faults name their file."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse

from toxfusion.study.audit import Audit
from toxfusion.study.importers.matrix import import_matrix
from toxfusion.study.importers.tables import ImportTableError
from toxfusion.study.importers.tenx import read_counts, sum_by_sample

COUNTS = np.array([[5, 0, 2], [0, 1, 3], [4, 4, 0], [1, 0, 0]])  # barcodes x genes
IDS = ["ENSRNOG00000000001", "ENSRNOG00000000002", "ENSRNOG00000000003"]
SYMBOLS = ["Alb", "Cyp1a1", "Hmox1"]
BARCODES = ["AAAC-1", "AAAG-1", "AAAT-1", "CCCC-1"]


def write_mtx(
    folder: Path, *, version: int = 3, zipped: bool = True, prefix: str = "", antibody: bool = False
) -> Path:
    folder.mkdir()
    counts, ids, symbols = COUNTS, [*IDS], [*SYMBOLS]
    kinds = ["Gene Expression"] * 3
    if antibody:
        counts, ids, symbols = np.hstack([COUNTS, COUNTS[:, :1]]), [*IDS, "CD3"], [*SYMBOLS, "CD3"]
        kinds.append("Antibody Capture")
    columns = zip(ids, symbols, kinds, strict=True) if version == 3 else zip(ids, symbols, strict=True)
    files = {
        f"{prefix}{'features' if version == 3 else 'genes'}.tsv": "".join(
            "\t".join(c) + "\n" for c in columns
        ),
        f"{prefix}barcodes.tsv": "".join(f"{b}\n" for b in BARCODES),
    }
    io.mmwrite(folder / f"{prefix}matrix.mtx", sparse.coo_matrix(counts.T))
    files[f"{prefix}matrix.mtx"] = (folder / f"{prefix}matrix.mtx").read_text()
    for name, text in files.items():
        (folder / name).write_text(text)
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
            (folder / name).unlink()
    return folder


def write_h5(path: Path, *, version: int = 3) -> Path:
    matrix = sparse.csc_matrix(COUNTS.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "rn6")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key)
        group["shape"], group["barcodes"] = matrix.shape, np.array(BARCODES, "S")
        if version == 3:
            features = group.create_group("features")
            features["id"], features["name"] = np.array(IDS, "S"), np.array(SYMBOLS, "S")
            features["feature_type"] = np.array(["Gene Expression"] * 3, "S")
            features["genome"] = np.array(["rn6"] * 3, "S")
        else:
            group["genes"], group["gene_names"] = np.array(IDS, "S"), np.array(SYMBOLS, "S")
    return path


LAYOUTS: dict[str, Any] = {
    "mtx v3": lambda p: write_mtx(p / "m"),
    "mtx v3 plain": lambda p: write_mtx(p / "m", zipped=False),
    "mtx v2": lambda p: write_mtx(p / "m", version=2, zipped=False),
    "mtx v2 zipped": lambda p: write_mtx(p / "m", version=2),
    "mtx of GEO": lambda p: write_mtx(p / "m", prefix="GSM1_"),
    "mtx with antibodies": lambda p: write_mtx(p / "m", antibody=True),
    "h5 v3": lambda p: write_h5(p / "m.h5"),
    "h5 v2": lambda p: write_h5(p / "m.h5", version=2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_counts(tmp_path: Path, layout: str) -> None:
    audit = Audit()
    found = read_counts(LAYOUTS[layout](tmp_path), audit)
    assert found.to_df().to_numpy().tolist() == COUNTS.tolist()
    assert found.obs_names.tolist() == BARCODES
    assert found.var_names.tolist() == IDS
    assert found.var["symbol"].tolist() == SYMBOLS
    assert [r.id for r in audit.records] == (["Antibody Capture"] if "antibodies" in layout else [])


def study_of(tmp_path: Path, expression: Path, **settings: Any) -> Any:
    (tmp_path / "samples.csv").write_text("sample_id,compound,dose\nr1,drug,0\nr2,drug,5\nAAAC-1,drug,5\n")
    samples = str(tmp_path / "samples.csv")
    return import_matrix(
        tmp_path / "study", expression=str(expression), samples=samples, kind="counts", **settings
    )


def test_barcodes_are_summed_to_samples(tmp_path: Path) -> None:
    (tmp_path / "of.csv").write_text("barcode,sample_id\nAAAC-1,r1\nAAAT-1,r1\nAAAG-1,r2\nGGGG-1,r2\n")
    study = study_of(tmp_path, write_mtx(tmp_path / "m"), pseudobulk=str(tmp_path / "of.csv"))
    layer = anndata.read_h5ad(study.root / "expression.h5ad").layers["counts"]
    assert layer[:2].tolist() == [[9, 4, 2], [0, 1, 3]]
    assert np.isnan(layer[2]).all()
    assert study.var["symbol"].tolist() == SYMBOLS
    told = {(r.kind, r.reason) for r in Audit.read(study.root / "audit.json").records}
    assert {
        ("profile", "the sum of 2 barcodes"), ("barcodes", "1 of 4 (CCCC-1 ...) have no sample"),
        ("barcodes", "1 barcodes are not in m"),
    } <= told  # fmt: skip


def test_without_a_table_a_barcode_is_a_sample(tmp_path: Path) -> None:
    study = study_of(tmp_path, write_h5(tmp_path / "m.h5"))
    assert study.has_expression.tolist() == [False, False, True]
    assert study.var.index.tolist() == [IDS[0], IDS[2]]  # the second gene has no count in the one sample
    with pytest.raises(ImportTableError, match=r"pseudobulk=donor: no such file, and no column"):
        study_of(tmp_path, tmp_path / "m.h5", pseudobulk="donor")


def test_an_h5ad_needs_counts_and_may_say_the_sample(tmp_path: Path) -> None:
    obs = pd.DataFrame({"donor": ["r1", "r1", "r2", None]}, index=BARCODES)
    cells = anndata.AnnData(np.log1p(COUNTS), obs, pd.DataFrame(index=SYMBOLS))
    cells.write_h5ad(tmp_path / "log.h5ad")
    with pytest.raises(
        ImportTableError, match=r"log\.h5ad: holds no counts: it has no layer 'counts' \(layers: \[\]\)"
    ):
        study_of(tmp_path, tmp_path / "log.h5ad")
    cells.layers["counts"] = sparse.csr_matrix(COUNTS)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    study = study_of(tmp_path, tmp_path / "cells.h5ad", pseudobulk="donor")
    layer = anndata.read_h5ad(study.root / "expression.h5ad").layers["counts"]
    assert layer[:2].tolist() == [[5, 1, 5], [4, 4, 0]]
    (tmp_path / "torn.h5ad").write_bytes((tmp_path / "cells.h5ad").read_bytes()[:3000])
    with pytest.raises(ImportTableError, match=r"torn\.h5ad: cannot be read as \.h5ad"):
        study_of(tmp_path, tmp_path / "torn.h5ad")


def _shorter_features(folder: Path) -> None:
    (folder / "features.tsv").write_text("\n".join((folder / "features.tsv").read_text().splitlines()[:2]))


def _torn(folder: Path) -> None:
    content = gzip.compress((folder / "matrix.mtx").read_bytes())
    (folder / "matrix.mtx.gz").write_bytes(content[: len(content) // 2])
    (folder / "matrix.mtx").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_shorter_features, r"features\.tsv: has 2 lines, and matrix\.mtx 3 rows"),
        (lambda f: (f / "barcodes.tsv").unlink(), r"barcodes\.tsv is missing beside matrix\.mtx"),
        (lambda f: (f / "matrix.mtx").unlink(), r"holds 0 files \*matrix\.mtx"),
        (
            lambda f: (f / "matrix.mtx").write_text("gene,a\nAlb,1\n"),
            r"matrix\.mtx: cannot be read as a MatrixMarket",
        ),
        (_torn, r"matrix\.mtx\.gz: cannot be read as a MatrixMarket"),
        (lambda f: (f / "barcodes.tsv").write_text(""), r"barcodes\.tsv: cannot be read"),
    ],
)
def test_a_faulty_folder_is_named(tmp_path: Path, harm: Any, message: str) -> None:
    folder = write_mtx(tmp_path / "m", zipped=False)
    harm(folder)
    with pytest.raises(ImportTableError, match=message):
        read_counts(folder, Audit())


def test_faulty_files_and_tables_are_named(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "m.h5")
    cells = read_counts(path, Audit())
    (tmp_path / "torn.h5").write_bytes(path.read_bytes()[:2000])
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    for name in ("torn.h5", "other.h5"):
        with pytest.raises(ImportTableError, match=rf"{name}: cannot be read as a 10x"):
            read_counts(tmp_path / name, Audit())
    for text, message in (
        ("barcode,sample_id\nAAAC-1,a\nAAAC-1,b\n", "'AAAC-1': appears twice"),
        ("barcode,sample_id\nTTTT-1,a\n", "gives none of the 4 barcodes"),
        ("barcode,donor\nAAAC-1,a\n", "column 'sample_id' is missing"),
    ):
        (tmp_path / "of.csv").write_text(text)
        with pytest.raises(ImportTableError, match=message):
            sum_by_sample(cells, str(tmp_path / "of.csv"), path, Audit())


def test_an_h5ad_without_x_is_refused(tmp_path: Path) -> None:
    samples = pd.DataFrame(index=["s1", "s2"])
    cells = anndata.AnnData(
        None, samples, pd.DataFrame(index=["Alb"]), layers={"counts": np.ones((2, 1), np.float32)}
    )
    cells.write_h5ad(tmp_path / "e.h5ad")
    (tmp_path / "s.csv").write_text("sample_id,compound,dose\ns1,a,0\ns2,a,1\n")
    with pytest.raises(ImportTableError, match=r"e\.h5ad: has no X \(layers: \['counts'\]\).*source=counts"):
        import_matrix(
            tmp_path / "study", expression=str(tmp_path / "e.h5ad"), samples=str(tmp_path / "s.csv")
        )
