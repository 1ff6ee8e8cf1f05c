"""One study in every form of a table reads back as one study, or is refused by file, row and column."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toxfusion.study.analogues import read_analogues
from toxfusion.study.audit import Audit
from toxfusion.study.importers.genes import GeneIds
from toxfusion.study.importers.matrix import import_matrix
from toxfusion.study.importers.samples import complete_samples
from toxfusion.study.importers.spatial import _read_spots
from toxfusion.study.importers.tables import read_slide_table
from toxfusion.study.importers.tcga import import_tcga
from toxfusion.study.importers.tenx import sum_by_sample
from toxfusion.study.importers.tggates import hazard_labels
from toxfusion.study.study import Study
from toxfusion.study.tables import TableError, read_table

SAMPLES = [
    ["sample_id", "compound", "dose", "time_h", "subtype", "note"],
    ["010", "drug, salt", "0", "24", "None", 'said "no"'],
    ["10", "drug, salt", "10", "24", "A", ""],
    ["1E02", "drug, salt", "30", "24", "", "x; y"],
]
EXPRESSION = [
    ["gene", "010", "10", "1E02"],
    ["Alb", "100", "200", "300"],
    ["Cyp1a1", "5", "0", "70"],
    ["Hmox1", "1", "60", "2"],
]
FINDINGS = [
    ["sample_id", "Necrosis", "Fatty change"],
    ["010", "None", "0"],
    ["10", "2", ""],
    ["1E02", "severe", "1"],
]
TABLES = {"samples": SAMPLES, "expression": EXPRESSION, "findings": FINDINGS}


def _blanked(cell: str) -> str:
    return cell if "," in cell or '"' in cell else f" {cell} "


def written(rows: list[list[str]], form: dict[str, Any]) -> bytes:
    """The rows as a text table of this form."""
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if form["quoted"] else csv.QUOTE_MINIMAL
    padded = [[_blanked(cell) if form["blanks"] else cell for cell in row] for row in rows]
    csv.writer(text, delimiter=form["delimiter"], quoting=quoting, lineterminator="\n").writerows(padded)
    lines = text.getvalue().splitlines()
    end = form["delimiter"] * form["trailing"]
    if form["trailing_on"] == "data":
        lines = [lines[0], *(line + end for line in lines[1:])]
    elif form["trailing_on"] == "first":
        lines = [lines[0], lines[1] + end, *lines[2:]]
    else:
        lines = [line + end for line in lines]
    lines += [form["delimiter"] * (len(rows[0]) - 1)] * form["empty_rows"]
    content = form["line_end"].join(lines) + form["line_end"]
    return content.encode(form["encoding"])


FORMS = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from([",", ";", "\t"]),
        "quoted": st.booleans(),
        "blanks": st.booleans(),
        "trailing": st.integers(0, 2),
        "trailing_on": st.sampled_from(["all", "data", "first"]),
        "empty_rows": st.integers(0, 2),
        "line_end": st.sampled_from(["\n", "\r\n", "\r"]),
        "encoding": st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
        "turned": st.booleans(),
        "suffix": st.sampled_from([".csv", ".tsv", ".txt", ".xlsx"]),
        "spreadsheet": st.booleans(),
    }
)


def study_of(folder: Path, form: dict[str, Any]) -> Study:
    """Write the tables in a form and import them."""
    paths = {}
    for name, rows in TABLES.items():
        if name == "expression" and form["turned"]:
            rows = [list(row) for row in zip(*rows, strict=True)]
        path = folder / f"{name}{form['suffix']}"
        if form["spreadsheet"]:
            packed = io.BytesIO()
            pd.DataFrame(rows[1:], columns=rows[0]).to_excel(packed, index=False)
            path.write_bytes(packed.getvalue())
        else:
            path.write_bytes(written(rows, form))
        paths[name] = str(path)
    return import_matrix(folder / "study", **paths, kind="counts")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Study:
    form = {
        "delimiter": ",", "quoted": False, "blanks": False, "trailing": 0, "trailing_on": "all", "empty_rows": 0,
        "line_end": "\n", "encoding": "utf-8", "turned": False, "suffix": ".csv", "spreadsheet": False,
    }  # fmt: skip
    study = study_of(tmp_path_factory.mktemp("plain"), form)
    assert study.sample_ids == ["010", "10", "1E02"]
    assert study.obs["dose_level"].tolist() == ["control", "low", "high"]
    assert study.obs["subtype"].tolist() == ["None", "A", ""]
    assert study.findings["Necrosis"].tolist() == [0.0, 2.0, 4.0]
    assert (2.0 ** study.expression[0] - 1).round().tolist() == pytest.approx(
        [100 / 106 * 1e6, 5 / 106 * 1e6, 1 / 106 * 1e6], rel=1e-3
    )
    return study


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=FORMS)
def test_every_form_of_a_table_is_the_same_study(
    plain: Study, tmp_path_factory: pytest.TempPathFactory, form: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("form")
    refusal = None
    try:
        study = study_of(folder, form)
    except TableError as error:
        refusal = str(error)
    if refusal is not None:
        assert re.search(r"(samples|expression|findings)\.\w+, .*(row|column|line)", refusal), refusal
        return
    pd.testing.assert_frame_equal(study.obs, plain.obs)
    pd.testing.assert_frame_equal(study.findings, plain.findings)
    assert study.var.index.tolist() == plain.var.index.tolist()
    np.testing.assert_array_equal(study.expression, plain.expression)


@pytest.mark.parametrize("end", [",", ",,"])
class TestADelimiterAtTheEndOfRows:
    """Each table that a source takes; the header has no delimiter at its end."""

    def file(self, folder: Path, header: str, *rows: str) -> str:
        (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n")
        return str(folder / "t.csv")

    def test_slides(self, tmp_path: Path, end: str) -> None:
        path = self.file(tmp_path, "slide_id,sample_id,path", f"1,s1,a.svs{end}", f"2,s1,b.svs{end}")
        slides = read_slide_table(path, ["s1"], Audit())
        assert slides.index.tolist() == ["1", "2"]
        assert slides["path"].tolist() == [str(tmp_path / "a.svs"), str(tmp_path / "b.svs")]

    def test_chemistry_keeps_every_value(self, tmp_path: Path, end: str) -> None:
        (tmp_path / "s.csv").write_text("sample_id,compound,dose\ns1,a,0\ns2,a,1\n")
        (tmp_path / "e.csv").write_text("gene,s1,s2\nAlb,1,2\nMt1,3,4\n")
        path = self.file(tmp_path, "sample_id,ALT,AST", f"s1,40,50{end}", f"s2,60,70{end}")
        study = import_matrix(
            tmp_path / "x",
            expression=str(tmp_path / "e.csv"),
            samples=str(tmp_path / "s.csv"),
            chemistry=path,
        )
        assert study.chemistry is not None
        assert study.chemistry.to_numpy().tolist() == [[40.0, 50.0], [60.0, 70.0]]

    def test_gene_maps(self, tmp_path: Path, end: str) -> None:
        path = self.file(
            tmp_path, "id,symbol", f"ENSRNOG00000000001,Alb{end}", f"ENSRNOG00000000002,Mt1{end}"
        )
        values = pd.DataFrame([[1.0, 2.0]], ["s1"], ["ENSRNOG00000000001", "ENSRNOG00000000002"])
        named, _ = GeneIds(map=path).named(values, Audit(), path="e.csv", counts=False)
        assert named.columns.tolist() == ["Alb", "Mt1"]

    def test_analogues(self, tmp_path: Path, end: str) -> None:
        path = self.file(tmp_path, "compound,parent", f"a salt,a{end}", f"b salt,b{end}")
        assert read_analogues(path, ["a salt", "a", "b salt", "b"]) == {"a salt": "a", "b salt": "b"}

    def test_hazard_classes(self, tmp_path: Path, end: str) -> None:
        path = self.file(tmp_path, "Compound Name,vDILIConcern", f"drug,vMost-DILI-Concern{end}")
        labels = hazard_labels(pd.Series(["Drug"], index=["s1"]), path, None, Audit())
        assert labels["dilirank_label"].tolist() == [1.0]

    def test_spots(self, tmp_path: Path, end: str) -> None:
        path = self.file(tmp_path, "x,y,pixel_x,pixel_y,selected", f"1,2,30,40,1{end}", f"2,2,60,40,0{end}")
        spots = _read_spots(Path(path))
        assert spots.loc["1x2", ["pixel_x", "pixel_y"]].tolist() == [30, 40]
        assert spots["selected"].tolist() == [True, False]

    def test_barcodes_of_samples(self, tmp_path: Path, end: str) -> None:
        import anndata

        path = self.file(tmp_path, "barcode,sample_id", f"AA,s1{end}", f"CC,s2{end}")
        cells = anndata.AnnData(np.ones((2, 1), np.float32), obs=pd.DataFrame(index=["AA", "CC"]))
        assert sum_by_sample(cells, path, "cells.h5ad", Audit()).obs_names.tolist() == ["s1", "s2"]

    def test_cases_of_tcga(self, tmp_path: Path, end: str) -> None:
        path = self.file(
            tmp_path,
            "case_id,survival_months,censorship,Alb_rnaseq,Mt1_rnaseq",
            f"TCGA-AA-0001,10,0,1.5,2.5{end}",
            f"TCGA-AA-0002,20,1,3.5,4.5{end}",
        )
        study = import_tcga(
            tmp_path / "x", cases=path, time_column="survival_months", censorship_column="censorship"
        )
        assert study.expression.tolist() == [[1.5, 2.5], [3.5, 4.5]]
        assert study.obs["survival_time"].tolist() == [10.0, 20.0]


def test_a_missing_dose_is_refused_with_0_for_vehicles_and_known_by_its_level() -> None:
    table = pd.DataFrame({"compound": "a", "dose": [None, "10", "30"]}, index=["v1", "l1", "h1"])
    with pytest.raises(
        TableError, match=r"column 'dose', sample 'v1': is missing.*write 0 for a vehicle control"
    ):
        complete_samples(table, "samples.csv", Audit())
    for value in ("vehicle", "10 mg/kg"):
        with pytest.raises(TableError, match="write 0 for a vehicle control, and mg/kg as a plain number"):
            complete_samples(table.assign(dose=[value, "10", "30"]), "samples.csv", Audit())
    known = complete_samples(table.assign(dose_level=["control", "low", "high"]), "samples.csv", Audit())
    assert known["is_control"].tolist() == [True, False, False]
    assert known["group_id"].tolist() == ["study_a_control", "study_a_10mg", "study_a_30mg"]
    flagged = complete_samples(table.assign(is_control=["yes", "no", "no"]), "samples.csv", Audit())
    assert flagged["dose_level"].tolist() == ["control", "low", "high"]


def test_two_profiles_of_a_case_are_refused_or_joined_as_asked(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        "case_id,slide_id,survival_months,censorship,Alb_rnaseq,FMO2_rnaseq\n"
        "TCGA-AA-0001,a,10,0,1,2\nTCGA-AA-0001,b,10.0,0,3,4\nTCGA-AA-0001,c,10,0,1,2\nTCGA-AA-0002,d,20,1,5,6\n"
    )
    about = {
        "cases": str(tmp_path / "c.csv"),
        "time_column": "survival_months",
        "censorship_column": "censorship",
    }
    with pytest.raises(TableError, match=r"'Alb', case 'TCGA-AA-0001'.*source\.duplicates=first.*=mean"):
        import_tcga(tmp_path / "e", **about)
    assert import_tcga(tmp_path / "f", **about, duplicates="first").expression[0].tolist() == [1.0, 2.0]
    study = import_tcga(tmp_path / "m", **about, duplicates="mean")
    assert study.expression[0].tolist() == [2.0, 3.0]
    reasons = [r.reason for r in Audit.read(study.root / "audit.json").records if r.kind == "profile"]
    assert reasons == ["2 profiles in c.csv: the mean is taken"]
    with pytest.raises(TableError, match=r"source\.duplicates=some: is none of error, first, mean"):
        import_tcga(tmp_path / "s", **about, duplicates="some")  # type: ignore[arg-type]
    with pytest.raises(
        TableError, match=r"ignore_columns names 'FMO2_rna_seq' \(did you mean 'FMO2_rnaseq'\?\)"
    ):
        import_tcga(tmp_path / "i", **about, ignore_columns=["FMO2_rna_seq"])


def test_columns_that_the_file_cannot_hold_are_stored_in_another_form(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("gene,s1,s2\nAlb,1,2\nMt1,3,4\n")
    table = pd.DataFrame(
        {
            "sample_id": ["s1", "s2"], "compound": "a", "dose": [0, 1], "mixed": [1, "two"],
            "day": pd.to_datetime(["2024-01-05", "2024-02-01"]), "body/weight": [200.5, 210.0],
            "body": ["x", "y"], "_index": [1, 2], "none": [None, None],
        }
    )  # fmt: skip
    table.to_excel(tmp_path / "s.xlsx", index=False)
    study = import_matrix(
        tmp_path / "x", expression=str(tmp_path / "e.csv"), samples=str(tmp_path / "s.xlsx")
    )
    assert study.obs["mixed"].tolist() == ["1", "two"]
    assert study.obs["day"].tolist() == ["2024-01-05 00:00:00", "2024-02-01 00:00:00"]
    assert study.obs["body_weight"].tolist() == [200.5, 210.0]
    assert study.obs["column _index"].tolist() == [1, 2]
    changed = {r.id for r in Audit.read(study.root / "audit.json").records if "reserves" in r.reason}
    assert changed == {"body/weight", "_index"}


@pytest.mark.parametrize("kind", ["matrix", "genes"])
def test_a_table_of_names_that_matches_nothing_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "e.csv").write_text("gene,s1,s2\nAlb,1,2\nMt1,3,4\n")
    (tmp_path / "s.csv").write_text("sample_id,compound,dose\ns1,a,0\ns2,a,1\n")
    (tmp_path / "f.csv").write_text("sample_id,Necrosis\nS-1,1\nS-2,1\n")
    (tmp_path / "g.csv").write_text("gene_id,symbol\nALB,Alb\nMT1,Mt1\n")
    extra = {"findings": str(tmp_path / "f.csv")} if kind == "matrix" else {"genes": str(tmp_path / "g.csv")}
    with pytest.raises(TableError, match=r"[fg]\.csv, column '\w+': none of .*did you mean"):
        import_matrix(
            tmp_path / "x", expression=str(tmp_path / "e.csv"), samples=str(tmp_path / "s.csv"), **extra
        )


def test_rows_called_na_are_no_gene_and_are_not_summed() -> None:
    values = pd.DataFrame([[1.0, 2.0, 4.0]], ["s1"], ["Alb", "NA", "NA"])
    audit = Audit()
    named, tally = GeneIds().named(values, audit, path="e.csv", counts=True)
    assert named.columns.tolist() == ["Alb"]
    assert tally["unnamed"] == 2
    assert [(r.id, r.reason) for r in audit.records] == [("'NA'", "2 of e.csv: no gene has this name")]


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.array([[999_000, 1_000], [500_000, 499_000]]), "TPM or CPM"),
        (np.arange(40).reshape(2, 20) % 14 + 2, "logarithms"),
    ],
)
def test_whole_numbers_that_are_no_raw_counts_are_refused(
    tmp_path: Path, values: np.ndarray, what: str
) -> None:
    genes = [f"G{i}x" for i in range(values.shape[1])]
    pd.DataFrame(values.T, index=pd.Index(genes, name="gene"), columns=["s1", "s2"]).to_csv(
        tmp_path / "e.csv"
    )
    (tmp_path / "s.csv").write_text("sample_id,compound,dose\ns1,a,0\ns2,a,1\n")
    with pytest.raises(TableError, match=rf"is whole, but the values look like {what}"):
        import_matrix(
            tmp_path / "x", expression=str(tmp_path / "e.csv"), samples=str(tmp_path / "s.csv"), kind="counts"
        )


def test_paths_of_windows_are_refused_for_their_separator(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("slide_id,sample_id,path\n1,s1,images\\a.svs\n")
    with pytest.raises(
        TableError, match=r"slide '1' is a path of Windows, whose separator.*write 'images/a\.svs'"
    ):
        read_slide_table(tmp_path / "t.csv", ["s1"], Audit())
    (tmp_path / "t.csv").write_text("slide_id,sample_id,path\n1,s1,\n")
    with pytest.raises(TableError, match=r"column 'path', row 2: is empty at slide '1'"):
        read_slide_table(tmp_path / "t.csv", ["s1"], Audit())


@pytest.mark.parametrize("spelling", ["A Salt", " a salt ", "a-salt", "A SALT"])
def test_a_table_of_analogues_joins_whatever_its_spelling(tmp_path: Path, spelling: str) -> None:
    (tmp_path / "a.csv").write_text(f"compound,parent\n{spelling},A\nunknown,other\n")
    assert read_analogues(tmp_path / "a.csv", ["a salt", "a"])["a salt"] == "a"
    with pytest.raises(TableError, match="none of its 4 names is a compound of the study"):
        read_analogues(tmp_path / "a.csv", ["x", "y"])
    assert read_table(tmp_path / "a.csv")["compound"].iloc[0] == spelling.strip()
