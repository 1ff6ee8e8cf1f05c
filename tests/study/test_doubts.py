"""Two spellings of one name, and marks of missing values among numbers, are asked about on the screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from toxfusion.prepare import describe, near_names
from toxfusion.study.audit import Audit
from toxfusion.study.importers.matrix import import_matrix
from toxfusion.study.rules import StudyError
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


def test_words_for_what_is_not_known_are_asked_about_as_classes(tmp_path: Path) -> None:
    samples = "sample_id,compound,dose,subtype\ns1,a,0,IDC\ns2,a,10,unknown\ns3,a,30,n.d.\n"
    study = imported(tmp_path, samples)
    assert study.obs["subtype"].tolist() == ["IDC", "unknown", "n.d."]
    lines = "\n".join(asked(study))
    assert "value of subtype 'unknown' changed: kept as a word; did you mean a missing value" in lines
    assert "value of subtype 'n.d.' changed: kept as a word" in lines
    assert asked(imported(tmp_path, samples.replace("unknown", "None").replace("n.d.", "ILC"))) == []


@pytest.mark.parametrize(
    ("cells", "value", "said"),
    [
        (("50", "60", "about 70"), "about 70", "2 of its 3 values are numbers, but not that of s3"),
        (("50,5", "60,1", "70"), "50,5", "a number with a decimal point"),
    ],
)
def test_a_column_of_numbers_that_a_word_makes_text_is_asked_about(
    tmp_path: Path, cells: tuple[str, ...], value: str, said: str
) -> None:
    rows = zip(("s1;a;0", "s2;a;10", "s3;a;30"), cells, strict=True)
    samples = "sample_id;compound;dose;age\n" + "".join(f"{row};{cell}\n" for row, cell in rows)
    (line,) = asked(imported(tmp_path, samples))
    assert f"value of age {value!r} changed: kept, and the column is text; did you mean a number" in line
    assert said in line


@pytest.mark.parametrize("cells", [("010", "10", "11"), ("1a", "2b", "3"), ("x", "y", "z")])
def test_ids_ask_nothing(tmp_path: Path, cells: tuple[str, ...]) -> None:
    rows = zip(("s1,a,0", "s2,a,10", "s3,a,30"), cells, strict=True)
    assert (
        asked(imported(tmp_path, "sample_id,compound,dose,cage\n" + "".join(f"{r},{c}\n" for r, c in rows)))
        == []
    )


def test_nines_far_above_all_others_are_asked_about(tmp_path: Path) -> None:
    plain = SAMPLES.replace("idc", "IDC").replace("-999", "70")
    study = imported(tmp_path, plain, chemistry="sample_id,ALT,AST\ns1,50,999\ns2,9999,900\ns3,60,800\n")
    (line,) = asked(study)
    assert "value of ALT '9999' changed: kept; did you mean a missing value" in line


def test_a_batch_with_and_without_a_decimal_is_asked_about(tmp_path: Path) -> None:
    samples = "sample_id,compound,dose,batch\ns1,a,0,1\ns2,a,10,1.0\ns3,a,30,2\n"
    (line,) = asked(imported(tmp_path, samples))
    assert "value of batch '1.0' changed: kept; did you mean '1'?" in line


def test_a_group_of_controls_without_a_control_is_asked_about(tmp_path: Path) -> None:
    samples = "sample_id,compound,dose,control_group\ns1,a,0,day-1\ns2,a,10,day1\ns3,a,30,day-1\n"
    lines = asked(imported(tmp_path, samples))
    assert ["day1" in line and "did you mean 'day-1'?" in line for line in lines] == [True]


def test_a_group_of_controls_and_treated_animals_is_refused(tmp_path: Path) -> None:
    samples = "sample_id,compound,dose,group_id\ns1,a,0,g\ns2,a,10,g\ns3,a,30,h\n"
    with pytest.raises(StudyError, match=r"column 'is_control'.*is not the same throughout group_id 'g'"):
        imported(tmp_path, samples)


def test_one_image_of_two_samples_is_asked_about(tmp_path: Path) -> None:
    plain = SAMPLES.replace("idc", "IDC").replace("-999", "70")
    slides = "slide_id,sample_id,path\nA,s1,a.svs\nB,s2,a.svs\nC,s1,a.svs\nD,s3,d.svs\n"
    lines = asked(imported(tmp_path, plain, slides=slides))
    assert ["slide 'B' changed: kept; did you mean another image?" in line for line in lines] == [True]
    assert "slides: 4 (4 without an image at its path: A ...)" in describe(Study.open(tmp_path / "study"))
    (tmp_path / "d.svs").touch()
    assert "slides: 4 (3 without" in describe(Study.open(tmp_path / "study"))
    regions = "slide_id,sample_id,path,x,y,width,height\nA,s1,a.svs,0,0,9,9\nB,s2,a.svs,9,0,9,9\n"
    assert asked(imported(tmp_path, plain, slides=regions)) == []


def test_whole_numbers_in_place_of_logarithms_are_asked_about(tmp_path: Path) -> None:
    plain = SAMPLES.replace("idc", "IDC").replace("-999", "70")
    table = "gene,s1,s2,s3\n" + "".join(f"G{i}x,{i},{i % 3},{i % 5}\n" for i in range(20))
    (line,) = asked(imported(tmp_path, plain, table))
    assert "taken for log2; did you mean source=counts? All of its 60 values are whole numbers" in line
    assert asked(imported(tmp_path, plain, table.replace("G1x,1,", "G1x,1.5,"))) == []
