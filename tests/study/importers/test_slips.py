"""Slips of tables as people make them: each is read as it is meant, or refused by name; none passes in silence."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from toxfusion.data.gene_sets import read_gmt
from toxfusion.study.analogues import read_parts
from toxfusion.study.any_table import read_any_table
from toxfusion.study.audit import Audit
from toxfusion.study.importers.features import compounds_seen
from toxfusion.study.importers.genes import GeneIds
from toxfusion.study.importers.tables import read_slide_table
from toxfusion.study.importers.tcga import import_tcga
from toxfusion.study.study import Study
from toxfusion.study.tables import TableError, read_table

CASES = (
    "case_id,survival_months,censorship,oncotree_code,age,Alb_rnaseq,Mt1_rnaseq\n"
    "TCGA-AA-0001,10,0,IDC,50,1.5,2.5\nTCGA-AA-0002,20,1,ILC,60,3.5,4.5\n"
)


def tcga(folder: Path, cases: str = CASES, **more: str) -> Study:
    (folder / "cases.csv").write_text(cases)
    for name, text in more.items():
        (folder / f"{name}.csv").write_text(text)
    return import_tcga(
        folder / "study",
        cases=str(folder / "cases.csv"),
        time_column="survival_months",
        censorship_column="censorship",
        **{name: str(folder / f"{name}.csv") for name in more},
    )


class TestQuotationMarks:
    @pytest.mark.parametrize(
        "rows",
        ['s1,5" x\ns2,"open\ns3,y\n', 's1,"5 mm\ns2,x\ns3,"3 mm\n', 's1,"a\ns2,b\ns3,c\n'],
        ids=["last row", "two inch marks", "first row"],
    )
    def test_one_that_is_not_closed_swallows_no_row(self, tmp_path: Path, rows: str) -> None:
        (tmp_path / "s.csv").write_text("sample_id,note\n" + rows)
        with pytest.raises(TableError, match=r"s\.csv, row \d, value .*none closes it in its row"):
            read_table(tmp_path / "s.csv")

    def test_inch_marks_and_line_ends_within_whole_quotes_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "s.csv").write_text('sample_id,note\ns1,5" x\ns2,"5"" y"\n')
        assert read_table(tmp_path / "s.csv")["note"].tolist() == ['5" x', '5" y']
        (tmp_path / "s.csv").write_text('sample_id,"body\nweight"\ns1,"a\nb"\n')
        assert read_table(tmp_path / "s.csv").iloc[0].to_dict() == {"sample_id": "s1", "body\nweight": "a\nb"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_characters_without_width_are_no_part_of_a_name(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "s.csv").write_bytes("sample_id,dose\ns1\u200b,0\n\ufeffs2,1\n".encode(encoding))
    assert read_table(tmp_path / "s.csv")["sample_id"].tolist() == ["s1", "s2"]
    pd.DataFrame({"sample_id": ["s1\u200b"]}).to_excel(tmp_path / "s.xlsx", index=False)
    assert read_table(tmp_path / "s.xlsx")["sample_id"].tolist() == ["s1"]


class TestBarcodes:
    @pytest.mark.parametrize("spelling", ["TCGA.AA.0001", "tcga-aa-0001"])
    def test_other_spellings_are_refused_with_the_right_one(self, tmp_path: Path, spelling: str) -> None:
        said = r"'TCGA.AA.0001'|'tcga-aa-0001'"
        with pytest.raises(TableError, match=rf"({said}): is no TCGA barcode.*did you mean 'TCGA-AA-0001'\?"):
            tcga(tmp_path, CASES.replace("TCGA-AA-0001", spelling))
        labels = f"barcode,grade\n{spelling},G1\nTCGA-AA-0002,G2\n"
        with pytest.raises(
            TableError, match=r"labels\.csv, column 'barcode', .*did you mean 'TCGA-AA-0001'\?"
        ):
            tcga(tmp_path, labels=labels)
        rna = f"gene,{spelling},TCGA-AA-0002\nAlb,1,2\n"
        with pytest.raises(TableError, match=r"rna\.csv, .*did you mean 'TCGA-AA-0001'\?"):
            tcga(tmp_path, rna=rna)

    def test_a_label_without_a_barcode_is_named_by_its_row(self, tmp_path: Path) -> None:
        with pytest.raises(TableError, match=r"labels\.csv, column 'barcode', row 3: the barcode is missing"):
            tcga(tmp_path, labels="barcode,grade\nTCGA-AA-0001,G1\n,G2\n")


def test_words_of_tcga_for_unknown_are_no_class_and_no_time(tmp_path: Path) -> None:
    cases = CASES.replace("10,0,IDC,50", "[Not Available],0,[Unknown],[Not Available]")
    obs = tcga(tmp_path, cases).obs
    assert obs["subtype"].tolist() == ["", "ILC"]
    assert obs["survival_time"].isna().tolist() == [True, False]
    assert obs["age"].isna().tolist() == [True, False]
    assert obs["age"].iloc[1] == 60


def test_a_gene_that_a_table_of_cases_has_twice_is_counted_twice(tmp_path: Path) -> None:
    study = tcga(tmp_path, CASES.replace("Mt1_rnaseq", "Alb_rnaseq"))
    assert study.expression[:, 0].tolist() == [2.0, 4.0]
    reasons = [r.reason for r in Audit.read(study.root / "audit.json").records if r.kind == "gene"]
    assert reasons == ["appears 2 times: collapsed to the mean"]


def test_a_mark_of_a_missing_value_is_no_logarithm(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"sample 'TCGA-AA-0001', gene 'Alb', value -999: is no log2 value"):
        tcga(tmp_path, CASES.replace(",1.5,", ",-999,"))


class TestCompoundsThatAnEncoderSaw:
    def test_one_name_is_one_compound(self, tiny_study: Study) -> None:
        assert compounds_seen("gammacin", tiny_study, Audit()) == ["gammacin"]
        assert compounds_seen(None, tiny_study, Audit()) == []
        assert compounds_seen(np.array(["b", "a"]), tiny_study, Audit()) == ["a", "b"]

    def test_another_spelling_is_told(self, tiny_study: Study) -> None:
        audit = Audit()
        compounds_seen(["Gamma-Cin", "elsewhere"], tiny_study, audit)
        assert [(r.id, r.reason) for r in audit.records] == [
            ("Gamma-Cin", "of trained_on is no compound of the study; did you mean 'gammacin'?")
        ]


class TestParts:
    def write(self, path: Path, ids: list[object]) -> Path:
        pd.DataFrame({"sample_id": ids, "fold": 0, "part": ["train ", " test"][: len(ids)]}).to_parquet(path)
        return path

    def test_a_parquet_file_under_any_name_holds_whole_numbers_and_no_blanks(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "parts.csv", [7.0, 8.0])
        assert read_parts(path, 0, ("train", "test")).part.to_dict() == {"7": "train", "8": "test"}
        (tmp_path / "text.parquet").write_text("sample_id\n007\n")
        assert read_any_table(tmp_path / "text.parquet")["sample_id"].tolist() == ["007"]

    def test_a_missing_sample_is_none_called_none(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "parts.parquet", ["s1", None])
        with pytest.raises(TableError, match=r"parts\.parquet, column 'sample_id', row 1: is missing"):
            read_parts(path, 0, ("train", "test"))


class TestSlides:
    def read(self, folder: Path, text: str) -> tuple[pd.DataFrame, Audit]:
        (folder / "t.csv").write_text(text)
        audit = Audit()
        return read_slide_table(folder / "t.csv", ["s1"], audit), audit

    @pytest.mark.parametrize("place", ["~/a.svs", "file:///a.svs", "s3://bucket/a.svs", "$HOME/a.svs"])
    def test_what_is_no_path_is_refused(self, tmp_path: Path, place: str) -> None:
        with pytest.raises(TableError, match=r"column 'path', value .* of slide 'A' is no path of a file"):
            self.read(tmp_path, f"slide_id,sample_id,path\nA,s1,{place}\n")

    def test_a_column_that_nothing_reads_is_told(self, tmp_path: Path) -> None:
        header = "slide_id,sample_id,path,mpp,Stain"
        slides, audit = self.read(tmp_path, f"{header}\nA,s1,a.svs,0.25,HE\n")
        assert slides["mpp_override"].isna().all()
        assert [(r.id, r.reason) for r in audit.records] == [
            ("mpp", "a slide table has no such column; did you mean 'mpp_override'?"),
            ("Stain", "a slide table has no such column"),
        ]


def test_a_symbol_that_became_a_date_in_a_map_is_recovered(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("id,symbol\nENSRNOG00000000001,1-Mar\nENSRNOG00000000002,Mt1\n")
    values = pd.DataFrame([[1.0, 2.0]], ["s1"], ["ENSRNOG00000000001", "ENSRNOG00000000002"])
    audit = Audit()
    named, _ = GeneIds(map=str(tmp_path / "map.csv")).named(values, audit, path="e.csv", counts=False)
    assert named.columns.tolist() == ["Marchf1", "Mt1"]
    assert [r.id for r in audit.records] == ["1-Mar -> Marchf1"]


@pytest.mark.parametrize("form", ["gz", "utf-16", "bom", "cr"])
def test_gene_sets_are_read_in_every_form_of_text(tmp_path: Path, form: str) -> None:
    text = "A\tna\tAlb\u200b\tMt1\nB\tna\tAlb\n"
    content = text.replace("\n", "\r" if form == "cr" else "\n").encode(
        {"utf-16": "utf-16", "bom": "utf-8-sig"}.get(form, "utf-8")
    )
    (tmp_path / "s.gmt").write_bytes(gzip.compress(content) if form == "gz" else content)
    assert read_gmt(tmp_path / "s.gmt") == {"A": ["Alb", "Mt1"], "B": ["Alb"]}


def test_times_in_days_are_asked_about(tmp_path: Path) -> None:
    days = CASES.replace(",10,0,", ",310,0,").replace(",20,1,", ",420,1,")
    reasons = [r.reason for r in Audit.read(tcga(tmp_path, days).root / "audit.json").records]
    assert "taken for months; did you mean days? Half of its cases have a time above 365" in reasons
    reasons = [r.reason for r in Audit.read(tcga(tmp_path).root / "audit.json").records]
    assert not any("did you mean days" in reason for reason in reasons)
