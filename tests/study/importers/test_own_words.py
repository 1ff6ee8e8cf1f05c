"""Numbers, grades, flags and labels as people write them: read as they are meant, or refused in their own table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from toxfusion.study.audit import Audit
from toxfusion.study.importers.counts import thousands_as_decimals
from toxfusion.study.importers.matrix import import_matrix
from toxfusion.study.number_columns import numbers
from toxfusion.study.study import Study
from toxfusion.study.tables import TableError

EXPRESSION = "gene,s1,s2,s3\nAlb,1,2.5,3\nMt1,3,4,5\n"
SAMPLES = "sample_id,compound,dose\ns1,a,0\ns2,a,10\ns3,a,30\n"


def imported(folder: Path, samples: str = SAMPLES, **more: str) -> Study:
    tables = {"expression": EXPRESSION, "samples": samples, **more}
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text)
    return import_matrix(folder / "study", **{name: str(folder / f"{name}.csv") for name in tables})


def with_column(name: str, *values: str) -> str:
    rows = SAMPLES.splitlines()
    return "\n".join(f"{row},{value}" for row, value in zip(rows, [name, *values], strict=True)) + "\n"


class TestPointsOfThousands:
    @pytest.mark.parametrize(
        "cells",
        [
            ["0", "100", "300", "1.000"],
            ["45", "980", "1.234"],
            ["12", "2.500", None],
            ["500", "12.345", "1.234"],
        ],
    )
    def test_one_that_may_be_of_thousands_is_refused_with_both(self, cells: list[str | None]) -> None:
        value = next(cell for cell in cells if cell and "." in cell)
        shown = f"value '{value}': may be {float(value):g} or {value.replace('.', '')}, in row"
        with pytest.raises(TableError, match=shown):
            numbers(pd.Series(cells, name="dose"), "s.csv")

    @pytest.mark.parametrize(
        "cells",
        [
            ["0", "1.125", "3"],
            ["1.234", "2.345", "0"],
            ["0.125", "250", "1.500"],
            ["1.234", "1500"],
            ["1.234", "200.5"],
            ["1.000", "2.000", "0.500"],
        ],
    )
    def test_decimals_are_read(self, cells: list[str]) -> None:
        assert numbers(pd.Series(cells, name="dose"), "s.csv").tolist() == list(map(float, cells))

    def test_counts_with_a_point_are_refused_and_expected_counts_read(self) -> None:
        assert thousands_as_decimals(np.array([[400, 30, 5], [1.234, 40, 1.0], [2.345, 1.07, 2]])) == (1, 0)
        for expected in ([[400, 30.5], [1.25, 2]], [[400, 0.123], [1.234, 2]], [[4000, 3], [1.234, 2]]):
            assert thousands_as_decimals(np.array(expected)) is None

    def test_a_dose_of_a_thousand_does_not_become_the_lowest(self, tmp_path: Path) -> None:
        with pytest.raises(
            TableError, match=r"samples\.csv, column 'dose', value '1\.000': may be 1 or 1000, in row 's3'"
        ):
            imported(tmp_path, "sample_id,compound,dose\ns1,a,0\ns2,a,100\ns3,a,1.000\n")


@pytest.mark.parametrize("grade", ["3+", "+/-", "Grade 2", "present", "very slight", "NAD"])
def test_words_that_are_no_grade_are_told_those_that_are(tmp_path: Path, grade: str) -> None:
    with pytest.raises(
        TableError,
        match=r"findings\.csv, column 'Fat', value .*in row 's2'; write one of 0, 1, 2, 3, 4, or absent",
    ):
        imported(tmp_path, findings=f"sample_id,Fat\ns1,0\ns2,{grade}\n")


def test_findings_with_several_rows_a_sample_are_told_the_form(tmp_path: Path) -> None:
    with pytest.raises(
        TableError, match=r"appears twice, in rows 2, 3; give one row to a sample, and one column"
    ):
        imported(tmp_path, findings="sample_id,finding,grade\ns1,Fat,1\ns1,Necrosis,1\n")


@pytest.mark.parametrize("table", ["findings", "chemistry"])
def test_columns_of_the_sample_table_are_no_findings_and_no_analytes(tmp_path: Path, table: str) -> None:
    text = ",sample_id,compound,dose,Unnamed: 0.1,ALT\n0,s1,a,0,0,1\n1,s2,a,1,1,2\n"
    study = imported(tmp_path, **{table: text.replace("Unnamed: 0.1", "Unnamed: 0")})
    read = study.findings if table == "findings" else study.chemistry
    assert read is not None
    assert read.columns.tolist() == ["ALT"]
    records = Audit.read(study.root / "audit.json").records
    assert [r.id for r in records if r.outcome == "dropped"] == ["", "compound", "dose", "Unnamed: 0"]


@pytest.mark.parametrize(
    "words",
    [
        ("ja", "nein", "Nein"),
        ("Y", "N", "N"),
        ("T", "F", "F"),
        ("WAHR", "FALSCH", "FALSCH"),
        ("oui", "non", "0"),
    ],
)
def test_flags_in_the_words_of_programs_and_people(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert imported(tmp_path, with_column("is_control", *words)).obs["is_control"].tolist() == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("is_control", ("1", "", ""), "sample 's2': is missing; write true or false"),
        ("is_control", ("x", "0", "0"), "sample 's1': value 'x': is no flag; write true or false"),
        ("dose_level", ("vehicle", "low", "high"), "value 'vehicle': of sample 's1' is none of control, low, middle"),
        ("dili", ("2", "2", "2"), "value '2': of sample 's1' is neither 0 nor 1; write 1 or 0"),
        ("injury", ("0", "TRUE", "1"), "value 'TRUE': is no number, in row 's2'; write 1 or 0"),
        ("event", ("dead", "alive", "dead"), "value 'dead': is no number, in row 's1'; write 1 where the event"),
        ("event", ("1", "2", "1"), "value '2': of sample 's2' is neither 0 nor 1; write 1 where the event happened"),
        ("survival_time", ("0", "10", "20"), "value 0: of sample 's1'; write a time above 0"),
        ("survival_time", ("3 months", "10", "20"), "value '3 months': is no number, in row 's1'; write a time"),
        ("time_h", ("24 h", "24 h", "4 day"), "value '24 h': is no number, in row 's1'; write hours as a plain"),
        ("study", ("1", "", "1"), "sample 's2': is missing; fill it in for every sample, or leave the column out"),
    ],
)  # fmt: skip
def test_what_a_column_does_not_take_is_named_in_the_sample_table(
    tmp_path: Path, column: str, values: tuple[str, ...], message: str
) -> None:
    with pytest.raises(TableError) as refused:
        imported(tmp_path, with_column(column, *values))
    assert f"samples.csv, column '{column}', {message}" in str(refused.value)


def test_dose_levels_are_read_whatever_their_letter_case(tmp_path: Path) -> None:
    obs = imported(tmp_path, with_column("dose_level", "Control", "LOW", "High")).obs
    assert obs["dose_level"].tolist() == ["control", "low", "high"]
    assert obs["is_control"].tolist() == [True, False, False]
