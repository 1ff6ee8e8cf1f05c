"""What a spreadsheet shows is what is read, or the cell is named; an empty cell is one that nobody filled."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import openpyxl
import pytest

from toxfusion.study.tables import TableError, read_table, read_values

FINDINGS = [["sample_id", "Necrosis", "Fat"], ["s1", 0, 0], ["s2", 1, 2], ["s3", 2, 1]]


def workbook(path: Path, cells: dict[str, object] | None = None, merged: str = "") -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    for row in FINDINGS:
        sheet.append(row)
    for name, value in (cells or {}).items():
        sheet[name] = value
    if merged:
        sheet.merge_cells(merged)
    book.save(path)
    return path


@pytest.mark.parametrize("read", [read_table, read_values])
class TestACellThatReadsAsEmpty:
    def test_a_formula_that_nothing_computed(self, tmp_path: Path, read: object) -> None:
        path = workbook(tmp_path / "f.xlsx", {"B3": "=1+1", "C4": "=B3*2"})
        with pytest.raises(
            TableError, match=r"f\.xlsx, cell B3, value '=1\+1': is a formula.*\(2 such cells\)"
        ):
            read(path)

    def test_merged_cells(self, tmp_path: Path, read: object) -> None:
        path = workbook(tmp_path / "f.xlsx", merged="B3:B4")
        with pytest.raises(TableError, match=r"f\.xlsx, cells B3:B4, value '1': are merged"):
            read(path)

    def test_merged_cells_without_a_value_are_empty(self, tmp_path: Path, read: object) -> None:
        path = workbook(tmp_path / "f.xlsx", merged="E2:F3")
        assert read(path).shape[0] == 3

    @pytest.mark.parametrize("error", ["#REF!", "#DIV/0!", "#NAME?"])
    def test_an_error(self, tmp_path: Path, read: object, error: str) -> None:
        path = workbook(tmp_path / "f.xlsx", {"C2": error})
        with pytest.raises(TableError, match=rf"f\.xlsx, cell C2, value '{re.escape(error)}': is"):
            read(path)


def test_a_formula_with_its_value_and_one_that_gives_no_text_are_read(tmp_path: Path) -> None:
    path = workbook(tmp_path / "f.xlsx", {"B3": "=1+1", "C3": '=""'})
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(packed, "w") as computed:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("sheet1.xml"):
                content = re.sub(rb"<f>1\+1</f><v></v>", b"<f>1+1</f><v>2</v>", content)
                content = content.replace(b'<c r="C3">', b'<c r="C3" t="str">')
            computed.writestr(name, content)
    path.write_bytes(packed.getvalue())
    table = read_table(path)
    assert table["Necrosis"].tolist() == ["0", "2", "2"]
    assert table["Fat"].tolist() == ["0", None, "1"]


def test_not_available_is_missing_and_other_errors_of_text_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("sample_id,subtype\ns1,#N/A\ns2,A\n")
    assert read_table(tmp_path / "s.csv")["subtype"].tolist() == [None, "A"]
    (tmp_path / "s.csv").write_text("sample_id,subtype\ns1,A\ns2,#VALUE!\n")
    with pytest.raises(TableError, match=r"s\.csv, column 'subtype', row 3, value '#VALUE!': is an error"):
        read_table(tmp_path / "s.csv")


def test_the_sheet_is_named_where_there_are_others(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.title = "Notes"
    book.active.append(["of the lab"])
    for row in FINDINGS:
        (book["Data"] if "Data" in book.sheetnames else book.create_sheet("Data")).append(row)
    book.save(tmp_path / "f.xlsx")
    with pytest.raises(
        TableError, match=r"f\.xlsx, sheet 'Notes' \(the first of 2\).*'sample_id' is missing"
    ):
        read_table(tmp_path / "f.xlsx", required=("sample_id",))


@pytest.mark.parametrize(
    "lost", ["xl/worksheets/sheet1.xml", "xl/workbook.xml", "xl/_rels/workbook.xml.rels"]
)
@pytest.mark.parametrize("content", [None, b"<cut"])
def test_a_damaged_workbook_is_refused(tmp_path: Path, lost: str, content: bytes | None) -> None:
    path, packed = workbook(tmp_path / "f.xlsx"), io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(packed, "w") as damaged:
        for name in archive.namelist():
            if name != lost or content is not None:
                damaged.writestr(name, archive.read(name) if name != lost else content)
    path.write_bytes(packed.getvalue())
    with pytest.raises(TableError, match=r"f\.xlsx: cannot be read as a spreadsheet.*save it again"):
        read_table(path)
