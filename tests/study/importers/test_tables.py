"""Reading tables whatever their delimiter, line end or wrapping; recovering symbols that became dates."""

from __future__ import annotations

import datetime
import gzip
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from toxfusion.study.audit import Audit
from toxfusion.study.importers.symbols import normalised_compound, recover_symbols
from toxfusion.study.importers.tables import (
    ImportTableError,
    log2_per,
    read_slide_table,
)
from toxfusion.study.number_columns import numbers
from toxfusion.study.tables import read_table, read_values

TEXT = "gene,a,b\nAlb,1,2\nCyp1a1,3,4\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"], ids=["comma", "tab", "semicolon"])
@pytest.mark.parametrize("wrap", ["plain", "gz", "zip", "bom"])
def test_any_text_table_reads_the_same(tmp_path: Path, end: str, delimiter: str, wrap: str) -> None:
    content = (
        TEXT.replace(",", delimiter).replace("\n", end).encode("utf-8-sig" if wrap == "bom" else "utf-8")
    )
    path = tmp_path / {"gz": "table.tsv.gz", "zip": "table.zip"}.get(wrap, "table.csv")
    if wrap == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("table.txt", content)
    else:
        path.write_bytes(gzip.compress(content) if wrap == "gz" else content)
    values = read_values(path)
    assert values.to_dict("list") == {"a": [1, 3], "b": [2, 4]}
    assert values.index.tolist() == ["Alb", "Cyp1a1"]
    assert read_table(path).to_dict("list") == {"gene": ["Alb", "Cyp1a1"], "a": ["1", "3"], "b": ["2", "4"]}


def test_a_spreadsheet_reads_the_same(tmp_path: Path) -> None:
    pd.DataFrame({"gene": ["Alb"], "a": [1.5]}).to_excel(tmp_path / "t.xlsx", index=False)
    assert read_values(tmp_path / "t.xlsx").loc["Alb", "a"] == 1.5


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImportTableError, match=r"gone\.csv: no such file"):
        read_table(tmp_path / "gone.csv")
    (tmp_path / "latin.csv").write_bytes("name\ncafé\n".encode("latin-1"))
    with pytest.raises(ImportTableError, match=r"latin\.csv.*not utf-8"):
        read_table(tmp_path / "latin.csv")
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(ImportTableError, match=r"empty\.csv"):
        read_table(tmp_path / "empty.csv")
    (tmp_path / "torn.tsv.gz").write_bytes(gzip.compress(TEXT.encode() * 99)[:60])
    with pytest.raises(ImportTableError, match=r"torn\.tsv\.gz"):
        read_table(tmp_path / "torn.tsv.gz")
    with pytest.raises(ImportTableError, match=r"t\.csv, column 'ALT', value 'high'"):
        numbers(pd.Series(["1", "", "high"], name="ALT"), "t.csv")


def test_numbers_keep_gaps() -> None:
    assert numbers(pd.Series(["1.5", "", None, "2"]), "t").tolist() == pytest.approx(
        [1.5, np.nan, np.nan, 2], nan_ok=True
    )


def test_log2_per_by_hand() -> None:
    # 1 of 4 counts is 250,000 per million; log2(250,001), and log2(1) for none.
    assert log2_per(np.array([[1.0, 3.0, 0.0]]), 1e6)[0] == pytest.approx(
        [np.log2(250001), np.log2(750001), 0.0]
    )


def test_log2_per_is_what_scanpy_gives() -> None:
    import anndata
    import scanpy

    counts = np.random.default_rng(0).poisson(20.0, (4, 50)).astype(np.float64)
    table = anndata.AnnData(counts.copy())
    scanpy.pp.normalize_total(table, target_sum=1e6)
    scanpy.pp.log1p(table, base=2)
    np.testing.assert_allclose(log2_per(counts, 1e6), table.X, rtol=1e-6)


def test_dates_that_hold_the_number_as_their_year() -> None:
    audit = Audit()
    values = [
        datetime.datetime(2001, 3, 1),
        datetime.datetime(2008, 9, 1),
        "Alb",
        datetime.datetime(2011, 3, 1),
    ]
    assert recover_symbols(values, audit) == ["Marchf1", "Septin8", "Alb", "Marchf11"]
    assert [r.id for r in audit.records] == [
        "2001-03-01 -> Marchf1",
        "2008-09-01 -> Septin8",
        "2011-03-01 -> Marchf11",
    ]
    assert "Mtarc1" in audit.records[0].reason


def test_dates_that_hold_the_number_as_their_day() -> None:
    assert recover_symbols(["2024-03-01", "2024-09-08", "2024-03-11"], Audit()) == [
        "Marchf1",
        "Septin8",
        "Marchf11",
    ]


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        ("1-Mar", "Marchf1"),
        ("Sep-07", "Septin7"),
        ("10-SEPT", "Septin10"),
        ("1-Dec", "Delec1"),
        ("Mar1", "Mar1"),
    ],
)
def test_dates_in_words(text: str, symbol: str) -> None:
    assert recover_symbols([text], Audit()) == [symbol]


def test_a_date_of_two_genes_keeps_its_name() -> None:
    audit = Audit()
    assert recover_symbols(["2-Mar", "Alb", "2-Mar"], audit) == ["2-Mar", "Alb", "2-Mar"]
    assert "more than one gene" in audit.records[0].reason


def test_compound_names_meet_across_spellings() -> None:
    assert normalised_compound("Interferon Beta-1a") == normalised_compound("interferon beta1A")
    assert normalised_compound("TNFα") != normalised_compound("TNF")


def test_slide_paths_are_taken_from_the_table_and_strangers_dropped(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text(
        "slide_id,sample_id,path,mpp_override\n1,s1,a.svs,0.5\n2,ghost,b.svs,\n"
    )
    audit = Audit()
    slides = read_slide_table(tmp_path / "slides.csv", ["s1"], audit)
    assert slides["path"].tolist() == [str(tmp_path / "a.svs")]
    assert slides.index.tolist() == ["1"]
    assert slides["mpp_override"].tolist() == [0.5]
    assert slides[["x", "width"]].isna().all(axis=None)
    assert [(r.kind, r.id) for r in audit.records] == [("slide", "2")]
    assert read_slide_table(None, ["s1"], audit).empty
