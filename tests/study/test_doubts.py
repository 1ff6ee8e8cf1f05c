"""Two spellings of one name, and marks of missing values among numbers, are asked about on the screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from toxfusion.prepare import near_names
from toxfusion.study.audit import Audit
from toxfusion.study.importers.matrix import import_matrix
from toxfusion.study.study import Study
from toxfusion.study.tables import TableError

EXPRESSION = "gene,s1,s2,s3\nAlb,1,2,3\nMt1,3,4,5\n"
SAMPLES = "sample_id,compound,dose,subtype,age\ns1,a b,0,IDC,50\ns2,a b,10,idc,60\ns3,a b,30,ILC,-999\n"


def imported(folder: Path, samples: str = SAMPLES, expression: str = EXPRESSION, **more: str) -> Study:
    tables = {"expression": expression, "samples": samples, **more}
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text)
    return import_matrix(folder / "study", **{name: str(folder / f"{name}.csv") for name in tables})


def asked(study: Study) -> list[str]:
    return near_names(Audit.read(study.root / "audit.json"))


def test_values_and_columns_that_differ_in_case_or_blanks_are_shown(tmp_path: Path) -> None:
    study = imported(
        tmp_path,
        findings="sample_id,Necrosis,necrosis,Fat,Fat.1\ns1,0,1,0,0\n",
        chemistry="sample_id,ALT,A LT\ns1,30,40\ns2,50,-9\n",
    )
    lines = "\n".join(asked(study))
    for said in (
        "value of subtype 'idc' changed: kept; did you mean 'IDC'?",
        "finding 'necrosis' changed: kept; did you mean 'Necrosis'?",
        "finding 'Fat.1' changed: kept; did you mean 'Fat', whose column is there twice?",
        "analyte 'A LT' changed: kept; did you mean 'ALT'?",
        "value of age '-999' changed: kept; did you mean a missing value",
        "value of A LT '-9' changed: kept; did you mean a missing value",
    ):
        assert said in lines
    assert len(asked(study)) == 6


def test_numbers_with_a_sign_and_one_spelling_each_ask_nothing(tmp_path: Path) -> None:
    plain = "sample_id,compound,dose,subtype,score\ns1,a,0,A,-1\ns2,a,10,B,-2\ns3,a,30,A,3\n"
    assert asked(imported(tmp_path, plain)) == []


@pytest.mark.parametrize("other", ["A B", "a  b", "a\u00a0b", "ab"])
def test_a_compound_in_two_spellings_is_refused(tmp_path: Path, other: str) -> None:
    samples = SAMPLES.replace("s2,a b", f"s2,{other}")
    with pytest.raises(
        TableError, match=r"samples\.csv, column 'compound', value .*sample 's2' differs from 'a b'"
    ):
        imported(tmp_path, samples)


@pytest.mark.parametrize("value", ["-999", "-1e300", "inf", "-inf", "5000"])
def test_what_is_no_logarithm_is_refused_by_sample_and_gene(tmp_path: Path, value: str) -> None:
    with pytest.raises(
        TableError, match=r"expression\.csv, sample 's2', gene 'Mt1', value .*: is no log2 value"
    ):
        imported(tmp_path, expression=EXPRESSION.replace(",4,", f",{value},"))
